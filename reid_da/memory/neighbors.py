"""Nearest memory slots: exact with torch, exact or approximate with FAISS, and a check of one by the other."""

import logging
import math
from collections.abc import Iterator
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reid_da.errors import InputError, unknown_name

logger = logging.getLogger(__name__)

FaissKind = Literal["flat", "ivf", "hnsw"]
Refresh = Literal["step", "epoch"]

DEFAULT_CHUNK_SIZE = 16384
"""Memory slots that are compared with a batch at a time."""


class NeighborIndex(Protocol):
    """Search for the memory slots nearest to a batch of features, by inner product."""

    @property
    def is_exact(self) -> bool:
        """Whether a search right after :meth:`rebuild` has to find the true neighbours."""
        ...

    def rebuild(self, memory: Tensor) -> None:
        """Take over the content of ``memory`` (M, D); to be called when an epoch starts."""
        ...

    def search(self, features: Tensor, memory: Tensor, num_neighbors: int, *, exclude: Tensor | None = None) -> Tensor:
        """Slots nearest to each feature, (B, num_neighbors) int64, nearest first.

        Args:
            features: (B, D) float.
            memory: (M, D) float, the memory as it is now.
            num_neighbors: slots per feature.
            exclude: (B,) int64, a slot per feature that is left out; None leaves out nothing.

        Raises:
            InputError: the memory has too few slots.
        """
        ...


class RunningNeighbors:
    """The nearest slots among the blocks of similarities seen so far.

    Of equally near slots the one with the lower number comes first, whatever the blocks.

    Args:
        num_neighbors: slots to keep per row.
        exclude: (B,) int64, a slot per row that is left out; None leaves out nothing.
    """

    def __init__(self, num_neighbors: int, *, exclude: Tensor | None = None) -> None:
        self._num_neighbors = num_neighbors
        self._exclude = exclude
        self._num_seen = 0
        self._best: tuple[Tensor, Tensor] | None = None

    def add(self, similarity: Tensor) -> None:
        """Take in the similarity (B, c), higher is nearer, of the c slots that follow those already seen."""
        length = self._num_neighbors + (self._exclude is not None)
        values, columns = _highest(similarity.detach(), length)
        slots = columns + self._num_seen
        self._num_seen += similarity.shape[1]
        if self._best is not None:
            # the older list stands first, so that a lower column still means a lower slot
            values, columns = _highest(torch.cat([self._best[0], values], dim=1), length)
            slots = torch.cat([self._best[1], slots], dim=1).gather(1, columns)
        self._best = values, slots

    def slots(self) -> Tensor:
        """The nearest slots, (B, num_neighbors) int64, nearest first.

        Raises:
            InputError: there were too few slots.
        """
        _require_slots(self._num_seen, self._num_neighbors, self._exclude)
        if self._best is None:
            raise ValueError("no similarities were added")
        return _without(self._best[1], self._exclude)


def top_neighbors(logits: Tensor, num_neighbors: int, *, exclude: Tensor | None = None) -> Tensor:
    """Slots of the highest logits, (B, num_neighbors) int64, highest first, equal ones by slot number.

    Args:
        logits: (B, M) float, similarity of every feature to every slot; no gradient flows through the choice.
        num_neighbors: slots per row.
        exclude: (B,) int64, a slot per row that is left out, such as its own; None leaves out nothing.

    Raises:
        InputError: there are too few slots.
    """
    nearest = RunningNeighbors(num_neighbors, exclude=exclude)
    nearest.add(logits)
    return nearest.slots()


