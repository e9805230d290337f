"""Distances from features, a block of rows at a time, and what the evaluation does with such a block."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import repeat

import numpy as np
import torch
from torch import Tensor

from reid_da.errors import unknown_name
from reid_da.evaluation._features import Array, feature_pair, pieces, row_squares

DISTANCES = ("cosine", "euclidean")
"""Names of the distances between features."""
BLOCK_ELEMENTS = 3 * 2**23
"""Entries of the distance matrix that exist at a time (96 MiB in float32)."""
_BLOCK_ROWS = (64, 512)
"""Fewest and most rows of a block: below, the matrix product is slow; above, it gets no faster."""


def row_blocks(num_rows: int, num_columns: int) -> list[slice]:
    """Slices of rows, each a block of a (num_rows, num_columns) matrix that is worth computing at a time."""
    fewest, most = _BLOCK_ROWS
    return list(pieces(num_rows, min(max(BLOCK_ELEMENTS // num_columns, fewest), most)))


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

    def block(self, query_rows: slice, gallery_rows: slice) -> Tensor:
        """(q, g) values in the order of the distances; the caller may write to them."""
        query, gallery = self._query[query_rows].to(self._dtype), self._gallery[gallery_rows]
        terms = self._gallery_terms[gallery_rows]
        values = torch.empty((len(query), len(gallery)), dtype=self._dtype, device=query.device)
        for rows in pieces(len(gallery)):
            part = values[:, rows]
            _product(query, gallery[rows].to(self._dtype), out=part)
            if self._is_cosine:
                part.mul_(terms[rows])
            else:
                torch.sub(terms[rows], part, out=part)
        return values

    def distances(self, values: Tensor, query_rows: slice) -> Tensor:
        """Distances for ``values`` (q, ...) of :meth:`block`: 1 - cosine similarity, or Euclidean distance."""
        squares = self._query_squares[query_rows].unsqueeze(1)
        if self._is_cosine:
            return 1 + values / squares.sqrt()
        return (2 * values + squares).clamp(min=0).sqrt()


def _product(left: Tensor, right: Tensor, *, out: Tensor) -> None:
    """Write ``left @ right.T`` to ``out``."""
    if left.device.type == "cpu":
        # numpy's matrix product is no slower than torch's, and 1.4 times as fast on AMD processors
        np.matmul(left.numpy(), right.numpy().T, out=out.numpy())
    else:
        with _full_precision(left.device):
            torch.mm(left, right.T, out=out)


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


def sort_rows(values: Tensor) -> Tensor:
    """``values`` (N, M) with every row sorted in increasing order, NaN last; the argument is overwritten."""
    if values.device.type != "cpu":
        return values.sort(dim=1).values
    # numpy sorts numbers without their positions, with vector instructions; it releases the lock meanwhile
    parts = np.array_split(values.numpy(), 4 * torch.get_num_threads())
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(np.ndarray.sort, parts, repeat(1)))
    return values
