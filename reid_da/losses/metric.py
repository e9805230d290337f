"""Losses on distances and angles between the features of a batch, and between class centres.

All compute in float32 at least, inside autocast too: differences of large numbers do not survive sixteen bits.
"""

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from reid_da.errors import InputError, unknown_name
from reid_da.losses._unit import angles_between, unit_products, unit_rows, wide
from reid_da.shards import Shard

Negatives = Literal["semi_hard", "hard"]
"""Which negatives the triplets of :func:`angular_triplet_loss` have."""


def pairwise_distance(features: Tensor) -> Tensor:
    """(B, B) Euclidean distances between the rows of (B, D) features, with a finite gradient at distance 0."""
    return _squared_distance(features).clamp_min(1e-12).sqrt()


def batch_hard_triplet_loss(features: Tensor, labels: Tensor, *, margin: float | None = None) -> Tensor:
    """Mean over the batch of the triplet loss of the farthest positive and the nearest negative (Hermans et al., 2017).

    With a margin m it is ``[d_ap - d_an + m]+``, without one the soft margin ``log(1 + exp(d_ap - d_an))``; distances
    are Euclidean, not squared. An anchor whose class has no other image is its own positive, at distance 0.

    Args:
        features: (B, D) float, of any length.
        labels: (B,) int64 classes, at least two different ones.
        margin: m, or None for the soft margin.

    Raises:
        InputError: all images are of one class, so there are no negatives.
    """
    return _hardest_triplets(pairwise_distance(features), labels, margin=margin)


def angular_triplet_loss(
    features: Tensor, labels: Tensor, *, margin: float = 0.35, negatives: Negatives = "semi_hard"
) -> Tensor:
    """The triplet loss ``theta_ap - theta_an + m`` on angles (Deng et al., CVPR 2019).

    ArcFace mines semi-hard triplets. Of each pair of anchor and positive the negative is the nearest of those whose
    angle is larger than that of the positive, but by less than the margin; the mean over the pairs that have one.
    Departure: the authors' code draws one of the candidates at random, and takes them by the same band of squared
    distances.

    Args:
        features: (B, D) float, of any length.
        labels: (B,) int64 classes.
        margin: m in radians; 0.35 in the authors' code.
        negatives: ``semi_hard``, or ``hard`` for the batch-hard triplets of :func:`batch_hard_triplet_loss`.

    Raises:
        InputError: an unknown kind of ``negatives``; or hard ones where all images are of one class.
    """
    if negatives not in get_args(Negatives):
        raise unknown_name("negatives", negatives, get_args(Negatives))
    angle = _angle(unit_products(features, features))
    if negatives == "hard":
        return _hardest_triplets(angle, labels, margin=margin)
    return _semi_hard_triplets(angle, labels, margin=margin)


def semi_hard_triplet_loss(features: Tensor, labels: Tensor, *, margin: float = 0.2) -> Tensor:
    """Triplet loss ``d2_ap - d2_an + m`` on squared distances of unit vectors (Schroff et al., CVPR 2015).

    Of each pair of anchor and positive the negative is the nearest of those that are farther than the positive, but by
    less than the margin; a pair without one does not count. The mean over the pairs that count, 0 without any.

    Args:
        features: (B, D) float, of any length; they are normalised here.
        labels: (B,) int64 classes.
        margin: m; 0.2 in the paper.
    """
    return _semi_hard_triplets(_squared_distance(unit_rows(features)), labels, margin=margin)


def contrastive_loss(features: Tensor, labels: Tensor, *, margin: float = 1.0) -> Tensor:
    """Mean over the pairs of a batch of ``d^2`` for one class and ``[m - d]+^2`` for two (Hadsell et al., CVPR 2006).

    The distance d is Euclidean. Some libraries take the hinge of d^2, or its first power.

    Args:
        features: (B, D) float, of any length, at least two.
        labels: (B,) int64 classes.
        margin: m, distance beyond which two classes are let alone.
    """
    row, column = _pairs_once(labels)
    distance = pairwise_distance(features)[row, column]
    same = labels[row] == labels[column]
    return torch.where(same, distance.square(), functional.relu(margin - distance).square()).mean()


def circle_loss(features: Tensor, labels: Tensor, *, margin: float = 0.25, scale: float = 64.0) -> Tensor:
    """Circle loss on the cosines of the pairs of a batch (Sun et al., CVPR 2020, equations 4 to 8).

    ``log(1 + sum_n exp(scale a_n (s_n - m)) * sum_p exp(-scale a_p (s_p - 1 + m)))`` with the weights
    ``a_n = [s_n + m]+`` and ``a_p = [1 + m - s_p]+``, which have no gradient. Every pair counts once.

    Args:
        features: (B, D) float, of any length.
        labels: (B,) int64 classes; without both kinds of pairs the loss is 0.
        margin: m.
        scale: of the exponents.
    """
    cosine = unit_products(features, features)
    row, column = _pairs_once(labels)
    similarity, same = cosine[row, column], labels[row] == labels[column]
    positive, negative = similarity[same], similarity[~same]
    if not len(positive) or not len(negative):
        return 0.0 * cosine.sum()
    to_positive = -scale * functional.relu(1 + margin - positive.detach()) * (positive - 1 + margin)
    to_negative = scale * functional.relu(negative.detach() + margin) * (negative - margin)
    return functional.softplus(to_positive.logsumexp(0) + to_negative.logsumexp(0))


