"""From settings to an optimiser."""

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
