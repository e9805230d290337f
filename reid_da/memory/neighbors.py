"""Nearest memory slots: exact with torch, exact or approximate with FAISS, and a check of one by the other."""

import logging
import math
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reid_da.errors import InputError, unknown_name
from reid_da.features import pieces, working_dtype
from reid_da.memory.quantized import (
    LEAST_TO_QUANTIZE,
    POINTS,
    TRAINING_POINTS,
    FaissKind,
    best_candidates,
    code_bytes,
    rows_to_learn_from,
    similarity_of,
)
from reid_da.nearest import (
    DEFAULT_CHUNK_SIZE,
    NO_NEIGHBOR,
    RunningNeighbors,
    drop_excluded,
    empty_in_block,
    empty_slots,
    merged_lists,
    require_slots,
    similarity_blocks,
)
from reid_da.shards import Shard

logger = logging.getLogger(__name__)

Refresh = Literal["step", "epoch"]


class NeighborIndex(Protocol):
    """Search for the memory slots nearest to a batch of features, by inner product.

    A slot that is still empty (all zeros) is nobody's neighbour, and a feature of zeros has none: they are equally
    near to everything, and the slots with the lowest numbers would become everybody's neighbours. Lists that are too
    short for that reason end with :data:`NO_NEIGHBOR`. Departure: the authors' code takes empty slots where fewer than
    K others have a positive inner product, which happens at the start alone, or with a far too small memory.
    """

    @property
    def is_exact(self) -> bool:
        """Whether a search right after :meth:`rebuild` has to find the true neighbours."""
        ...

    def rebuild(self, memory: Tensor) -> None:
        """Take over the content of ``memory`` (M, D); to be called when an epoch starts."""
        ...

    def search(self, features: Tensor, memory: Tensor, num_neighbors: int, *, exclude: Tensor | None = None) -> Tensor:
        """Slots nearest to each feature, (B, num_neighbors) int64, nearest first, then :data:`NO_NEIGHBOR`.

        Args:
            features: (B, D) float.
            memory: (M, D) float, the memory as it is now.
            num_neighbors: slots per feature.
            exclude: (B,) int64, a slot per feature that is left out; None leaves out nothing.

        Raises:
            InputError: the memory has too few slots.
        """
        ...


class ExactNeighbors:
    """Exact search that reads the memory itself, block by block; the (B, M) similarities never exist.

    Args:
        chunk_size: slots per block.
        shard: which slots a memory has, where several processes hold them together: each searches its own, and the best
            of all are found; None for all.
    """

    is_exact = True

    def __init__(self, *, chunk_size: int = DEFAULT_CHUNK_SIZE, shard: Shard | None = None) -> None:
        self.chunk_size = chunk_size
        self.shard = shard

    def rebuild(self, memory: Tensor) -> None:
        """Nothing to take over: every search reads the memory as it is."""

    @torch.no_grad()
    def search(self, features: Tensor, memory: Tensor, num_neighbors: int, *, exclude: Tensor | None = None) -> Tensor:
        """Slots nearest to each feature; see :meth:`NeighborIndex.search`."""
        nearest = RunningNeighbors(num_neighbors, exclude=exclude, shard=self.shard)
        with torch.autocast(features.device.type, enabled=False):
            features = features.to(working_dtype(features, memory))
            for rows, similarity in similarity_blocks(features, memory, chunk_size=self.chunk_size):
                nearest.add(similarity, empty=empty_in_block(rows, similarity))
            if not len(memory):
                nearest.add(features.new_empty(len(features), 0))
        return nearest.slots().masked_fill(empty_slots(features)[:, None], NO_NEIGHBOR)


