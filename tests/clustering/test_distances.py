"""Sparse distances against a dense reference in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from reid_da.clustering import (
    camera_jaccard_encoding,
    cosine_distances,
    distance_quantile_mean,
    jaccard_distances,
    jaccard_encoding,
    unit_points,
)
from reid_da.clustering import distances as module
from reid_da.clustering.neighbors import camera_neighbor_lists, neighbor_lists
from reid_da.errors import InputError

from .conftest import Dense, identities


def dense(distances: csr_array, missing: float = 1.0):
    """(N, N) float64; what is not stored is ``missing``."""
    matrix = np.full(distances.shape, missing)
    entries = distances.tocoo()
    matrix[entries.row, entries.col] = entries.data
    return matrix


def jaccard(features, **settings):
    return jaccard_distances(jaccard_encoding(unit_points(features), **settings))


@given(
    num_images=st.integers(1, 40),
    width=st.integers(2, 8),
    k1=st.integers(1, 14),
    k2=st.integers(1, 14),
    convention=st.sampled_from(["clustering", "reranking"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_jaccard_equals_the_dense_reference(num_images, width, k1, k2, convention, seed):
    features, k2 = identities(num_images, width, seed=seed), min(k1, k2)
    ours = jaccard(features, k1=k1, k2=k2, convention=convention)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(dense(ours), Dense(features).jaccard(k1, k2, convention), rtol=0, atol=3e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_jaccard_with_the_published_settings(dtype, tiny_blocks):
    features = identities(90, 16, seed=3).astype(dtype)
    expected = Dense(features).jaccard(30, 6)
    ours = dense(jaccard(features))
    np.testing.assert_allclose(ours, expected, rtol=0, atol=3e-6)
    # neighbour lists of re-ranking, one longer, give other distances
    assert np.abs(ours - Dense(features).jaccard(30, 6, "reranking")).max() > 1e-3


@given(
    num_images=st.integers(2, 36),
    num_cameras=st.integers(2, 4),
    k1_intra=st.integers(1, 7),
    k1_inter=st.integers(1, 12),
    k2_intra=st.integers(1, 4),
    k2_inter=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
)
def test_camera_jaccard_equals_the_dense_reference(
    num_images, num_cameras, k1_intra, k1_inter, k2_intra, k2_inter, seed
):
    features = identities(num_images, seed=seed)
    camids = np.random.default_rng(seed).integers(0, num_cameras, num_images)
    camids[:2] = 0, 1
    settings = {"k1_intra": k1_intra, "k1_inter": k1_inter}
    settings |= {"k2_intra": min(k2_intra, k1_intra + 1), "k2_inter": min(k2_inter, k1_inter + 1)}
    rows = camera_jaccard_encoding(unit_points(features), camids, **settings)
    expected = Dense(features).camera_jaccard(camids, **settings)
    np.testing.assert_allclose(dense(jaccard_distances(rows)), expected, rtol=0, atol=3e-6)


def test_images_that_occur_several_times(tiny_blocks):
    features = np.repeat(identities(12, seed=5), 4, axis=0)[np.random.default_rng(0).permutation(48)]
    camids = np.arange(48) % 3
    np.testing.assert_allclose(dense(jaccard(features, k1=6, k2=3)), Dense(features).jaccard(6, 3), atol=3e-6)
    settings = {"k1_intra": 3, "k1_inter": 6, "k2_intra": 2, "k2_inter": 2}
    rows = camera_jaccard_encoding(unit_points(features), camids, **settings)
    expected = Dense(features).camera_jaccard(camids, **settings)
    np.testing.assert_allclose(dense(jaccard_distances(rows)), expected, atol=3e-6)


def test_sizes_of_blocks_do_not_show(request):
    features, camids = identities(70, seed=1), np.arange(70) % 4

    def both():
        points = unit_points(features)
        return jaccard_encoding(points, k1=12), camera_jaccard_encoding(points, camids)

    whole = both()
    request.getfixturevalue("tiny_blocks")
    for one, other in zip(whole, both(), strict=True):
        assert (one != other).nnz == 0
        first, second = jaccard_distances(one), jaccard_distances(other)
        np.testing.assert_array_equal(first.indices, second.indices)
        np.testing.assert_array_equal(first.data, second.data)


def test_both_ways_to_add_up_give_the_same(monkeypatch):
    rows = jaccard_encoding(unit_points(identities(70, seed=1)), k1=12)
    expected = jaccard_distances(rows, max_distance=0.8)
    monkeypatch.setattr(module, "_DENSE_COLUMNS", 1)
    ours = jaccard_distances(rows, max_distance=0.8)
    np.testing.assert_array_equal(ours.indices, expected.indices)
    np.testing.assert_array_equal(ours.data, expected.data)


@pytest.mark.parametrize("limit", [0.3, 0.6, 0.95])
def test_a_limit_leaves_out_what_is_farther_and_no_more(limit):
    rows = jaccard_encoding(unit_points(identities(60, seed=2)), k1=10, k2=4)
    everything, near = dense(jaccard_distances(rows)), jaccard_distances(rows, max_distance=limit)
    np.testing.assert_array_equal(dense(near), np.where(everything <= np.float32(limit), everything, 1))
    assert near.nnz == (everything <= np.float32(limit)).sum()


def test_distances_are_symmetric_to_the_bit_with_zeros_on_the_diagonal():
    distances = jaccard(identities(80, seed=4), k1=6, k2=2)
    assert (distances != distances.T).nnz == 0
    assert distances.has_sorted_indices
    stored = distances.tocoo()
    diagonal = stored.row == stored.col
    assert diagonal.sum() == 80
    assert (stored.data[diagonal] == 0).all()
    # far fewer pairs than there are
    assert distances.nnz < 80 * 80 / 2


def test_a_distance_that_equals_the_limit_is_within():
    # rows that share three quarters of their weight: exactly 0.4 apart
    rows = csr_array(np.array([[0.1, 0.2, 0.45, 0.25, 0], [0.1, 0.2, 0.45, 0, 0.25], *np.eye(5)[2:]], dtype=np.float32))
    assert dense(jaccard_distances(rows, max_distance=0.4))[0, 1] == np.float32(0.4)


def test_two_images_worked_by_hand():
    # unit vectors at right angles: squared distance 2; with k1 = 2 they list each other
    distances = dense(jaccard(np.eye(2), k1=2, k2=1))
    own, other = 1 / (1 + np.exp(-2)), np.exp(-2) / (1 + np.exp(-2))
    shared = 2 * min(own, other)
    np.testing.assert_allclose(distances, [[0, 1 - shared / (2 - shared)], [1 - shared / (2 - shared), 0]], atol=1e-6)


def test_faiss_finds_the_same_neighbors(tiny_blocks):
    points = unit_points(identities(60, 16, seed=6).astype(np.float32))
    exact = neighbor_lists(points, 12)
    np.testing.assert_array_equal(neighbor_lists(points, 12, search="faiss"), exact)
    assert (neighbor_lists(points, 60, search="faiss")[:, 1:] >= 0).all()
    # clusters of FAISS are searched in part only
    some = neighbor_lists(points, 12, search="faiss_ivf")
    assert (some[:, 0] == np.arange(60)).all()
    assert np.mean([len(set(a) & set(b)) / 12 for a, b in zip(some, exact, strict=True)]) > 0.7


def test_camera_lists_are_as_long_as_the_cameras_allow():
    points = unit_points(np.array([[1, 0], [1, 0.1], [1, 0.3], [1, 0.2]]))
    intra, inter = camera_neighbor_lists(points, np.array([1, 1, 0, 1]), num_intra=4, num_inter=2)
    assert intra.tolist() == [[0, 1, 3, -1], [1, 3, 0, -1], [2, -1, -1, -1], [3, 1, 0, -1]]
    assert inter.tolist() == [[2, -1], [2, -1], [3, 1], [2, -1]]


@given(num_images=st.integers(1, 30), limit=st.floats(0.01, 1.9), seed=st.integers(0, 2**32 - 1))
def test_cosine_distances(num_images, limit, seed):
    points = unit_points(identities(num_images, seed=seed))
    expected = 1 - (points @ points.T).numpy()
    np.fill_diagonal(expected, 0)
    ours = dense(cosine_distances(points, max_distance=limit), missing=np.inf)
    near = expected <= limit
    np.testing.assert_allclose(ours, np.where(near, expected, np.inf), atol=1e-7)


def test_cosine_distances_of_nearly_all_pairs_are_refused(monkeypatch, tiny_blocks):
    monkeypatch.setattr(module, "_MOST_NEIGHBORS", 10)
    points = unit_points(torch.rand(40, 3, generator=torch.Generator().manual_seed(0)) + 1)
    with pytest.raises(InputError, match=r"more than 10 images on average are within cosine distance 0.5.*lower eps"):
        cosine_distances(points, max_distance=0.5)
    assert cosine_distances(points[:11], max_distance=0.5).nnz == 121


@pytest.mark.parametrize("share", [0.01, 0.2, 0.9, 1.0])
def test_mean_of_the_smallest_distances(share):
    features = np.concatenate([identities(40, seed=7), identities(40, seed=7)[:5]])
    distances = jaccard(features, k1=8, k2=1)
    pairs = dense(distances)[np.triu_indices(45, 1)]
    pairs = np.sort(pairs[pairs > 0])
    assert 0 < (pairs < 1).sum() < len(pairs) < 45 * 44 / 2
    expected = pairs[: round(share * len(pairs))].mean()
    assert distance_quantile_mean(distances, share) == pytest.approx(expected, rel=1e-6)


def test_settings_that_do_not_fit():
    points = unit_points(identities(10))
    with pytest.raises(InputError, match=r"^k2: expected 1 to k1 = 3, got 4$"):
        jaccard_encoding(points, k1=3, k2=4)
    with pytest.raises(InputError, match=r"^k2_inter: expected 1 to 3, .* got 4$"):
        camera_jaccard_encoding(points, np.arange(10) % 2, k1_inter=2, k2_inter=4)
    with pytest.raises(InputError, match="two cameras at least, these are of one; use jaccard"):
        camera_jaccard_encoding(points, np.zeros(10, dtype=np.int64))
    with pytest.raises(
        InputError, match="eps_share: a share of 0.001 of 43 pairs is less than one pair; set eps instead"
    ):
        distance_quantile_mean(jaccard(identities(10)), 0.001)
