"""Losses by which a network learns from what another one makes of the same images (MMT: Ge et al., ICLR 2020).

All compute in float32 at least, inside autocast too; no gradient reaches the teacher.
"""

import torch
from torch import Tensor
from torch.nn import functional

from reid_da.errors import InputError
from reid_da.losses._unit import wide
from reid_da.losses.metric import pairwise_distance


def soft_cross_entropy(logits: Tensor, teacher: Tensor) -> Tensor:
    """() mean of ``-sum_c softmax(teacher)_c log softmax(logits)_c`` over the batch; equation 5 of the paper.

    Args:
        logits: (B, C) of the network that learns.
        teacher: (B, C) of the other one.
    """
    return functional.cross_entropy(wide(logits), wide(teacher).detach().softmax(dim=1))


def soft_triplet_loss(features: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """() mean cross-entropy of the hardest triplets' softmax over the distances to negative and positive; equation 8.

    The farthest positive and the nearest negative are those of ``features``; with their distances d in either network,
    ``p = exp(d_an) / (exp(d_ap) + exp(d_an))``, and the teacher's p is the target. A target of 1 gives the batch-hard
    triplet loss with a soft margin. As in the authors' code (yxgeee/MMT@057e1ea) distances are Euclidean, and an anchor
    whose class has no other image is its own positive.

    Args:
        features: (B, D) of the network that learns, of any length.
        teacher: (B, E) of the other one.
        labels: (B,) int64 classes, at least two different ones.

    Raises:
        InputError: all images are of one class, so there are no negatives.
    """
    distance, expected = pairwise_distance(features), pairwise_distance(teacher.detach())
    same = labels[:, None] == labels[None, :]
    if bool(same.all()):
        raise InputError("a triplet loss needs images of at least two identities in a batch")
    positive = distance.masked_fill(~same, -torch.inf).argmax(dim=1, keepdim=True)
    negative = distance.masked_fill(same, torch.inf).argmin(dim=1, keepdim=True)
    margin = (distance.gather(1, negative) - distance.gather(1, positive)).squeeze(1)
    target = (expected.gather(1, negative) - expected.gather(1, positive)).squeeze(1).sigmoid()
    return functional.binary_cross_entropy_with_logits(margin, target)
