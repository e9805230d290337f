"""Distances from features, a block of rows at a time, and what the evaluation does with such a block."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reid_da.errors import unknown_name
from reid_da.evaluation._features import Array, feature_pair, native, native_library, pieces, row_squares
from reid_da.evaluation.blocks import DistanceBlocks
from reid_da.progress import track

DISTANCES = ("cosine", "euclidean")
"""Names of the distances between features."""
BLOCK_ELEMENTS = 2**25
"""Entries of the distance matrix that exist at a time (128 MiB in float32)."""
_BLOCK_ROWS = (64, 512)
"""Fewest and most rows of a block: below, the matrix product is slow; above, it gets no faster."""
_SORTED_BYTES = 2**20
"""Part of a block that one thread sorts at a time; it fits in the cache."""


def row_blocks(num_rows: int, num_columns: int) -> list[slice]:
    """Slices of rows, each a block of a (num_rows, num_columns) matrix that is worth computing at a time."""
    fewest, most = _BLOCK_ROWS
    size = min(max(BLOCK_ELEMENTS // num_columns, fewest), most)
    return list(pieces(num_rows, size // fewest * fewest))


def whole_rows(blocks: DistanceBlocks, description: str) -> Iterator[tuple[slice, Tensor]]:
    """Slices of rows and their (q, G) distances, under a progress bar.

    All go to the same memory: the caller may write to the distances, and must be done with them when it asks for
    the next.

    Args:
        blocks: where the distances come from; what it returns is not written to.
        description: what is being done, for the progress bar.
    """
    everything = slice(0, blocks.num_gallery)
    buffer: Tensor | None = None
    for rows in track(row_blocks(blocks.num_queries, blocks.num_gallery), description):
        if isinstance(blocks, FeatureBlocks):
            distances = blocks.block(rows, everything, out=buffer)
            buffer = distances if buffer is None else buffer
        else:
            distances = blocks.block(rows, everything).clone()
        yield rows, distances


class FeatureBlocks:
    """Values that order the gallery of each query as its distances do, computed from features.

    What is the same for the whole row of a query is left out, since it changes no rank:

    - cosine: minus the inner product of the query, as it is, and the gallery feature at unit length;
    - euclidean: half the squared distance, less half the squared length of the query.

    :meth:`distances` puts it back. Features in float64 are compared in float64, all others in float32, at full
    precision whatever torch is allowed to do elsewhere (TF32, autocast). The features are not copied, except for a
    piece at a time where their type has to change.

    Args:
        query_features: (Q, D).
        gallery_features: (G, D), on the same device.
        distance: ``cosine`` or ``euclidean``.

    Raises:
        InputError: unknown distance, unequal D or devices, or rows that are NaN, infinite or all zero.
    """

    def __init__(self, query_features: Array, gallery_features: Array, *, distance: str) -> None:
        if distance not in DISTANCES:
            raise unknown_name("distance", distance, DISTANCES)
        self._is_cosine = distance == "cosine"
        self._query, self._gallery, self._dtype = feature_pair(query_features, gallery_features)
        self._query_squares = row_squares(self._query, "query_features", dtype=self._dtype)
        squares = row_squares(self._gallery, "gallery_features", dtype=self._dtype)
        self._gallery_terms = -squares.rsqrt() if self._is_cosine else squares / 2

    @property
    def num_queries(self) -> int:
        """Number of rows Q."""
        return len(self._query)

    @property
    def num_gallery(self) -> int:
        """Number of columns G."""
        return len(self._gallery)

    def block(self, query_rows: slice, gallery_rows: slice, *, out: Tensor | None = None) -> Tensor:
        """(q, g) values in the order of the distances, which the caller may write to.

        Args:
            query_rows: the queries.
            gallery_rows: the gallery images.
            out: (q or more, g) memory for the values, of the type in which the features are compared.
        """
        query, gallery = self._query[query_rows].to(self._dtype), self._gallery[gallery_rows]
        if out is None:
            out = query.new_empty((len(query), len(gallery)))
        values, terms = out[: len(query)], self._gallery_terms[gallery_rows]
        library = native_library(values.device)
        for columns in pieces(len(gallery)):
            # small enough to be in the cache when it is read again
            part, terms_of_part = native(values[:, columns]), native(terms[columns])
            with _full_precision(values.device):
                library.matmul(native(query), native(gallery[columns].to(self._dtype)).T, out=part)
            if self._is_cosine:
                library.multiply(part, terms_of_part, out=part)
            else:
                library.subtract(terms_of_part, part, out=part)
        return values

    def distances(self, values: Tensor, query_rows: slice | Tensor) -> Tensor:
        """Distances for ``values`` (q, n) of the given queries: 1 - cosine similarity, or Euclidean distance."""
        squares = self._query_squares[query_rows].unsqueeze(1)
        if self._is_cosine:
            return 1 + values / squares.sqrt()
        return (2 * values + squares).clamp(min=0).sqrt()


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """Matrix products of float32 in float32: TF32 and bfloat16 keep three digits, and ranks need seven."""
    products = torch.backends.cuda.matmul
    allowed, products.fp32_precision = products.fp32_precision, "ieee"
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        products.fp32_precision = allowed


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
