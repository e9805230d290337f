"""Softmax over many unit class centres, block by block, with one (B, C) buffer and no copy of the centres.

A margin changes one logit of a sample, that of its own class. So the own class is kept apart: here are the log-sum-exp
over all *other* classes and the own centres, and whatever happens to the target logit is arithmetic on B numbers. The
centres of a block are in the processor's cache while their lengths are taken and their products computed; so they are
in the backward pass, which looks at them again for the gradient of the division by the length.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from reid_da.losses._unit import SHORTEST, inverse_length
from reid_da.seeds import derived_seed
from reid_da.shards import Shard

CHUNK_SIZES = {"cpu": 4096, "cuda": 65536}
"""Classes of a block: their centres fit into a processor's cache; a GPU wants fewer and larger blocks."""
_DRAWN = 2**16
"""Classes whose random numbers have one seed, however many processes share them."""
_SHORTEST_BENT = 1e-18
"""The division by its length does not turn the gradient of a row that is shorter than this; its square is a number."""


class OtherClasses(NamedTuple):
    """What the logits of a batch say about the classes that are not the own ones; of the own rows of the centres.

    Attributes:
        log_sum: (B,) log-sum-exp over the products with the unit centres of other classes, -inf without any.
        centers: (B, D) unit centre of the own class; zeros where it is not among the rows.
        total: (B,) sum of the products with all unit centres, or None.
    """

    log_sum: Tensor
    centers: Tensor
    total: Tensor | None


def other_classes(
    rows: Tensor,
    weight: Tensor,
    place: Tensor,
    *,
    sampled: Tensor | None = None,
    with_total: bool = False,
    chunk_size: int | None = None,
) -> OtherClasses:
    """Softmax over the classes but the own one, differentiable by ``rows`` and ``weight``.

    The forward pass costs one matrix product, the backward pass two, and it may run more than once. Beside the (B, C)
    buffer, which is kept between them, and the gradients there is nothing larger than a block.

    Args:
        rows: (B, D) float features times the scale.
        weight: (C, D) centres of that dtype and of any length; see :func:`reid_da.losses._unit.inverse_length`.
        place: (B,) int64 row of the own class, -1 if it is not among the rows.
        sampled: (S,) int64 ascending rows that take part; None for all. Others get a gradient of 0. The own centres are
            looked up among all.
        with_total: also give the sum of the products.
        chunk_size: classes of a block.
    """
    chunk_size = chunk_size or CHUNK_SIZES.get(rows.device.type, CHUNK_SIZES["cuda"])
    with torch.autocast(rows.device.type, enabled=False):
        log_sum, centers, total = _OtherClasses.apply(rows, weight, place, sampled, with_total, chunk_size)
    return OtherClasses(log_sum, centers, total if with_total else None)


