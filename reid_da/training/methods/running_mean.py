"""Running mean of a network's weights over the steps that move them."""

import copy
from typing import TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def copy_for_mean(network: Network) -> Network:
    """A copy of the network that no gradient reaches, for :class:`RunningMean` to move."""
    return copy.deepcopy(network).requires_grad_(False)


class RunningMean:
    """Lets a copy of a network follow it.

    The loop moves the weights after a step, where the method does not see it. The method therefore says in each step
    whether it will move them (:attr:`is_due`), and calls :meth:`update` at the beginning of the next one and at the end
    of an epoch.

    Args:
        mean: the copy, or None for no mean.
        network: what it follows.
        keep: share of the mean that an update keeps, from 0 to 1.

    Attributes:
        is_due: whether the network will have moved when the mean is updated next.
    """

    def __init__(self, mean: nn.Module | None, network: nn.Module, *, keep: float) -> None:
        self.is_due = False
        self._mean = mean
        self._network = network
        self._keep = keep

    @torch.no_grad()
    def update(self) -> None:
        """Take over the network if it has moved since the last update."""
        if self._mean is not None and self.is_due:
            for mean, value in zip(self._mean.parameters(), self._network.parameters(), strict=True):
                mean.lerp_(value, 1 - self._keep)
        self.is_due = False
