"""Vectors as codes of a byte for every eight values: how large an index of them is, and what makes up for the loss.

A code is too short to tell which of two slots is nearer, and long enough to propose a few; the memory decides.
"""

from typing import Literal

import torch
from torch import Tensor

from reid_da.features import pieces, working_dtype
from reid_da.nearest import NO_NEIGHBOR, best_columns

FaissKind = Literal["flat", "ivf", "ivf_pq", "hnsw"]
POINTS = 39
"""Points that FAISS wants for each centroid; with fewer it complains on standard error."""
TRAINING_POINTS = 64
"""Points for each centroid that an index with quantised vectors learns from."""
_CENTROIDS = 256
"""Values of a byte of a quantised vector."""
LEAST_TO_QUANTIZE = POINTS * _CENTROIDS
"""Slots without which there are no codebooks."""
_VALUES_PER_BYTE = 8
_RANKED_ELEMENTS = 2**24
"""Coordinates of candidates that exist at a time where they are ranked; 64 MiB in float32."""


def code_bytes(dim: int) -> int:
    """Bytes of the code of a vector of ``dim`` values: one for eight of them, or for more where they do not divide."""
    return max(size for size in range(1, max(dim // _VALUES_PER_BYTE, 1) + 1) if dim % size == 0)


def index_bytes(kind: FaissKind, dim: int) -> int:
    """Bytes that an index has for each slot of ``dim`` values: the vector or its code, its number, its links.

    Args:
        kind: of the index, with its default settings.
        dim: length D of a slot.
    """
    return {"flat": 4 * dim, "ivf": 4 * dim + 8, "ivf_pq": code_bytes(dim) + 8, "hnsw": 4 * dim + 4 * 2 * 32}[kind]


def rows_to_learn_from(is_empty: Tensor, *, num_lists: int) -> Tensor:
    """(R,) int64 slots that clusters and codebooks are learned from, spread evenly: 64 for each centroid of the larger.

    Args:
        is_empty: (M,) bool, slots that were never written, which teach nothing; taken where there are too few others.
        num_lists: number of clusters.
    """
    written = (~is_empty).nonzero().flatten()
    if len(written) < LEAST_TO_QUANTIZE:
        written = torch.arange(len(is_empty), device=is_empty.device)
    count = min(TRAINING_POINTS * max(num_lists, _CENTROIDS), len(written))
    return written[torch.arange(count, device=written.device) * len(written) // count]


def best_candidates(slots: Tensor, features: Tensor, memory: Tensor, count: int) -> Tensor:
    """The ``count`` candidates nearest to each feature, nearest first, equal ones by slot number, -1 at the end.

    Args:
        slots: (B, C) int64 candidates, -1 for none.
        features: (B, D) float.
        memory: (M, D) float.
        count: slots per feature.
    """
    slots = slots.sort(dim=1).values
    best = slots.new_empty(len(slots), count)
    for rows in pieces(len(slots), max(_RANKED_ELEMENTS // max(slots.shape[1] * memory.shape[1], 1), 1)):
        candidates = slots[rows]
        similarity = similarity_of(candidates.clamp_min(0), features[rows], memory)
        values, columns = best_columns(similarity.masked_fill(candidates < 0, -torch.inf), count, largest=True)
        best[rows] = candidates.gather(1, columns).masked_fill(values == -torch.inf, NO_NEIGHBOR)
    return best


def similarity_of(slots: Tensor, features: Tensor, memory: Tensor) -> Tensor:
    """Inner product (B, K) of each feature with the slots listed for it."""
    dtype = working_dtype(features, memory)
    return torch.einsum("bd,bkd->bk", features.to(dtype), memory[slots].to(dtype))