def center_loss(features: Tensor, labels: Tensor, centers: Tensor) -> Tensor:
    """``1 / (2 B) sum_i ||x_i - c_{y_i}||^2`` (Wen et al., ECCV 2016, equation 2, divided by B as in their code).

    The code of Luo et al. (CVPR workshops 2019) has twice as much, and 1e-12 for each of the C - 1 other classes, which
    is lost in the rounding of a float32 loss.

    Args:
        features: (B, D) float.
        labels: (B,) int64 classes.
        centers: (C, D) float; see :class:`reid_da.losses.centers.ClassCenters`.
    """
    return 0.5 * (wide(features) - wide(centers)[labels]).square().sum(dim=1).mean()


def intra_loss(features: Tensor, weight: Tensor, labels: Tensor, *, shard: Shard | None = None) -> Tensor:
    """Mean angle between a feature and the centre of its class, in units of pi (Deng et al., CVPR 2019, equation 5).

    Args:
        features: (B, D) float, of any length.
        weight: (C, D) float class centres, of any length.
        labels: (B,) int64 classes.
        shard: which classes the centres are of, where several processes share them; None for all.
    """
    return angles_between(unit_rows(features), unit_rows(_rows_of(wide(weight), labels, shard))).mean() / math.pi


def inter_loss(weight: Tensor, labels: Tensor, *, shard: Shard | None = None) -> Tensor:
    """Minus the mean angle from the centres of the batch's classes to all other centres, in units of pi.

    Deng et al., CVPR 2019, equation 6.

    Args:
        weight: (C, D) float class centres, of any length, at least two.
        labels: (B,) int64 classes; one that occurs twice counts twice.
        shard: which classes the centres are of, where several processes share them; None for all.
    """
    return -_mean_to_others(unit_rows(weight), labels, shard, _angle) / math.pi


def hyperspherical_energy(weight: Tensor, labels: Tensor, *, power: float = 2.0, shard: Shard | None = None) -> Tensor:
    """Mean energy of the repulsion between class centres, for SphereFace+ (Liu et al., NeurIPS 2018).

    The mean over the classes of the batch and all other classes of ``||w - w'||^-power``, of ``-log ||w - w'||`` for
    a power of 0; centres have unit length here. Unverified: not compared with the authors' code.

    Args:
        weight: (C, D) float class centres, of any length, at least two.
        labels: (B,) int64 classes; one that occurs twice counts twice.
        power: 2, 1 or 0 in the paper.
        shard: which classes the centres are of, where several processes share them; None for all.
    """

    def energy(cosine: Tensor) -> Tensor:
        squared = (2 - 2 * cosine).clamp_min(1e-6)
        return squared.pow(-power / 2) if power else -0.5 * squared.log()

    return _mean_to_others(unit_rows(weight), labels, shard, energy)


def marginal_loss(features: Tensor, labels: Tensor, *, threshold: float = 1.2, margin: float = 0.3) -> Tensor:
    """Mean over the ordered pairs of ``[m - y (t - d2)]+`` with y = 1 for one class and -1 for two (Deng et al., 2017).

    Unverified: not compared with the authors' code.

    Args:
        features: (B, D) float, of any length; d2 is the squared distance after normalisation.
        labels: (B,) int64 classes.
        threshold: t, squared distance that parts the two kinds of pairs.
        margin: m around it.
    """
    squared = _squared_distance(unit_rows(features))
    same, itself = _pairs(labels)
    loss = functional.relu(margin - torch.where(same, 1.0, -1.0) * (threshold - squared))
    return loss[~itself].mean()


