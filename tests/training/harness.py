"""How the tests of training put a method, its data and its trainer together; the only file of them that knows.

The tests speak of settings, losses and tensors, so that another shape of trainer or method changes this file alone.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from coded_site import levels
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from reid_da.config import (
    ExperimentSettings,
    StyleSettings,
    TrainingSettings,
    load_style_settings,
    merge,
    settings_of,
)
from reid_da.images import Batch
from reid_da.images.augment import IMAGENET_MEAN, IMAGENET_STD
from reid_da.memory.exemplar import ExemplarMemory
from reid_da.training import camera_styles
from reid_da.training.loop import Trainer
from reid_da.training.methods.ecn import ECN
from reid_da.training.run_folder import RunFolder
from reid_da.training.setup import build_network, build_trainer

Losses = dict[str, float]

TINY: dict[str, Any] = {
    "device": "cpu",
    "seed": 3,
    "epochs": 3,
    "evaluate_every": 0,
    "steps_per_epoch": 3,
    "data": {"image_size": [32, 16], "cache": "never"},
    # dropout masks on a CPU come from the library that torch was built with, and differ from one build to the next
    "model": {
        "backbone": "resnet18",
        "width": 0.125,
        "weights": "none",
        "embedding_dim": 32,
        "dropout": 0.0,
        "freeze": "none",
        "bn_mode": "train",
    },
    "augment": {"crop": "pad", "crop_pad": 2},
    "batch": {"source": 8, "target": 8, "restyled": 6},
    "views": {"style": "files"},
    "memory": {"neighbors_from_epoch": 1, "num_neighbors": 3, "momentum_rate": 0.2, "temperature": 0.2},
    "optimizer": {"lr": 0.002},
    "precision": {"channels_last": False},
}
"""Settings of a re-ID training that takes a moment; the network is 1/8 as wide as published."""


def experiment(source: Path, target: Path, changes: Mapping[str, Any] | None = None) -> ExperimentSettings:
    """Tiny settings of a re-ID training from one data set to another, with changes."""
    tree = merge(TINY, {"data": {"source": str(source), "target": str(target)}})
    return settings_of(merge(tree, changes or {}), where="test")


def style_experiment(dataset: Path, overrides: list[str]) -> StyleSettings:
    """Settings of a training of camera styles on a data set."""
    fixed = [f"data.dataset={dataset}", "data.cache=never", "device=cpu", "seed=3", "evaluate_every=0"]
    return load_style_settings(None, [*fixed, *overrides])


# ---------------------------------------------------------------------------------------------------- whole trainings


def trainer_of(settings: TrainingSettings, folder: Path) -> Trainer:
    """The trainer that the settings ask for, as a command would build it."""
    run = RunFolder(folder)
    if isinstance(settings, ExperimentSettings):
        return build_trainer(settings, run)
    assert isinstance(settings, StyleSettings)
    return camera_styles._trainer(settings, camera_styles.StyleImages.open(settings), run, None, title="")


def loss_curve(settings: TrainingSettings, folder: Path, *, dtype: torch.dtype) -> list[Losses]:
    """Losses of every step of a training, as the loop runs it, by name.

    In float64 whatever differs between processors in the float32 parts around the method is taken out: initial weights
    come from exact random numbers, batches hold the exact levels of the pixels, camera styles are trained on images
    that are not resized.
    """
    with ExitStack() as stack:
        if dtype == torch.float64:
            for name in ("STARGAN_CROP_AREA", "CYCLEGAN_CROP_AREA"):
                stack.enter_context(patch.object(camera_styles, name, 1.0))
            stack.enter_context(_KeepFloat64())
        trainer = trainer_of(settings, folder)
        if dtype == torch.float64:
            _to_float64(trainer, is_style=isinstance(settings, StyleSettings))
        curve: list[Losses] = []
        step = trainer.method.step

        def recorded(batches: Mapping[str, Batch]) -> dict[str, Tensor]:
            losses = step(batches)
            curve.append({name: loss.item() for name, loss in losses.items()})
            return losses

        trainer.method.step = recorded
        for _ in range(settings.epochs):
            trainer.train_epoch()
            trainer.epoch += 1
    return curve


def seen_by_method(trainer: Trainer, epoch: int) -> list[dict[str, tuple[Tensor, Tensor]]]:
    """Index and images of the batches that reach the method in an epoch, by the name of their stream."""
    steps = trainer.batches.epoch(epoch)
    return [{name: (batch.index, batch.images) for name, batch in batches.items()} for batches in steps]


def labels_in(trainer: Trainer, index: Tensor) -> Tensor:
    """(B,) class that the method trains labelled images of a batch on."""
    return trainer.method.labelled.labels[index]


class _KeepFloat64(TorchFunctionMode):
    """Takes ``x.float()``, which stands where half precision is to be widened, as ``at least float32``."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.float and args[0].dtype == torch.float64:
            return args[0]
        return func(*args, **(kwargs or {}))


