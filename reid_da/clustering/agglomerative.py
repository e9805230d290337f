"""Average linkage on a sparse matrix of distances."""

from itertools import pairwise

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from reid_da.errors import InputError
from reid_da.features import Labels
from reid_da.reciprocal import Rows

Similarities = dict[int, dict[int, float]]
"""Similarities of each cluster to those that it is similar to at all, by their numbers."""
Merge = tuple[float, int, int]
"""Distance at which two clusters were merged, and their numbers."""


def average_linkage(distances: Rows, *, max_distance: float, num_clusters: int | None = None) -> Labels:
    """(N,) int64 clusters, joined while the mean distance of the pairs between two of them is smallest (UPGMA).

    Exact, with pairs that are not stored at distance 1: the similarity of two clusters is a sum over stored pairs.
    A chain of nearest neighbours finds the joins in time that grows with the number of pairs; of equally near clusters
    the one with the first point of the lower number is taken.

    Args:
        distances: (N, N) symmetric, in 0..1, with all pairs that are nearer than 1.
        max_distance: clusters farther apart are not joined; without effect where ``num_clusters`` is given.
        num_clusters: number of clusters to stop at.

    Raises:
        InputError: ``num_clusters`` cannot be had, since clusters that share no neighbour would have to be joined.
    """
    num_points = distances.shape[0]
    merges = _merges(distances, 0.0 if num_clusters is not None else 1 - max_distance)
    if num_clusters is not None:
        wanted = num_points - num_clusters
        if not 0 <= wanted <= len(merges):
            raise InputError(
                f"num_clusters: expected {num_points - len(merges)} to {num_points}, since fewer would join images "
                f"without a neighbour in common, got {num_clusters}"
            )
        merges = sorted(merges)[:wanted]
    pairs = np.array([pair for _, *pair in merges], dtype=np.int64).reshape(-1, 2)
    links = csr_array((np.ones(len(pairs), dtype=bool), tuple(pairs.T)), shape=distances.shape)
    labels: Labels = connected_components(links, directed=False)[1].astype(np.int64)
    return labels


def _merges(distances: Rows, least: float) -> list[Merge]:
    """Joins of clusters (named by their first points) with a mean similarity above ``least``, as (distance, a, b).

    Average linkage is reducible: two clusters that are nearest to each other stay so whatever else is joined, and a
    cluster whose nearest is too far away never finds a nearer one.
    """
    similarities, sizes = _similarities(distances), dict.fromkeys(range(distances.shape[0]), 1)
    merges: list[Merge] = []
    for start in range(distances.shape[0]):
        chain = [start] if start in similarities else []
        while chain:
            last, previous = chain[-1], chain[-2] if len(chain) > 1 else -1
            nearest, similarity = _nearest(similarities[last], sizes, sizes[last], previous)
            # rounding of sums must not part what is as far apart as is allowed
            if nearest < 0 or similarity < least - 1e-9 or similarity <= 0:
                for cluster in chain:
                    del similarities[cluster]
                break
            if nearest == previous:
                del chain[-2:]
                first, second = sorted((last, previous))
                merges.append((1 - similarity, first, second))
                _join(similarities, sizes, first, second)
                chain = chain or [first]
            else:
                chain.append(nearest)
    return merges


def _similarities(distances: Rows) -> Similarities:
    """1 - distance by point and other point."""
    ends, columns, values = distances.indptr.tolist(), distances.indices.tolist(), (1 - distances.data).tolist()
    similarities = {}
    for row, (begin, end) in enumerate(pairwise(ends)):
        similarities[row] = dict(zip(columns[begin:end], values[begin:end], strict=True))
        similarities[row].pop(row, None)
    return similarities


def _nearest(sums: dict[int, float], sizes: dict[int, int], size: int, previous: int) -> tuple[int, float]:
    """The cluster of the highest mean similarity, ``previous`` before others, then the lower number."""
    best = max(sums, key=lambda other: (sums[other] / sizes[other], other == previous, -other), default=-1)
    return best, sums[best] / sizes[best] / size if sums else 0.0


def _join(similarities: Similarities, sizes: dict[int, int], first: int, second: int) -> None:
    """Make ``second`` a part of ``first``."""
    sums, others = similarities[first], similarities.pop(second)
    del sums[second], others[first]
    for other, similarity in others.items():
        sums[other] = sums.get(other, 0.0) + similarity
        if other in similarities:
            del similarities[other][second]
            similarities[other][first] = sums[other]
    sizes[first] += sizes[second]
