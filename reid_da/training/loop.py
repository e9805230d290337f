"""The training loop: feeds a method its batches, and keeps time, order and accounts."""

import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from reid_da.config import AnySettings, TrainingSettings, dump_settings
from reid_da.errors import InputError
from reid_da.images import Batch
from reid_da.training.checkpoint import Checkpoint
from reid_da.training.events import TensorBoardEvents
from reid_da.training.progress import EpochProgress
from reid_da.training.run_folder import RunFolder
from reid_da.training.schedule import learning_rate_factor
from reid_da.training.seeds import derived_seed

logger = logging.getLogger(__name__)

# Settings that may differ between the two halves of a resumed run: they do not change the numbers of the second
FREE_SETTINGS = ("device", "keep_checkpoints", "name", "init_from", "tensorboard")

CHECK_EVERY = 10
"""Steps between two looks at the losses; each look waits for the device."""


class Method(Protocol):
    """What the loop asks of a training method."""

    @property
    def network(self) -> nn.Module:
        """The network that is trained."""
        ...

    def begin_epoch(self, epoch: int) -> None:
        """Called before the first step of an epoch."""
        ...

    def step(self, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        """Weighted losses by name; their sum is minimised."""
        ...

    def after_backward(self) -> None:
        """Called after the backward pass of each step."""
        ...

    def end_epoch(self) -> dict[str, float]:
        """Figures about the state of the method, for the log."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the network."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        ...


class Batches(Protocol):
    """Where the loop gets its batches from."""

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps of an epoch."""
        ...

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """Fingerprint of each training table."""
        ...

    def epoch(self, epoch: int) -> Iterator[Mapping[str, Batch]]:
        """The batches of one epoch, which depend on the seed and the epoch alone."""
        ...


@dataclass(kw_only=True)
class Trainer:
    """A training run: method, batches and optimiser, on the way from one epoch to the next.

    Every random number of an epoch comes from the seed and the number of the epoch, so that a run which is resumed at
    an epoch gives the numbers of one that was never stopped.

    Attributes:
        settings: of the experiment.
        run: folder that takes metrics and checkpoints.
        method: what a step computes.
        batches: what it computes it from.
        optimizer: of the method's network.
        device: where the network is.
        evaluate: figures of the network, for reporting only; empty if it draws pictures instead.
        title: what of several things is trained, for progress and log; empty if there is only one.
        epoch: epochs done.
    """

    settings: TrainingSettings
    run: RunFolder
    method: Method
    batches: Batches
    optimizer: torch.optim.Optimizer
    device: torch.device
    evaluate: Callable[[], Mapping[str, float]] | None = None
    title: str = ""
    epoch: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        for group in self.optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        half = self.settings.precision.autocast == "float16"
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=half)

    def fit(self) -> None:
        """Train until the last epoch.

        Raises:
            InputError: a loss or a weight is not finite; names the step and the term, or the weight. The last
                checkpoint is kept. Or TensorBoard is asked for and not installed, or another process trains the run.
        """
        with self.run.training():
            self._fit()

    def _fit(self) -> None:
        if self.settings.tensorboard:
            events = TensorBoardEvents(self.run.events_folder, self.run.records(), pictures=self.run.path)
            self.run.listeners.append(events.add)
        while self.epoch < self.settings.epochs:
            figures = self.train_epoch()
            self.epoch += 1
            self.run.log({"kind": "train", "epoch": self.epoch, **figures})
            self._report(figures)
            if self.evaluate is not None and self._evaluation_is_due():
                result = self.evaluate()
                if result:
                    self.run.log({"kind": "evaluation", "epoch": self.epoch, **result})
                    logger.info("epoch %d: mAP %.1f %%, rank-1 %.1f %%", self.epoch, *_percent(result, "mAP", "rank1"))
            self.run.save(self.epoch, self._checkpoint(), keep=self.settings.keep_checkpoints)

    def resume(self, checkpoint: Checkpoint | None) -> None:
        """Go on from a checkpoint of the same run, or from the beginning if there is none yet.

        Raises:
            InputError: the checkpoint was made with other settings or other data, or another process trains the run.
        """
        with self.run.training():
            self.run.forget_metrics_after(checkpoint)
        if checkpoint is None:
            return
        noted = checkpoint.description
        if noted.get("settings") != settings_digest(self.settings):
            raise InputError(
                f"{self.run.path}: the checkpoint was made with other settings than config.yaml; undo the change"
            )
        for name, fingerprint in self.batches.fingerprints.items():
            if noted["fingerprints"].get(name) != fingerprint:
                raise InputError(f"{self.run.path}: the {name} images are not those that the checkpoint was made with")
        self.method.network.load_state_dict(dict(checkpoint.weights))
        self.method.load_state_dict(checkpoint.state["method"])
        self.optimizer.load_state_dict(checkpoint.state["optimizer"])
        self._scaler.load_state_dict(checkpoint.state["scaler"])
        self.epoch = int(noted["epoch"])

    def train_epoch(self) -> dict[str, float]:
        """Train for one epoch, without counting, logging or saving it; mean losses, diagnostics and timing by name.

        Raises:
            InputError: a loss or a weight is not finite; names it.
        """
        torch.manual_seed(derived_seed(self.settings.seed, "dropout", self.epoch))
        self.method.begin_epoch(self.epoch)
        self.method.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        losses = LossRecord(epoch=self.epoch)
        num_images, begin = 0, time.perf_counter()
        steps = self.batches.steps_per_epoch
        with EpochProgress(self._describe(self.epoch + 1), steps) as progress:
            for step, batches in enumerate(self.batches.epoch(self.epoch)):
                losses.add(self.train_step(step, batches))
                num_images += sum(len(batch.index) for batch in batches.values())
                if (step + 1) % CHECK_EVERY == 0 or step + 1 == steps:
                    losses.check()
                progress.advance(losses.means(), num_images, self.optimizer.param_groups[-1]["lr"])
        self._check_weights()
        seconds = time.perf_counter() - begin
        lr = {f"lr_{group['name']}": float(group["lr"]) for group in self.optimizer.param_groups}
        timing = {"seconds": round(seconds, 3), "images_per_second": round(num_images / seconds, 1)}
        return {**losses.means(), **self.method.end_epoch(), **lr, **timing}

    def train_step(self, step: int, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        """Train on the batches of step ``step`` of the epoch; () losses by name, on the device."""
        settings = self.settings.optimizer
        factor = learning_rate_factor(
            self.epoch + step / self.batches.steps_per_epoch, settings, epochs=self.settings.epochs
        )
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        with self.autocast():
            losses = self.method.step(batches)
        total = torch.stack([loss.float() for loss in losses.values()]).sum()
        torch.autograd.backward(self._scaler.scale(total / settings.accumulate))
        self.method.after_backward()
        if (step + 1) % settings.accumulate == 0 or step + 1 == self.batches.steps_per_epoch:
            self._update_weights()
        return {name: loss.detach() for name, loss in losses.items()}

    def autocast(self) -> AbstractContextManager[object]:
        """The precision in which the settings ask for the forward pass."""
        kind = self.settings.precision.autocast
        return nullcontext() if kind == "none" else torch.autocast(self.device.type, dtype=getattr(torch, kind))

    def _update_weights(self) -> None:
        if self.settings.optimizer.clip_norm:
            self._scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.method.network.parameters(), self.settings.optimizer.clip_norm)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def _check_weights(self) -> None:
        """See to it that the last update, which no loss looks at any more, is not saved if it went wrong."""
        for name, value in self.method.network.state_dict().items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise InputError(
                    f"epoch {self.epoch + 1} left nan in {name}; {_kept(self.epoch)}; lower optimizer.lr, set "
                    "optimizer.clip_norm, or try precision.autocast=none"
                )

    def _evaluation_is_due(self) -> bool:
        every = self.settings.evaluate_every
        return self.epoch == self.settings.epochs or (every > 0 and self.epoch % every == 0)

    def _checkpoint(self) -> Checkpoint:
        state = {
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
        }
        description = {"settings": settings_digest(self.settings), "fingerprints": dict(self.batches.fingerprints)}
        return Checkpoint(weights=self.method.network.state_dict(), state=state, description=description)

    def _report(self, figures: Mapping[str, float]) -> None:
        texts = [f"{name} {value:.4g}" for name, value in figures.items() if name != "seconds"]
        logger.info("%s: %s", self._describe(self.epoch), ", ".join(texts))

    def _describe(self, epoch: int) -> str:
        text = f"epoch {epoch}/{self.settings.epochs}"
        return f"{self.title}, {text}" if self.title else text


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
                    raise InputError(
                        f"the loss {name} became {value} in step {self._checked + 1} of epoch {self.epoch + 1}; "
                        f"{_kept(self.epoch)}; lower optimizer.lr, or set optimizer.clip_norm"
                    )
                self._sums[name] = self._sums.get(name, 0.0) + value
                self._counts[name] = self._counts.get(name, 0) + 1
            self._checked += 1
        self._pending.clear()

    def means(self) -> dict[str, float]:
        """Mean of each loss over the steps looked at so far that had it, as ``loss_NAME``."""
        return {f"loss_{name}": value / self._counts[name] for name, value in self._sums.items()}


def settings_digest(settings: TrainingSettings) -> str:
    """Hash of the settings that decide the numbers of a run."""
    return hashlib.sha256(dump_settings(without_free(settings)).encode()).hexdigest()[:16]


def without_free(settings: AnySettings) -> AnySettings:
    """The settings with the defaults of those that do not decide the numbers of a run."""
    fields = type(settings).model_fields
    return settings.model_copy(update={name: fields[name].default for name in FREE_SETTINGS if name in fields})


def _kept(epoch: int) -> str:
    """What there is to go on from when a training stops after ``epoch`` epochs."""
    return "the last checkpoint is kept" if epoch else "there is no checkpoint yet"


def _percent(result: Mapping[str, float], *names: str) -> list[float]:
    return [100 * result[name] for name in names]
