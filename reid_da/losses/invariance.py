"""Exemplar, camera and neighbourhood invariance: a softmax over the slots of an exemplar memory.

After Zhong et al., "Invariance Matters: Exemplar Memory for Domain Adaptive Person Re-identification", CVPR 2019
(arXiv 1904.01990v1) and the authors' code. Every target image is a class of its own, and the memory holds one
prototype per class. With p(j|x) the softmax over the slots of the inner products divided by the temperature,

- exemplar invariance is -log p(i|x) for image x of slot i,
- camera invariance is the same for a view of that image in the style of another camera,
- neighbourhood invariance adds -(1/k) log p(j|x) for the k slots j nearest to x.

A slot that has not been written yet is zero. It has a logit of 0 and its share of the softmax, as in the authors' code,
but it is nobody's neighbour (see :class:`reid_da.memory.neighbors.NeighborIndex`).

The losses know nothing of how the memory is kept; it receives no gradient.
"""

from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from reid_da.errors import unknown_name
from reid_da.features import working_dtype
from reid_da.nearest import (
    DEFAULT_CHUNK_SIZE,
    NO_NEIGHBOR,
    RunningNeighbors,
    empty_in_block,
    empty_slots,
    similarity_blocks,
)
from reid_da.shards import Shard

OwnSlot = Literal["overwrite", "exclude"]
NeighborShare = Literal["asked", "found"]
"""What the weight of a neighbour is a share of: of the K that were asked for, or of those that there are."""


class InvarianceLoss(NamedTuple):
    """Loss of a batch by sample and term.

    Attributes:
        exemplar: (B,) -log p(i|x), exemplar invariance for a real image, camera invariance for a styled one.
        neighborhood: (B,) the share of the neighbours, zeros without any.
        neighbors: (B, K) int64, the slots that were taken as neighbours, -1 where there are too few.
    """

    exemplar: Tensor
    neighborhood: Tensor
    neighbors: Tensor

    @property
    def total(self) -> Tensor:
        """Both terms together, the mean over the batch."""
        return (self.exemplar + self.neighborhood).mean()


def memory_logits(features: Tensor, memory: Tensor, *, temperature: float) -> Tensor:
    """Logits of the softmax over the memory slots, (B, M), in float32 even inside autocast.

    Args:
        features: (B, D) float, of unit length as a rule (the authors apply dropout after the normalisation).
        memory: (M, D) float, one slot per target image.
        temperature: beta, divides the inner products; 0.05 in the paper.
    """
    dtype = working_dtype(features, memory)
    with torch.autocast(features.device.type, enabled=False):
        # dividing the features is dividing the logits, M / D times cheaper
        return (features.to(dtype) / temperature) @ memory.to(dtype).T


