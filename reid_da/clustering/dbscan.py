"""DBSCAN on a sparse matrix of distances (Ester et al., KDD 1996)."""

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from reid_da.features import Labels
from reid_da.reciprocal import Rows


def dbscan(distances: Rows, *, eps: float, min_samples: int) -> Labels:
    """(N,) int64 cluster of every point, -1 for outliers; the labels that scikit-learn's DBSCAN gives.

    A core point has ``min_samples`` points within ``eps``, itself included. Core points within ``eps`` of each other
    are in one cluster; clusters are numbered in the order of their first core points. A point within ``eps`` of core
    points but no core point itself (a border point) goes to the cluster of the lowest number among theirs.

    Args:
        distances: (N, N) symmetric; pairs that are not stored are farther apart than ``eps``.
        eps: largest distance between neighbours.
        min_samples: points within ``eps`` that make a core point.
    """
    num_points = distances.shape[0]
    rows = np.repeat(np.arange(num_points), np.diff(distances.indptr))
    near = (distances.data <= eps) & (distances.indices != rows)
    rows, columns = rows[near], distances.indices[near]
    is_core = np.bincount(rows, minlength=num_points) + 1 >= min_samples
    joins = is_core[columns]
    rows, columns = rows[joins], columns[joins]
    of_core = is_core[rows]
    links = csr_array((np.ones(of_core.sum(), dtype=bool), (rows[of_core], columns[of_core])), shape=distances.shape)
    _, components = connected_components(links, directed=False)
    # numbered by first core point, with a number above all for those who have no cluster yet
    _, first, number = np.unique(components[is_core], return_index=True, return_inverse=True)
    labels = np.full(num_points, num_points, dtype=np.int64)
    labels[is_core] = np.argsort(np.argsort(first))[number]
    border = rows[~of_core], labels[columns[~of_core]]
    np.minimum.at(labels, *border)
    labels[labels == num_points] = -1
    return labels
