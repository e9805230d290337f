"""k-reciprocal neighbour sets of a set of points, written as sparse rows (Zhong et al., CVPR 2017)."""

from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from reid_da.evaluation._streaming import FeatureBlocks, row_blocks
from reid_da.progress import track

Coordinates: TypeAlias = NDArray[np.float32 | np.float64]
Indices: TypeAlias = NDArray[np.int64]
Distances: TypeAlias = NDArray[np.float64]
Rows: TypeAlias = csr_array
"""(N, N) sparse matrix, one row per point."""

_PAIR_ELEMENTS = 2**17
"""Coordinates that exist at a time where distances are computed pair by pair; 1 MiB in float64 stays in the cache."""
_SPARE_CANDIDATES = 3
"""Neighbours that are found beyond those wanted, so that the rounding of a matrix product decides about none."""


def nearest_neighbors(points: Tensor, num_neighbors: int) -> tuple[Indices, Distances]:
    """The nearest points of every point, itself first, and the largest distance from it.

    A matrix product finds the candidates, distances in float64 order them; equal distances are ordered by index.
    So neither the size of the blocks nor the number of threads shows in the result. A point comes first in its own
    list even where others coincide with it.

    Args:
        points: (N, D) float32 or float64, none of them zero.
        num_neighbors: length K of the lists, the point itself included; at most N.

    Returns:
        (N, K) int64 indices and (N,) float64 squared Euclidean distances to the farthest point.
    """
    num_points, coordinates = len(points), points.cpu().numpy()
    blocks = FeatureBlocks(points, points, distance="euclidean")
    neighbors = np.empty((num_points, num_neighbors), dtype=np.int64)
    farthest = np.empty(num_points)
    for block in track(row_blocks(num_points, num_points), "k-reciprocal neighbours"):
        rows = np.arange(block.start, block.stop)
        values = blocks.block(block, slice(None))
        farthest[block] = pair_distances(coordinates, rows, values.argmax(dim=1).cpu().numpy())
        values[np.arange(len(rows)), rows] = -torch.inf
        candidates = values.topk(min(num_neighbors + _SPARE_CANDIDATES, num_points), largest=False, sorted=False)
        neighbors[block] = _ordered(coordinates, rows, candidates.indices.cpu().numpy())[:, :num_neighbors]
    return neighbors, farthest


def _ordered(coordinates: Coordinates, rows: Indices, candidates: Indices) -> Indices:
    """(R, C) candidates of each of the R rows, the row itself first, then by distance, then by index."""
    candidates = np.sort(candidates, axis=1)
    owners = np.broadcast_to(rows[:, None], candidates.shape)
    distances = pair_distances(coordinates, owners.ravel(), candidates.ravel()).reshape(candidates.shape)
    distances[candidates == owners] = -1
    return np.take_along_axis(candidates, distances.argsort(axis=1, kind="stable"), axis=1)


def pair_distances(coordinates: Coordinates, rows: Indices, others: Indices) -> Distances:
    """(P,) squared Euclidean distances between ``coordinates[rows]`` and ``coordinates[others]``."""
    distances = np.empty(len(rows))
    step = max(1, _PAIR_ELEMENTS // coordinates.shape[1])
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        difference = coordinates[rows[part]].astype(np.float64)
        difference -= coordinates[others[part]]
        np.einsum("pd,pd->p", difference, difference, out=distances[part])
    return distances


def reciprocal_encoding(points: Tensor, neighbors: Indices, farthest: Distances, *, k1: int, k2: int) -> Rows:
    """(N, N) float32 sparse rows that sum to 1: the expanded k-reciprocal neighbours of every point, by nearness.

    A neighbour at distance d, relative to that of the farthest point, has the weight ``exp(-d)``, scaled so that
    a row sums to 1. Local query expansion then replaces every row by the mean of the rows of the k2 nearest points,
    itself included.

    Args:
        points: (N, D) float32 or float64.
        neighbors: (N, k1 + 1), the nearest points of every point in order, itself first.
        farthest: (N,) squared distance of every point to the one farthest from it.
        k1: neighbours, the point itself not counted, among which reciprocity is asked for.
        k2: neighbours, the point itself counted, over which the rows are averaged.
    """
    sets = _expanded_sets(neighbors, k1).tocoo()
    distances = pair_distances(points.cpu().numpy(), sets.row, sets.col)
    weights = np.exp(-distances / farthest[sets.row])
    weights /= np.bincount(sets.row, weights)[sets.row]
    encoding = csr_array((weights, (sets.row, sets.col)), shape=sets.shape)
    return (_listed(neighbors[:, :k2]) @ encoding / k2).astype(np.float32)


def _expanded_sets(neighbors: Indices, k1: int) -> Rows:
    """(N, N) positive where the column is in R*(row, k1)."""
    mutual = _mutual(neighbors[:, : k1 + 1])
    # round() and numpy.around, which the authors' code calls, both take a half to the even neighbour
    half = _mutual(neighbors[:, : round(k1 / 2) + 1])
    # half is symmetric: entry (i, c) counts the members that R(i, k1) and R(c, k1 / 2) share
    accepted = mutual.multiply(mutual @ half).tocsr()
    accepted.data = (3 * accepted.data > 2 * half.sum(axis=1)[accepted.indices]).astype(np.int32)
    accepted.eliminate_zeros()
    return mutual + accepted @ half


def _mutual(neighbors: Indices) -> Rows:
    """(N, N) with 1 where each of two points is in the list of the other."""
    listed = _listed(neighbors)
    return listed.multiply(listed.T).tocsr()


def _listed(neighbors: Indices) -> Rows:
    """(N, N) with 1 where the column is in the list of the row."""
    num_points, length = neighbors.shape
    ends = np.arange(0, neighbors.size + 1, length)
    ones = np.ones(neighbors.size, dtype=np.int32)
    return csr_array((ones, neighbors.ravel(), ends), shape=(num_points, num_points))
