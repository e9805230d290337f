"""Which similarity means "the same person": a threshold for a model on the cameras that it is used with."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from reid_da.atomic import write_text
from reid_da.checksums import KEY as CHECKSUM
from reid_da.checksums import is_intact, json_digest
from reid_da.errors import InputError
from reid_da.evaluation.feature_files import FeatureSet
from reid_da.evaluation.operating_point import (
    NUM_BINS,
    RESOLUTION,
    OperatingPoint,
    check_rates,
    points_of_histograms,
    similarity_histograms,
)

NUM_COARSE_BINS = 256
"""Most bins of the stored histograms."""
_TAIL = 1e-3
"""Share of the pairs on either side that the first and the last bin hold."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Thresholds on the cosine similarity of images from different cameras, and what they were measured on.

    Attributes:
        points: one for each false positive rate.
        num_positive_pairs: pairs of one identity that were compared.
        num_negative_pairs: pairs of two identities that were compared.
        positives: (B,) pairs of one identity by similarity.
        negatives: (B,) pairs of two identities by similarity.
        low: similarity at which the first bin ends on the left; lower ones are in it too. The similarities of many
            models lie in a narrow band, of which bins from -1 to 1 would show nothing.
        high: the same of the last bin, on the right.
    """

    points: tuple[OperatingPoint, ...]
    num_positive_pairs: int
    num_negative_pairs: int
    positives: tuple[int, ...] = field(repr=False)
    negatives: tuple[int, ...] = field(repr=False)
    low: float = -1.0
    high: float = 1.0

    @property
    def resolved_points(self) -> tuple[OperatingPoint, ...]:
        """Those of the points that have a threshold."""
        return tuple(point for point in self.points if point.threshold is not None)

    def threshold(self, fpr: float) -> float:
        """The threshold at a false positive rate that was calibrated.

        Raises:
            InputError: it was not, or the pairs were too few to tell.
        """
        for point in self.resolved_points:
            if point.fpr == fpr and point.threshold is not None:
                return point.threshold
        known = ", ".join(f"{point.fpr:g}" for point in self.resolved_points)
        raise InputError(f"there is no threshold for a false positive rate of {fpr:g}, only for {known or 'none'}")


def calibrate(features: FeatureSet, *, fprs: Sequence[float]) -> Calibration:
    """Calibration on labelled images of the cameras.

    Args:
        features: of query and gallery.
        fprs: false positive rates, above 0 and at most 1.

    Raises:
        InputError: a rate is out of its range, or there is no pair of one identity from two cameras.
    """
    check_rates(fprs)
    positives, negatives = similarity_histograms(*features.arrays)
    points = points_of_histograms(positives, negatives, fprs)
    first, width, count = _band(positives, negatives)
    return Calibration(
        points=points.points,
        num_positive_pairs=points.num_positive_pairs,
        num_negative_pairs=points.num_negative_pairs,
        positives=_coarse(positives, first, width, count),
        negatives=_coarse(negatives, first, width, count),
        low=first * RESOLUTION - 1,
        high=(first + width * count) * RESOLUTION - 1,
    )


def save_calibration(path: Path, calibration: Calibration, *, notes: dict[str, Any]) -> None:
    """Write a calibration as JSON, whole or not at all, without the rates that the pairs could not tell.

    Args:
        path: the file.
        calibration: what to write.
        notes: what it belongs to, e.g. data set and checkpoint.
    """
    resolved = replace(calibration, points=calibration.resolved_points)
    record = {**notes, **asdict(resolved)}
    write_text(path, json.dumps({**record, CHECKSUM: json_digest(record)}, indent=2) + "\n")


def load_calibration(path: Path, *, epoch: int | None = None) -> Calibration:
    """Read a calibration.

    Args:
        path: the file.
        epoch: of the checkpoint that it has to belong to; any if None.

    Raises:
        InputError: the file is missing or damaged, or belongs to another checkpoint.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not is_intact(record):
            raise ValueError("damaged or changed: its checksum is not the one noted at writing")
        calibrated = Calibration(
            points=tuple(OperatingPoint(**point) for point in record["points"]),
            num_positive_pairs=int(record["num_positive_pairs"]),
            num_negative_pairs=int(record["num_negative_pairs"]),
            positives=tuple(record["positives"]),
            negatives=tuple(record["negatives"]),
            low=float(record.get("low", -1)),
            high=float(record.get("high", 1)),
        )
    except FileNotFoundError as error:
        raise InputError(f"{path}: not calibrated yet: reid-da calibrate {path.parent}") from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: is not a calibration: {error}") from error
    if epoch is not None and record.get("epoch") != epoch:
        raise InputError(
            f"{path}: belongs to epoch {record.get('epoch')}, and the model is of epoch {epoch}; calibrate that one:"
            f" reid-da calibrate {path.parent}"
        )
    return calibrated


def _band(positives: Tensor, negatives: Tensor) -> tuple[int, int, int]:
    """First fine bin, width in fine bins and number of the coarse ones, which span all but the tails of both kinds."""
    ends = []
    for histogram in (positives, negatives):
        total = histogram.sum()
        if total:
            inside = histogram.cumsum(0) > _TAIL * total
            above = histogram.flip(0).cumsum(0) > _TAIL * total
            ends.append((int(inside.int().argmax()), NUM_BINS - int(above.int().argmax())))
    first, last = min(low for low, _ in ends), max(high for _, high in ends)
    width = -(-(last - first) // NUM_COARSE_BINS)
    count = -(-(last - first) // width)
    return max(min(first, NUM_BINS - width * count), 0), width, count


def _coarse(histogram: Tensor, first: int, width: int, count: int) -> tuple[int, ...]:
    """Sums over coarse bins; what lies beside the band is in the first and the last."""
    end = first + width * count
    counts = histogram[first:end].view(count, width).sum(dim=1)
    counts[0] += histogram[:first].sum()
    counts[-1] += histogram[end:].sum()
    return tuple(counts.tolist())
