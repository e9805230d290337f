"""Running means of the weights of a network: mean teachers, and generators that are smoother than their last step."""

import copy
from typing import TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def copy_for_mean(network: Network) -> Network:
    """A copy of the network that no gradient reaches, for :func:`follow` to move."""
    return copy.deepcopy(network).requires_grad_(False)


@torch.no_grad()
def follow(mean: nn.Module, network: nn.Module, *, keep: float) -> None:
    """Move the parameters of a copy towards those of the network; buffers stay as they are.

    Args:
        mean: the copy.
        network: what it follows.
        keep: share of the mean that stays, from 0 to 1.
    """
    for average, value in zip(mean.parameters(), network.parameters(), strict=True):
        average.lerp_(value, 1 - keep)
