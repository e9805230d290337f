import pytest

from reid_da.config import OptimizerSettings
from reid_da.training.schedule import learning_rate_factor


def factors(epochs=60, **settings):
    return [learning_rate_factor(float(e), OptimizerSettings(**settings), epochs=epochs) for e in range(epochs + 1)]


def test_the_step_schedule_of_the_paper_decays_once_at_epoch_40():
    got = factors()
    assert got[:40] == [1.0] * 40
    assert got[40:60] == pytest.approx([0.1] * 20)


def test_two_steps():
    got = factors(milestones=(10, 20), decay=0.5)
    assert (got[9], got[10], got[20]) == (1.0, 0.5, 0.25)


def test_cosine_goes_from_one_to_zero_and_is_half_in_the_middle():
    got = factors(schedule="cosine")
    assert (got[0], got[30], got[60]) == pytest.approx((1, 0.5, 0), abs=1e-12)
    assert got == sorted(got, reverse=True)


def test_one_cycle_peaks_at_three_tenths():
    got = factors(epochs=100, schedule="one_cycle")
    assert (got[0], got[30], got[100]) == pytest.approx((0.04, 1, 1 / 25000))
    assert max(got) == got[30]


@pytest.mark.parametrize("schedule", ["constant", "cosine", "step"])
def test_warm_up_is_linear_and_meets_the_schedule(schedule):
    got = factors(schedule=schedule, warmup_epochs=10)
    assert got[0] == pytest.approx(0.01)
    assert got[5] == pytest.approx(0.505)
    assert got[10] == pytest.approx(1.0)


def test_linear_falls_in_the_second_half():
    got = factors(epochs=100, schedule="linear")
    assert got[:51] == [1.0] * 51
    assert (got[75], got[100]) == pytest.approx((0.5, 0.0))


def test_linear_may_begin_to_fall_later_or_at_once():
    got = factors(epochs=50, schedule="linear", linear_from=0.6)
    assert got[:31] == pytest.approx([1.0] * 31)
    assert (got[40], got[50]) == pytest.approx((0.5, 0.0))
    assert factors(epochs=4, schedule="linear", linear_from=0) == [1.0, 0.75, 0.5, 0.25, 0.0]
