"""Classification with margins: the cross-entropy, and the class centres."""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from reid_da.errors import InputError
from reid_da.losses._unit import inverse_length, unit_rows, wide
from reid_da.losses.margin import NO_CLASS, Margin
from reid_da.losses.margin_softmax import other_classes, sampled_classes
from reid_da.shards import Shard
from reid_da.world import ALONE, World

Reduction = Literal["mean", "none"]
CenterInit = Literal["normal", "xavier"]
"""Random class centres: normal with a deviation of 0.01, or of ``sqrt(2 / (D + C))``."""
_DRAWN = 4096
"""Rows of centres that are drawn at a time; a process throws away those that others hold."""


def margin_cross_entropy(
    features: Tensor,
    weight: Tensor,
    label: Tensor,
    *,
    margin: Margin,
    step: int = 1,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
    shard: Shard | None = None,
    sampled: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of the logits with a margin, at the cost of the bare product and one (B, C) buffer.

    Value and gradients are those of ``cross_entropy(head(features, label), label, ignore_index=-1)`` with a
    :class:`MarginHead`, in float32 at least, inside autocast too.

    Several processes may hold the centres together: each computes its share of the softmax, and maxima and sums of B
    numbers are exchanged. The loss is the same in all of them. The gradients of the features add up to the complete
    one, those of the own centres are complete.

    Args:
        features: (B, D) float, of any length; the same in all processes.
        weight: (C, D) centres, or the own ones of several processes.
        label: (B,) int64 classes, counted over all processes; samples of -1 have no loss and are not averaged over.
        margin: which member of the family.
        step: number of the training step, from 1, for the annealing.
        label_smoothing: share of the target that is spread over all classes that take part.
        reduction: ``mean`` over the samples, or ``none`` for (B,) losses.
        shard: which classes the rows of ``weight`` are, where several processes hold them; None for all.
        sampled: (S,) int64 ascending rows of ``weight`` that take part, those of the batch among them, by
            :func:`reid_da.losses.margin_softmax.sampled_classes`; None for all.

    Raises:
        ValueError: a label is not below the number of classes; only looked at on a CPU.
    """
    shard = Shard(len(weight)) if shard is None else shard
    if label.device.type == "cpu" and len(label) and int(label.max()) >= shard.total:
        raise ValueError(f"label: expected -1 to {shard.total - 1}, got {int(label.max())}")
    world = shard.world
    place, is_own = shard.find(label)
    with torch.autocast(features.device.type, enabled=False):
        features = wide(features)
        units = unit_rows(features)
        scale = features.norm(dim=1) if margin.scale is None else units.new_full((len(units),), margin.scale)
        others, centers, total = other_classes(
            scale[:, None] * units,
            weight.to(features.dtype),
            torch.where(is_own, place, NO_CLASS),
            sampled=sampled,
            with_total=label_smoothing > 0,
        )
        # any number does that all processes share; no class is left but the own one where the sum is 0
        peak = world.max(others).clamp_min(torch.finfo(others.dtype).min)
        sums = [(others - peak).exp(), (units * centers).sum(dim=1), *([] if total is None else [total])]
        mass, cosine, *totals = world.sum(torch.stack(sums))
        others = peak + mass.clamp_min(torch.finfo(mass.dtype).tiny).log()
        target = scale * margin.target(cosine, step=step)
        losses = -functional.logsigmoid(target - others)
        if totals:
            count = shard.total if sampled is None else world.sum(others.new_tensor(float(len(sampled))))
            mean = (totals[0] - scale * cosine + target) / count
            losses = losses + label_smoothing * (target - mean)
        has_class = label != NO_CLASS
        losses = torch.where(has_class, losses, 0)
        return losses if reduction == "none" else losses.sum() / has_class.sum()


class MarginHead(nn.Module):
    """Class centres of unit length, and logits with a margin.

    Several processes may hold the classes together, each the rows of :attr:`shard`. Labels are then counted over all of
    them, logits are those of the own rows, and losses those of all.

    Attributes:
        weight: (C, D) centres, or the own ones; their length does not matter for the logits, but the longer they are,
            the less a step of given length turns them. It has :attr:`shard` as an attribute.
        shard: which of the classes they are.
        margin: which member of the family.
        sample_rate: share of the other classes that a sample is compared with in a step.
        steps: () int64, training steps done, for the annealing and the sampling; see :meth:`count_step`.
    """

    steps: Tensor

    def __init__(
        self,
        dim: int,
        num_classes: int,
        *,
        margin: Margin,
        init: CenterInit = "normal",
        sample_rate: float = 1.0,
        generator: torch.Generator | None = None,
        world: World = ALONE,
    ) -> None:
        """Draw the centres.

        Args:
            dim: D, length of a feature.
            num_classes: C, of all processes together.
            margin: which member of the family.
            init: how they begin.
            sample_rate: of Partial FC (An et al., CVPR 2022), above 0; 1 for the exact loss.
            generator: source of the initial centres, torch's own if None. Several processes draw from equal ones, and
                have the rows that one process would have; all are drawn, no process holds more than its own.
            world: processes that share the classes.

        Raises:
            InputError: a sample rate that is not above 0 and at most 1.
        """
        super().__init__()
        if not 0 < sample_rate <= 1:
            raise InputError(f"sample_rate: expected a share above 0 and at most 1, got {sample_rate}")
        self.margin = margin
        self.sample_rate = sample_rate
        self.shard = Shard(num_classes, world)
        deviation = 0.01 if init == "normal" else math.sqrt(2 / (dim + num_classes))
        self.weight = nn.Parameter(_drawn_rows(self.shard, dim, deviation=deviation, generator=generator))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._mark()

    def forward(self, features: Tensor, label: Tensor | None = None) -> Tensor:
        """(B, C) scaled logits in float32 at least: with the margin, or plain cosines without labels.

        A feature or centre of length zero has no angles: its cosines are 0, and so is its gradient; see
        :func:`reid_da.losses._unit.inverse_length`.

        Args:
            features: (B, D) float, of any length.
            label: (B,) int64 target class, or -1 for none.
        """
        if label is not None and not self.shard.is_whole:
            place, is_own = self.shard.find(label)
            label = torch.where(is_own, place, NO_CLASS)
        with torch.autocast(features.device.type, enabled=False):
            features = wide(features)
            weight = self.weight.to(features.dtype)
            # dividing the (B, C) products instead of the (C, D) centres: a copy of those less, and of their gradient
            cosine = unit_rows(features) @ weight.T * inverse_length(weight).T
            if label is not None:
                cosine = self.margin.logits(cosine, label, step=self._step if self.margin.annealed else 1)
            return cosine * (features.norm(dim=1, keepdim=True) if self.margin.scale is None else self.margin.scale)

    def cross_entropy(
        self,
        features: Tensor,
        label: Tensor,
        *,
        label_smoothing: float = 0.0,
        reduction: Reduction = "mean",
        seed: int = 0,
    ) -> Tensor:
        """Cross-entropy of the logits of all processes; see :func:`margin_cross_entropy`.

        Args:
            features: (B, D) float; of the global batch.
            label: (B,) int64 classes.
            label_smoothing: share of the target that is spread over the classes.
            reduction: ``mean`` or ``none``.
            seed: of the classes that a step samples, where the sample rate is below 1.
        """
        needs_step = self.margin.annealed or self.sample_rate < 1
        step = self._step if needs_step else 1
        return margin_cross_entropy(
            features,
            self.weight,
            label,
            margin=self.margin,
            step=step,
            label_smoothing=label_smoothing,
            reduction=reduction,
            shard=self.shard,
            sampled=sampled_classes(label, self.shard, rate=self.sample_rate, seed=seed, step=step),
        )

    @torch.no_grad()
    def count_step(self) -> None:
        """Count a training step; once a step, however many batches went through the head."""
        self.steps += 1

    @property
    def _step(self) -> int:
        return int(self.steps) + 1

    def __setstate__(self, state: dict[str, Any]) -> None:
        # a copied parameter comes without the attributes of the one before
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._mark()

    def _mark(self) -> None:
        self.weight.shard = self.shard  # type: ignore[attr-defined]


def _drawn_rows(shard: Shard, dim: int, *, deviation: float, generator: torch.Generator | None) -> Tensor:
    """(c, D) own rows of normal random ones, the same ones however many processes share them."""
    rows = torch.empty(len(shard), dim)
    shard.fill(rows, lambda block: block.normal_(std=deviation, generator=generator), block_rows=_DRAWN)
    return rows