class FaissNeighbors:
    """Search by FAISS, on the processor, or on the GPU that holds the memory where FAISS was built for it.

    The index is a float32 copy of the memory (``reid_da.memory.quantized.index_bytes`` tells how large). Equally near
    slots come in any order. ``hnsw`` builds its graph with several threads, so that two runs may differ.

    ``ivf_pq`` keeps a byte for every eight values of a slot in place of the slot (product quantisation, Jegou et al.,
    TPAMI 2011): the number of the nearest of 256 learned pieces. The index proposes more candidates than are asked for,
    and the memory itself decides among them, so that the order of those found is exact. It stays on the processor. With
    fewer than 9,984 slots (39 for each piece), which are too few to learn from, it keeps whole vectors as ``ivf``.

    Args:
        kind: ``flat`` compares with every slot; ``ivf`` with those of the nearest clusters; ``ivf_pq`` with the codes
            of those; ``hnsw`` walks a graph.
        refresh: when the index takes over the memory: before every search (``step``) or only when :meth:`rebuild`
            is called (``epoch``).
        ivf_lists: number of clusters; None takes 4 sqrt(M), at least 39 slots each.
        ivf_probes: clusters that a search looks into.
        hnsw_links: links per slot.
        hnsw_build_width: candidates looked at when a slot is linked.
        hnsw_search_width: candidates looked at by a search.
        pq_candidates: candidates of ``ivf_pq`` for each slot that is asked for.

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
        pq_candidates: int = 4,
    ) -> None:
        for name, value, valid in (("kind", kind, get_args(FaissKind)), ("refresh", refresh, get_args(Refresh))):
            if value not in valid:
                raise unknown_name(f"FAISS {name}", value, valid)
        _import_faiss()
        self._index: Any = None
        self._is_empty = torch.zeros(0, dtype=torch.bool)
        self.kind = kind
        self.refresh = refresh
        self.ivf_lists = ivf_lists
        self.hnsw_links = hnsw_links
        self.pq_candidates = pq_candidates
        self._has_warned = False
        self._parameters = {
            "flat": {},
            "ivf": {"nprobe": ivf_probes},
            "ivf_pq": {"nprobe": ivf_probes},
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
        self._is_empty = empty_slots(memory)
        if not self._index.is_trained:
            self._index.train(_to_numpy(self._training_slots(memory)))
        for slots in pieces(len(memory), DEFAULT_CHUNK_SIZE):
            self._index.add(_to_numpy(memory[slots]))

    def search(self, features: Tensor, memory: Tensor, num_neighbors: int, *, exclude: Tensor | None = None) -> Tensor:
        """Slots nearest to each feature; see :meth:`NeighborIndex.search`.

        Where FAISS finds too few slots, because the clusters it looked into are small or because some of the slots
        were empty when it took over the memory, the search is an exact one.
        """
        require_slots(len(memory), num_neighbors, exclude)
        if self._index is None or self.refresh == "step":
            self.rebuild(memory)
        length = num_neighbors + (exclude is not None)
        wanted = min(length * self.pq_candidates, len(memory)) if self._is_quantized(memory) else length
        _, found = self._index.search(_to_numpy(features), wanted)
        slots = torch.from_numpy(found).to(features.device)
        was_empty = self._is_empty.to(slots.device)[slots.clamp_min(0)]
        slots = slots.masked_fill(was_empty | empty_slots(features)[:, None], NO_NEIGHBOR)
        if self._is_quantized(memory):
            slots = best_candidates(slots, features, memory, length)
        slots = drop_excluded(slots, exclude)
        short = (slots < 0).any(dim=1)
        if short.any():
            left_out = None if exclude is None else exclude[short]
            slots[short] = ExactNeighbors().search(features[short], memory, num_neighbors, exclude=left_out)
        return slots

    def _is_quantized(self, memory: Tensor) -> bool:
        return self.kind == "ivf_pq" and memory.shape[0] >= LEAST_TO_QUANTIZE

    def _num_lists(self, num_slots: int) -> int:
        return self.ivf_lists or max(1, min(round(4 * math.sqrt(num_slots)), num_slots // POINTS))

    def _training_slots(self, memory: Tensor) -> Tensor:
        """Slots that clusters and codebooks are learned from: all, or some for an index that has to be small."""
        if not self._is_quantized(memory):
            return memory
        return memory[rows_to_learn_from(self._is_empty, num_lists=self._num_lists(len(memory)))]

    def _empty_index(self, memory: Tensor) -> Any:
        num_slots, dim = memory.shape
        kind, lists = self.kind, self._num_lists(num_slots)
        if kind == "ivf_pq" and not self._is_quantized(memory):
            kind = "ivf"
            if not self._has_warned:
                logger.warning(
                    "ivf_pq: %d slots are too few for codebooks, which are learned from %d; the index keeps whole "
                    "vectors, as ivf does",
                    num_slots,
                    LEAST_TO_QUANTIZE,
                )
                self._has_warned = True
        factory = {
            "flat": "Flat",
            "ivf": f"IVF{lists},Flat",
            # np: without sorting the codes by likeness, which takes most of the time and is for another kind of search
            "ivf_pq": f"IVF{lists},PQ{code_bytes(dim)}x8np",
            "hnsw": f"HNSW{self.hnsw_links}",
        }[kind]
        index = self._faiss.index_factory(dim, factory, self._faiss.METRIC_INNER_PRODUCT)
        if kind == "ivf_pq":
            index.pq.cp.max_points_per_centroid = index.cp.max_points_per_centroid = TRAINING_POINTS
        for name, value in self._parameters.items():
            self._faiss.ParameterSpace().set_index_parameter(index, name, value)
        if memory.is_cuda and kind in ("flat", "ivf") and hasattr(self._faiss, "StandardGpuResources"):
            resources = self._faiss.StandardGpuResources()
            index = self._faiss.index_cpu_to_gpu(resources, memory.device.index, index)
        return index


class ShardedNeighbors:
    """Search where several processes hold the slots together: each in its own, and the best of all are found.

    Args:
        index: of the own slots.
        shard: which they are.
    """

    def __init__(self, index: NeighborIndex, shard: Shard) -> None:
        self._index = index
        self._shard = shard

    @property
    def is_exact(self) -> bool:
        """Whether the search in the own slots is."""
        return self._index.is_exact

    def rebuild(self, memory: Tensor) -> None:
        """Take over the own slots (m, D)."""
        if len(memory):
            self._index.rebuild(memory)

    def search(self, features: Tensor, memory: Tensor, num_neighbors: int, *, exclude: Tensor | None = None) -> Tensor:
        """Slots of all processes nearest to each feature; see :meth:`NeighborIndex.search`."""
        require_slots(self._shard.total, num_neighbors, exclude)
        length = num_neighbors + (exclude is not None)
        slots = features.new_zeros(len(features), 0, dtype=torch.int64)
        values = features.new_zeros(len(features), 0)
        if len(memory):
            slots = self._index.search(features, memory, min(length, len(memory)))
            values = similarity_of(slots.clamp_min(0), features, memory).masked_fill(slots < 0, -torch.inf)
            values, slots = values.to(features.dtype), slots.clamp_min(0)
        values, slots = merged_lists(values, slots, length, shard=self._shard)
        return drop_excluded(slots.masked_fill(values == -torch.inf, NO_NEIGHBOR), exclude)


def open_index(
    index: NeighborIndex, sample: Tensor, memory: Tensor, num_neighbors: int, *, shard: Shard
) -> NeighborIndex:
    """An index of a memory, checked by :func:`check_neighbors`; an exact search if that of any process is replaced.

    Args:
        index: of the own slots.
        sample: (S, D) float features to search with.
        memory: (m, D) the own slots.
        num_neighbors: slots per feature.
        shard: which the own slots are.
    """
    if shard.is_whole:
        return check_neighbors(index, sample, memory, num_neighbors)
    is_replaced = (
        len(memory) > 0 and check_neighbors(index, sample, memory, min(num_neighbors, len(memory))) is not index
    )
    if any(shard.world.tell(is_replaced)):
        return ExactNeighbors(shard=shard)
    return ShardedNeighbors(index, shard)


def check_neighbors(
    index: NeighborIndex, sample: Tensor, memory: Tensor, num_neighbors: int, *, min_recall: float = 0.9
) -> NeighborIndex:
    """``index``, rebuilt, or an exact search in its place if it finds too few of the true neighbours of a sample.

    An index that claims to be exact must find all, an approximate one the share ``min_recall``; the fall-back is
    logged as a warning. An empty memory has no neighbours and everything passes: check when they are first needed, not
    when the memory is made.

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

    It is 1 where there are no neighbours, as in an empty memory.

    Args:
        found: (B, K) int64 slots; a slot that is named twice counts once, one that does not exist not at all.
        features: (B, D) float.
        memory: (M, D) float.
        tolerance: difference of similarity, relative to the norm of the feature, up to which slots are equally near.
    """
    exact = ExactNeighbors().search(features, memory, found.shape[1])
    is_true = exact >= 0
    if not is_true.any():
        return 1.0
    similarity = similarity_of(exact.where(is_true, 0), features, memory).masked_fill(~is_true, torch.inf)
    farthest = similarity.amin(dim=1, keepdim=True)
    slots = found.sort(dim=1).values
    exists = (slots >= 0) & (slots < len(memory))
    exists &= ~empty_slots(memory)[slots.where(exists, 0)]
    repeated = torch.zeros_like(exists)
    repeated[:, 1:] = slots[:, 1:] == slots[:, :-1]
    similarity = similarity_of(slots.where(exists, 0), features, memory)
    near = similarity >= farthest - tolerance * features.norm(dim=1, keepdim=True)
    return float((near & exists & ~repeated).sum() / is_true.sum())


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
