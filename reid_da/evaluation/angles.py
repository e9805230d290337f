"""Angles between features, class means and class centres: how tight and how far apart classes are.

The statistics of Table 3 of Deng et al., "ArcFace", CVPR 2019. All angles are in degrees. Nothing of size N x N or
C x C is ever held: products are taken in blocks.
"""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from reid_da.errors import InputError
from reid_da.features import check_directions

BLOCK = 4096
"""Rows and columns of the blocks of a product."""
BINS = 180
"""Bins of a histogram, of one degree each."""


@dataclass(frozen=True, kw_only=True)
class AngleStatistics:
    """How features lie around the means of their classes, and classes around one another.

    Attributes:
        intra: mean angle between a feature and the mean of its class.
        inter: mean over the classes of the angle to the nearest other mean.
        w_ec: mean angle between the centre of a class in the classifier and the mean of its features; None without a
            classifier.
        w_inter: mean over the classifier's centres of the angle to the nearest other one; None without a classifier.
        num_features: number of features.
        num_classes: number of classes.
        num_singletons: number of classes with one image, whose angle to their mean is 0 by construction; they count.
        positive_pairs: (180,) int64 pairs of images of one class by angle, one degree a bin.
        negative_pairs: (180,) int64 pairs of images of two classes by angle.
        feature: what the features are, ``pooled`` or ``embedding``; empty where that is not known.
    """

    intra: float
    inter: float
    w_ec: float | None
    w_inter: float | None
    num_features: int
    num_classes: int
    num_singletons: int
    positive_pairs: Tensor = field(repr=False)
    negative_pairs: Tensor = field(repr=False)
    feature: str = ""

    def to_json(self) -> dict[str, Any]:
        """All fields as values that JSON can hold."""
        pairs = {name: getattr(self, name).tolist() for name in ("positive_pairs", "negative_pairs")}
        return {**asdict(self), **pairs}


def angle_statistics(features: Tensor, labels: Tensor, *, weight: Tensor | None = None) -> AngleStatistics:
    """Angles within and between classes.

    Args:
        features: (N, D) float, of any length; they are normalised here.
        labels: (N,) int64 classes; with a classifier the rows of it.
        weight: (C, D) centres of a classifier, of any length; None for a model without one. Those whose class has no
            feature count in ``w_inter`` only.

    Raises:
        InputError: features or centres that are NaN, infinite or all zero, fewer than two classes, or a label that
            has no row in the classifier.
    """
    check_directions(features, "features")
    if weight is not None:
        check_directions(weight, "class centres")
    features = functional.normalize(features.float())
    classes, inverse, counts = torch.unique(labels, return_inverse=True, return_counts=True)
    if len(classes) < 2:
        raise InputError(f"angles need features of at least two identities, these have {len(classes)}")
    if weight is not None and int(classes[-1]) >= len(weight):
        raise InputError(f"there is a label {int(classes[-1])}, but the classifier has {len(weight)} classes")
    sums = torch.zeros(len(classes), features.shape[1], dtype=torch.float64, device=features.device)
    means = functional.normalize(sums.index_add_(0, inverse, features.double()))
    positive, negative = pair_histograms(features, inverse)
    return AngleStatistics(
        intra=_mean_angle(features, means[inverse]),
        inter=mean_nearest_angle(means),
        w_ec=None if weight is None else _mean_angle(functional.normalize(weight.double())[classes], means),
        w_inter=None if weight is None else mean_nearest_angle(weight),
        num_features=len(features),
        num_classes=len(classes),
        num_singletons=int((counts == 1).sum()),
        positive_pairs=positive,
        negative_pairs=negative,
    )


def mean_nearest_angle(vectors: Tensor, *, block: int = BLOCK) -> float:
    """Mean over the rows of the angle in degrees to the nearest other row.

    Args:
        vectors: (C, D) float, of any length, at least two.
        block: rows and columns of a product.
    """
    vectors = functional.normalize(vectors.float())
    nearest = []
    for begin in range(0, len(vectors), block):
        rows = vectors[begin : begin + block]
        best = rows.new_full((len(rows),), -torch.inf)
        for first in range(0, len(vectors), block):
            cosine = rows @ vectors[first : first + block].T
            if first == begin:
                cosine.fill_diagonal_(-torch.inf)
            best = torch.maximum(best, cosine.amax(dim=1))
        nearest.append(best)
    return math.degrees(float(torch.cat(nearest).double().clamp(-1, 1).acos().mean()))


def pair_histograms(features: Tensor, labels: Tensor, *, block: int = BLOCK) -> tuple[Tensor, Tensor]:
    """Number of pairs of one class, and of two classes, by angle: (180,) int64 each, one degree a bin.

    Every pair counts once. An angle of 180 degrees counts in the last bin.

    Args:
        features: (N, D) float, of any length.
        labels: (N,) int64 classes.
        block: rows and columns of a product.
    """
    features = functional.normalize(features.float())
    positive = torch.zeros(BINS, dtype=torch.int64, device=features.device)
    negative = positive.clone()
    for begin in range(0, len(features), block):
        for first in range(begin, len(features), block):
            cosine = features[begin : begin + block] @ features[first : first + block].T
            bins = torch.rad2deg(cosine.clamp_(-1, 1).acos_()).long().clamp_(max=BINS - 1)
            same = labels[begin : begin + block, None] == labels[None, first : first + block]
            if first == begin:
                above = torch.ones_like(same).triu_(1)
                bins, same = bins[above], same[above]
            positive += torch.bincount(bins[same], minlength=BINS)
            negative += torch.bincount(bins[~same], minlength=BINS)
    return positive, negative


def _mean_angle(first: Tensor, second: Tensor) -> float:
    """Mean angle in degrees between the rows of two (N, D) sets of unit vectors."""
    cosine = (first.double() * second.double()).sum(dim=1).clamp(-1, 1)
    return math.degrees(float(cosine.acos().mean()))
