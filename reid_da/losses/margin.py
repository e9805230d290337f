"""Margin-based softmax losses: one function for the whole family, and a classification head around it.

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
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from reid_da.errors import InputError, unknown_name
from reid_da.losses._unit import inverse_length, unit_rows

Beyond = Literal["hard", "easy", "none"]
"""What the target logit is where ``m1 * theta + m2`` passes pi, beyond which the cosine would rise again."""
CenterInit = Literal["normal", "xavier"]
"""Random class centres: normal with a deviation of 0.01, or of ``sqrt(2 / (D + C))``."""
NO_CLASS = -1
"""Label of a sample whose class is not among the rows, e.g. because another process holds it: it gets no margin."""


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
    if beyond not in get_args(Beyond):
        raise unknown_name("beyond", beyond, get_args(Beyond))
    cosine = cosine.to(torch.promote_types(cosine.dtype, torch.float32))
    if (m1, m2) == (1.0, 0.0):
        return _with_targets(cosine, label, lambda target: target - m3)
    return _with_targets(
        cosine, label, lambda target: _AngularMargin.apply(target, m1, m2, beyond, straight_through) - m3
    )


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


MARGINS: dict[str, Margin] = {
    "norm_softmax": Margin(),
    "sphereface": Margin(m1=4.0, scale=None, annealed=True),
    "cosface": Margin(m3=0.35),
    "arcface": Margin(m2=0.5),
    "combined": Margin(m2=0.3, m3=0.2),
}
"""The family with the published margins and, but for SphereFace, the scale of 64 of face recognition."""


class MarginHead(nn.Module):
    """Class centres of unit length, and logits with a margin.

    Several processes may hold shards of the classes: each has a head of its own rows and gives -1 as the label of
    samples whose class another one holds.

    Attributes:
        weight: (C, D) centres; their length does not matter for the logits, but the longer they are, the less a step of
            given length turns them.
        margin: which member of the family.
        steps: () int64, training steps done, for the annealing; see :meth:`count_step`.
    """

    steps: Tensor

    def __init__(
        self,
        dim: int,
        num_classes: int,
        *,
        margin: Margin,
        init: CenterInit = "normal",
        generator: torch.Generator | None = None,
    ) -> None:
        """Draw the centres.

        Args:
            dim: D, length of a feature.
            num_classes: C.
            margin: which member of the family.
            init: how they begin.
            generator: source of the initial centres, torch's own if None.
        """
        super().__init__()
        self.margin = margin
        self.weight = nn.Parameter(torch.empty(num_classes, dim))
        deviation = 0.01 if init == "normal" else math.sqrt(2 / (dim + num_classes))
        nn.init.normal_(self.weight, std=deviation, generator=generator)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, features: Tensor, label: Tensor | None = None) -> Tensor:
        """(B, C) scaled logits in float32 at least: with the margin, or plain cosines without labels.

        A feature or centre of length zero has no angles: its cosines are 0, and so is its gradient; see
        :func:`reid_da.losses._unit.inverse_length`.

        Args:
            features: (B, D) float, of any length.
            label: (B,) int64 target class, or -1 for none.
        """
        dtype = torch.promote_types(features.dtype, torch.float32)
        with torch.autocast(features.device.type, enabled=False):
            features = features.to(dtype)
            weight = self.weight.to(dtype)
            # dividing the (B, C) products instead of the (C, D) centres: a copy of those less, and of their gradient
            cosine = unit_rows(features) @ weight.T * inverse_length(weight).T
            scale = features.norm(dim=1, keepdim=True) if self.margin.scale is None else self.margin.scale
            return scale * (cosine if label is None else self._with_margin(cosine, label))

    @torch.no_grad()
    def count_step(self) -> None:
        """Count a training step, for the annealing; once a step, however many batches went through the head."""
        self.steps += 1

    def _with_margin(self, cosine: Tensor, label: Tensor) -> Tensor:
        margin = self.margin
        logits = margin_logits(
            cosine,
            label,
            m1=margin.m1,
            m2=margin.m2,
            m3=margin.m3,
            beyond=margin.beyond,
            straight_through=margin.straight_through,
        )
        if not margin.annealed:
            return logits
        weight = sphereface_annealing(int(self.steps) + 1)
        return (weight * cosine + logits) / (1 + weight)


def _with_targets(cosine: Tensor, label: Tensor, change: Any) -> Tensor:
    """The cosines with those of the targets changed, where there is one."""
    # without a list of the rows that have one, for which a GPU would have to be waited for
    has_target, column = (label != NO_CLASS)[:, None], label.clamp_min(0)[:, None]
    target = cosine.gather(1, column)
    return cosine.scatter(1, column, torch.where(has_target, change(target), target))


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
