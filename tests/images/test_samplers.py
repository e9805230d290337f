"""Samplers: what an epoch holds, how it is shared out, and that it goes on exactly where it stood."""

import copy
from collections import Counter
from itertools import chain, islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from reid_da.errors import InputError
from reid_da.images import IdentitySampler, Sampler, SequentialSampler, ShuffledSampler, Stream

seeds = st.integers(0, 2**32)


def epoch(sampler: Sampler) -> list[list[int]]:
    return [batch.tolist() for batch in sampler.batches()]


def shuffled(count: int = 10, *, batch_size: int = 3, seed: int = 0, **options) -> ShuffledSampler:
    return ShuffledSampler(torch.arange(count) + 100, batch_size=batch_size, seed=seed, **options)


@given(count=st.integers(1, 60), batch_size=st.integers(1, 70), seed=seeds)
def test_epochs_are_permutations(count: int, batch_size: int, seed: int) -> None:
    sampler = shuffled(count, batch_size=batch_size, seed=seed, drop_last=False)
    for _ in range(3):
        batches = epoch(sampler)
        assert sorted(chain.from_iterable(batches)) == list(range(100, 100 + count))
        assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
        assert len(sampler) == len(batches)


@given(count=st.integers(1, 60), data=st.data(), seed=seeds)
def test_last_batch_is_dropped(count: int, data: st.DataObject, seed: int) -> None:
    batch_size = data.draw(st.integers(1, count))
    sampler = shuffled(count, batch_size=batch_size, seed=seed)
    batches = epoch(sampler)
    assert [len(batch) for batch in batches] == [batch_size] * (count // batch_size)
    assert len(set(chain.from_iterable(batches))) == batch_size * len(batches)


def test_epochs_and_seeds_differ() -> None:
    sampler = shuffled(50, batch_size=50)
    epochs = [tuple(epoch(sampler)[0]) for _ in range(5)]
    assert len(set(epochs)) == 5
    assert tuple(epoch(shuffled(50, batch_size=50))[0]) == epochs[0]
    assert tuple(epoch(shuffled(50, batch_size=50, seed=1))[0]) != epochs[0]


def test_every_image_comes_first_equally_often() -> None:
    sampler = shuffled(5, batch_size=5)
    counts = Counter(epoch(sampler)[0][0] for _ in range(2000))
    assert stats.chisquare(list(counts.values())).pvalue > 0.01


@pytest.mark.parametrize("drop_last", [False, True])
def test_sequential(drop_last: bool) -> None:
    sampler = SequentialSampler(torch.tensor([5, 3, 9, 1, 7]), batch_size=2, drop_last=drop_last)
    expected = [[5, 3], [9, 1], [7]][: 3 - drop_last]
    assert epoch(sampler) == epoch(sampler) == expected
    assert len(sampler) == len(expected)


labelled = st.lists(st.integers(1, 9), min_size=2, max_size=12).flatmap(
    lambda counts: st.tuples(st.just(counts), st.integers(1, len(counts)), st.integers(1, 5), seeds)
)


def identity_sampler(counts: list[int], num_identities: int, num_images: int, seed: int, **options):
    """Sampler of rows 1000.. whose identities, 7 apart, have these counts and are mixed; and pid by row."""
    pids = [7 * pid for pid, count in enumerate(counts) for _ in range(count)]
    order = torch.randperm(len(pids), generator=torch.Generator().manual_seed(0))
    labels, rows = torch.tensor(pids)[order], torch.arange(len(pids)) + 1000
    sampler = IdentitySampler(rows, labels, num_identities=num_identities, num_images=num_images, seed=seed, **options)
    return sampler, dict(zip(rows.tolist(), labels.tolist(), strict=True))


@given(labelled)
def test_structure_of_identity_batches(case: tuple) -> None:
    counts, num_identities, num_images, _ = case
    sampler, pid_of = identity_sampler(*case)
    for _ in range(2):
        batches = epoch(sampler)
        assert len(batches) >= 1
        groups_used: Counter = Counter()
        for batch in batches:
            groups = [batch[start : start + num_images] for start in range(0, len(batch), num_images)]
            pids = [{pid_of[row] for row in group} for group in groups]
            assert all(len(pid) == 1 for pid in pids)
            assert len(set.union(*pids)) == len(groups) == num_identities
            for group in groups:
                pid = pid_of[group[0]]
                groups_used[pid] += 1
                # an identity with too few images shows all of them
                assert len(set(group)) == min(num_images, counts[pid // 7])
        left = [max(count // num_images, 1) - groups_used[7 * pid] for pid, count in enumerate(counts)]
        assert min(left) >= 0
        assert sum(number > 0 for number in left) < num_identities
        plenty = [row for row in chain.from_iterable(batches) if counts[pid_of[row] // 7] >= num_images]
        assert len(plenty) == len(set(plenty))


def test_identities_and_images_are_drawn_evenly() -> None:
    sampler, pid_of = identity_sampler([2, 3, 7, 4, 5], 2, 2, 1)
    first, images = Counter(), Counter()
    for _ in range(1500):
        batch = next(iter(sampler.batches())).tolist()
        first.update({pid_of[row] for row in batch})
        images.update(row for row in batch if pid_of[row] == 14)
        sampler.restart()
    assert stats.chisquare(list(first.values())).pvalue > 0.01
    assert len(images) == 7
    assert stats.chisquare(list(images.values())).pvalue > 0.01


def test_repeats_of_a_small_identity_are_drawn_evenly() -> None:
    sampler, _ = identity_sampler([3], 1, 5, 0)
    counts: Counter = Counter()
    for _ in range(1000):
        (batch,) = epoch(sampler)
        counts.update(batch)
    assert min(counts.values()) >= 1000
    assert stats.chisquare([count - 1000 for count in counts.values()]).pvalue > 0.01


def build(kind: str, seed: int, **options) -> Sampler:
    rows = torch.arange(37)
    if kind == "sequential":
        return SequentialSampler(rows, batch_size=4, **options)
    if kind == "shuffled":
        return ShuffledSampler(rows, batch_size=4, seed=seed, **options)
    return IdentitySampler(rows, rows % 6, num_identities=4, num_images=2, seed=seed, **options)


kinds = st.sampled_from(["sequential", "shuffled", "identity"])


@given(kind=kinds, seed=seeds, taken=st.integers(0, 25))
def test_going_on_from_a_saved_state(kind: str, seed: int, taken: int) -> None:
    unbroken = [batch.tolist() for batch in islice(Stream(build(kind, seed)), 40)]
    sampler = build(kind, seed)
    assert [batch.tolist() for batch in islice(Stream(sampler), taken)] == unbroken[:taken]
    state = copy.deepcopy(sampler.state_dict())
    for _ in range(2):
        resumed = build(kind, seed + 1)
        list(islice(Stream(resumed), 3))
        resumed.load_state_dict(state)
        assert [batch.tolist() for batch in islice(Stream(resumed), 40 - taken)] == unbroken[taken:]


@given(kind=kinds, seed=seeds, taken=st.integers(0, 2))
def test_leaving_an_iterator_keeps_the_rest_of_the_epoch(kind: str, seed: int, taken: int) -> None:
    expected = epoch(build(kind, seed))
    sampler = build(kind, seed)
    batches = sampler.batches()
    assert [next(batches).tolist() for _ in range(taken)] == expected[:taken]
    assert epoch(sampler) == expected[taken:]


def test_restart_begins_the_next_epoch() -> None:
    reference = shuffled()
    first, second = epoch(reference), epoch(reference)
    sampler = shuffled()
    sampler.restart()  # nothing was handed out yet
    assert next(sampler.batches()).tolist() == first[0]
    sampler.restart()
    assert epoch(sampler) == second


@given(kind=kinds, seed=seeds, world_size=st.sampled_from([1, 2, 4]))
def test_ranks_share_every_batch(kind: str, seed: int, world_size: int) -> None:
    whole = build(kind, seed)
    parts = [build(kind, seed, rank=rank, world_size=world_size) for rank in range(world_size)]
    for _ in range(2):
        for batch, *shares in zip(epoch(whole), *(epoch(part) for part in parts), strict=True):
            assert list(chain.from_iterable(shares)) == batch
            assert max(map(len, shares)) - min(map(len, shares)) <= (len(batch) < whole.batch_size)


def test_stream_restarts_when_exhausted_or_told() -> None:
    sampler = shuffled()
    reference = shuffled()
    epochs = [epoch(reference) for _ in range(4)]
    stream = Stream(sampler)
    assert iter(stream) is stream
    assert [next(stream).tolist() for _ in range(4)] == epochs[0] + epochs[1][:1]
    stream.restart()
    assert [next(stream).tolist() for _ in range(2)] == epochs[2][:2]
    stream.close()
    assert [next(stream).tolist() for _ in range(2)] == [epochs[2][2], epochs[3][0]]


def test_stream_without_batches() -> None:
    with pytest.raises(ValueError, match="no batches"):
        next(Stream(SequentialSampler(torch.arange(2), batch_size=3, drop_last=True)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: shuffled(batch_size=0), "batch_size must be a positive multiple of the number of processes, 1, got 0"),
        (lambda: shuffled(batch_size=3, world_size=2), "processes, 2, got 3"),
        (lambda: shuffled(10, batch_size=11), "batch_size is 11, but there are 10 images; lower it"),
        (lambda: shuffled(0, drop_last=False), "there are 0 images"),
        (lambda: identity_sampler([1, 1], 3, 2, 0), "num_identities is 3, but there are 2; lower it"),
        (lambda: identity_sampler([1, 1], 1, 2, 0, world_size=2), "processes, 2, and num_images positive, got 1 and 2"),
        (lambda: identity_sampler([1, 1], 0, 2, 0), "got 0 and 2"),
        (lambda: identity_sampler([1, 1], 2, 0, 0), "got 2 and 0"),
    ],
)
def test_wrong_settings(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_wrong_lengths() -> None:
    with pytest.raises(ValueError, match="3 rows, but 2 labels"):
        IdentitySampler(torch.arange(3), torch.arange(2), num_identities=1, num_images=1, seed=0)


def test_wrong_rank() -> None:
    with pytest.raises(ValueError, match=r"rank must lie in 0\.\.1, got 2"):
        shuffled(batch_size=2, rank=2, world_size=2)
