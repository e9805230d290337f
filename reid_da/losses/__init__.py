"""Losses as functions of tensors, and the thin classes around those that keep something."""

from reid_da.losses.centers import ClassCenters
from reid_da.losses.invariance import InvarianceLoss, fused_invariance_loss, invariance_loss, memory_logits
from reid_da.losses.margin import Margin, margin_logits, sphereface_annealing
from reid_da.losses.margin_head import MarginHead, margin_cross_entropy
from reid_da.losses.metric import (
    angular_triplet_loss,
    batch_hard_triplet_loss,
    center_loss,
    circle_loss,
    contrastive_loss,
    hyperspherical_energy,
    inter_loss,
    intra_loss,
    marginal_loss,
    pairwise_distance,
    range_loss,
    semi_hard_triplet_loss,
)

__all__ = [
    "ClassCenters",
    "InvarianceLoss",
    "Margin",
    "MarginHead",
    "angular_triplet_loss",
    "batch_hard_triplet_loss",
    "center_loss",
    "circle_loss",
    "contrastive_loss",
    "fused_invariance_loss",
    "hyperspherical_energy",
    "inter_loss",
    "intra_loss",
    "invariance_loss",
    "margin_cross_entropy",
    "margin_logits",
    "marginal_loss",
    "memory_logits",
    "pairwise_distance",
    "range_loss",
    "semi_hard_triplet_loss",
    "sphereface_annealing",
]
