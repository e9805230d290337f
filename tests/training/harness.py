"""How the tests of training put a method, its data and its trainer together; the only file of them that knows.

The tests speak of settings, losses and tensors, so that another shape of trainer or method changes this file alone.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from coded_site import levels
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.overrides import TorchFunctionMode

from reid_da.config import ExperimentSettings, HeadSettings, TrainingSettings, ViewSettings, merge
from reid_da.datasets import SampleTable
from reid_da.experiments import domains
from reid_da.experiments.setup import build_trainer
from reid_da.images import Batch, load_batches
from reid_da.images.augment import IMAGENET_MEAN, IMAGENET_STD
from reid_da.methods import METHODS, settings_of
from reid_da.methods.ecn import ECN
from reid_da.methods.protocol import Domain, Role, RunContext
from reid_da.models.building import build_network
from reid_da.models.reid_net import ReIDNetwork
from reid_da.shards import Shard
from reid_da.styles import cyclegan, stargan, train
from reid_da.styles.settings import StyleSettings
from reid_da.styles.trained import load_style_settings
from reid_da.styles.training_images import StyleImages
from reid_da.training import streams
from reid_da.training.loop import Trainer
from reid_da.training.run_folder import RunFolder

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
    return train._trainer(settings, StyleImages.open(settings), run, None, title="")


def loss_curve(settings: TrainingSettings, folder: Path, *, dtype: torch.dtype) -> list[Losses]:
    """Losses of every step of a training, as the loop runs it, by name; see :func:`trained`."""
    return trained(settings, folder, dtype=dtype)[1]


def trained(
    settings: TrainingSettings,
    folder: Path,
    *,
    dtype: torch.dtype,
    build: Callable[[Any, RunFolder], Trainer] | None = None,
    look: Callable[[Trainer], None] = lambda trainer: None,
) -> tuple[Trainer, list[Losses]]:
    """A training as the loop runs it, and the losses of its steps by name.

    In float64 whatever differs between processors in the float32 parts around the method is taken out: initial weights
    come from exact random numbers, batches hold the exact levels of the pixels, camera styles are trained on images
    that are not resized.

    Args:
        settings: of the training.
        folder: of the run, in which nothing is written.
        dtype: of network, images and memory.
        build: makes the trainer; as a command would by default.
        look: called with it before the first epoch.
    """
    with ExitStack() as stack:
        if dtype == torch.float64:
            for module in (stargan, cyclegan):
                stack.enter_context(patch.object(module, "CROP_AREA", 1.0))
            stack.enter_context(_KeepFloat64())
        trainer = build(settings, RunFolder(folder)) if build else trainer_of(settings, folder)
        if dtype == torch.float64:
            _to_float64(trainer, is_style=isinstance(settings, StyleSettings))
        look(trainer)
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
    return trainer, curve


def seen_by_method(trainer: Trainer, epoch: int) -> list[dict[str, tuple[Tensor, Tensor]]]:
    """Rows and images of the batches that reach the method in an epoch, by the name of their stream."""
    trainer.epoch = epoch
    steps = list(trainer.batches(trainer.method.begin_epoch(epoch)))
    return [{name: (batch.rows, batch.images) for name, batch in batches.items()} for batches in steps]


def labels_in(trainer: Trainer, rows: Tensor, name: str = "source") -> Tensor:
    """(B,) class that the method trains images of a stream on, as they came with a batch."""
    plan = trainer.method.begin_epoch(0)
    found = {}
    for batches in trainer.batches(plan):
        batch = batches[name]
        found |= dict(zip(batch.rows.tolist(), batch.labels.tolist(), strict=True))
    return torch.tensor([found[row] for row in rows.tolist()])


class _KeepFloat64(TorchFunctionMode):
    """Takes ``x.float()``, which stands where half precision is to be widened, as ``at least float32``."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.float and args[0].dtype == torch.float64:
            return args[0]
        return func(*args, **(kwargs or {}))


def _exact(images: Tensor, *, is_style: bool) -> Tensor:
    """Images of exact levels, in float64."""
    if is_style:
        return ((images.double() + 1) / 2 * 255).round() / 255 * 2 - 1
    mean, std = (torch.tensor(x, dtype=torch.float64)[:, None, None] for x in (IMAGENET_MEAN, IMAGENET_STD))
    return (levels(images) / 255 - mean) / std


def _to_float64(trainer: Trainer, *, is_style: bool) -> None:
    method, batches = trainer.method, trainer.batches

    def exact(plan: Any) -> Iterator[dict[str, Batch]]:
        for step in batches(plan):
            yield {name: replace(batch, images=_exact(batch.images, is_style=is_style)) for name, batch in step.items()}

    trainer.batches = exact
    _draw_exact_weights(method.trained.double())
    _memories_to_float64(method)


