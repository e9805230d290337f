"""What a memory and its neighbours look like: figures for the log that need no labels, and one that does.

Neighbours are (N, K) int64 slots as the search returns them for N anchors, whose own slots are ``index`` (N,) int64;
an own slot among the neighbours does not count as one, nor does -1, which ends the lists of a memory that has too few
written slots.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class SlotSummary:
    """State of the memory slots in a few figures; NaN where no slot has been written.

    Attributes:
        unwritten: share of slots that were never written, 0..1.
        age_median: updates since a written slot was last written, the median (the lower of two).
        age_max: the same, of the oldest.
        norm_min: length of the shortest written slot.
        norm_max: length of the longest written slot.
    """

    unwritten: float
    age_median: float
    age_max: float
    norm_min: float
    norm_max: float


def summarize_slots(ages: Tensor, norms: Tensor) -> SlotSummary:
    """Summary of the slots of a memory.

    Args:
        ages: (M,) integer, updates since a slot was written, -1 for never; see ``ExemplarMemory.ages``.
        norms: (M,) float, lengths; see ``ExemplarMemory.norms``.
    """
    written = ages >= 0
    if not written.any():
        return SlotSummary(unwritten=1.0, age_median=math.nan, age_max=math.nan, norm_min=math.nan, norm_max=math.nan)
    return SlotSummary(
        unwritten=1.0 - float(written.double().mean()),
        age_median=float(ages[written].median()),
        age_max=float(ages[written].max()),
        norm_min=float(norms[written].min()),
        norm_max=float(norms[written].max()),
    )


def cross_camera_share(neighbors: Tensor, index: Tensor, camids: Tensor) -> float:
    """Share of neighbours that another camera took, 0..1; NaN if there are no neighbours.

    Args:
        neighbors: (N, K) int64 slots.
        index: (N,) int64, own slots.
        camids: (M,) int64, camera of each slot's image.
    """
    other_camera = camids[neighbors] != camids[index][:, None]
    return _share(other_camera, _is_other(neighbors, index))


def neighbor_precision(neighbors: Tensor, index: Tensor, pids: Tensor) -> float:
    """Share of neighbours with the identity of their anchor, 0..1; NaN if there are no neighbours.

    Args:
        neighbors: (N, K) int64 slots.
        index: (N,) int64, own slots.
        pids: (M,) int64, identity of each slot's image.
    """
    same_person = pids[neighbors] == pids[index][:, None]
    return _share(same_person, _is_other(neighbors, index))


def camera_entropy(neighbors: Tensor, index: Tensor, camids: Tensor, *, num_cameras: int) -> float:
    """Entropy of the cameras among an anchor's neighbours, the mean over the anchors, normalised to 0..1.

    0: all neighbours of an anchor come from one camera; 1: from as many cameras, equally often, as K neighbours
    and ``num_cameras`` cameras allow. Anchors without neighbours are left out; NaN if none is left.

    Args:
        neighbors: (N, K) int64 slots.
        index: (N,) int64, own slots.
        camids: (M,) int64, camera of each slot's image, 0 to ``num_cameras`` - 1.
        num_cameras: number of cameras.
    """
    is_other = _is_other(neighbors, index)
    counts = torch.zeros(len(neighbors), num_cameras, dtype=torch.float64, device=neighbors.device)
    counts.scatter_add_(1, camids[neighbors], is_other.double())
    counts = counts[is_other.any(dim=1)]
    if not len(counts):
        return math.nan
    entropy = torch.special.entr(counts / counts.sum(dim=1, keepdim=True)).sum(dim=1).mean()
    # with one camera or one neighbour the entropy is 0 and so is its bound
    return float(entropy) / max(math.log(min(num_cameras, neighbors.shape[1])), 1e-12)


def neighbor_agreement(before: Tensor, after: Tensor) -> float:
    """Mean Jaccard index of the same anchors' neighbours at two times, 0 (none kept) to 1 (all kept).

    Args:
        before: (N, K) int64 slots, different ones in each row; the order does not count. A row with a negative
            entry (not known at that time) is left out, in ``after`` too; NaN if none is left.
        after: (N, L) int64 slots.
    """
    known = (before >= 0).all(dim=1) & (after >= 0).all(dim=1)
    before, after = before[known], after[known]
    shared = (before[:, :, None] == after[:, None, :]).sum(dim=(1, 2)).double()
    return float((shared / (before.shape[1] + after.shape[1] - shared)).mean())


def _is_other(neighbors: Tensor, index: Tensor) -> Tensor:
    return (neighbors != index[:, None]) & (neighbors >= 0)


def _share(condition: Tensor, among: Tensor) -> float:
    return float(condition[among].double().mean())
