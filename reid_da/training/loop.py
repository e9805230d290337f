"""The training loop: feeds a method its batches, and keeps time, order and accounts."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from reid_da.config import TrainingSettings
from reid_da.device import peak_memory, reset_peak_memory
from reid_da.errors import InputError
from reid_da.images import Batch
from reid_da.methods.protocol import EpochPlan, Method
from reid_da.processes import agreed
from reid_da.progress import EpochProgress
from reid_da.seeds import derived_seed
from reid_da.training.accounts import CHECK_EVERY, LossRecord, Pace, kept, spell_time
from reid_da.training.checkpoint import Checkpoint
from reid_da.training.events import TensorBoardEvents
from reid_da.training.precision import Autocast, usable_autocast
from reid_da.training.run_folder import RunFolder
from reid_da.training.schedule import learning_rate_factor, optimizer_of
from reid_da.training.streams import epoch_batches
from reid_da.training.together import (
    clip_gradients,
    own_optimizer,
    own_weights,
    saved_optimizer,
    saved_weights,
    sum_gradients,
)
from reid_da.world import World

logger = logging.getLogger(__name__)

HEADLINES = ("clusters", "neighbors_agreement", "classification_accuracy")
"""Figures of an epoch of which the log shows the first that a method has; all of them go into the metrics."""


@dataclass(kw_only=True)
class Trainer:
    """A training run: a method and its optimiser, on the way from one epoch to the next.

    Every random number of an epoch comes from the seed and the number of the epoch, so that a run which is resumed at
    an epoch gives the numbers of one that was never stopped.

    Attributes:
        settings: of the run.
        run: folder that takes metrics and checkpoints.
        method: what an epoch takes and a step computes.
        device: where the networks are.
        image_size: height and width of the images in a batch.
        fingerprints: of the training images, by domain.
        evaluate: figures of the network, for reporting only; empty if it draws pictures instead.
        label_free: figures of the network on the training images of the target, which need no labels.
        evaluate_start: whether to evaluate before the first epoch, too.
        title: what of several things is trained, for progress and log; empty if there is only one.
        world: the processes that train together.
        epoch: epochs done.
        steps: steps of the current epoch.
        used_autocast: precision of the forward pass; None before the first batch has shown whether that of the settings
            can be trusted.
    """

    settings: TrainingSettings
    run: RunFolder
    method: Method
    device: torch.device
    image_size: tuple[int, int]
    fingerprints: Mapping[str, str]
    evaluate: Callable[[], Mapping[str, float]] | None = None
    label_free: Callable[[], Mapping[str, float]] | None = None
    evaluate_start: bool = False
    title: str = ""
    world: World = field(default_factory=World)
    epoch: int = field(default=0, init=False)
    steps: int = field(default=1, init=False)
    used_autocast: Autocast | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        half = self.settings.precision.autocast == "float16"
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=half)
        self.begin_optimizer()

        self._pace = Pace()

    def begin_optimizer(self) -> None:
        """Begin with a new optimiser of the parameters that the method has now."""
        self.optimizer = optimizer_of(self.method.parameter_groups(), self.settings.optimizer)
        for group in self.optimizer.param_groups:
            group["initial_lr"] = group["lr"]

    def fit(self) -> None:
        """Train until the last epoch.

        Raises:
            InputError: a loss or a weight is not finite; names the step and the term, or the weight. The last
                checkpoint is kept. Or TensorBoard is asked for and not installed, or another process trains the run.
        """
        with self.run.training():
            self._fit()

    def _fit(self) -> None:
        if self.settings.tensorboard and self.world.is_main:
            events = TensorBoardEvents(self.run.events_folder, self.run.records(), pictures=self.run.path)
            self.run.listeners.append(events.add)
        reset_peak_memory(self.device)
        settings = self.settings.optimizer
        if settings.schedule != "one_cycle" and settings.warmup_epochs >= self.settings.epochs:
            logger.warning(
                "the learning rate never reaches optimizer.lr: optimizer.warmup_epochs is %g, and there are %d epochs",
                settings.warmup_epochs,
                self.settings.epochs,
            )
        self._evaluate()
        while self.epoch < self.settings.epochs:
            begin = time.perf_counter()
            figures = self.train_epoch()
            self.epoch += 1
            self._pace.epoch_seconds = time.perf_counter() - begin
            asked = self.settings.precision.autocast != "none"
            used = {"autocast": self.used_autocast} if asked else {}
            peak = peak_memory(self.device)
            memory = {} if peak is None else {"peak_memory_mb": round(peak / 1e6)}
            self.run.log({"kind": "train", "epoch": self.epoch, **figures, **used, **memory})
            self._report(figures)
            # before the evaluation, which may fail or be interrupted
            self.run.save(self.epoch, self._checkpoint(), keep=self.settings.keep_checkpoints)
            self._evaluate()

    def _evaluate(self) -> None:
        """Evaluate if it is due, and has not been done before the run was interrupted."""
        if not self._evaluation_is_due():
            return
        for kind, compute in (("label_free", self.label_free), ("evaluation", self.evaluate)):
            if compute is None or self._is_done(kind):
                continue
            result = compute()
            if not result:
                continue
            self.run.log({"kind": kind, "epoch": self.epoch, **result})
            if kind == "evaluation":
                logger.info("epoch %d: mAP %.1f %%, rank-1 %.1f %%", self.epoch, *_percent(result, "mAP", "rank1"))

    def _is_done(self, kind: str) -> bool:
        # one process looks: it is the one that writes
        looked = self.world.is_main and any(record["epoch"] == self.epoch for record in self.run.records(kind))
        return bool(self.world.tell(looked)[0])

    def resume(self, checkpoint: Checkpoint | None) -> None:
        """Go on from a checkpoint of the same run, or from the beginning if there is none yet.

        Raises:
            InputError: the checkpoint was made with other settings or other data, or another process trains the run.
        """
        if checkpoint is not None:
            self.run.check_settings(checkpoint, self.settings)
            self._check_data(checkpoint)
        with self.run.training():
            agreed(self.world, lambda: self.run.forget_metrics_after(checkpoint))
        if checkpoint is None:
            return
        noted = checkpoint.description
        threads = noted.get("threads", torch.get_num_threads())
        if threads != torch.get_num_threads():
            logger.warning(
                "%s: trained with %s CPU threads so far, and now with %d: results differ by more than rounding",
                self.run.path,
                threads,
                torch.get_num_threads(),
            )
        self.method.load_state_dict(checkpoint.state["method"])
        self.method.trained.load_state_dict(own_weights(checkpoint.weights, self.method.trained))
        self.begin_optimizer()
        self.optimizer.load_state_dict(own_optimizer(checkpoint.state["optimizer"], self.optimizer))
        self._scaler.load_state_dict(checkpoint.state["scaler"])
        self.epoch = int(noted["epoch"])

    def _check_data(self, checkpoint: Checkpoint) -> None:
        """Refuse images that are not those that a checkpoint was made with.

        Raises:
            InputError: paths, identities or cameras differ.
        """
        for name, noted in checkpoint.description["fingerprints"].items():
            now = self.fingerprints.get(name)
            # earlier versions noted the paths alone, and the images of some streams under other names
            if now is None or noted in (now, now.partition("-")[0]):
                continue
            same_paths = noted.partition("-")[0] == now.partition("-")[0]
            what = "identities or cameras of the images" if same_paths else "images"
            raise InputError(
                f"{self.run.path}: the {name} {what} are not those that the checkpoint was made with; restore them"
            )

    def train_epoch(self) -> dict[str, float]:
        """Train for one epoch, without counting, logging or saving it; mean losses, diagnostics and timing by name.

        Raises:
            InputError: a loss or a weight is not finite; names it.
        """
        begin = time.perf_counter()
        torch.manual_seed(derived_seed(self.settings.seed, "dropout", self.epoch))
        plan = self.method.begin_epoch(self.epoch)
        if plan.new_optimizer:
            self.begin_optimizer()
        self.steps = plan.steps
        self.method.trained.train()
        self.optimizer.zero_grad(set_to_none=True)
        losses = LossRecord(epoch=self.epoch)
        num_images, prepared = 0, time.perf_counter()
        with EpochProgress(self._describe(self.epoch + 1), plan.steps) as progress:
            for step, batches in enumerate(self.batches(plan)):
                losses.add(self.train_step(step, batches))
                num_images += sum(len(batch.rows) for batch in batches.values())
                if (step + 1) % CHECK_EVERY == 0 or step + 1 == plan.steps:
                    losses.check()
                progress.advance(losses.means(), num_images, self.optimizer.param_groups[-1]["lr"])
                self._pace.step(step)
                if self._pace.is_news(step, plan.steps):
                    self._say_time_left(step, plan.steps)
        self._check_weights()
        seconds = time.perf_counter() - prepared
        lr = {f"lr_{group['name']}": float(group["lr"]) for group in self.optimizer.param_groups}
        timing = {"seconds": round(seconds, 3), "images_per_second": round(num_images / seconds, 1)}
        if prepared - begin > 0.1:
            timing["seconds_prepared"] = round(prepared - begin, 3)
        return {**losses.means(), **plan.figures, **self.method.end_epoch(), **lr, **timing}

    def batches(self, plan: EpochPlan) -> Iterator[dict[str, Batch]]:
        """The batches of the current epoch by the name of their stream."""
        channels_last = self.settings.precision.channels_last
        return epoch_batches(
            plan,
            seed=lambda purpose: derived_seed(self.settings.seed, purpose, self.epoch),
            image_size=self.image_size,
            device=self.device,
            memory_format=torch.channels_last if channels_last else torch.contiguous_format,
            world=self.world,
        )

    def train_step(self, step: int, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        """Train on the batches of step ``step`` of the epoch; () losses by name, on the device."""
        if self.used_autocast is None:
            asked = self.settings.precision.autocast
            usable = usable_autocast(asked, self.method, batches, device=self.device)
            self.used_autocast = usable if all(told == usable for told in self.world.tell(usable)) else "none"
        settings = self.settings.optimizer
        factor = learning_rate_factor(self.epoch + step / self.steps, settings, epochs=self.settings.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        with self.autocast():
            losses = self.method.step(batches)
        total = torch.stack([loss.float() for loss in losses.values()]).sum()
        # every process computes the loss of the global batch, and their gradients are added up
        torch.autograd.backward(self._scaler.scale(total / (settings.accumulate * self.world.size)))
        self.method.after_backward()
        if (step + 1) % settings.accumulate == 0 or step + 1 == self.steps:
            self._update_weights()
        return {name: loss.detach() for name, loss in losses.items()}

    def autocast(self) -> AbstractContextManager[object]:
        """The precision of the forward pass."""
        kind = self.used_autocast or self.settings.precision.autocast
        return nullcontext() if kind == "none" else torch.autocast(self.device.type, dtype=getattr(torch, kind))

    def _update_weights(self) -> None:
        sum_gradients(self.method.trained.parameters(), self.world)
        if self.settings.optimizer.clip_norm:
            self._scaler.unscale_(self.optimizer)
            clip_gradients(self.method.trained.parameters(), self.settings.optimizer.clip_norm, self.world)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.method.after_update()

    def _check_weights(self) -> None:
        """See to it that the last update, which no loss looks at any more, is not saved if it went wrong."""
        for name, value in self.method.trained.state_dict().items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise InputError(
                    f"epoch {self.epoch + 1} left nan in {name}; {kept(self.epoch)}; lower optimizer.lr, set "
                    "optimizer.clip_norm, or try precision.autocast=none"
                )

    def _evaluation_is_due(self) -> bool:
        every = self.settings.evaluate_every
        if self.epoch == 0:
            return self.evaluate_start
        return self.epoch == self.settings.epochs or (every > 0 and self.epoch % every == 0)

    def _checkpoint(self) -> Checkpoint:
        state = {
            "method": self.method.state_dict(),
            "optimizer": saved_optimizer(self.optimizer),
            "scaler": self._scaler.state_dict(),
        }
        description = {
            "settings": self.settings.model_dump(mode="json"),
            "fingerprints": dict(self.fingerprints),
            "threads": torch.get_num_threads(),
        }
        return Checkpoint(weights=saved_weights(self.method.trained), state=state, description=description)

    def _say_time_left(self, step: int, steps: int) -> None:
        """Tell once, after the first steps, how long the training will take, without preparing and evaluating."""
        epochs = self.settings.epochs - self.epoch
        seconds = self._pace.step_seconds * (steps * epochs - step - 1)
        logger.info(
            "estimated time to the end of this stage: %s (%d epochs of about %d steps)",
            spell_time(seconds),
            epochs,
            steps,
        )

    def _report(self, figures: Mapping[str, float]) -> None:
        """One short line about an epoch: loss, the main figure of the method, speed, time left."""
        losses = [value for name, value in figures.items() if name.startswith("loss_")]
        texts = [f"loss {sum(losses):.4g}"] if losses else []
        texts += [f"{name.replace('_', ' ')} {figures[name]:.4g}" for name in HEADLINES if name in figures][:1]
        texts.append(f"{figures['images_per_second']:.0f} images/s")
        if left := self.settings.epochs - self.epoch:
            texts.append(f"{spell_time(left * self._pace.epoch_seconds)} left")
        logger.info("%s: %s", self._describe(self.epoch), ", ".join(texts))

    def _describe(self, epoch: int) -> str:
        text = f"epoch {epoch}/{self.settings.epochs}"
        return f"{self.title}, {text}" if self.title else text


def _percent(result: Mapping[str, float], *names: str) -> list[float]:
    return [100 * result[name] for name in names]
