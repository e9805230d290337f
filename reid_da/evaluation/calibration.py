"""Which similarity means "the same person": a threshold for a model on the cameras that it is used with."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
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

NUM_QUANTILES = 64
"""Most bins of the stored histograms."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Thresholds on the cosine similarity of images from different cameras, and what they were measured on.

    Attributes:
        points: one for each false positive rate.
        num_positive_pairs: pairs of one identity that were compared.
        num_negative_pairs: pairs of two identities that were compared.
        edges: (B + 1,) similarities between which the bins lie: quantiles of the pairs of one identity and of those of
            two, both kinds with the same weight. However narrow the band is that a model's similarities lie in, each
            bin holds about 1/B of them.
        positives: (B,) pairs of one identity by similarity.
        negatives: (B,) pairs of two identities by similarity.
        feature: what was compared, ``pooled`` or ``embedding``; empty where that is not known.
    """

    points: tuple[OperatingPoint, ...]
    num_positive_pairs: int
    num_negative_pairs: int
    edges: tuple[float, ...] = field(repr=False)
    positives: tuple[int, ...] = field(repr=False)
    negatives: tuple[int, ...] = field(repr=False)
    feature: str = ""

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


def calibrate(features: FeatureSet, *, fprs: Sequence[float], feature: str = "") -> Calibration:
    """Calibration on labelled images of the cameras.

    Args:
        features: of query and gallery.
        fprs: false positive rates, above 0 and at most 1.
        feature: what the features are, to be noted.

    Raises:
        InputError: a rate is out of its range, or there is no pair of one identity from two cameras.
    """
    check_rates(fprs)
    positives, negatives = similarity_histograms(*features.arrays)
    points = points_of_histograms(positives, negatives, fprs)
    bins = _quantiles(positives, negatives)
    return Calibration(
        points=points.points,
        num_positive_pairs=points.num_positive_pairs,
        num_negative_pairs=points.num_negative_pairs,
        edges=tuple((bins * RESOLUTION - 1).tolist()),
        positives=_between(positives, bins),
        negatives=_between(negatives, bins),
        feature=feature,
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


def load_calibration(path: Path, *, epoch: int | None = None, feature: str | None = None) -> Calibration:
    """Read a calibration.

    Args:
        path: the file.
        epoch: of the checkpoint that it has to belong to; any if None.
        feature: that it has to be of, ``pooled`` or ``embedding``; any if None.

    Raises:
        InputError: the file is missing or damaged, or belongs to another checkpoint or feature.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not is_intact(record):
            raise ValueError("damaged or changed: its checksum is not the one noted at writing")
        calibrated = Calibration(
            points=tuple(OperatingPoint(**point) for point in record["points"]),
            num_positive_pairs=int(record["num_positive_pairs"]),
            num_negative_pairs=int(record["num_negative_pairs"]),
            edges=_edges_of(record),
            positives=tuple(record["positives"]),
            negatives=tuple(record["negatives"]),
            feature=str(record.get("feature", "")),
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
    if feature and calibrated.feature and calibrated.feature != feature:
        raise InputError(
            f"{path}: is of {calibrated.feature} features, and the model compares {feature} ones; calibrate those:"
            f" reid-da calibrate {path.parent} --feature {feature}"
        )
    return calibrated


def _edges_of(record: dict[str, Any]) -> tuple[float, ...]:
    """Edges of the bins; earlier versions had bins of one width."""
    if "edges" in record:
        return tuple(map(float, record["edges"]))
    low, high, count = float(record.get("low", -1)), float(record.get("high", 1)), len(record["positives"])
    return tuple(low + (high - low) * number / count for number in range(count + 1))


def _quantiles(positives: Tensor, negatives: Tensor) -> Tensor:
    """(B + 1,) int64 edges in fine bins, increasing: quantiles of both histograms, with equal weights."""
    shares = torch.zeros(NUM_BINS, dtype=torch.float64)
    for histogram in (positives, negatives):
        shares += histogram.double().cpu() / max(int(histogram.sum()), 1)
    below = shares.cumsum(0) / shares.sum()
    inner = torch.searchsorted(below, torch.arange(1, NUM_QUANTILES, dtype=torch.float64) / NUM_QUANTILES) + 1
    filled = torch.nonzero(shares)
    edges = {int(filled[0]), *inner.clamp_max(int(filled[-1])).tolist(), int(filled[-1]) + 1}
    return torch.tensor(sorted(edges))


def _between(histogram: Tensor, edges: Tensor) -> tuple[int, ...]:
    """(B,) sums of a fine histogram between edges that span all of it."""
    total = torch.cat([torch.zeros(1, dtype=torch.int64), histogram.cpu().long().cumsum(0)])
    return tuple(total[edges].diff().tolist())
