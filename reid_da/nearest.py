"""Nearest rows of a matrix of features: products block by block, the best of a row, and the order of equal ones.

The memory, search, re-ranking and clustering find their neighbours with this module. Of equally near rows the one with
the lower number comes first, whatever the sizes of the blocks.
"""

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from reid_da.device import full_precision
from reid_da.errors import InputError, unknown_name
from reid_da.features import Array, feature_pair, native, native_library, pieces, row_squares
from reid_da.shards import Shard

Coordinates: TypeAlias = NDArray[np.float32 | np.float64]
"""(N, D) float32 or float64 points."""
Indices: TypeAlias = NDArray[np.int64]
"""(N, K) int64 rows."""
Distances: TypeAlias = NDArray[np.float64]
"""(N, K) float64 distances."""

DISTANCES = ("cosine", "euclidean")
"""Names of the distances between features."""
DEFAULT_CHUNK_SIZE = 16384
"""Memory slots that are compared with a batch at a time."""
NO_NEIGHBOR = -1
"""Stands in a list of neighbours where there are too few: an empty slot is nobody's neighbour."""
BLOCK_ELEMENTS = 2**25
"""Entries of a distance matrix that exist at a time (128 MiB in float32)."""
_BLOCK_ROWS = (64, 512)
"""Fewest and most rows of a block: below, the matrix product is slow; above, it gets no faster."""
_PAIR_ELEMENTS = 2**17
"""Coordinates that exist at a time where distances are computed pair by pair; 1 MiB in float64 stays in the cache."""


