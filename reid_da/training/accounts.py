"""What an epoch came to: its losses, how long it took, and how long the rest will take."""

import math
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from reid_da.errors import InputError

CHECK_EVERY = 10
"""Steps between two looks at the losses; each look waits for the device."""


@dataclass(kw_only=True)
class Pace:
    """How fast a training goes in this process."""

    epoch_seconds: float = 0.0
    step_seconds: float = 0.0
    _first: float = 0.0
    _is_told: bool = False

    def step(self, step: int) -> None:
        """Note the end of a step; the first one is no measure, as it builds what later ones use."""
        if step == 0:
            self._first = time.perf_counter()
        elif not self._is_told:
            self.step_seconds = (time.perf_counter() - self._first) / step

    def is_news(self, step: int, steps: int) -> bool:
        """Whether there is something to tell for the first time: after ten steps, or at the end of a short epoch."""
        if self._is_told or step == 0 or not (step + 1 >= CHECK_EVERY or step + 1 == steps):
            return False
        self._is_told = True
        return True


def spell_time(seconds: float) -> str:
    """A duration in words, to two units: ``2 h 05 min``, ``3 min 20 s``, ``40 s``."""
    whole = max(round(seconds), 0)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


@dataclass(kw_only=True)
class LossRecord:
    """Losses of an epoch, kept on the device until somebody looks.

    Attributes:
        epoch: for messages, from 0.
    """

    epoch: int
    _pending: list[dict[str, Tensor]] = field(default_factory=list)
    _sums: dict[str, float] = field(default_factory=dict)
    _counts: dict[str, int] = field(default_factory=dict)
    _checked: int = 0

    def add(self, losses: dict[str, Tensor]) -> None:
        """Note the losses of one step."""
        self._pending.append(losses)

    def check(self) -> None:
        """Take over the noted losses.

        Raises:
            InputError: one of them is not finite; names the step and the term.
        """
        for losses in self._pending:
            values = torch.stack([loss.float() for loss in losses.values()]).tolist()
            for name, value in zip(losses, values, strict=True):
                if not math.isfinite(value):
                    # before the first update of the weights no rate can be blamed
                    is_first = self.epoch == self._checked == 0
                    advice = (
                        "no weight was updated yet: look at the settings of this loss, such as a temperature, scale "
                        "or margin, and of precision"
                        if is_first
                        else "lower optimizer.lr, or set optimizer.clip_norm"
                    )
                    raise InputError(
                        f"the loss {name} became {value} in step {self._checked + 1} of epoch {self.epoch + 1}; "
                        f"{kept(self.epoch)}; {advice}"
                    )
                self._sums[name] = self._sums.get(name, 0.0) + value
                self._counts[name] = self._counts.get(name, 0) + 1
            self._checked += 1
        self._pending.clear()

    def means(self) -> dict[str, float]:
        """Mean of each loss over the steps looked at so far that had it, as ``loss_NAME``."""
        return {f"loss_{name}": value / self._counts[name] for name, value in self._sums.items()}


def kept(epoch: int) -> str:
    """What there is to go on from when a training stops after ``epoch`` epochs."""
    return "the last checkpoint is kept" if epoch else "there is no checkpoint yet"