def range_loss(
    features: Tensor,
    labels: Tensor,
    *,
    margin: float,
    num_largest: int = 2,
    intra_weight: float = 1.0,
    inter_weight: float = 1.0,
) -> Tensor:
    """Range loss (Zhang et al., ICCV 2017). Unverified: not compared with the authors' code.

    For each class of the batch with at least two images, the harmonic mean of its ``num_largest`` largest distances
    between two images (of all, if there are fewer), summed over the classes; and ``[m - d]+`` for the distance d of
    the two nearest class means.

    Args:
        features: (B, D) float, of any length.
        labels: (B,) int64 classes.
        margin: m, in the units of the features.
        num_largest: k; 2 in the paper.
        intra_weight: of the first term.
        inter_weight: of the second term, 0 with one class.
    """
    distance = pairwise_distance(features)
    classes, inverse = torch.unique(labels, return_inverse=True)
    row, column = _pairs_once(labels)
    same = labels[row] == labels[column]
    pairs, pair_class = distance[row, column][same], inverse[row[same]]
    # ranks of the pairs within their classes, the largest distance first
    order = torch.argsort(pairs, descending=True, stable=True)
    order = order[torch.argsort(pair_class[order], stable=True)]
    sizes = torch.bincount(pair_class, minlength=len(classes))
    rank = torch.arange(len(order), device=order.device) - (sizes.cumsum(0) - sizes)[pair_class[order]]
    chosen = order[rank < num_largest]
    inverses = torch.zeros(len(classes), dtype=distance.dtype, device=distance.device)
    inverses = inverses.index_add(0, pair_class[chosen], 1 / pairs[chosen])
    used = sizes > 0
    intra = (sizes.clamp_max(num_largest)[used] / inverses[used]).sum()
    if len(classes) < 2:
        return intra_weight * intra
    sums = torch.zeros(len(classes), features.shape[1], dtype=distance.dtype, device=distance.device)
    means = sums.index_add(0, inverse, wide(features)) / torch.bincount(inverse)[:, None]
    between = pairwise_distance(means)
    first, second = torch.triu_indices(len(classes), len(classes), 1, device=between.device)
    inter = functional.relu(margin - between[first, second].amin())
    return intra_weight * intra + inter_weight * inter


def _hardest_triplets(distance: Tensor, labels: Tensor, *, margin: float | None) -> Tensor:
    same, _ = _pairs(labels)
    if bool(same.all()):
        raise InputError("a triplet loss needs images of at least two identities in a batch")
    farthest_positive = distance.masked_fill(~same, -torch.inf).amax(dim=1)
    nearest_negative = distance.masked_fill(same, torch.inf).amin(dim=1)
    difference = farthest_positive - nearest_negative
    loss = functional.softplus(difference) if margin is None else functional.relu(difference + margin)
    return loss.mean()


def _semi_hard_triplets(distance: Tensor, labels: Tensor, *, margin: float) -> Tensor:
    """Mean of ``d_ap - d_an + m`` over the pairs of one class; d_an is the least of those in d_ap to d_ap + m."""
    same, itself = _pairs(labels)
    anchors, positives = torch.nonzero(same & ~itself, as_tuple=True)
    to_positive = distance[anchors, positives][:, None]
    to_others = distance[anchors]
    is_candidate = ~same[anchors] & (to_others > to_positive) & (to_others < to_positive + margin)
    counts = is_candidate.any(dim=1)
    nearest = to_others.masked_fill(~is_candidate, torch.inf).amin(dim=1)
    loss = (to_positive.squeeze(1) - nearest + margin)[counts]
    return loss.sum() / counts.sum().clamp_min(1)


def _squared_distance(features: Tensor) -> Tensor:
    """(B, B) squared Euclidean distances, not below 0."""
    features = wide(features)
    with torch.autocast(features.device.type, enabled=False):
        squares = features.square().sum(dim=1)
        return (squares[:, None] + squares[None, :] - 2 * features @ features.T).clamp_min(0)


def _mean_to_others(units: Tensor, labels: Tensor, shard: Shard | None, value: Callable[[Tensor], Tensor]) -> Tensor:
    """Mean value of the cosines between the unit centres of a batch's classes and those of all other classes."""
    shard = Shard(len(units)) if shard is None else shard
    with torch.autocast(units.device.type, enabled=False):
        values = value(_rows_of(units, labels, shard) @ units.T)
    own = torch.arange(len(units), device=labels.device) + shard.rows.start == labels[:, None]
    return shard.world.sum(values.masked_fill(own, 0.0).sum()) / (len(labels) * (shard.total - 1))


def _rows_of(rows: Tensor, labels: Tensor, shard: Shard | None) -> Tensor:
    """(B, D) rows by the numbers that they have over all processes, with a gradient."""
    if shard is None or shard.is_whole:
        return rows[labels]
    place, is_own = shard.find(labels)
    # a process without rows takes part in the backward pass too, whose sum is a collective operation
    own = rows[place] if len(rows) else rows.sum() + rows.new_zeros(len(labels), rows.shape[1])
    return shard.world.sum(torch.where(is_own[:, None], own, 0))


def _angle(cosine: Tensor) -> Tensor:
    """Angles in radians; where rounding hides them, next to 0 and pi, the gradient is 0 and not infinite."""
    eps = torch.finfo(cosine.dtype).eps
    return torch.acos(cosine.clamp(-1 + eps, 1 - eps))


def _pairs(labels: Tensor) -> tuple[Tensor, Tensor]:
    """(B, B) whether two images are of one class, and whether they are one image."""
    return labels[:, None] == labels[None, :], torch.eye(len(labels), dtype=torch.bool, device=labels.device)


def _pairs_once(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns of every pair of images, once each."""
    row, column = torch.triu_indices(len(labels), len(labels), 1, device=labels.device)
    return row, column
