"""k-reciprocal neighbour sets of a set of points, written as sparse rows (Zhong et al., CVPR 2017, arXiv 1701.08398).

Re-ranking and clustering compare these rows. All is done a block of rows at a time: memory grows with the number of
points times that of their neighbours.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import torch
from scipy.sparse import csr_array, vstack
from torch import Tensor

from reid_da.features import pieces
from reid_da.nearest import Coordinates, Distances, FeatureBlocks, Indices, ordered, pair_distances, row_blocks
from reid_da.progress import track
from reid_da.world import ALONE, World

Rows: TypeAlias = csr_array
"""(N, N) sparse matrix, one row per point."""

SPARE_CANDIDATES = 3
"""Neighbours that are found beyond those wanted, so that the rounding of a matrix product decides about none."""
_SPARSE_ROWS = 2**13
"""Rows of sparse matrices that are multiplied at a time."""
_OVERLAP_ELEMENTS = 2**22
"""Pairs of sparse entries compared at a time in :func:`minima` (16 bytes each)."""


def nearest_neighbors(
    points: Tensor, num_neighbors: int, *, farthest: Distances | None = None, world: World = ALONE
) -> Indices:
    """(N, K) int64 nearest points of every point, itself first, equal distances in the order of the points.

    A matrix product finds the candidates, distances in float64 order them (:func:`reid_da.nearest.ordered`). A point
    comes first in its own list even where others coincide with it.

    Args:
        points: (N, D) float32 or float64, none of them zero.
        num_neighbors: length K of the lists, the point itself included; at most N.
        farthest: (N,), receives the squared Euclidean distance to the point that is farthest away; of one process.
        world: processes that have all points and look up a part of them each.
    """
    num_points, coordinates = len(points), points.cpu().numpy()
    blocks = FeatureBlocks(points, points, distance="euclidean")
    neighbors = np.zeros((num_points, num_neighbors), dtype=np.int64)
    for block in track(row_blocks(num_points, num_points)[world.rank :: world.size], "k-reciprocal neighbours"):
        rows = np.arange(block.start, block.stop)
        values = blocks.block(block, slice(None))
        if farthest is not None:
            farthest[block] = pair_distances(coordinates, rows, values.argmax(dim=1).cpu().numpy())
        values[:, block].fill_diagonal_(-torch.inf)
        candidates = smallest(values, num_neighbors)
        neighbors[block] = ordered(coordinates, rows, candidates)[:, :num_neighbors]
    merged: Indices = world.sum(torch.from_numpy(neighbors)).numpy()
    return merged


def smallest(values: Tensor, count: int, *, available: int | None = None) -> Indices:
    """(B, count + a few) columns of the smallest values of each row in any order.

    Args:
        values: (B, M).
        count: columns wanted.
        available: most columns to return, M by default.
    """
    available = values.shape[1] if available is None else available
    found = values.topk(min(count + SPARE_CANDIDATES, available), largest=False, sorted=False)
    columns: Indices = found.indices.cpu().numpy()
    return columns


def expanded_sets(neighbors: Indices, half: Indices) -> Rows:
    """(N, N) positive where the column is in R*(row, k1).

    R are the points that list each other; R* adds R(c, k1 / 2) of each member c that has more than 2/3 of these in R.

    Args:
        neighbors: (N, K) lists for k1, the point itself first.
        half: (N, H) lists for k1 / 2.
    """
    mutual, half = mutual_neighbors(neighbors), mutual_neighbors(half)
    sizes = half.sum(axis=1)

    def expand(rows: slice) -> Rows:
        members = mutual[rows]
        # half is symmetric: entry (i, c) counts the members that R(i, k1) and R(c, k1 / 2) share
        accepted = members.multiply(members @ half).tocsr()
        accepted.data = (3 * accepted.data > 2 * sizes[accepted.indices]).astype(np.int32)
        accepted.eliminate_zeros()
        return members + accepted @ half

    return _stacked(expand, len(neighbors))


def encoding(points: Tensor, sets: Rows, *, scale: Distances | None = None) -> Rows:
    """(N, N) float64 sparse rows that sum to 1: the members of every set, weighted by nearness.

    A member at the squared Euclidean distance d has the weight ``exp(-d)``, scaled so that a row sums to 1.

    Args:
        points: (N, D) float32 or float64.
        sets: (N, N), an entry for each member of the set of a row.
        scale: (N,) positive, what the distances of a row are divided by.
    """
    coordinates: Coordinates = points.cpu().numpy()
    members = sets.tocoo()
    distances = pair_distances(coordinates, members.row, members.col)
    weights = np.exp(-distances if scale is None else -distances / scale[members.row])
    weights /= np.bincount(members.row, weights)[members.row]
    return csr_array((weights, (members.row, members.col)), shape=sets.shape)


def local_query_expansion(rows: Rows, neighbors: Indices) -> Rows:
    """(N, N) float32, every row replaced by the mean of the rows of its nearest points.

    Args:
        rows: (N, N) as :func:`encoding` returns them.
        neighbors: (N, k2) points to average over, the point itself included; -1 stands for none.
    """
    listed, sizes = _listed(neighbors), (neighbors >= 0).sum(axis=1)

    def average(part: slice) -> Rows:
        sums = listed[part] @ rows
        sums.data /= np.repeat(sizes[part], np.diff(sums.indptr))
        return sums.astype(np.float32)

    return _stacked(average, len(neighbors))


def minima(left: Rows, columns: Rows) -> Iterator[tuple[slice, Rows]]:
    """Batches of rows of ``left``, and ``min(left[l, j], right[r, j])`` in row l and column r, once for every j.

    Every entry of ``left`` meets the entries of ``right`` in the same column and no others; those of one row of
    ``left`` are laid end to end as one sparse row with repeated columns. What turns it into a matrix adds them up.

    Args:
        left: (L, N) sparse non-negative rows.
        columns: (N, R), the transpose of ``right``.
    """
    for first, last in _even_batches(left, np.diff(columns.indptr)):
        batch = left[first:last]
        met = columns[batch.indices]
        smaller = np.minimum(met.data, np.repeat(batch.data, np.diff(met.indptr)))
        shape = (last - first, columns.shape[1])
        yield slice(first, last), csr_array((smaller, met.indices, met.indptr[batch.indptr]), shape=shape)


def _even_batches(left: Rows, column_sizes: Indices) -> list[tuple[int, int]]:
    """Ranges of rows of ``left`` that meet at most about :data:`_OVERLAP_ELEMENTS` entries, one row at least."""
    met = np.concatenate([[0], np.cumsum(column_sizes[left.indices], dtype=np.int64)])[left.indptr[:-1]]
    inner = np.flatnonzero(np.diff(met // _OVERLAP_ELEMENTS)) + 1
    return list(pairwise([0, *inner.tolist(), left.shape[0]]))


def mutual_neighbors(neighbors: Indices) -> Rows:
    """(N, N) with 1 where each of two points is in the list of the other; -1 in (N, K) ``neighbors`` is nobody."""
    listed = _listed(neighbors)
    return listed.multiply(listed.T).tocsr()


def _listed(neighbors: Indices) -> Rows:
    """(N, N) with 1 where the column is in the list of the row."""
    exists = neighbors >= 0
    ends = np.concatenate([[0], exists.sum(axis=1).cumsum()])
    columns = neighbors[exists]
    return csr_array((np.ones(len(columns), dtype=np.int32), columns, ends), shape=(len(neighbors), len(neighbors)))


def _stacked(make: Callable[[slice], Rows], num_rows: int) -> Rows:
    """What ``make`` returns for slices of rows, on top of each other."""
    return vstack([make(rows) for rows in pieces(num_rows, _SPARSE_ROWS)], format="csr")
