"""Batch normalisation over groups of a batch: so many images, or those of each camera.

So many: one process computes what several GPUs do that split a batch. Without synchronisation every GPU normalises its
part with the statistics of that part. Published results depend on that: the more GPUs share a batch, the noisier the
statistics. By camera: see :mod:`reid_da.models.camera_norm`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from reid_da.errors import InputError

Network = TypeVar("Network", bound=nn.Module)


@dataclass(eq=False)
class PassGroups:
    """Groups of the images of the pass at hand, which the layers of a network share.

    Attributes:
        owner: (b,) int64 group of each image of the own part, on the device; None with one process, where the images of
            a group stand one after another.
        sizes: number of images of each group in the whole batch.
        shares: (G,) float64 share of each group in the images of the whole batch, on the device.
    """

    owner: Tensor | None = None
    sizes: tuple[int, ...] = ()
    shares: Tensor | None = None

    def __deepcopy__(self, memo: dict[int, object]) -> "PassGroups":
        # the layers of a copy share one, and not with those of the original
        return memo.setdefault(id(self), PassGroups())  # type: ignore[return-value]


class GroupedBatchNorm1d(nn.BatchNorm1d):
    """Batch normalisation of (B, C) features by groups; see :func:`group_batch_norms`."""

    samples = 0
    groups: PassGroups | None = None

    def forward(self, input: Tensor) -> Tensor:
        """(B, C) normalised features."""
        sizes = _sizes(self, input)
        return _by_group(self, input, sizes) if sizes else super().forward(input)


class GroupedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation of (B, C, H, W) maps by groups; see :func:`group_batch_norms`."""

    samples = 0
    groups: PassGroups | None = None

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) normalised maps."""
        sizes = _sizes(self, input)
        return _by_group(self, input, sizes) if sizes else super().forward(input)


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


def _sizes(norm: GroupedBatchNorm1d | GroupedBatchNorm2d, values: Tensor) -> tuple[int, ...]:
    """Number of images of each group, one after another; none for what torch does with a whole batch."""
    if not norm.training:
        return ()
    if norm.groups is not None:
        # also of one group: torch keeps the running statistics for the backward pass, and the next pass changes them
        return norm.groups.sizes
    count = len(values) // norm.samples if norm.samples else 1
    return tuple(map(len, torch.empty(len(values)).tensor_split(count))) if count > 1 else ()


def _by_group(norm: GroupedBatchNorm1d | GroupedBatchNorm2d, values: Tensor, sizes: tuple[int, ...]) -> Tensor:
    # one group after another, as several devices do: about as fast as one call on a reshaped batch, which would copy it
    parts = torch.split(values, list(sizes))
    if norm.groups is None:
        kind = nn.BatchNorm1d if isinstance(norm, nn.BatchNorm1d) else nn.BatchNorm2d
        results = [kind.forward(norm, parts[0])]
        results += [_normalized(norm, part, None, None, 0.0) for part in parts[1:]]
        return torch.cat(results)
    of_groups = [(values.new_zeros(norm.num_features), values.new_ones(norm.num_features)) for _ in parts]
    results = [_normalized(norm, part, *of_group, 1.0) for part, of_group in zip(parts, of_groups, strict=True)]
    assert norm.groups.shares is not None
    shares = norm.groups.shares.to(values.dtype)
    mean, variance = (shares @ torch.stack(kinds) for kinds in zip(*of_groups, strict=True))
    keep_running(norm, mean, variance)
    return torch.cat(results)


def _normalized(
    norm: GroupedBatchNorm1d | GroupedBatchNorm2d,
    values: Tensor,
    mean: Tensor | None,
    variance: Tensor | None,
    momentum: float,
) -> Tensor:
    return functional.batch_norm(values, mean, variance, norm.weight, norm.bias, True, momentum, norm.eps)


def keep_running(norm: GroupedBatchNorm1d | GroupedBatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    """Let the running statistics of a layer follow those of a batch.

    Args:
        norm: the layer.
        mean: (C,) of the batch.
        variance: (C,), without bias.
    """
    if not norm.track_running_stats or norm.running_mean is None or norm.running_var is None:
        return
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    momentum = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    with torch.no_grad():
        norm.running_mean.lerp_(mean.to(norm.running_mean), momentum)
        norm.running_var.lerp_(variance.to(norm.running_var), momentum)