def similarity_blocks(features: Tensor, memory: Tensor, *, chunk_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks of at most ``chunk_size`` slots in their order: (rows (c, D), similarity (B, c)).

    Both have the dtype of ``features``, so that a bfloat16 memory is widened one block at a time.
    """
    for start in range(0, len(memory), chunk_size):
        rows = memory[start : start + chunk_size].to(features.dtype)
        yield rows, features @ rows.T


def product_dtype(features: Tensor, memory: Tensor) -> torch.dtype:
    """Dtype in which features and memory are multiplied: the wider of the two, float32 at least."""
    return torch.promote_types(torch.promote_types(features.dtype, memory.dtype), torch.float32)


class ExactNeighbors:
    """Exact search that reads the memory itself, block by block; the (B, M) similarities never exist.

    Args:
        chunk_size: slots per block.
    """

    is_exact = True

    def __init__(self, *, chunk_size: int = DEFAULT_CHUNK_SIZE) -> None:
        self.chunk_size = chunk_size

    def rebuild(self, memory: Tensor) -> None:
        """Nothing to take over: every search reads the memory as it is."""

    @torch.no_grad()
    def search(self, features: Tensor, memory: Tensor, num_neighbors: int, *, exclude: Tensor | None = None) -> Tensor:
        """Slots nearest to each feature; see :meth:`NeighborIndex.search`."""
        nearest = RunningNeighbors(num_neighbors, exclude=exclude)
        with torch.autocast(features.device.type, enabled=False):
            features = features.to(product_dtype(features, memory))
            for _, similarity in similarity_blocks(features, memory, chunk_size=self.chunk_size):
                nearest.add(similarity)
        return nearest.slots()


class FaissNeighbors:
    """Search by FAISS, on the processor, or on the GPU that holds the memory where FAISS was built for it.

    The index is a float32 copy of the memory. Equally near slots come in any order. ``hnsw`` builds its graph with
    several threads, so that two runs may differ.

    Args:
        kind: ``flat`` compares with every slot; ``ivf`` with those of the nearest clusters; ``hnsw`` walks a graph.
        refresh: when the index takes over the memory: before every search (``step``) or only when :meth:`rebuild`
            is called (``epoch``).
        ivf_lists: number of clusters; None takes 4 sqrt(M), at least 39 slots each.
        ivf_probes: clusters that a search looks into.
        hnsw_links: links per slot.
        hnsw_build_width: candidates looked at when a slot is linked.
        hnsw_search_width: candidates looked at by a search.

    Raises:
        InputError: FAISS is not installed, or an unknown ``kind`` or ``refresh``.
    """

    def __init__(
        self,
        *,
        kind: FaissKind = "flat",
        refresh: Refresh = "epoch",
        ivf_lists: int | None = None,
        ivf_probes: int = 16,
        hnsw_links: int = 32,
        hnsw_build_width: int = 80,
        hnsw_search_width: int = 64,
    ) -> None:
        for name, value, valid in (("kind", kind, get_args(FaissKind)), ("refresh", refresh, get_args(Refresh))):
            if value not in valid:
                raise unknown_name(f"FAISS {name}", value, valid)
        _import_faiss()
        self._index: Any = None
        self.kind = kind
        self.refresh = refresh
        self.ivf_lists = ivf_lists
        self.hnsw_links = hnsw_links
        self._parameters = {
            "flat": {},
            "ivf": {"nprobe": ivf_probes},
            "hnsw": {"efConstruction": hnsw_build_width, "efSearch": hnsw_search_width},
        }[kind]

    @property
    def _faiss(self) -> Any:
        # not an attribute: a module cannot be copied with the method that uses the index
        return _import_faiss()

    @property
    def is_exact(self) -> bool:
        """Whether a search right after :meth:`rebuild` has to find the true neighbours."""
        return self.kind == "flat"

    def rebuild(self, memory: Tensor) -> None:
        """Build the index anew from ``memory`` (M, D)."""
        self._index = self._empty_index(memory)
        if not self._index.is_trained:
            self._index.train(_to_numpy(memory))
        for start in range(0, len(memory), DEFAULT_CHUNK_SIZE):
            self._index.add(_to_numpy(memory[start : start + DEFAULT_CHUNK_SIZE]))

    def search(self, features: Tensor, memory: Tensor, num_neighbors: int, *, exclude: Tensor | None = None) -> Tensor:
        """Slots nearest to each feature; see :meth:`NeighborIndex.search`.

        Where FAISS finds too few slots, because the clusters it looked into are small, the search is an exact one.
        """
        _require_slots(len(memory), num_neighbors, exclude)
        if self._index is None or self.refresh == "step":
            self.rebuild(memory)
        _, found = self._index.search(_to_numpy(features), num_neighbors + (exclude is not None))
        slots = _without(torch.from_numpy(found).to(features.device), exclude)
        short = (slots < 0).any(dim=1)
        if short.any():
            left_out = None if exclude is None else exclude[short]
            slots[short] = ExactNeighbors().search(features[short], memory, num_neighbors, exclude=left_out)
        return slots

    def _empty_index(self, memory: Tensor) -> Any:
        num_slots, dim = memory.shape
        # FAISS wants 39 points per cluster and complains on standard error if it gets fewer
        lists = self.ivf_lists or max(1, min(round(4 * math.sqrt(num_slots)), num_slots // 39))
        factory = {"flat": "Flat", "ivf": f"IVF{lists},Flat", "hnsw": f"HNSW{self.hnsw_links}"}[self.kind]
        index = self._faiss.index_factory(dim, factory, self._faiss.METRIC_INNER_PRODUCT)
        for name, value in self._parameters.items():
            self._faiss.ParameterSpace().set_index_parameter(index, name, value)
        if memory.is_cuda and self.kind != "hnsw" and hasattr(self._faiss, "StandardGpuResources"):
            resources = self._faiss.StandardGpuResources()
            index = self._faiss.index_cpu_to_gpu(resources, memory.device.index, index)
        return index


def check_neighbors(
    index: NeighborIndex, sample: Tensor, memory: Tensor, num_neighbors: int, *, min_recall: float = 0.9
) -> NeighborIndex:
    """``index``, rebuilt, or an exact search in its place if it finds too few of the true neighbours of a sample.

    An index that claims to be exact must find all, an approximate one the share ``min_recall``; the fall-back is
    logged as a warning. In an empty memory all slots are equally near and everything passes: check when the
    neighbours are first needed, not when the memory is made.

    Args:
        index: the index to check.
        sample: (S, D) float, features to search with; a few hundred will do.
        memory: (M, D) float.
        num_neighbors: slots per feature, as in training.
        min_recall: share in 0..1 demanded of an approximate index.
    """
    index.rebuild(memory)
    recall = neighbor_recall(index.search(sample, memory, num_neighbors), sample, memory)
    needed = 1.0 if index.is_exact else min_recall
    if recall >= needed:
        return index
    logger.warning(
        "%s finds %.1f %% of the nearest memory slots where %.1f %% are demanded; searching exactly instead",
        type(index).__name__,
        100 * recall,
        100 * needed,
    )
    return ExactNeighbors()


def neighbor_recall(found: Tensor, features: Tensor, memory: Tensor, *, tolerance: float = 1e-5) -> float:
    """Share of the true nearest slots that are in ``found``, from 0 to 1; a slot equally near counts as true.

    Args:
        found: (B, K) int64 slots; a slot that is named twice counts once, one that does not exist not at all.
        features: (B, D) float.
        memory: (M, D) float.
        tolerance: difference of similarity, relative to the norm of the feature, up to which slots are equally near.
    """
    exact = ExactNeighbors().search(features, memory, found.shape[1])
    farthest = _similarity_of(exact, features, memory).amin(dim=1, keepdim=True)
    slots = found.sort(dim=1).values
    exists = (slots >= 0) & (slots < len(memory))
    repeated = torch.zeros_like(exists)
    repeated[:, 1:] = slots[:, 1:] == slots[:, :-1]
    similarity = _similarity_of(slots.where(exists, 0), features, memory)
    near = similarity >= farthest - tolerance * features.norm(dim=1, keepdim=True)
    return float((near & exists & ~repeated).double().mean())


def _highest(similarity: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` highest values of each row (fewer if the row is shorter) and their columns, ties by column."""
    width = similarity.shape[1]
    count = min(count, width)
    values, columns = similarity.topk(min(count + 1, width) if count else 0, dim=1)
    if 0 < count < width:
        # topk takes any of the equal values at the border; only those rows need a second look
        tied = values[:, count - 1] == values[:, count]
        if tied.any():
            columns[tied, :count] = _first_of_tied(similarity[tied], values[tied, count - 1], count)
    columns = columns[:, :count].sort(dim=1).values
    values, order = similarity.gather(1, columns).sort(dim=1, descending=True, stable=True)
    return values, columns.gather(1, order)


def _first_of_tied(similarity: Tensor, border: Tensor, count: int) -> Tensor:
    """Columns of the ``count`` highest values of each row, of those equal to ``border`` (B,) the first ones."""
    above = ~(similarity <= border[:, None])  # not ">", for topk ranks NaN above all
    equal = similarity == border[:, None]
    wanted = count - above.sum(dim=1, keepdim=True)
    chosen = above | (equal & (equal.cumsum(dim=1, dtype=torch.int32) <= wanted))
    return chosen.nonzero()[:, 1].view(-1, count)


def _without(slots: Tensor, exclude: Tensor | None) -> Tensor:
    """Lists (B, K - 1) without the slot in ``exclude``, or without their last slot where it is not in the list."""
    if exclude is None:
        return slots
    keep = slots != exclude.to(slots.device)[:, None]
    keep[:, -1] &= ~keep.all(dim=1)
    return slots[keep].view(len(slots), -1)


def _require_slots(num_slots: int, num_neighbors: int, exclude: Tensor | None) -> None:
    available = num_slots - (exclude is not None)
    if num_neighbors > available:
        raise InputError(
            f"num_neighbors = {num_neighbors}: the memory has only {available} slots to choose from; lower it"
        )


def _similarity_of(slots: Tensor, features: Tensor, memory: Tensor) -> Tensor:
    """Inner product (B, K) of each feature with the slots listed for it."""
    dtype = product_dtype(features, memory)
    return torch.einsum("bd,bkd->bk", features.to(dtype), memory[slots].to(dtype))


def _to_numpy(rows: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = rows.detach().to("cpu", torch.float32).contiguous().numpy()
    return array


def _import_faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise InputError(
            "FAISS is not installed: install reid-da[cpu] or reid-da[gpu], or search for neighbours with torch"
        ) from error
    return faiss