class _ExactBatches:
    """Batches in float64, with images of exact levels."""

    def __init__(self, batches: Any, *, is_style: bool) -> None:
        self._batches = batches
        self._is_style = is_style

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batches, name)

    def epoch(self, epoch: int) -> Iterator[dict[str, Batch]]:
        for batches in self._batches.epoch(epoch):
            yield {name: replace(batch, images=self._exact(batch.images)) for name, batch in batches.items()}

    def _exact(self, images: Tensor) -> Tensor:
        if self._is_style:
            return ((images.double() + 1) / 2 * 255).round() / 255 * 2 - 1
        mean, std = (torch.tensor(x, dtype=torch.float64)[:, None, None] for x in (IMAGENET_MEAN, IMAGENET_STD))
        return (levels(images) / 255 - mean) / std


def _to_float64(trainer: Trainer, *, is_style: bool) -> None:
    method = trainer.method
    trainer.batches = _ExactBatches(trainer.batches, is_style=is_style)
    _draw_exact_weights(method.network.double())
    for part in (getattr(method, "memory", None), getattr(getattr(method, "labelled", None), "centers", None)):
        if part is not None:
            part.double()


@torch.no_grad()
def _draw_exact_weights(network: nn.Module) -> None:
    """Weights that are uniform, from random integers, with the standard deviation 1 / sqrt(inputs)."""
    generator = torch.Generator().manual_seed(0)
    for value in network.parameters():
        if value.ndim > 1:
            draws = torch.randint(-(2**20), 2**20, value.shape, generator=generator).double() / 2**20
            value.copy_(draws * (3 / value[0].numel()) ** 0.5)


# ------------------------------------------------------------------------------------------------------- ECN by itself


@dataclass
class EcnSteps:
    """Steps of ECN on tensors, without data sets, loop and optimiser.

    Attributes:
        network: the shared network.
        method: ECN.
    """

    network: nn.Module
    method: ECN

    @classmethod
    def build(cls, *, labels: Tensor, num_slots: int, changes: Mapping[str, Any] | None = None) -> "EcnSteps":
        """ECN with a class for each label, and an empty memory; settings as above, with changes."""
        settings = settings_of(merge(TINY, changes or {}), where="test")
        network = build_network(settings, num_classes=int(labels.max()) + 1).double().train()
        memory = None
        if settings.invariance.exemplar:
            memory = ExemplarMemory(num_slots, network.embedding_dim).double()
        return cls(network, ECN(network, memory, settings=settings, source_labels=labels))

    def begin_epoch(self, epoch: int) -> None:
        self.method.begin_epoch(epoch)

    def losses(self, source: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Weighted losses by name of a source batch and a target batch, each an index and images."""
        batches = {"source": Batch(index=source[0], images=source[1])}
        if self.method.memory is not None:
            batches["target"] = Batch(index=target[0], images=target[1])
        with _KeepFloat64():
            return self.method.step(batches)

    def finish(self) -> None:
        """What the loop has the method do between the backward pass and the next step."""
        self.method.after_backward()

    @property
    def slots(self) -> Tensor:
        """(M, D) the slots of the memory, a copy."""
        return self.method.memory.slots.clone()

    def fill(self, slots: Tensor) -> None:
        """Let the memory hold (M, D) slots."""
        self.method.memory.slots.copy_(slots)