def _memories_to_float64(method: Any) -> None:
    parts = [getattr(method, name, None) for name in ("memory", "source_memory")]
    for part in (*parts, getattr(getattr(method, "labelled", None), "centers", None)):
        if part is not None:
            part.double()


@torch.no_grad()
def _draw_exact_weights(network: nn.Module) -> None:
    """Weights that are uniform, from random integers, with the standard deviation 1 / sqrt(inputs)."""
    generator = torch.Generator().manual_seed(0)
    for value in network.parameters():
        # of a parameter that processes share all rows are drawn
        shard = getattr(value, "shard", Shard(len(value)))
        if value.ndim > 1 and shard.total:
            shape = (shard.total, *value.shape[1:])
            draws = torch.randint(-(2**20), 2**20, shape, generator=generator).double() / 2**20
            value.copy_((draws * (3 / math.prod(shape[1:])) ** 0.5)[shard.rows])


# ------------------------------------------------------------------------------------------------------- ECN by itself


@dataclass
class EcnSteps:
    """Steps of ECN on tensors, without data sets, loop and optimiser.

    Attributes:
        network: the shared network.
        method: ECN.
        labels: (N,) class of each source image.
    """

    network: nn.Module
    method: ECN
    labels: Tensor

    @classmethod
    def build(cls, *, labels: Tensor, num_slots: int, changes: Mapping[str, Any] | None = None) -> "EcnSteps":
        """ECN with a class for each label, and an empty memory; settings as above, with changes."""
        sizes = {"batch": {"source": 4, "target": 4}}
        settings = settings_of(merge(merge(TINY, sizes), changes or {}), where="test")
        context = _TensorContext(settings, labels=labels, num_slots=num_slots)
        method = METHODS[settings.method](settings, context)
        assert isinstance(method, ECN)
        method.trained.double()
        _memories_to_float64(method)
        return cls(method.network, method, labels)

    def begin_epoch(self, epoch: int) -> None:
        self.method.begin_epoch(epoch)

    def losses(self, source: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Weighted losses by name of a source batch and a target batch, each an index and images."""
        batches = {"source": Batch(rows=source[0], images=source[1], labels=self.labels[source[0]])}
        if self.method.memory is not None:
            batches["target"] = Batch(rows=target[0], images=target[1])
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


class _NoImages:
    """A source of images that nobody looks at."""

    size = (32, 16)
    failed = ()

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count


class _TensorContext(RunContext):
    """A context without data sets: source images with the given labels, target images seen by three cameras."""

    def __init__(self, settings: ExperimentSettings, *, labels: Tensor, num_slots: int) -> None:
        super().__init__(run_seed=settings.seed, device=torch.device("cpu"))
        pids = {"source": labels.numpy(), "target": np.arange(num_slots)}
        domains = {role: _domain(role, column) for role, column in pids.items()}
        object.__setattr__(self, "domains", domains)
        object.__setattr__(self, "settings", settings)

    def domain(self, role: Role) -> Domain:
        return self.domains[role]

    def styled(self, domain: Domain, views: ViewSettings) -> Domain:
        return replace(domain, num_views=domain.num_cameras)

    def network(self, *, num_classes: int, head: HeadSettings | None = None) -> ReIDNetwork:
        generator = torch.Generator().manual_seed(self.seed("weights"))
        network = build_network(
            self.settings.model, num_classes=num_classes, image_size=(32, 16), head=head, generator=generator
        )
        return network.double().train()


def _domain(role: str, pids: NDArray[np.int64]) -> Domain:
    paths = tuple(f"{role}/{row}.jpg" for row in range(len(pids)))
    table = SampleTable(name=role, root=Path(), paths=paths, pids=pids, camids=np.arange(len(pids)) % 3)
    return Domain(name=role, table=table, images=_NoImages(len(pids)), num_cameras=3)


# ------------------------------------------------------------------------------------------ on a GPU that is not there


@contextmanager
def trainer_on_gpu(settings: TrainingSettings, folder: Path) -> Iterator[Trainer]:
    """The trainer that the settings ask for on a device ``cuda``, inside ``fake_gpu()``.

    Threads do not know the mode, so batches are prepared when they are asked for. The network is built outside of it,
    as its backbone is laid out without memory first, and moved to the device inside.
    """

    def build_outside(*args: Any, **kwargs: Any) -> ReIDNetwork:
        with unset_fake_temporarily():
            return build_network(*args, **kwargs)

    with ExitStack() as stack:
        stack.enter_context(patch.object(domains, "build_network", build_outside))
        for module in (domains, train):
            stack.enter_context(patch.object(module, "choose_device", lambda name: "cuda"))
        stack.enter_context(patch.object(streams, "load_batches", partial(load_batches, prefetch=0)))
        yield trainer_of(settings, folder)