def invariance_loss(
    logits: Tensor,
    index: Tensor,
    *,
    neighbors: Tensor | None = None,
    normalize: bool = False,
    share: NeighborShare = "asked",
) -> InvarianceLoss:
    """Invariance loss by sample and term, -sum_j w_j log p(j|x) in all.

    The own slot i has weight w_i = 1 and each of the K neighbours w_j = 1/K. As in the authors' code the own slot
    may be among the neighbours and then keeps its weight of 1, so that the weights sum to 2 without it and to
    2 - 1/K with it, not to 1. Choose neighbours with :func:`reid_da.nearest.top_neighbors`, with
    ``exclude=index`` for K neighbours besides the own slot. Without neighbours it is plain cross-entropy.

    Args:
        logits: (B, M) float, from :func:`memory_logits`.
        index: (B,) int64, slot of each sample.
        neighbors: (B, K) int64, slots near to each sample, -1 where there are fewer than K; None for exemplar and
            camera invariance alone.
        normalize: divide the weights of a sample by their sum (not in the paper).
        share: ``asked`` gives each neighbour 1/K even where there are fewer than K; ``found`` lets the weights of the
            neighbours that there are, without the own slot, sum to 1.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    neighbors = _no_neighbors(index) if neighbors is None else neighbors
    cost = logits.logsumexp(dim=1, keepdim=True) - logits.gather(1, _targets(index, neighbors))
    return _weigh(cost, index, neighbors, normalize=normalize, share=share)


def fused_invariance_loss(
    features: Tensor,
    memory: Tensor,
    index: Tensor,
    *,
    temperature: float,
    num_neighbors: int = 0,
    neighbors: Tensor | None = None,
    own_slot: OwnSlot = "overwrite",
    normalize: bool = False,
    share: NeighborShare = "asked",
    chunk_size: int = DEFAULT_CHUNK_SIZE,
    shard: Shard | None = None,
) -> InvarianceLoss:
    """The same as :func:`invariance_loss` on :func:`memory_logits`, without ever holding all (B, M) logits.

    One pass over the memory finds the neighbours, the softmax and its gradient, so that a step costs the two
    matrix products of the plain way and (B, chunk_size) floats, whatever the number of slots.

    Several processes may hold the slots together. Each computes its share of the softmax, of the neighbours and of the
    gradient; maxima, sums and lists of neighbours are exchanged, which takes bytes by B, D and K, not by M. The loss is
    the same in all of them, and their gradients add up to that of the features.

    Args:
        features: (B, D) float, the same in all processes.
        memory: (M, D) float or bfloat16, one slot per target image, or the (m, D) own ones; widened to float32 block by
            block.
        index: (B,) int64, slot of each sample.
        temperature: beta, divides the inner products; 0.05 in the paper.
        num_neighbors: K, slots to take as neighbours; 6 in the paper.
        neighbors: (B, K) int64, neighbours found elsewhere, in place of ``num_neighbors``.
        own_slot: ``overwrite`` looks for neighbours among all slots and gives the own slot, if it is one, the
            weight 1 (authors' code); ``exclude`` looks among the other slots.
        normalize: divide the weights of a sample by their sum (not in the paper).
        share: as in :func:`invariance_loss`.
        chunk_size: slots per block.
        shard: which slots ``memory`` has, where several processes hold them; None for all.

    Raises:
        InputError: an unknown ``own_slot``, or more neighbours than slots.
        ValueError: the memory wants a gradient, which this function does not compute, or both ``neighbors`` and
            ``num_neighbors`` are given.
    """
    if memory.requires_grad:
        raise ValueError("the memory must not require a gradient: it is updated explicitly")
    if neighbors is not None and num_neighbors:
        raise ValueError("give either neighbors or num_neighbors, not both")
    if own_slot not in get_args(OwnSlot):
        raise unknown_name("own_slot", own_slot, get_args(OwnSlot))
    exclude = index if num_neighbors and own_slot == "exclude" else None
    with torch.autocast(features.device.type, enabled=False):
        shard = Shard(len(memory)) if shard is None else shard
        scaled = features.to(working_dtype(features, memory)) / temperature
        log_sum, found = _MemorySoftmax.apply(scaled, memory, num_neighbors, exclude, chunk_size, shard)
        neighbors = found if neighbors is None else neighbors
        logits = _logits_of(scaled, memory, _targets(index, neighbors), shard)
        return _weigh(log_sum - logits, index, neighbors, normalize=normalize, share=share)


class _MemorySoftmax(torch.autograd.Function):
    """Log-sum-exp (B, 1) over all slots, and the highest slots, from one pass over blocks of the memory.

    The gradient of the log-sum-exp is the mean of the slots under the softmax. The pass accumulates it beside the
    sum, both relative to the highest logit so far, so that the backward pass has nothing left to compute.
    Softmax sums and means relative to a maximum can be merged across any split of the slots.
    """

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        memory: Tensor,
        num_neighbors: int,
        exclude: Tensor | None,
        chunk_size: int,
        shard: Shard,
    ) -> tuple[Tensor, Tensor]:
        nearest = RunningNeighbors(num_neighbors, exclude=exclude, shard=shard)
        peak = features.new_full((len(features), 1), -torch.inf)
        total = torch.zeros_like(peak)
        mean = torch.zeros_like(features)
        for rows, logits in similarity_blocks(features, memory, chunk_size=chunk_size):
            nearest.add(logits, empty=empty_in_block(rows, logits) if num_neighbors else None)
            previous, peak = peak, torch.maximum(peak, logits.amax(dim=1, keepdim=True))
            weights = logits.sub_(peak).exp_()
            shrink = (previous - peak).exp()
            total = total * shrink + weights.sum(dim=1, keepdim=True)
            if ctx.needs_input_grad[0]:
                mean.mul_(shrink).addmm_(weights, rows)
        if not shard.is_whole:
            if not len(memory):
                nearest.add(features.new_empty(len(features), 0))
            # to the highest logit of all processes; the mean stays the own slots' part of it
            own, peak = peak, shard.world.max(peak)
            shrink = (own - peak).exp()
            mean.mul_(shrink)
            total = shard.world.sum(total * shrink)
        slots = nearest.slots().masked_fill(empty_slots(features)[:, None], NO_NEIGHBOR)
        ctx.save_for_backward(mean.div_(total))
        ctx.world = shard.world
        ctx.mark_non_differentiable(slots)
        return peak + total.log(), slots

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: None) -> tuple[Tensor, None, None, None, None, None]:
        (mean,) = ctx.saved_tensors
        return ctx.world.sum(grad) * mean, None, None, None, None, None


def _logits_of(features: Tensor, memory: Tensor, slots: Tensor, shard: Shard) -> Tensor:
    """(B, K) logits of the slots that are listed for each feature, from the processes that hold them."""
    if shard.is_whole:
        return torch.einsum("bd,bkd->bk", features, memory[slots].to(features.dtype))
    place, is_own = shard.find(slots)
    rows = features.new_zeros(*slots.shape, features.shape[1])
    rows[is_own] = memory[place[is_own]].to(features.dtype)
    return shard.world.sum(torch.einsum("bd,bkd->bk", features, rows))


def _no_neighbors(index: Tensor) -> Tensor:
    return index.new_empty((len(index), 0))


def _targets(index: Tensor, neighbors: Tensor) -> Tensor:
    """Slots whose logits count, (B, K + 1): the own one, then the neighbours; the own one for a missing neighbour."""
    own = index[:, None]
    return torch.cat([own, torch.where(neighbors < 0, own, neighbors)], dim=1)


def _weigh(cost: Tensor, index: Tensor, neighbors: Tensor, *, normalize: bool, share: NeighborShare) -> InvarianceLoss:
    """Terms from ``cost`` (B, K + 1), minus the log probability of each of the :func:`_targets`."""
    # a neighbour that is the own slot has its weight of 1 in the exemplar term already
    counts = (neighbors != index[:, None]) & (neighbors >= 0)
    whole = counts.sum(dim=1, keepdim=True).clamp(min=1) if share == "found" else max(neighbors.shape[1], 1)
    weights = counts.to(cost.dtype) / whole
    exemplar = cost[:, 0]
    neighborhood = (weights * cost[:, 1:]).sum(dim=1)
    if normalize:
        total = 1 + weights.sum(dim=1)
        exemplar, neighborhood = exemplar / total, neighborhood / total
    return InvarianceLoss(exemplar, neighborhood, neighbors)