def row_blocks(num_rows: int, num_columns: int) -> list[slice]:
    """Slices of rows, each a block of a (num_rows, num_columns) matrix that is worth computing at a time."""
    fewest, most = _BLOCK_ROWS
    size = min(max(BLOCK_ELEMENTS // num_columns, fewest), most)
    return list(pieces(num_rows, size // fewest * fewest))


class FeatureBlocks:
    """Values that order the gallery of each query as its distances do, computed from features.

    What is the same for the whole row of a query is left out, since it changes no rank:

    - cosine: minus the inner product of the query, as it is, and the gallery feature at unit length;
    - euclidean: half the squared distance, less half the squared length of the query.

    :meth:`distances` puts it back. Features in float64 are compared in float64, all others in float32, at full
    precision whatever torch is allowed to do elsewhere (TF32, autocast). The features are not copied, except for a
    piece at a time where their type has to change.

    Attributes:
        num_queries: number of rows Q.
        num_gallery: number of columns G.

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
        self.num_queries, self.num_gallery = len(self._query), len(self._gallery)
        self._query_squares = row_squares(self._query, "query_features", dtype=self._dtype)
        squares = row_squares(self._gallery, "gallery_features", dtype=self._dtype)
        self._gallery_terms = -squares.rsqrt() if self._is_cosine else squares / 2

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
            with torch.autocast(values.device.type, enabled=False), full_precision():
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


def similarity_blocks(features: Tensor, memory: Tensor, *, chunk_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks of at most ``chunk_size`` slots in their order: (rows (c, D), similarity (B, c)).

    Both have the dtype of ``features``, so that a bfloat16 memory is widened one block at a time.
    """
    for slots in pieces(len(memory), chunk_size):
        rows = memory[slots].to(features.dtype)
        yield rows, features @ rows.T


def best_columns(values: Tensor, count: int, *, largest: bool) -> tuple[Tensor, Tensor]:
    """The ``count`` best values of each row, best first, and their columns, equal ones by column.

    Args:
        values: (B, M).
        count: values per row; fewer come back if the rows are shorter.
        largest: whether the largest values are the best (similarities) or the smallest (distances).
    """
    width = values.shape[1]
    count = min(count, width)
    found, columns = values.topk(min(count + 1, width) if count else 0, dim=1, largest=largest)
    if 0 < count < width:
        # topk takes any of the equal values at the border; only those rows need a second look
        tied = found[:, count - 1] == found[:, count]
        if tied.any():
            columns[tied, :count] = _first_of_tied(values[tied], found[tied, count - 1 : count], count, largest=largest)
    columns = columns[:, :count].sort(dim=1).values
    found, order = values.gather(1, columns).sort(dim=1, descending=largest, stable=True)
    return found, columns.gather(1, order)


def _first_of_tied(values: Tensor, border: Tensor, count: int, *, largest: bool) -> Tensor:
    """Columns of the ``count`` best values of each row, of those equal to ``border`` (B, 1) the first ones."""
    # not ">", for topk ranks NaN above all
    better = ~(values <= border) if largest else values < border
    equal = values == border
    wanted = count - better.sum(dim=1, keepdim=True)
    chosen = better | (equal & (equal.cumsum(dim=1, dtype=torch.int32) <= wanted))
    return chosen.nonzero()[:, 1].view(-1, count)


class RunningNeighbors:
    """The nearest slots among the blocks of similarities seen so far.

    Args:
        num_neighbors: slots to keep per row.
        exclude: (B,) int64, a slot per row that is left out; None leaves out nothing.
        shard: which slots this process sees, where several see their part of the slots each; None for all.
    """

    def __init__(self, num_neighbors: int, *, exclude: Tensor | None = None, shard: Shard | None = None) -> None:
        self._num_neighbors = num_neighbors
        self._exclude = exclude
        self._shard = None if shard is None or shard.is_whole else shard
        self._num_seen = 0
        self._best: tuple[Tensor, Tensor] | None = None

    @property
    def _length(self) -> int:
        return self._num_neighbors + (self._exclude is not None)

    def add(self, similarity: Tensor, *, empty: Tensor | None = None) -> None:
        """Take in the similarity (B, c), higher is nearer, of the c slots that follow those already seen.

        Args:
            similarity: (B, c).
            empty: (c,) bool, slots that are nobody's neighbours; None for none.
        """
        similarity = similarity.detach()
        if empty is not None:
            similarity = similarity.masked_fill(empty, -torch.inf)
        values, columns = best_columns(similarity, self._length, largest=True)
        slots = columns + self._num_seen
        self._num_seen += similarity.shape[1]
        if self._best is not None:
            # the older list stands first, so that a lower column still means a lower slot
            values, columns = best_columns(torch.cat([self._best[0], values], dim=1), self._length, largest=True)
            slots = torch.cat([self._best[1], slots], dim=1).gather(1, columns)
        self._best = values, slots

    def slots(self) -> Tensor:
        """The nearest slots, (B, num_neighbors) int64, nearest first, then :data:`NO_NEIGHBOR`.

        Raises:
            InputError: there were too few slots.
        """
        total = self._num_seen if self._shard is None else self._shard.total
        require_slots(total, self._num_neighbors, self._exclude)
        if self._best is None:
            raise ValueError("no similarities were added")
        values, slots = self._best
        if self._shard is not None:
            values, slots = merged_lists(values, slots, self._length, shard=self._shard)
        return drop_excluded(slots.masked_fill(values == -torch.inf, NO_NEIGHBOR), self._exclude)


def merged_lists(values: Tensor, slots: Tensor, count: int, *, shard: Shard) -> tuple[Tensor, Tensor]:
    """The best of the lists of all processes: (B, count) similarities, best first, and numbers of slots.

    Args:
        values: (B, k) similarities to own slots, best first; equal ones in the order of the slots.
        slots: (B, k) int64 places among the own slots.
        count: length of the lists.
        shard: the own slots.
    """
    short = (0, count - values.shape[1])
    values = functional.pad(values, short, value=-torch.inf)
    slots = functional.pad(slots + shard.rows.start, short, value=NO_NEIGHBOR)
    # one after another in the order of the shards, so that a lower column still means a lower slot
    values, slots = (torch.cat(shard.world.gather(part[None]).unbind(), dim=1) for part in (values, slots))
    values, columns = best_columns(values, count, largest=True)
    return values, slots.gather(1, columns)


def empty_slots(memory: Tensor) -> Tensor:
    """(M,) bool, which slots of a memory (M, D) are all zeros: never written."""
    lengths: Tensor = torch.linalg.vector_norm(memory, torch.inf, dim=1)
    return lengths == 0


def empty_in_block(rows: Tensor, similarity: Tensor) -> Tensor | None:
    """(c,) bool, which of the slots ``rows`` (c, D) are empty, at hardly any cost beside their ``similarity`` (B, c).

    None where no slot can be: an empty slot has a similarity of exactly 0 to the first feature, which few others have,
    and only those are looked at.
    """
    is_empty = similarity.detach()[:1].eq(0).any(dim=0)
    suspects = is_empty.nonzero().flatten()
    if not len(suspects):
        return None
    is_empty[suspects] = empty_slots(rows[suspects])
    return is_empty


def top_neighbors(
    logits: Tensor, num_neighbors: int, *, exclude: Tensor | None = None, empty: Tensor | None = None
) -> Tensor:
    """Slots of the highest logits, (B, num_neighbors) int64, highest first, equal ones by slot number.

    Args:
        logits: (B, M) float, similarity of every feature to every slot; no gradient flows through the choice.
        num_neighbors: slots per row.
        exclude: (B,) int64, a slot per row that is left out, such as its own; None leaves out nothing.
        empty: (M,) bool, slots that are nobody's neighbours, from :func:`empty_slots`; where too few are left a list
            ends with :data:`NO_NEIGHBOR`.

    Raises:
        InputError: there are too few slots.
    """
    nearest = RunningNeighbors(num_neighbors, exclude=exclude)
    nearest.add(logits, empty=empty)
    return nearest.slots()


def drop_excluded(slots: Tensor, exclude: Tensor | None) -> Tensor:
    """Lists (B, K - 1) without the slot in ``exclude``, or without their last slot where it is not in the list."""
    if exclude is None:
        return slots
    keep = slots != exclude.to(slots.device)[:, None]
    keep[:, -1] &= ~keep.all(dim=1)
    return slots[keep].view(len(slots), -1)


def require_slots(num_slots: int, num_neighbors: int, exclude: Tensor | None) -> None:
    """Raise an InputError unless there are ``num_neighbors`` slots besides the one that is left out."""
    available = num_slots - (exclude is not None)
    if num_neighbors > available:
        raise InputError(
            f"num_neighbors = {num_neighbors}: the memory has only {available} slots to choose from; lower it"
        )


def pair_distances(coordinates: Coordinates, rows: Indices, others: Indices) -> Distances:
    """(P,) squared Euclidean distances between ``coordinates[rows]`` and ``coordinates[others]``, in float64."""
    distances = np.empty(len(rows))
    for part in pieces(len(rows), max(1, _PAIR_ELEMENTS // coordinates.shape[1])):
        difference = coordinates[rows[part]].astype(np.float64)
        difference -= coordinates[others[part]]
        np.einsum("pd,pd->p", difference, difference, out=distances[part])
    return distances


def ordered(coordinates: Coordinates, rows: Indices, candidates: Indices) -> Indices:
    """(R, C) candidates of each of the R rows, the row itself first, then by distance in float64, then by number.

    A matrix product that only proposes candidates, a few more than are wanted, thus decides about none of them by its
    rounding: neither the sizes of blocks nor the number of threads shows.
    """
    candidates = np.sort(candidates, axis=1)
    owners = np.broadcast_to(rows[:, None], candidates.shape)
    distances = pair_distances(coordinates, owners.ravel(), candidates.ravel()).reshape(candidates.shape)
    distances[candidates == owners] = -1
    return np.take_along_axis(candidates, distances.argsort(axis=1, kind="stable"), axis=1)
