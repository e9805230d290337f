"""Choosing by label-free figures: the order, what it says of labels, and the correlations of the study."""

import pytest
from scipy.stats import weightedtau

from reid_da.errors import InputError
from reid_da.studies import selection
from reid_da.training.run_folder import RunFolder

FIGURES = {
    "a": {2: (0.5, 0.3, 0.20), 4: (0.7, 0.2, 0.30)},
    "b": {2: (0.6, 0.1, 0.25), 4: (0.9, 0.4, 0.40)},
}
"""Stable clusters, share of outliers and mAP after the epochs of two runs."""


@pytest.fixture
def runs(small_settings, tmp_path):
    """Folder of two runs that were evaluated after two and four epochs."""
    for name, epochs in FIGURES.items():
        run = RunFolder.create(tmp_path / "runs" / name, small_settings)
        for epoch, (stable, outliers, precision) in epochs.items():
            run.log({"kind": "label_free", "epoch": epoch, "clusters_stable": stable, "clusters_outliers": outliers})
            run.log({"kind": "evaluation", "epoch": epoch, "mAP": precision, "rank1": precision})
    return tmp_path / "runs"


def order_of(found):
    return [(candidate.run.name, candidate.epoch) for candidate in found]


def test_candidates_are_ranked_by_the_figure(runs):
    found = selection.candidates([runs])
    assert order_of(selection.ranked(found)) == [("b", 4), ("a", 4), ("b", 2), ("a", 2)]
    # of outliers there should be few
    assert order_of(selection.ranked(found, by="clusters_outliers")) == [("b", 2), ("a", 4), ("a", 2), ("b", 4)]
    assert order_of(selection.ranked(selection.last_of_each(found))) == [("b", 4), ("a", 4)]
    with pytest.raises(InputError, match="--by"):
        selection.ranked(found, by="density")


@pytest.mark.parametrize(
    ("figures", "order", "reason"),
    [
        # of those within 0.02 of the most stable the one with the most neighbours of another camera; a collapse is last
        (
            {"a": (0.97, 0.5), "b": (0.951, 0.7), "c": (0.949, 0.8), "d": (0.6, 0.9)},
            "bacd",
            "of the 2 with about the most stable clusters it has the most neighbours of another camera",
        ),
        ({"a": (0.9, 0.5), "b": (0.96, 0.4)}, "ba", "for the largest stable clusters"),
        # one camera
        ({"a": (0.95, None), "b": (0.96, None)}, "ba", "for the largest stable clusters"),
    ],
)
def test_of_about_equally_stable_clusters_other_cameras_decide(small_settings, tmp_path, figures, order, reason):
    for name, (stable, across) in figures.items():
        run = RunFolder.create(tmp_path / "runs" / name, small_settings)
        cameras = {} if across is None else {"neighbors_cross_camera": across}
        run.log({"kind": "label_free", "epoch": 1, "clusters_stable": stable, **cameras})
    found = selection.ranked(selection.candidates([tmp_path / "runs"]))
    assert "".join(candidate.run.name for candidate in found) == order
    for top in (None, 1):  # the reason is that of all candidates, however many are shown
        table = selection.selection_table(found, top=top)
        assert reason in table.notes[0]
        assert len(table.rows) == (top or len(found))


def test_correlations_are_those_of_scipy(runs):
    taus = selection.rank_correlations(selection.candidates([runs]))
    precisions = [0.20, 0.30, 0.25, 0.40]
    assert taus["clusters_stable"] == pytest.approx(1)
    assert taus["clusters_outliers"] == pytest.approx(weightedtau([-0.3, -0.2, -0.1, -0.4], precisions).statistic)
    assert taus["density"] != taus["density"]


def test_runs_without_figures_are_named(small_settings, tmp_path):
    RunFolder.create(tmp_path / "run", small_settings)
    with pytest.raises(InputError, match="no label-free figures"):
        selection.candidates([tmp_path / "run"])
