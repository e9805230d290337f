"""DBSCAN on a sparse matrix against scikit-learn's on the dense one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array
from sklearn.cluster import DBSCAN

from reid_da.clustering import dbscan, jaccard_distances, jaccard_encoding, unit_points

from .conftest import identities


def sparse(matrix, limit=1.0):
    """The entries below the limit, zeros included."""
    rows, columns = np.nonzero(matrix < limit)
    return csr_array((matrix[rows, columns].astype(np.float32), (rows, columns)), shape=matrix.shape)


def expected_labels(matrix, eps, min_samples):
    return DBSCAN(eps=eps, min_samples=min_samples, metric="precomputed").fit_predict(matrix.astype(np.float32))


@given(
    num_points=st.integers(1, 40),
    density=st.floats(0, 0.4),
    min_samples=st.integers(1, 6),
    seed=st.integers(0, 2**32 - 1),
)
def test_labels_equal_those_of_scikit_learn(num_points, density, min_samples, seed):
    # few different distances, so that many equal eps, and border points between clusters
    generator = np.random.default_rng(seed)
    matrix = np.where(
        generator.random((num_points, num_points)) < density, generator.integers(0, 4, (num_points,) * 2) / 4, 1
    )
    matrix = np.minimum(matrix, matrix.T)
    np.fill_diagonal(matrix, 0)
    labels = dbscan(sparse(matrix), eps=0.5, min_samples=min_samples)
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, expected_labels(matrix, 0.5, min_samples))


@pytest.mark.parametrize("eps", [0.2, 0.3, 0.4, 0.5])
def test_labels_on_jaccard_distances(eps):
    rows = jaccard_encoding(unit_points(identities(300, 16, noise=0.8)), k1=12, k2=4)
    everything = jaccard_distances(rows)
    matrix = np.ones(everything.shape)
    entries = everything.tocoo()
    matrix[entries.row, entries.col] = entries.data
    expected = expected_labels(matrix, eps, 4)
    assert expected.max() >= 1
    assert expected.min() == -1
    np.testing.assert_array_equal(dbscan(everything, eps=eps, min_samples=4), expected)
    limited = jaccard_distances(rows, max_distance=eps)
    np.testing.assert_array_equal(dbscan(limited, eps=eps, min_samples=4), expected)


def test_a_border_point_goes_to_the_cluster_of_the_lower_number():
    matrix = np.ones((10, 10))
    for members in ([2, 3, 4, 8], [5, 6, 7, 9]):
        matrix[np.ix_(members, members)] = 0.2
    # 0 is near one point of each, nearer to the second cluster; 1 to one of the second
    for one, other, distance in ((0, 5, 0.1), (0, 2, 0.4), (1, 6, 0.4)):
        matrix[one, other] = matrix[other, one] = distance
    np.fill_diagonal(matrix, 0)
    labels = dbscan(sparse(matrix), eps=0.5, min_samples=4)
    assert labels.tolist() == [0, 1, 0, 0, 0, 1, 1, 1, 0, 1]
    np.testing.assert_array_equal(labels, expected_labels(matrix, 0.5, 4))


def test_the_diagonal_need_not_be_stored():
    matrix = np.ones((4, 4))
    matrix[:3, :3] = 0.1
    without = sparse(matrix)
    without.setdiag(1)
    assert dbscan(without, eps=0.5, min_samples=3).tolist() == [0, 0, 0, -1]


def test_no_links_at_all():
    assert dbscan(csr_array((3, 3), dtype=np.float32), eps=0.5, min_samples=2).tolist() == [-1] * 3
    assert dbscan(csr_array((3, 3), dtype=np.float32), eps=0.5, min_samples=1).tolist() == [0, 1, 2]