@torch.no_grad()
def sampled_classes(label: Tensor, shard: Shard, *, rate: float, seed: int, step: int) -> Tensor | None:
    """Ascending own rows of the classes of a batch and of randomly drawn others; None for all, where ``rate`` is 1.

    Each class is drawn with the probability ``rate``, independently of the others. The draw depends on the seed, the
    step and the number of the class alone, so that several processes together draw what one would draw. The code of
    Partial FC (An et al., CVPR 2022, arXiv 2203.15565) takes a fixed number in each process, positives included.

    Args:
        label: (B,) int64 classes of the global batch, -1 for none.
        shard: which classes the own rows are.
        rate: share of the classes, above 0 and at most 1.
        seed: of the run.
        step: of the training.
    """
    if rate == 1:
        return None
    own = shard.rows
    first = own.start // _DRAWN
    blocks = []
    for block in range(first, -(-own.stop // _DRAWN)):
        generator = torch.Generator().manual_seed(derived_seed(seed, "classes", step, block))
        blocks.append(torch.rand(_DRAWN, generator=generator) < rate)
    start = own.start - first * _DRAWN
    taken = torch.cat([torch.empty(0, dtype=torch.bool), *blocks])[start : start + len(shard)].to(label.device)
    place, is_own = shard.find(label)
    taken[place[is_own]] = True
    return taken.nonzero().squeeze(1)


class _OtherClasses(torch.autograd.Function):
    """See :func:`other_classes`. Exponentials are relative to the highest logit of their block and sample."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor,
        place: Tensor,
        sampled: Tensor | None,
        with_total: bool,
        chunk_size: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        column = place if sampled is None else _column(place, sampled)
        lowest = torch.finfo(rows.dtype).min
        total = torch.zeros_like(rows[:, 0])
        blocks, peaks, sums = [], [total.new_full(total.shape, lowest)], [total]
        for span in _spans(weight, sampled, chunk_size):
            centers = _centers(weight, sampled, span)
            products = rows @ centers.T
            products *= inverse_length(centers).T
            if with_total:
                total = total + products.sum(dim=1)
            # -inf in the column of the own class, without a list of the rows that have one, for which a GPU would wait
            is_here = ((column >= span.start) & (column < span.stop))[:, None]
            here = (column - span.start).clamp(0, products.shape[1] - 1)[:, None]
            products.scatter_(1, here, torch.where(is_here, -torch.inf, products.gather(1, here)))
            peak = products.amax(dim=1).clamp_min_(lowest)
            products.sub_(peak[:, None]).exp_()
            blocks.append(products)
            peaks.append(peak)
            sums.append(products.sum(dim=1))
        peak = torch.stack(peaks)
        log_sum = torch.logsumexp(peak + torch.stack(sums).log(), dim=0)
        own = _own(weight, place)
        ctx.sampled, ctx.chunk_size = sampled, chunk_size
        ctx.save_for_backward(rows, weight, place, peak[1:], log_sum, *blocks)
        ctx.set_materialize_grads(False)
        if not with_total:
            ctx.mark_non_differentiable(total)
        return log_sum, own * inverse_length(own), total

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_log_sum: Tensor | None, grad_own: Tensor | None, grad_total: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        rows, weight, place, peak, log_sum, *blocks = ctx.saved_tensors
        sampled = ctx.sampled
        of_rows = torch.zeros_like(rows) if ctx.needs_input_grad[0] else None
        of_weight = None
        if ctx.needs_input_grad[1]:
            of_weight = torch.empty_like(weight) if sampled is None else torch.zeros_like(weight)
        grad_log_sum = torch.zeros_like(log_sum) if grad_log_sum is None else grad_log_sum
        factors = (peak - log_sum.clamp_min(torch.finfo(rows.dtype).min)).exp_() * grad_log_sum
        with torch.autocast(rows.device.type, enabled=False):
            for span, block, factor in zip(_spans(weight, sampled, ctx.chunk_size), blocks, factors, strict=True):
                centers = _centers(weight, sampled, span)
                products = block * factor[:, None]
                if grad_total is not None:
                    products += grad_total[:, None]
                products *= inverse_length(centers).T
                if of_rows is not None:
                    of_rows.addmm_(products, centers)
                if of_weight is None:
                    continue
                if sampled is None:
                    _turn(torch.mm(products.T, rows, out=of_weight[span]), centers)
                else:
                    of_weight[sampled[span]] = _turn(products.T @ rows, centers)
            if of_weight is not None and grad_own is not None and len(weight):
                own = _own(weight, place)
                # rows of zeros, where the class is not here, have no gradient
                of_weight.index_add_(0, place.clamp_min(0), _turn(grad_own * inverse_length(own), own))
        return of_rows, of_weight, None, None, None, None


def _spans(weight: Tensor, sampled: Tensor | None, chunk_size: int) -> list[slice]:
    count = len(weight if sampled is None else sampled)
    return [slice(start, min(start + chunk_size, count)) for start in range(0, count, chunk_size)]


def _centers(weight: Tensor, sampled: Tensor | None, span: slice) -> Tensor:
    return weight[span] if sampled is None else weight[sampled[span]]


def _column(place: Tensor, sampled: Tensor) -> Tensor:
    """Where rows are among those that are sampled, -1 for those that are not."""
    if not len(sampled):
        return torch.full_like(place, -1)
    column = torch.searchsorted(sampled, place).clamp_max_(len(sampled) - 1)
    return torch.where(sampled[column] == place, column, -1)


def _own(weight: Tensor, place: Tensor) -> Tensor:
    """(B, D) rows of the own classes, zeros where they are not here."""
    if not len(weight):
        return weight.new_zeros(len(place), weight.shape[1])
    return torch.where((place >= 0)[:, None], weight[place.clamp_min(0)], 0)


def _turn(grad: Tensor, rows: Tensor) -> Tensor:
    """The gradient of rows, in place, from that of their unit rows times the inverse lengths.

    For a row w of length r that is multiplied by f(r), and a gradient g of the product, it is
    ``f g + f'(r) / r (g w) w``. The first term is given; the second one is ``f'(r) / (f(r) r)`` times the product of
    the first with w, times w.
    """
    length = torch.linalg.vector_norm(rows, dim=1)
    share = (length / SHORTEST).clamp_max(1)
    bend = (3 - 4 * share) / ((3 - 2 * share) * length.clamp_min(_SHORTEST_BENT).square())
    along = (grad * rows).sum(dim=1)
    return grad.addcmul_(rows, torch.where(length > _SHORTEST_BENT, bend * along, 0)[:, None])
