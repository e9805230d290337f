"""The nearest points of every point: among all of them, exactly or by FAISS, and within and across cameras."""

from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from reid_da.features import Labels
from reid_da.memory.neighbors import FaissNeighbors
from reid_da.memory.quantized import FaissKind
from reid_da.nearest import FeatureBlocks, Indices, ordered, row_blocks
from reid_da.progress import track
from reid_da.reciprocal import SPARE_CANDIDATES, nearest_neighbors, smallest
from reid_da.world import ALONE, World

Search = Literal["exact", "faiss", "faiss_ivf", "faiss_hnsw"]
"""How neighbours are searched: exactly, or by a FAISS index."""

_KINDS: dict[Search, FaissKind] = {"faiss": "flat", "faiss_ivf": "ivf", "faiss_hnsw": "hnsw"}
_QUERIES = 4096
"""Points that FAISS looks up at a time."""


def neighbor_lists(points: Tensor, num_neighbors: int, *, search: Search = "exact", world: World = ALONE) -> Indices:
    """(N, K) int64 nearest points of every point, itself first, equally near ones in the order of the points.

    Args:
        points: (N, D) float32 or float64 unit vectors.
        num_neighbors: length K of the lists, the point itself included; at most N.
        search: ``exact`` or ``faiss`` (all points are compared), ``faiss_ivf`` or ``faiss_hnsw`` (approximate: some
            true neighbours are missing). Exact lists do not depend on blocks, threads or processes.
        world: processes that have all points and look up a part of them each.

    Raises:
        InputError: FAISS is not installed.
    """
    if search == "exact" or num_neighbors == 1:
        return nearest_neighbors(points, num_neighbors, world=world)
    index = FaissNeighbors(kind=_KINDS[search])
    index.rebuild(points)
    coordinates, neighbors = points.cpu().numpy(), np.zeros((len(points), num_neighbors), dtype=np.int64)
    num_others = min(num_neighbors - 1 + SPARE_CANDIDATES, len(points) - 1)
    for start in track(range(0, len(points), _QUERIES)[world.rank :: world.size], "neighbours"):
        rows = torch.arange(start, min(start + _QUERIES, len(points)))
        others = index.search(points[start : start + _QUERIES], points, num_others, exclude=rows.to(points.device))
        candidates = torch.cat([rows[:, None], others.cpu()], dim=1).numpy()
        neighbors[rows] = ordered(coordinates, rows.numpy(), candidates)[:, :num_neighbors]
    merged: Indices = world.sum(torch.from_numpy(neighbors)).numpy()
    return merged


def camera_neighbor_lists(
    points: Tensor, camids: Labels, *, num_intra: int, num_inter: int, world: World = ALONE
) -> tuple[Indices, Indices]:
    """Nearest points of every point in its own camera, and in the other cameras; -1 fills lists that are short.

    Args:
        points: (N, D) float32 or float64 unit vectors.
        camids: (N,) int64 cameras.
        num_intra: length of the lists within the camera, the point itself included and first.
        num_inter: length of the lists across cameras.
        world: processes that have all points and look up a part of them each.

    Returns:
        (N, num_intra) and (N, num_inter) int64.
    """
    # points of one camera side by side, so that its columns of a block are a slice
    order = np.argsort(camids, kind="stable")
    coordinates, grouped = points.cpu().numpy(), points[torch.from_numpy(order).to(points.device)]
    blocks = FeatureBlocks(grouped, grouped, distance="euclidean")
    intra, inter = (np.full((len(points), length), -1, dtype=np.int64) for length in (num_intra, num_inter))
    starts = [0, *(np.flatnonzero(np.diff(camids[order])) + 1).tolist(), len(points)]
    spans = [
        (slice(first, last), slice(first + rows.start, first + rows.stop))
        for first, last in pairwise(starts)
        for rows in row_blocks(last - first, len(points))
    ]
    for camera, rows in track(spans[world.rank :: world.size], "neighbours by camera"):
        values = blocks.block(rows, slice(None))
        values[:, rows].fill_diagonal_(-torch.inf)
        own = order[smallest(values[:, camera], num_intra) + camera.start]
        values[:, camera] = torch.inf
        num_others = len(points) - (camera.stop - camera.start)
        others = order[smallest(values, num_inter, available=num_others)]
        for lists, candidates in ((intra, own), (inter, others)):
            found = ordered(coordinates, order[rows], candidates)[:, : lists.shape[1]]
            lists[order[rows], : found.shape[1]] = found
    # lists of others hold -1 here, which is less than any image
    intra, inter = (world.max(torch.from_numpy(lists)).numpy() for lists in (intra, inter))
    return intra, inter
