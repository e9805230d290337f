"""Batch normalisation over the global batch, of which each process has a part.

``torch.nn.SyncBatchNorm`` does so on GPUs alone, and over whole parts alone. Here the groups of
:mod:`reid_da.models.grouped_norm` may span processes, and the statistics are those of one process with all images.
"""

from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from reid_da.errors import InputError
from reid_da.models.grouped_norm import (
    GroupedBatchNorm1d,
    GroupedBatchNorm2d,
    NormKinds,
    keep_running,
    replace_batch_norms,
)
from reid_da.world import World

Network = TypeVar("Network", bound=nn.Module)


class SharedBatchNorm1d(GroupedBatchNorm1d):
    """Batch normalisation of a part of (B, C) features; see :func:`share_batch_norms`."""

    world = World()

    def forward(self, input: Tensor) -> Tensor:
        """(b, C) normalised features."""
        return _normalized(self, input) if self.training else super().forward(input)


class SharedBatchNorm2d(GroupedBatchNorm2d):
    """Batch normalisation of a part of (B, C, H, W) maps; see :func:`share_batch_norms`."""

    world = World()

    def forward(self, input: Tensor) -> Tensor:
        """(b, C, H, W) normalised maps."""
        return _normalized(self, input) if self.training else super().forward(input)


def share_batch_norms(network: Network, world: World) -> Network:
    """The network, whose batch normalisation in training takes the statistics of the global batch, or of its groups.

    Args:
        network: changed in place; names, weights and evaluation stay as they are.
        world: the processes, each with :meth:`World.part` of a batch.

    Raises:
        InputError: there are several processes, and the network has batch normalisation of another kind than torch's
            for features and maps, or drops values at random.
    """
    if world.size == 1:
        return network
    for name, module in network.named_modules():
        rate = getattr(module, "drop_prob", getattr(module, "p", 0.0))
        if ("Drop" in type(module).__name__ or type(module).__name__ == "StochasticDepth") and rate:
            raise InputError(f"{name}: this network drops values at random, which one process can train alone")
    kinds: NormKinds = {
        nn.BatchNorm1d: SharedBatchNorm1d,
        nn.BatchNorm2d: SharedBatchNorm2d,
        GroupedBatchNorm1d: SharedBatchNorm1d,
        GroupedBatchNorm2d: SharedBatchNorm2d,
    }
    for norm in replace_batch_norms(network, kinds, what="several processes", instead="choose another"):
        assert isinstance(norm, SharedBatchNorm1d | SharedBatchNorm2d)
        norm.world = world
    return network


def _normalized(norm: SharedBatchNorm1d | SharedBatchNorm2d, values: Tensor) -> Tensor:
    owner, groups = _owner(norm, values)
    result: Tensor
    result, mean, variance, count = _SharedNorm.apply(
        values, norm.weight, norm.bias, owner, groups, norm.eps, norm.world
    )
    # the variance without bias, as torch has it
    unbiased = variance * (count / (count - 1).clamp(min=1))
    if norm.groups is not None and norm.groups.shares is not None:
        shares = norm.groups.shares.to(mean)
        keep_running(norm, shares @ mean, shares @ unbiased)
    else:
        # of the first group, as the grouped layers have it
        keep_running(norm, mean[0], unbiased[0])
    return result


def _owner(norm: SharedBatchNorm1d | SharedBatchNorm2d, values: Tensor) -> tuple[Tensor, int]:
    """(b,) int64 group of each image of the own part, and the number of groups."""
    world = norm.world
    if norm.groups is not None and norm.groups.owner is not None:
        return norm.groups.owner, len(norm.groups.sizes)
    if norm.samples:
        sizes = world.sizes(len(values), values.device)
        groups = max(sum(sizes) // norm.samples, 1)
        lengths = torch.tensor([len(part) for part in torch.empty(sum(sizes)).tensor_split(groups)])
        return torch.arange(groups).repeat_interleave(lengths)[world.span(sum(sizes))].to(values.device), groups
    return torch.zeros(len(values), dtype=torch.int64, device=values.device), 1


class _SharedNorm(torch.autograd.Function):
    """Normalise rows by the mean and variance of their group, whose rows may be those of several processes.

    Sums are taken in float64: they are small, and what they cost does not show.
    """

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        owner: Tensor,
        groups: int,
        eps: float,
        world: World,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wide = values.to(torch.promote_types(values.dtype, torch.float32))
        pixels = wide[:1, 0].numel()
        per_row = wide.new_full((len(values), 1), pixels, dtype=torch.float64)
        sums = world.sum(_by_group(torch.cat([_over_pixels(wide), per_row], dim=1), owner, groups))
        count = sums[:, -1:]
        mean = sums[:, :-1] / count
        centered = wide - _to_rows(mean, owner, wide)
        variance = world.sum(_by_group(_over_pixels(centered.square()), owner, groups)) / count
        inverse = (variance + eps).rsqrt()
        normal = centered.mul_(_to_rows(inverse, owner, wide))
        ctx.save_for_backward(normal, weight, inverse, count, owner)
        ctx.groups, ctx.world, ctx.has_bias, ctx.dtype = groups, world, bias is not None, values.dtype
        result = normal if weight is None else normal * _to_channels(weight, wide)
        result = result.clone() if weight is None and bias is None else result
        if bias is not None:
            result = result + _to_channels(bias, wide)
        ctx.mark_non_differentiable(mean, variance, count)
        return result.to(values.dtype).contiguous(memory_format=_format(values)), mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad: Tensor, *_: None
    ) -> tuple[Tensor, Tensor | None, Tensor | None, None, None, None, None]:
        normal, weight, inverse, count, owner = ctx.saved_tensors
        grad = grad.to(normal.dtype)
        sums, products = _over_pixels(grad), _over_pixels(grad * normal)
        of_weight = products.sum(dim=0).to(normal.dtype) if weight is not None else None
        of_bias = sums.sum(dim=0).to(normal.dtype) if ctx.has_bias else None
        both = ctx.world.sum(_by_group(torch.cat([sums, products], dim=1), owner, ctx.groups)) / count
        mean_sum, mean_product = both.chunk(2, dim=1)
        scale = inverse if weight is None else inverse * weight
        result = grad - _to_rows(mean_sum, owner, normal) - normal * _to_rows(mean_product, owner, normal)
        result = result.mul_(_to_rows(scale, owner, normal))
        return result.to(ctx.dtype), of_weight, of_bias, None, None, None, None


def _over_pixels(values: Tensor) -> Tensor:
    """(b, C) float64 sums over whatever follows the channels."""
    return values.double() if values.ndim == 2 else values.flatten(2).sum(dim=2, dtype=torch.float64)


def _by_group(rows: Tensor, owner: Tensor, groups: int) -> Tensor:
    return rows.new_zeros(groups, rows.shape[1]).index_add_(0, owner, rows)


def _to_rows(values: Tensor, owner: Tensor, like: Tensor) -> Tensor:
    """(b, C, 1, ...) of the groups of the rows."""
    rows = values.to(like.dtype)[owner]
    return rows.view(*rows.shape, *(1,) * (like.ndim - 2))


def _to_channels(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.dtype).view(-1, *(1,) * (like.ndim - 2))


def _format(values: Tensor) -> torch.memory_format:
    is_last = values.ndim == 4 and values.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if is_last and not values.is_contiguous() else torch.contiguous_format
