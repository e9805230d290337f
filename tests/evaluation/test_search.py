"""Top-k search against sorting every row of an exact distance matrix."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from reid_da import features, nearest
from reid_da.errors import InputError
from reid_da.evaluation.search import search


def whole_numbers(seed: int, rows: int, dim: int = 3) -> NDArray[np.float32]:
    """Features whose Euclidean distances are exact in float32, many of them equal."""
    features = np.random.default_rng(seed).integers(-2, 3, (rows, dim)).astype(np.float32)
    features[~features.any(axis=1)] = 1
    return features


def sorted_rows(query: NDArray[Any], gallery: NDArray[Any], num_neighbors: int) -> tuple[NDArray[Any], NDArray[Any]]:
    squares = np.array([[((q - g) ** 2).sum() for g in gallery.astype(float)] for q in query.astype(float)])
    order = squares.argsort(axis=1, kind="stable")[:, :num_neighbors]
    return np.sqrt(np.take_along_axis(squares, order, axis=1)), order


@given(seed=st.integers(0, 2**32 - 1), num_neighbors=st.integers(1, 30))
def test_euclidean_with_ties_in_the_order_of_the_gallery(seed: int, num_neighbors: int) -> None:
    query, gallery = whole_numbers(seed, 7), whole_numbers(seed + 1, 30)
    distances, order = sorted_rows(query, gallery, num_neighbors)
    found = search(query, gallery, num_neighbors=num_neighbors, distance="euclidean")
    np.testing.assert_array_equal(found.indices, order)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-6)
    assert found.indices.dtype == torch.int64


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cosine(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    query, gallery = rng.standard_normal((9, 16)).astype(dtype), rng.standard_normal((50, 16)).astype(dtype)
    unit = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in (query, gallery)]
    exact, order = sorted_rows(*unit, 10)
    found = search(torch.from_numpy(query), torch.from_numpy(gallery), num_neighbors=10)
    np.testing.assert_array_equal(found.indices, order)
    np.testing.assert_allclose(found.distances, exact**2 / 2, atol=1e-6 if dtype == np.float32 else 1e-14)
    assert found.distances.numpy().dtype == dtype


def test_blocks_of_odd_sizes_equal_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    query, gallery = whole_numbers(0, 23), whole_numbers(1, 61)
    whole = search(query, gallery, num_neighbors=8, distance="euclidean")
    monkeypatch.setattr(nearest, "_BLOCK_ROWS", (5, 5))
    monkeypatch.setattr(features, "PIECE_ROWS", 7)
    in_blocks = search(query, gallery, num_neighbors=8, distance="euclidean")
    assert torch.equal(in_blocks.indices, whole.indices)
    assert torch.equal(in_blocks.distances, whole.distances)


def test_all_images_alike() -> None:
    found = search(np.ones((3, 2)), np.ones((9, 2)), num_neighbors=4)
    assert found.indices.tolist() == [[0, 1, 2, 3]] * 3


def test_distance_to_itself_is_not_negative() -> None:
    features = np.random.default_rng(0).standard_normal((40, 512)).astype(np.float32) * 100
    found = search(features, features, num_neighbors=2, distance="euclidean")
    assert found.indices[:, 0].tolist() == list(range(40))
    assert (found.distances[:, 0] >= 0).all()
    # rounding of squared lengths near 5e6 leaves a distance near 1, where others are near 3,000
    assert (found.distances[:, 0] < 5).all()


@pytest.mark.parametrize("num_neighbors", [0, 10])
def test_number_of_neighbors(num_neighbors: int) -> None:
    with pytest.raises(InputError, match=f"num_neighbors: expected 1 to 9, .* got {num_neighbors}"):
        search(np.ones((3, 2)), np.ones((9, 2)), num_neighbors=num_neighbors)


def test_bad_features() -> None:
    with pytest.raises(InputError, match="gallery_features: 1 rows hold NaN"):
        search(np.ones((3, 2)), [[1, 2], [math.nan, 1]], num_neighbors=1)
    with pytest.raises(InputError, match="unknown distance 'dot'"):
        search(np.ones((3, 2)), np.ones((9, 2)), num_neighbors=1, distance="dot")
