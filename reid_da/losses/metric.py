"""Losses on distances between the features of a batch."""

import torch
from torch import Tensor
from torch.nn import functional

from reid_da.errors import InputError


def pairwise_distance(features: Tensor) -> Tensor:
    """(B, B) Euclidean distances between the rows of (B, D) features, with a finite gradient at distance 0.

    In float32 even inside autocast: differences of large numbers do not survive sixteen bits.
    """
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    with torch.autocast(features.device.type, enabled=False):
        squares = features.square().sum(dim=1)
        squared = squares[:, None] + squares[None, :] - 2 * features @ features.T
    return squared.clamp_min(1e-12).sqrt()


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
    distance = pairwise_distance(features)
    same = labels[:, None] == labels[None, :]
    if bool(same.all()):
        raise InputError("a triplet loss needs images of at least two identities in a batch")
    farthest_positive = distance.masked_fill(~same, -torch.inf).amax(dim=1)
    nearest_negative = distance.masked_fill(same, torch.inf).amin(dim=1)
    difference = farthest_positive - nearest_negative
    loss = functional.softplus(difference) if margin is None else functional.relu(difference + margin)
    return loss.mean()
