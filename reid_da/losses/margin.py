"""Margins of softmax losses: one function for the whole family.

A classifier without bias whose rows, like the features, have unit length gives the cosines of the angles between them.
The target logit is ``cos(m1 * theta + m2) - m3``, all others ``cos(theta)``, and cross-entropy is taken on the logits
times a scale:

| loss | m1, m2, m3 | source |
|---|---|---|
| norm-softmax (NormFace) | 1, 0, 0 | Wang et al., ACM MM 2017 |
| SphereFace (A-Softmax) | 4, 0, 0, annealed, the length of the features as the scale | Liu et al., CVPR 2017 |
| CosFace (AM-Softmax) | 1, 0, 0.35 | Wang et al., CVPR 2018 |
| ArcFace | 1, 0.5, 0 | Deng et al., CVPR 2019 |
| combined | 1, 0.3, 0.2 | the same |
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from reid_da.errors import InputError, unknown_name
from reid_da.losses._unit import wide

Beyond = Literal["hard", "easy", "none"]
"""What the target logit is where ``m1 * theta + m2`` passes pi, beyond which the cosine would rise again."""
NO_CLASS = -1
"""Label of a sample that has no class among the rows: it gets no margin, and has no part in a loss."""


def margin_logits(
    cosine: Tensor,
    label: Tensor,
    *,
    m1: float = 1.0,
    m2: float = 0.0,
    m3: float = 0.0,
    beyond: Beyond = "hard",
    straight_through: bool = False,
) -> Tensor:
    """(B, C) cosines with ``cos(m1 * theta + m2) - m3`` in the place of each target's.

    Computed in float32 at least, inside autocast too. The gradient is that of the formula; where it is infinite or not
    defined, at cosines of +-1 with an angular margin, it is that of the nearest cosine within ``1 - eps`` of the dtype.

    Args:
        cosine: (B, C) float; rounding may have carried it a little beyond +-1.
        label: (B,) int64 target class, or -1 for none.
        m1: multiplies the angle.
        m2: added to the angle, in radians.
        m3: subtracted from the cosine.
        beyond: ``hard`` keeps the target logit falling with the angle: for m1 = 1 it is the published
            ``cos(theta) - m2 sin(m2)``, else the steps ``(-1)^k cos(phi) - 2k`` of SphereFace for phi in k pi to
            (k + 1) pi. ``easy`` applies the margin only where the cosine is positive. ``none`` lets it rise again.
        straight_through: let the gradient of the target logit with respect to its cosine be 1, as a widely used
            implementation of ArcFace does that computes the margin outside of the graph.

    Raises:
        InputError: an unknown ``beyond``.
    """
    return Margin(m1=m1, m2=m2, m3=m3, beyond=beyond, straight_through=straight_through).logits(cosine, label)


def sphereface_annealing(
    step: int, *, base: float = 1000.0, gamma: float = 0.12, power: float = 1.0, minimum: float = 5.0
) -> float:
    """Weight of the plain cosine beside the margin's, ``max(minimum, base * (1 + gamma * step)^(-power))``.

    Args:
        step: number of the training step, from 1: the authors' code counts before it takes the weight.
        base: weight before the first step.
        gamma: how fast it falls.
        power: in what shape.
        minimum: least weight; with 0 training with m1 = 4 diverges.
    """
    return max(minimum, base / math.pow(1 + gamma * step, power))


@dataclass(frozen=True, kw_only=True)
class Margin:
    """A member of the family.

    Attributes:
        m1: multiplies the angle.
        m2: added to the angle, in radians.
        m3: subtracted from the cosine.
        scale: of all logits; None for the length of each feature, as in SphereFace.
        annealed: mix the target logit with the plain cosine, by :func:`sphereface_annealing`.
        beyond: see :func:`margin_logits`.
        straight_through: see :func:`margin_logits`.
    """

    m1: float = 1.0
    m2: float = 0.0
    m3: float = 0.0
    scale: float | None = 64.0
    annealed: bool = False
    beyond: Beyond = "hard"
    straight_through: bool = False

    def __post_init__(self) -> None:
        if self.m1 <= 0 or self.m2 < 0 or self.m2 >= math.pi or self.m3 < 0:
            raise InputError(
                f"margin: expected m1 > 0, 0 <= m2 < pi (radians) and m3 >= 0, got {self.m1}, {self.m2}, {self.m3}"
            )
        if self.scale is not None and self.scale <= 0:
            raise InputError(f"scale: expected a number above 0, got {self.scale}")
        if self.beyond not in get_args(Beyond):
            raise unknown_name("beyond", self.beyond, get_args(Beyond))

    def target(self, cosine: Tensor, *, step: int = 1) -> Tensor:
        """Target logits, before they are scaled, of the cosines between features and the centres of their classes.

        Args:
            cosine: float32 or float64 of any shape.
            step: number of the training step, from 1, for the annealing.
        """
        target = cosine
        if (self.m1, self.m2) != (1.0, 0.0):
            target = _AngularMargin.apply(cosine, self.m1, self.m2, self.beyond, self.straight_through)
        target = target - self.m3
        if self.annealed:
            weight = sphereface_annealing(step)
            target = (weight * cosine + target) / (1 + weight)
        return target

    def logits(self, cosine: Tensor, label: Tensor, *, step: int = 1) -> Tensor:
        """(B, C) cosines, not scaled, with :meth:`target` in the place of each target's; in float32 at least.

        Args:
            cosine: (B, C) float.
            label: (B,) int64 target class, or -1 for none.
            step: number of the training step, from 1.
        """
        cosine = wide(cosine)
        # without a list of the rows that have one, for which a GPU would have to be waited for
        has_target, column = (label != NO_CLASS)[:, None], label.clamp_min(0)[:, None]
        target = cosine.gather(1, column)
        return cosine.scatter(1, column, torch.where(has_target, self.target(target, step=step), target))


MARGINS: dict[str, Margin] = {
    "norm_softmax": Margin(),
    "sphereface": Margin(m1=4.0, scale=None, annealed=True),
    "cosface": Margin(m3=0.35),
    "arcface": Margin(m2=0.5),
    "combined": Margin(m2=0.3, m3=0.2),
}
"""The family with the published margins and, but for SphereFace, the scale of 64 of face recognition."""


class _AngularMargin(torch.autograd.Function):
    """``cos(m1 * theta + m2)`` of a cosine, continued beyond pi, with a gradient that is finite everywhere.

    Autograd's own way would go through arccos or a square root, whose derivatives are infinite at +-1 and give NaN
    wherever they meet a factor of 0.
    """

    @staticmethod
    def forward(ctx: Any, cosine: Tensor, m1: float, m2: float, beyond: Beyond, straight_through: bool) -> Tensor:
        eps = torch.finfo(cosine.dtype).eps
        cosine = cosine.clamp(-1, 1)
        phi = m1 * _angle(cosine) + m2
        # for the slope, away from +-1, where it is 0 / 0 or infinite
        inner = _angle(cosine.clamp(-1 + eps, 1 - eps))
        inner_phi = m1 * inner + m2
        value, slope = phi.cos(), m1 * inner_phi.sin() / inner.sin()
        if beyond == "easy":
            use = cosine > 0
            value, slope = torch.where(use, value, cosine), torch.where(use, slope, 1.0)
        elif beyond == "hard" and m1 == 1:
            use = phi <= math.pi
            value, slope = torch.where(use, value, cosine - m2 * math.sin(m2)), torch.where(use, slope, 1.0)
        elif beyond == "hard":
            half_turns = (phi / math.pi).floor()
            value, slope = _sign(half_turns) * value - 2 * half_turns, _sign((inner_phi / math.pi).floor()) * slope
        ctx.save_for_backward(torch.ones_like(slope) if straight_through else slope)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        (slope,) = ctx.saved_tensors
        return grad * slope, None, None, None, None


def _angle(cosine: Tensor) -> Tensor:
    """Angle in 0 to pi. arccos loses half of the digits near +-1, the direction of the point (cos, sin) does not."""
    return torch.atan2(((1 - cosine) * (1 + cosine)).sqrt(), cosine)


def _sign(half_turns: Tensor) -> Tensor:
    """(-1)^k."""
    return 1 - 2 * half_turns.remainder(2)
