"""Samplers: what a pass over the images holds, and how it is cut into batches."""

from collections import Counter
from itertools import chain, islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from reid_da.errors import InputError
from reid_da.images import GroupSampler, IdentitySampler, Sampler, ShuffledSampler

seeds = st.integers(0, 2**32)


def passes(sampler: Sampler, rows, labels=None, *, seed: int = 0, count: int = 1) -> list[list[list[int]]]:
    """The batches of a number of passes."""
    generator = torch.Generator().manual_seed(seed)
    return [[batch.tolist() for batch in sampler.one_pass(rows, labels, generator)] for _ in range(count)]


def rows_of(count: int):
    return torch.arange(count) + 100


@given(count=st.integers(1, 60), data=st.data(), seed=seeds)
def test_a_pass_holds_every_image_once_but_for_an_incomplete_batch(count: int, data: st.DataObject, seed: int) -> None:
    size = data.draw(st.integers(1, count))
    for batches in passes(ShuffledSampler(size), rows_of(count), seed=seed, count=3):
        assert [len(batch) for batch in batches] == [size] * (count // size)
        taken = list(chain.from_iterable(batches))
        assert len(set(taken)) == len(taken)
        assert set(taken) <= set(range(100, 100 + count))


def test_passes_and_seeds_differ() -> None:
    sampler = ShuffledSampler(50)
    orders = [tuple(batches[0]) for batches in passes(sampler, rows_of(50), count=5)]
    assert len(set(orders)) == 5
    assert tuple(passes(sampler, rows_of(50))[0][0]) == orders[0]
    assert tuple(passes(sampler, rows_of(50), seed=1)[0][0]) != orders[0]


def test_every_image_comes_first_equally_often() -> None:
    counts = Counter(batches[0][0] for batches in passes(ShuffledSampler(5), rows_of(5), count=2000))
    assert stats.chisquare(list(counts.values())).pvalue > 0.01


@pytest.mark.parametrize("sampler", [ShuffledSampler(4), IdentitySampler(4, 2)], ids=str)
def test_batches_without_an_end_are_pass_after_pass(sampler: Sampler) -> None:
    rows = rows_of(37)
    labels = rows % 6
    expected = list(chain.from_iterable(passes(sampler, rows, labels, seed=3, count=4)))
    found = [batch.tolist() for batch in islice(sampler.batches(rows, labels, 3), len(expected))]
    assert found == expected
    assert sampler.num_batches(rows, labels, 3) == len(passes(sampler, rows, labels, seed=3)[0])


labelled = st.lists(st.integers(1, 9), min_size=2, max_size=12).flatmap(
    lambda counts: st.tuples(st.just(counts), st.integers(1, len(counts)), st.integers(1, 5), seeds)
)


def people(counts: list[int]):
    """Rows 1000.. whose identities, 7 apart, have these counts and are mixed; their labels; and pid by row."""
    pids = [7 * pid for pid, count in enumerate(counts) for _ in range(count)]
    order = torch.randperm(len(pids), generator=torch.Generator().manual_seed(0))
    labels, rows = torch.tensor(pids)[order], torch.arange(len(pids)) + 1000
    return rows, labels, dict(zip(rows.tolist(), labels.tolist(), strict=True))


@given(labelled)
def test_structure_of_identity_batches(case: tuple) -> None:
    counts, num_identities, num_images, seed = case
    rows, labels, pid_of = people(counts)
    for batches in passes(IdentitySampler(num_identities, num_images), rows, labels, seed=seed, count=2):
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
    rows, labels, pid_of = people([2, 3, 7, 4, 5])
    first, images = Counter(), Counter()
    for batches in passes(IdentitySampler(2, 2), rows, labels, seed=1, count=1500):
        first.update({pid_of[row] for row in batches[0]})
        images.update(row for row in batches[0] if pid_of[row] == 14)
    assert stats.chisquare(list(first.values())).pvalue > 0.01
    assert len(images) == 7
    assert stats.chisquare(list(images.values())).pvalue > 0.01


def test_every_identity_once_in_a_pass_however_many_images_it_has() -> None:
    counts = [1, 2, 9, 4, 30, 3, 5]
    rows, labels, pid_of = people(counts)
    images: Counter = Counter()
    for batches in passes(IdentitySampler(2, 3, once=True), rows, labels, count=400):
        groups = [batch[start : start + 3] for batch in batches for start in (0, 3)]
        pids = [{pid_of[row] for row in group} for group in groups]
        assert len(groups) == 6
        assert all(len(pid) == 1 for pid in pids)
        assert len(set.union(*pids)) == 6
        assert all(len(set(group)) == min(3, counts[pid_of[group[0]] // 7]) for group in groups)
        images.update(row for batch in batches for row in batch if pid_of[row] == 28)
    assert len(images) == 30
    assert stats.chisquare(list(images.values())).pvalue > 0.01


def test_repeats_of_a_small_identity_are_drawn_evenly() -> None:
    rows, labels, _ = people([3])
    counts: Counter = Counter()
    for (batch,) in passes(IdentitySampler(1, 5), rows, labels, count=1000):
        counts.update(batch)
    assert min(counts.values()) >= 1000
    assert stats.chisquare([count - 1000 for count in counts.values()]).pvalue > 0.01


@pytest.mark.parametrize("once", [False, True])
def test_a_small_identity_that_is_drawn_may_lack_images(once: bool) -> None:
    rows, labels, _ = people([3])
    found = [
        len(set(batch))
        for (batch,) in passes(IdentitySampler(1, 4, once=once, drawn=True), rows, labels, seed=1, count=500)
    ]
    # of 3^4 draws 3 show one image, 3 * (2^4 - 2) = 42 show two and 36 all three
    expected = [500 * share / 81 for share in (3, 42, 36)]
    assert stats.chisquare([found.count(number) for number in (1, 2, 3)], expected).pvalue > 0.01


def test_one_group_of_each_identity_in_a_pass() -> None:
    rows, labels, pid_of = people([2, 9, 5, 4, 8, 1, 6])
    for batches in passes(IdentitySampler(3, 4, once=True, drawn=True), rows, labels, count=20):
        pids = [pid_of[row] for row in chain.from_iterable(batches)]
        assert len(batches) == 2
        assert sorted(Counter(pids).values()) == [4] * 6
        plenty = [row for row in chain.from_iterable(batches) if pid_of[row] in (7, 14, 21, 28, 42)]
        assert len(plenty) == len(set(plenty))


def test_large_identities_are_grouped_alike_whatever_becomes_of_small_ones() -> None:
    rows, labels, pid_of = people([8, 4, 12])
    for batches in passes(IdentitySampler(1, 4, drawn=True), rows, labels, count=5):
        assert Counter(pid_of[row] for row in chain.from_iterable(batches)) == {0: 8, 7: 4, 14: 12}
        assert len(set(chain.from_iterable(batches))) == 24


@pytest.mark.parametrize(
    ("sampler", "count", "message"),
    [
        (ShuffledSampler(0), 3, "batch size 0: there are 3 images"),
        (ShuffledSampler(11), 10, "batch size 11: there are 10 images; lower it"),
        (ShuffledSampler(1), 0, "there are 0 images"),
        (IdentitySampler(3, 2), 2, "3 identities with 2 images each: there are 2 identities; lower the batch size"),
        (IdentitySampler(0, 2), 2, "0 identities"),
        (IdentitySampler(2, 0), 2, "with 0 images each"),
    ],
    ids=str,
)
def test_sizes_that_do_not_fit(sampler: Sampler, count: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        passes(sampler, torch.arange(count), torch.arange(count))


@pytest.mark.parametrize("labels", [None, torch.arange(2)])
def test_identities_need_a_label_for_each_row(labels) -> None:
    with pytest.raises(ValueError, match="expected a label for each of 3 rows"):
        passes(IdentitySampler(1, 1), torch.arange(3), labels)


def group_sampler(camids, **options) -> GroupSampler:
    return GroupSampler(camids=torch.tensor([-1] * 100 + camids), **{"batch_size": 4, "num_images": 3, **options})


@given(data=st.data(), seed=seeds, num_images=st.integers(2, 5))
def test_groups_have_a_class_each_and_prefer_other_cameras(data: st.DataObject, seed: int, num_images: int) -> None:
    labels = data.draw(st.lists(st.integers(0, 6), min_size=1, max_size=40))
    camids = data.draw(st.lists(st.integers(0, 2), min_size=len(labels), max_size=len(labels)))
    sampler = group_sampler(camids, num_images=num_images, batch_size=1)
    order = sampler.order(rows_of(len(labels)), torch.tensor(labels), torch.Generator().manual_seed(seed)) - 100
    assert len(order) == sampler.length(torch.tensor(labels))
    left = order.tolist()
    seen = []
    while left:
        label = labels[left[0]]
        members = {row for row, other in enumerate(labels) if other == label}
        size = 1 if len(members) == 1 else num_images
        (first, *others), left = left[:size], left[size:]
        elsewhere = {row for row in members if camids[row] != camids[first]}
        candidates = elsewhere or members - {first}
        assert set(others) <= candidates
        assert len(set(others)) == min(num_images - 1, len(candidates)) * (size > 1)
        seen.append(label)
    assert sorted(seen) == sorted(set(labels))


def test_every_image_of_a_class_is_as_likely_to_be_in_its_group() -> None:
    sampler = group_sampler([0] * 6, batch_size=3)
    counts = Counter(chain.from_iterable(chain(*passes(sampler, rows_of(6), torch.zeros(6), count=2000))))
    assert stats.chisquare(list(counts.values())).pvalue > 0.01
    assert len(counts) == 6


def test_groups_that_fill_no_batch_are_one_line() -> None:
    with pytest.raises(InputError, match="^batch size 5: the groups of a pass have 4 images; lower it$"):
        passes(group_sampler([0, 0, 1], batch_size=5), rows_of(3), torch.tensor([0, 0, 1]))
