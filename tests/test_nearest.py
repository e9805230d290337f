"""Neighbours, ties and exact order against Python's sort."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reid_da import nearest
from reid_da.errors import InputError
from reid_da.nearest import RunningNeighbors, best_columns, ordered, pair_distances, similarity_blocks, top_neighbors


def reference(similarity, num_neighbors, exclude=None):
    """Slots by falling similarity, equal ones by number; Python's sort, one row at a time."""
    lists = []
    for row, values in enumerate(similarity.tolist()):
        slots = sorted(range(len(values)), key=lambda slot: (-values[slot], slot))
        if exclude is not None:
            slots.remove(int(exclude[row]))
        lists.append(slots[:num_neighbors])
    return lists


similarities = st.integers(1, 30).flatmap(
    # few different values, so that ties are everywhere
    lambda width: st.lists(st.lists(st.integers(-2, 2), min_size=width, max_size=width), min_size=1, max_size=4)
)


@given(values=similarities, chunk_size=st.integers(1, 31), leave_out=st.booleans(), data=st.data())
def test_top_neighbors_equals_sorting_with_ties(values, chunk_size, leave_out, data):
    similarity = torch.tensor(values, dtype=torch.float32)
    num_rows, width = similarity.shape
    exclude = torch.tensor(data.draw(st.lists(st.integers(0, width - 1), min_size=num_rows, max_size=num_rows)))
    exclude = exclude if leave_out else None
    num_neighbors = data.draw(st.integers(0, width - leave_out))
    expected = reference(similarity, num_neighbors, exclude)
    assert top_neighbors(similarity, num_neighbors, exclude=exclude).tolist() == expected
    running = RunningNeighbors(num_neighbors, exclude=exclude)
    for start in range(0, width, chunk_size):
        running.add(similarity[:, start : start + chunk_size])
    assert running.slots().tolist() == expected


def test_top_neighbors_by_hand():
    logits = torch.tensor([[0.0, 3.0, 1.0, 3.0], [5.0, 0.0, 0.0, 0.0]], requires_grad=True)
    assert top_neighbors(logits, 3).tolist() == [[1, 3, 2], [0, 1, 2]]
    assert top_neighbors(logits, 2, exclude=torch.tensor([1, 3])).tolist() == [[3, 2], [0, 1]]


def test_nan_is_no_reason_to_fail_before_the_loss_is_seen():
    logits = torch.tensor([[0.0, torch.nan, 1.0, 1.0, 1.0]])
    assert top_neighbors(logits, 3).shape == (1, 3)


def test_too_few_slots():
    logits = torch.zeros(2, 5)
    assert top_neighbors(logits, 5).shape == (2, 5)
    with pytest.raises(InputError, match="num_neighbors = 6: the memory has only 5 slots to choose from"):
        top_neighbors(logits, 6)
    with pytest.raises(InputError, match="num_neighbors = 5: the memory has only 4 slots"):
        top_neighbors(logits, 5, exclude=torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="no similarities"):
        RunningNeighbors(0).slots()


@given(values=similarities, largest=st.booleans(), count=st.integers(0, 31))
def test_best_columns_with_ties(values, largest, count):
    found, columns = best_columns(torch.tensor(values, dtype=torch.float32), count, largest=largest)
    sign = -1 if largest else 1
    for row, got, best in zip(values, columns.tolist(), found.tolist(), strict=True):
        expected = sorted(range(len(row)), key=lambda column: (sign * row[column], column))[:count]
        assert got == expected
        assert best == [row[column] for column in expected]


@pytest.mark.parametrize("largest", [False, True])
def test_all_values_alike(largest):
    assert best_columns(torch.ones(3, 50), 4, largest=largest)[1].tolist() == [[0, 1, 2, 3]] * 3


def test_similarity_blocks_widen_a_narrow_memory():
    features, memory = torch.randn(3, 8), torch.randn(20, 8).bfloat16()
    rows, similarity = zip(*similarity_blocks(features, memory, chunk_size=7), strict=True)
    assert [len(part) for part in rows] == [7, 7, 6]
    assert all(part.dtype == torch.float32 for part in rows)
    torch.testing.assert_close(torch.cat(similarity, dim=1), features @ memory.float().T)


def test_pair_distances_in_float64(monkeypatch):
    generator = np.random.default_rng(0)
    points = 1e3 + generator.normal(size=(20, 6)).astype(np.float32)
    rows, others = generator.integers(0, 20, (2, 55))
    expected = [
        ((points[i].astype(float) - points[j].astype(float)) ** 2).sum() for i, j in zip(rows, others, strict=True)
    ]
    np.testing.assert_allclose(pair_distances(points, rows, others), expected, rtol=1e-13)
    monkeypatch.setattr(nearest, "_PAIR_ELEMENTS", 6 * 4)
    np.testing.assert_allclose(pair_distances(points, rows, others), expected, rtol=1e-13)


def test_exact_order_of_candidates():
    # 0 and 3 coincide, 1 and 2 are equally far from them
    points = np.array([[0.0], [1.0], [-1.0], [0.0], [5.0]])
    candidates = np.array([[4, 3, 2, 1, 0], [4, 3, 2, 1, 0]])
    assert ordered(points, np.array([0, 3]), candidates).tolist() == [[0, 3, 1, 2, 4], [3, 0, 1, 2, 4]]
