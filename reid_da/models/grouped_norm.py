"""Batch normalisation over groups of a batch: one process computes what several GPUs do that split it.

Without synchronisation every GPU normalises its part of a batch with the statistics of that part. Published results
depend on that: the more GPUs share a batch, the noisier the statistics.
"""

from collections.abc import Mapping
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from reid_da.errors import InputError

Network = TypeVar("Network", bound=nn.Module)


class GroupedBatchNorm1d(nn.BatchNorm1d):
    """Batch normalisation of (B, C) features by groups; see :func:`group_batch_norms`."""

    samples = 0

    def forward(self, input: Tensor) -> Tensor:
        """(B, C) normalised features."""
        groups = _groups(self, input)
        return super().forward(input) if groups < 2 else _by_group(self, input, groups)


class GroupedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation of (B, C, H, W) maps by groups; see :func:`group_batch_norms`."""

    samples = 0

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) normalised maps."""
        groups = _groups(self, input)
        return super().forward(input) if groups < 2 else _by_group(self, input, groups)


NormKinds: TypeAlias = Mapping[type[nn.Module], type[GroupedBatchNorm1d] | type[GroupedBatchNorm2d]]
"""Class of a new layer by that of the one whose place it takes."""


def group_batch_norms(network: Network, samples: int) -> Network:
    """The network, whose batch normalisation in training takes ``samples`` images at a time, in their order.

    Names, weights and evaluation stay as they are. The running statistics follow the first group alone, as in
    ``torch.nn.DataParallel``, which keeps the buffers of its first device, and in distributed training, whose first
    process writes the checkpoint. A batch that is no multiple is divided into groups of nearly equal size, none smaller
    than ``samples``; one that is smaller is one group.

    Args:
        network: changed in place.
        samples: images in a group, at least 2; 0: the whole batch.

    Raises:
        InputError: ``samples`` is 1, or the network has batch normalisation of another kind than torch's for features
            and maps.
    """
    if samples == 0:
        return network
    if samples < 2:
        raise InputError(f"samples_per_norm: expected 0 or at least 2, got {samples}")
    kinds: NormKinds = {nn.BatchNorm1d: GroupedBatchNorm1d, nn.BatchNorm2d: GroupedBatchNorm2d}
    for norm in replace_batch_norms(network, kinds, what="samples_per_norm", instead="leave it at 0 or choose another"):
        norm.samples = samples
    return network


def replace_batch_norms(
    network: nn.Module, kinds: NormKinds, *, what: str, instead: str
) -> list[GroupedBatchNorm1d | GroupedBatchNorm2d]:
    """The layers of other classes that have taken the places of a network's batch normalisation.

    Args:
        network: changed in place; names, weights and evaluation stay as they are.
        kinds: class of the new layer by that of the old one.
        what: needs them, for the message.
        instead: of a backbone with layers of another class, for the message.

    Raises:
        InputError: the network has batch normalisation of another class.
    """
    found = []
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _BatchNorm):
                kind = kinds.get(type(child))
                if kind is None:
                    raise InputError(
                        f"{what}: this network has {type(child).__name__} layers, which cannot be normalised so; "
                        f"{instead} backbone"
                    )
                layer = kind(child.num_features, affine=False, eps=child.eps, momentum=child.momentum)
                # the very parameters and buffers, whether trained or frozen, of whichever type
                layer.__dict__.update(child.__dict__)
                setattr(parent, name, layer)
                found.append(layer)
    return found


def _groups(norm: GroupedBatchNorm1d | GroupedBatchNorm2d, values: Tensor) -> int:
    return len(values) // norm.samples if norm.training and norm.samples else 1


def _by_group(norm: GroupedBatchNorm1d | GroupedBatchNorm2d, values: Tensor, groups: int) -> Tensor:
    # one group after another, as several devices do: about as fast as one call on a reshaped batch, which would copy it
    first, *others = values.tensor_split(groups)
    kind = nn.BatchNorm1d if isinstance(norm, nn.BatchNorm1d) else nn.BatchNorm2d
    parts = [kind.forward(norm, first)]
    parts += [functional.batch_norm(part, None, None, norm.weight, norm.bias, True, 0.0, norm.eps) for part in others]
    return torch.cat(parts)
