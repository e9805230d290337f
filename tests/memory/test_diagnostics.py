import math
from collections import Counter
from dataclasses import asdict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reid_da.memory.diagnostics import (
    camera_entropy,
    cross_camera_share,
    neighbor_agreement,
    neighbor_precision,
    summarize_slots,
)

CAMIDS = torch.tensor([0, 0, 1, 1, 2, 2])
PIDS = torch.tensor([7, 8, 7, 8, 7, 9])
INDEX = torch.tensor([0, 3])
NEIGHBORS = torch.tensor([[0, 1, 2, 4], [1, 5, 2, 0]])  # slot 0 is its own neighbour
ONLY_OWN = torch.tensor([[0], [3]])


def test_cross_camera_share():
    # of slots 1, 2, 4 around slot 0 (camera 0) two are from elsewhere; of 1, 5, 2, 0 around 3 (camera 1) three
    assert cross_camera_share(NEIGHBORS, INDEX, CAMIDS) == pytest.approx(5 / 7)
    assert math.isnan(cross_camera_share(ONLY_OWN, INDEX, CAMIDS))


def test_neighbor_precision():
    # slots 2 and 4 show person 7 of slot 0; slot 1 shows person 8 of slot 3
    assert neighbor_precision(NEIGHBORS, INDEX, PIDS) == pytest.approx(3 / 7)
    assert math.isnan(neighbor_precision(ONLY_OWN, INDEX, PIDS))


def test_camera_entropy_by_hand():
    # around slot 0 one of each of three cameras; around slot 3 cameras 0, 2, 1, 0
    first = math.log(3)
    second = 0.5 * math.log(2) + 2 * 0.25 * math.log(4)
    expected = (first + second) / 2 / math.log(3)
    assert camera_entropy(NEIGHBORS, INDEX, CAMIDS, num_cameras=3) == pytest.approx(expected)


def test_camera_entropy_at_its_bounds():
    index = torch.tensor([0])
    assert camera_entropy(torch.tensor([[2, 3]]), index, CAMIDS, num_cameras=3) == 0
    assert camera_entropy(torch.tensor([[2, 4]]), index, CAMIDS, num_cameras=3) == pytest.approx(1)
    assert camera_entropy(torch.tensor([[2]]), index, CAMIDS, num_cameras=3) == 0
    assert camera_entropy(torch.tensor([[2, 3]]), index, torch.zeros(6, dtype=torch.int64), num_cameras=1) == 0
    assert math.isnan(camera_entropy(ONLY_OWN, INDEX, CAMIDS, num_cameras=3))


@given(
    lists=st.lists(st.permutations(range(6)), min_size=1, max_size=5),
    num_neighbors=st.integers(2, 6),
)
def test_camera_entropy_equals_counting(lists, num_neighbors):
    neighbors = torch.tensor(lists)[:, :num_neighbors]
    index = torch.tensor([row[-1] for row in lists])
    entropies = []
    for row, own in zip(neighbors.tolist(), index.tolist(), strict=True):
        counts = Counter(int(CAMIDS[slot]) for slot in row if slot != own)
        shares = [count / sum(counts.values()) for count in counts.values()]
        entropies.append(-sum(share * math.log(share) for share in shares))
    expected = sum(entropies) / len(entropies) / math.log(min(3, num_neighbors))
    assert camera_entropy(neighbors, index, CAMIDS, num_cameras=3) == pytest.approx(expected)


@given(
    rows=st.lists(st.tuples(st.permutations(range(8)), st.permutations(range(8))), min_size=1, max_size=5),
    num_before=st.integers(1, 8),
    num_after=st.integers(1, 8),
)
def test_agreement_equals_sets(rows, num_before, num_after):
    before = [row[0][:num_before] for row in rows]
    after = [row[1][:num_after] for row in rows]
    jaccard = [len(set(a) & set(b)) / len(set(a) | set(b)) for a, b in zip(before, after, strict=True)]
    found = neighbor_agreement(torch.tensor(before), torch.tensor(after))
    assert found == pytest.approx(sum(jaccard) / len(jaccard))


def test_agreement_leaves_out_what_is_not_known():
    before = torch.tensor([[1, 2], [-1, -1], [3, 4]])
    after = torch.tensor([[2, 1], [5, 6], [-1, -1]])
    assert neighbor_agreement(before, after) == 1
    assert math.isnan(neighbor_agreement(before[1:], after[1:]))


def test_summarize_slots():
    summary = summarize_slots(torch.tensor([4, -1, 0, 10, -1]), torch.tensor([1.0, 0.0, 0.9, 1.1, 0.0]))
    assert asdict(summary) == pytest.approx(
        {"unwritten": 0.4, "age_median": 4, "age_max": 10, "norm_min": 0.9, "norm_max": 1.1}
    )


def test_summarize_an_empty_memory():
    summary = summarize_slots(torch.tensor([-1, -1]), torch.zeros(2))
    assert summary.unwritten == 1
    assert all(math.isnan(value) for name, value in asdict(summary).items() if name != "unwritten")


def test_missing_neighbours_do_not_count():
    short = torch.tensor([[0, 1, 2, 4], [1, -1, -1, -1]])
    # of slots 1, 2, 4 around slot 0 two are from elsewhere; slot 1 around slot 3 is
    assert cross_camera_share(short, INDEX, CAMIDS) == pytest.approx(3 / 4)
    assert neighbor_precision(short, INDEX, PIDS) == pytest.approx(3 / 4)
    missing = torch.full((2, 4), -1)
    assert math.isnan(cross_camera_share(missing, INDEX, CAMIDS))
    assert math.isnan(camera_entropy(missing, INDEX, CAMIDS, num_cameras=3))
    first = camera_entropy(NEIGHBORS[:1], INDEX[:1], CAMIDS, num_cameras=3)
    assert camera_entropy(short, INDEX, CAMIDS, num_cameras=3) == pytest.approx(first / 2)
