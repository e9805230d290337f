"""How many true pairs pass a threshold that lets through a given share of the false ones."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import Tensor

from reid_da.datasets.table import JUNK_PID
from reid_da.errors import InputError
from reid_da.evaluation._relevance import Relevance
from reid_da.evaluation._streaming import whole_rows
from reid_da.features import Array, pieces
from reid_da.nearest import FeatureBlocks

NUM_BINS = 2**16
"""Bins of the histograms over the cosine similarity from -1 to 1."""
RESOLUTION = 2 / NUM_BINS
"""Width of a bin, and step between thresholds."""


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """What a threshold on the cosine similarity lets through.

    Attributes:
        fpr: the false positive rate that was asked for.
        threshold: the lowest threshold with no more false positives than that; pairs at or above it pass. None where
            the negative pairs are too few, or too many of them too similar, to tell.
        tpr: share of the positive pairs that pass, or None.
        measured_fpr: share of the negative pairs that pass, or None.
    """

    fpr: float
    threshold: float | None
    tpr: float | None
    measured_fpr: float | None


@dataclass(frozen=True, kw_only=True)
class OperatingPoints:
    """Operating points over the pairs of a query and a gallery image from different cameras.

    Attributes:
        points: one per false positive rate, in the order asked for.
        num_positive_pairs: pairs of one identity.
        num_negative_pairs: pairs of two identities; distractors count, junk does not.
    """

    points: tuple[OperatingPoint, ...]
    num_positive_pairs: int
    num_negative_pairs: int

    def to_json(self) -> dict[str, object]:
        """The record as dictionaries, lists and numbers; None where a rate could not be resolved."""
        return {
            "operating_points": [asdict(point) for point in self.points],
            "num_positive_pairs": self.num_positive_pairs,
            "num_negative_pairs": self.num_negative_pairs,
            "similarity_resolution": RESOLUTION,
        }


def operating_points(
    query_features: Array,
    query_pids: Array,
    query_camids: Array,
    gallery_features: Array,
    gallery_pids: Array,
    gallery_camids: Array,
    *,
    fprs: Sequence[float] = (1e-1, 1e-2, 1e-3, 1e-4),
    same_camera: str = "exclude",
) -> OperatingPoints:
    """True positive rates and thresholds on the cosine similarity at the given false positive rates.

    Only pairs across cameras count, unless ``same_camera`` is ``include``. Their similarities are counted in
    :data:`NUM_BINS` bins as they are computed, so that thresholds are multiples of :data:`RESOLUTION`; the rates at
    these thresholds are exact.

    Args:
        query_features: (Q, D) array or tensor; the gallery is on the same device, which does the work.
        query_pids: (Q,) identities, 0 or above, or -1 for junk.
        query_camids: (Q,) cameras.
        gallery_features: (G, D).
        gallery_pids: (G,) identities.
        gallery_camids: (G,) cameras.
        fprs: false positive rates, above 0 and at most 1.
        same_camera: ``exclude`` or ``include`` pairs within a camera.

    Raises:
        InputError: arrays that do not fit together, features that are NaN, infinite or all zero, a rate out of its
            range, or no positive pair.
    """
    check_rates(fprs)
    positives, negatives = similarity_histograms(
        query_features,
        query_pids,
        query_camids,
        gallery_features,
        gallery_pids,
        gallery_camids,
        same_camera=same_camera,
    )
    return points_of_histograms(positives, negatives, fprs)


def check_rates(fprs: Sequence[float], *, name: str = "fpr") -> None:
    """Refuse false positive rates that are none.

    Args:
        fprs: the rates.
        name: what the user knows them by.

    Raises:
        InputError: a rate is not above 0, or is above 1.
    """
    for fpr in fprs:
        if not 0 < fpr <= 1:
            raise InputError(f"{name}: expected a false positive rate above 0 and at most 1, got {fpr}")


def similarity_histograms(
    query_features: Array,
    query_pids: Array,
    query_camids: Array,
    gallery_features: Array,
    gallery_pids: Array,
    gallery_camids: Array,
    *,
    same_camera: str = "exclude",
) -> tuple[Tensor, Tensor]:
    """Cosine similarities of the pairs across cameras: (:data:`NUM_BINS`,) int64 pairs of one identity, and of two.

    The first bin begins at -1, the last one ends at 1. The arguments are those of :func:`operating_points`.

    Raises:
        InputError: arrays that do not fit together, features that are NaN, infinite or all zero, or no positive pair.
    """
    blocks = FeatureBlocks(query_features, gallery_features, distance="cosine")
    shape = (blocks.num_queries, blocks.num_gallery)
    relevance = Relevance(
        query_pids, query_camids, gallery_pids, gallery_camids, shape=shape, same_camera=same_camera, is_choice=False
    )
    left_out = partial(_left_out, relevance, within_camera=same_camera == "exclude")
    positives, negatives = torch.zeros(2, NUM_BINS, dtype=torch.int64)
    for rows, values in whole_rows(blocks, "comparing pairs"):
        of_block = relevance.block(rows, values.device)
        matches = values[of_block.match_rows, of_block.match_columns].unsqueeze(1)
        of_matches = _histogram(_bins(blocks.distances(matches, rows.start + of_block.match_rows)))
        positives += of_matches
        negatives -= of_matches
        for columns in pieces(blocks.num_gallery):
            bins = _bins(blocks.distances(values[:, columns], rows))
            negatives += _histogram(bins.masked_fill_(left_out(rows, columns, bins.device), NUM_BINS))
    return positives, negatives


def _bins(distances: Tensor) -> Tensor:
    """int32 bins of the similarities that belong to the cosine ``distances``; bin 0 starts at -1."""
    return distances.sub_(2).mul_(-NUM_BINS / 2).clamp_(0, NUM_BINS - 1).int()


def _histogram(bins: Tensor) -> Tensor:
    """(NUM_BINS,) int64 pairs per bin, on the CPU; those in bin NUM_BINS do not count."""
    return torch.bincount(bins.flatten(), minlength=NUM_BINS + 1)[:NUM_BINS].cpu()


def _left_out(
    relevance: Relevance, rows: slice, columns: slice, device: torch.device, *, within_camera: bool
) -> Tensor:
    """(q, g) bool, pairs with junk and, if asked for, those within a camera."""
    query_pids, query_camids = relevance.query_pids[rows], relevance.query_camids[rows]
    gallery_pids, gallery_camids = relevance.gallery_pids[columns], relevance.gallery_camids[columns]
    arrays = (query_camids, query_pids == JUNK_PID, gallery_camids, gallery_pids == JUNK_PID)
    query_camera, query_is_junk, camera, is_junk = (torch.from_numpy(array).to(device) for array in arrays)
    is_left_out = query_is_junk.unsqueeze(1) | is_junk
    return is_left_out | (query_camera.unsqueeze(1) == camera) if within_camera else is_left_out


def points_of_histograms(positives: Tensor, negatives: Tensor, fprs: Sequence[float]) -> OperatingPoints:
    """Operating points from the pairs per bin; see :func:`similarity_histograms` and :func:`operating_points`.

    Args:
        positives: (NUM_BINS,) int64 pairs of one identity.
        negatives: (NUM_BINS,) int64 pairs of two identities.
        fprs: false positive rates, above 0 and at most 1.
    """
    # entry b: pairs in bin b and above
    true_accepts, false_accepts = (counts.flip(0).cumsum(0).flip(0) for counts in (positives, negatives))
    num_positives, num_negatives = int(true_accepts[0]), int(false_accepts[0])
    points = []
    for fpr in fprs:
        allowed = false_accepts <= fpr * num_negatives
        if fpr * num_negatives < 1 or not allowed.any():
            points.append(OperatingPoint(fpr=fpr, threshold=None, tpr=None, measured_fpr=None))
            continue
        lowest = int(allowed.int().argmax())
        points.append(
            OperatingPoint(
                fpr=fpr,
                threshold=lowest * RESOLUTION - 1,
                tpr=int(true_accepts[lowest]) / num_positives,
                measured_fpr=int(false_accepts[lowest]) / num_negatives,
            )
        )
    return OperatingPoints(points=tuple(points), num_positive_pairs=num_positives, num_negative_pairs=num_negatives)
