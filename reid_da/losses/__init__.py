"""Losses as pure functions of tensors."""

from reid_da.losses.invariance import InvarianceLoss, fused_invariance_loss, invariance_loss, memory_logits
from reid_da.losses.metric import batch_hard_triplet_loss, pairwise_distance

__all__ = [
    "InvarianceLoss",
    "batch_hard_triplet_loss",
    "fused_invariance_loss",
    "invariance_loss",
    "memory_logits",
    "pairwise_distance",
]
