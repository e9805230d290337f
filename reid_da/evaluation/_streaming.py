"""What the evaluation does with a block of rows of distances."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reid_da.evaluation.blocks import DistanceBlocks
from reid_da.features import native_library
from reid_da.nearest import FeatureBlocks, row_blocks
from reid_da.progress import track
from reid_da.world import ALONE, World

_SORTED_BYTES = 2**20
"""Part of a block that one thread sorts at a time; it fits in the cache."""


def whole_rows(blocks: DistanceBlocks, description: str, *, world: World = ALONE) -> Iterator[tuple[slice, Tensor]]:
    """Slices of rows and their (q, G) distances, under a progress bar.

    All go to the same memory: the caller may write to the distances, and must be done with them when it asks for
    the next.

    Args:
        blocks: where the distances come from; what it returns is not written to.
        description: what is being done, for the progress bar.
        world: processes that have all features; each gets a part of the slices.
    """
    everything = slice(0, blocks.num_gallery)
    buffer: Tensor | None = None
    slices = row_blocks(blocks.num_queries, blocks.num_gallery)[world.rank :: world.size]
    for rows in track(slices, description):
        if isinstance(blocks, FeatureBlocks):
            distances = blocks.block(rows, everything, out=buffer)
            buffer = distances if buffer is None else buffer
        else:
            distances = blocks.block(rows, everything).clone()
        yield rows, distances


def sort_rows(values: Tensor, *, limits: Tensor) -> Tensor:
    """``values`` (N, M) with every row sorted in increasing order, NaN last; the argument may be overwritten.

    Args:
        values: (N, M).
        limits: (N, 1), what larger values of each row are replaced by: the fewer differ, the faster the sort.
    """
    if native_library(values.device) is torch:
        return torch.minimum(values, limits).sort(dim=1).values
    # numpy sorts numbers without their positions, with vector instructions; it releases the lock meanwhile
    num_parts = -(-values.nbytes // _SORTED_BYTES)
    parts, limits_of_parts = (np.array_split(array.numpy(), num_parts) for array in (values, limits))
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(_sort_part, parts, limits_of_parts))
    return values


def _sort_part(values: NDArray[np.floating[Any]], limits: NDArray[np.floating[Any]]) -> None:
    np.minimum(values, limits, out=values)
    values.sort(axis=1)
