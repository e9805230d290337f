"""Average linkage on sparse distances against scipy's on the dense matrix."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse import csr_array
from scipy.spatial.distance import squareform

from reid_da.clustering import average_linkage, jaccard_distances, jaccard_encoding, ordered_labels, unit_points
from reid_da.errors import InputError

from .conftest import identities


def sparse_distances(num_points, density, seed):
    generator = np.random.default_rng(seed)
    matrix = np.where(generator.random((num_points,) * 2) < density, generator.random((num_points,) * 2), 1)
    matrix = np.triu(matrix, 1) + np.triu(matrix, 1).T
    rows, columns = np.nonzero(matrix < 1)
    return matrix, csr_array((matrix[rows, columns], (rows, columns)), shape=matrix.shape)


@given(
    num_points=st.integers(2, 40), density=st.floats(0, 1), limit=st.floats(0.05, 0.99), seed=st.integers(0, 2**32 - 1)
)
def test_clusters_within_a_limit(num_points, density, limit, seed):
    matrix, distances = sparse_distances(num_points, density, seed)
    expected = fcluster(linkage(squareform(matrix), "average"), limit, "distance")
    ours = average_linkage(distances, max_distance=limit)
    np.testing.assert_array_equal(ordered_labels(ours), ordered_labels(expected))


@given(num_points=st.integers(2, 40), num_clusters=st.integers(1, 40), seed=st.integers(0, 2**32 - 1))
def test_number_of_clusters(num_points, num_clusters, seed):
    matrix, distances = sparse_distances(num_points, 1, seed)
    num_clusters = min(num_clusters, num_points)
    tree = linkage(squareform(matrix), "average")
    # the height of the last join that is still made
    height = tree[num_points - num_clusters - 1, 2] if num_clusters < num_points else 0
    ours = average_linkage(distances, max_distance=1e-3, num_clusters=num_clusters)
    assert len(set(ours)) == num_clusters
    np.testing.assert_array_equal(ordered_labels(ours), ordered_labels(fcluster(tree, height + 1e-12, "distance")))


def test_on_jaccard_distances():
    distances = jaccard_distances(jaccard_encoding(unit_points(identities(120, 16)), k1=8, k2=3))
    matrix = np.ones(distances.shape)
    entries = distances.tocoo()
    matrix[entries.row, entries.col] = entries.data
    expected = fcluster(linkage(squareform(matrix, checks=False), "average"), 0.7, "distance")
    assert 10 < expected.max() < 60
    ours = average_linkage(distances, max_distance=0.7)
    np.testing.assert_array_equal(ordered_labels(ours), ordered_labels(expected))


def test_clusters_that_share_nothing_are_never_joined():
    matrix = np.ones((5, 5))
    matrix[:2, :2] = matrix[2:4, 2:4] = 0.5
    rows, columns = np.nonzero(matrix < 1)
    distances = csr_array((matrix[rows, columns], (rows, columns)), shape=(5, 5))
    assert average_linkage(distances, max_distance=1.0).tolist() == [0, 0, 1, 1, 2]
    assert average_linkage(distances, max_distance=0.1, num_clusters=3).tolist() == [0, 0, 1, 1, 2]
    for number in (2, 6):
        with pytest.raises(InputError, match=f"num_clusters: expected 3 to 5, .* got {number}"):
            average_linkage(distances, max_distance=0.1, num_clusters=number)
