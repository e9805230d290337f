"""Optimisers, and learning rate schedules as functions of the training progress."""

import math
from typing import Any

import torch

from reid_da.config import OptimizerSettings


def optimizer_of(groups: list[dict[str, Any]], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """The optimiser of groups of parameters that have a name and a learning rate."""
    if settings.kind == "adam":
        return torch.optim.Adam(groups, betas=settings.betas, weight_decay=settings.weight_decay)
    return torch.optim.SGD(
        groups,
        momentum=settings.momentum,
        nesterov=settings.nesterov and settings.momentum > 0,
        weight_decay=settings.weight_decay,
    )


def learning_rate_factor(progress: float, settings: OptimizerSettings, *, epochs: int) -> float:
    """Multiple of the initial learning rate.

    Args:
        progress: epochs done so far, with the fraction of the current one.
        settings: which schedule, and its constants.
        epochs: length of the training.
    """
    if settings.schedule == "one_cycle":
        return _one_cycle(progress / epochs)
    factor = 1.0
    if settings.schedule == "step":
        factor = settings.decay ** sum(int(progress) >= milestone for milestone in settings.milestones)
    elif settings.schedule == "linear":
        factor = min((1 - progress / epochs) / (1 - settings.linear_from), 1.0)
    elif settings.schedule == "cosine":
        begin = settings.warmup_epochs
        factor = _half_cosine(max(progress - begin, 0.0) / max(epochs - begin, 1e-12))
    if progress < settings.warmup_epochs:
        factor *= _warmup(progress, settings)
    return factor


def _warmup(progress: float, settings: OptimizerSettings) -> float:
    """From a hundredth up to 1.

    Luo et al. (CVPR workshops 2019) grow linearly. Their code steps its scheduler before each epoch, the first one
    included, which leaves out the value of the beginning. That of SphereReID multiplies by one factor an epoch.
    """
    if settings.warmup == "steps":
        return 0.01 + 0.99 * progress / settings.warmup_epochs
    if settings.warmup == "epochs":
        return 0.01 + 0.99 * min((int(progress) + 1) / settings.warmup_epochs, 1.0)
    return math.pow(0.01, 1 - int(progress) / settings.warmup_epochs)


def _half_cosine(share: float) -> float:
    """From 1 down to 0 (Loshchilov and Hutter, ICLR 2017)."""
    return 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


def _one_cycle(share: float, *, peak: float = 0.3) -> float:
    """Up from 1/25 to 1 in the first three tenths, then down to 1/25,000, by cosines (Smith and Topin, 2019)."""
    low, end = 1 / 25, 1 / 25_000
    if share < peak:
        return 1 - (1 - low) * _half_cosine(share / peak)
    return end + (1 - end) * _half_cosine((share - peak) / (1 - peak))
