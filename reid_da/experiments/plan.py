"""What a training will hold in memory, before it is begun: bytes by purpose, and what makes them fewer."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from reid_da.config import ExperimentSettings
from reid_da.datasets import load_datasets
from reid_da.device import choose_device, resident_memory
from reid_da.methods import EXPERIMENTS, METHODS
from reid_da.methods.protocol import Role
from reid_da.models.building import build_network
from reid_da.models.inference import extraction_batch
from reid_da.models.reid_net import ReIDNetwork
from reid_da.world import World

_CUDA_CONTEXT = 500 * 10**6
"""Bytes that CUDA takes for itself."""
_LOOKED_AT = 8
"""Images of the forward pass that activations are counted in."""
_STATES = {"sgd": 1, "adam": 2, "adamw": 2}
"""Numbers that an optimiser keeps for each parameter."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One kind of memory.

    Attributes:
        name: what is held.
        count: bytes in the process that holds most.
        why: how they come about.
        remedy: settings that make them fewer.
        on_disk: whether it is a file that all processes of a machine map, and that need not be in memory.
        is_passing: whether it is free again when another part of this kind is held: training and extraction take turns.
    """

    name: str
    count: int
    why: str
    remedy: str
    on_disk: bool = False
    is_passing: bool = False


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """Memory of one stage of an experiment.

    Attributes:
        title: of the stage.
        parts: its memory, largest first.
    """

    title: str
    parts: tuple[Part, ...]

    @property
    def total(self) -> int:
        """Bytes in memory in the process that holds most, without files that are mapped."""
        passing = max((part.count for part in self.parts if part.is_passing), default=0)
        return passing + sum(part.count for part in self.parts if not (part.on_disk or part.is_passing))

    def to_json(self) -> dict[str, object]:
        """Bytes by name."""
        parts = {part.name: part.count for part in self.parts}
        return {"stage": self.title, "total": self.total, "parts": parts}


def plan(settings: ExperimentSettings, *, processes: int = 1) -> tuple[StagePlan, ...]:
    """Memory of every stage of an experiment, first stage first, in the process that holds most.

    Weights, gradients, optimiser and memories are counted exactly, activations by a forward pass on the CPU. What
    libraries, threads and the allocator take beyond that is not known.

    Args:
        settings: of the experiment, whose data sets have to be there.
        processes: number of processes that train together.

    Raises:
        InputError: a data set or setting does not fit.
    """
    stage = EXPERIMENTS.stage(settings)
    before = plan(stage, processes=processes) if stage is not None else ()
    return (*before, _stage(settings, World(0, processes)))


def _stage(settings: ExperimentSettings, world: World) -> StagePlan:
    method = METHODS[settings.method]
    roles: tuple[Role, ...] = ("source", "target")
    sizes = {role: _images(getattr(settings.data, role)) for role in roles}
    classes = {role: found[1] for role, found in sizes.items()}
    network = build_network(
        settings.model,
        num_classes=classes[method.classified] if method.classified else 0,
        image_size=settings.data.image_size,
        head=getattr(settings, "head", None),
        weights="none",
        world=world,
    )
    parts = [
        *_of_network(settings, network, copies=method.num_networks, teachers=method.num_teachers),
        *_passing(settings, world, networks=method.num_networks),
    ]
    counts = {role: found[0] for role, found in sizes.items()}
    for held in method.holds(settings, counts, network.embedding_dim):
        rows = -(-held.rows // world.size) if held.is_sharded else held.rows
        parts.append(
            Part(
                name=held.name,
                count=rows * held.row_bytes,
                why=f"{rows:,} rows of {held.row_bytes:,} bytes"
                + (f", 1/{world.size} of {held.rows:,}" if held.is_sharded and world.size > 1 else ""),
                remedy=held.remedy,
            )
        )
    device = torch.device(choose_device(settings.device))
    on_cpu = device.type == "cpu"
    parts.append(
        Part(
            name="Python and torch" if on_cpu else "CUDA",
            count=resident_memory() if on_cpu else _CUDA_CONTEXT,
            why="this process, now" if on_cpu else "a usual context",
            remedy="",
        )
    )
    height, width = settings.data.image_size
    images = sum(counts.values())
    parts.append(
        Part(
            name="image cache",
            count=images * height * width * 3,
            why=f"{images:,} images of {height}x{width}, mapped from disk",
            remedy="data.cache=never decodes files instead",
            on_disk=True,
        )
    )
    title = f"{settings.method}, {settings.epochs} epochs"
    return StagePlan(title=title, parts=tuple(sorted(parts, key=lambda part: (part.on_disk, -part.count))))


def _images(paths: Path | tuple[Path, ...] | None) -> tuple[int, int]:
    """Training images and identities of a data set."""
    if paths is None:
        return 0, 0
    table = load_datasets(paths).train
    return len(table), table.num_pids


def _of_network(settings: ExperimentSettings, network: ReIDNetwork, *, copies: int, teachers: int) -> list[Part]:
    every = sum(value.nbytes for value in network.state_dict().values())
    trained = sum(value.nbytes for value in network.parameters() if value.requires_grad)
    states = _STATES.get(settings.optimizer.kind, 2)
    number = sum(value.numel() for value in network.parameters())
    return [
        Part(
            name="weights",
            count=every * (copies + teachers),
            why=f"{number:,} parameters" + (f", {copies + teachers} networks" if copies + teachers > 1 else ""),
            remedy="model.backbone, model.width; many classes: head.kind with more processes",
        ),
        Part(name="gradients", count=trained * copies, why="of the trained ones", remedy="model.freeze"),
        Part(
            name="optimiser",
            count=trained * copies * states,
            why=f"{settings.optimizer.kind}: {states} numbers for each trained one",
            remedy="optimizer.kind=sgd" if states > 1 else "model.freeze",
        ),
    ]


def _passing(settings: ExperimentSettings, world: World, *, networks: int) -> tuple[Part, Part]:
    """What a step needs for its backward pass, and a batch of extraction; by a forward pass on the CPU."""
    network = build_network(settings.model, num_classes=0, image_size=settings.data.image_size, weights="none")
    images = _batch(settings)
    own = max(-(-images // world.size), 1)
    kept, largest = _kept_by(network.backbone, settings.data.image_size)
    half = settings.precision.autocast != "none"
    count = (kept * own * networks + 2 * largest * own) // (2 if half else 1)
    activations = Part(
        name="activations",
        count=count,
        why=f"{own} images of a step, {kept / 1e6:.1f} MB each" + (", half of it under autocast" if half else ""),
        remedy="batch sizes (optimizer.accumulate makes up for them), precision.autocast, more processes",
        is_passing=True,
    )
    extracted = extraction_batch(torch.device(choose_device(settings.device)))
    # statistics of the cameras are put into a copy of the network
    copied = sum(value.nbytes for value in network.state_dict().values()) if settings.model.camera_norm else 0
    extraction = Part(
        name="extraction",
        count=2 * largest * extracted + copied,
        why=f"{extracted} images at a time, their two largest maps" + (", and a copy of the network" if copied else ""),
        remedy="data.image_size",
        is_passing=True,
    )
    return activations, extraction


def _batch(settings: ExperimentSettings) -> int:
    """Images of all streams in a step, in all their views."""
    sizes = {name: size for name, size in getattr(settings, "batch", {}) if name in ("source", "target", "restyled")}
    if settings.data.source is None or not getattr(settings, "source_weight", 1):
        sizes.pop("source", None)
    views = getattr(getattr(settings, "views", None), "per_image", 1)
    return sum(size * (views if name == "target" else 1) for name, size in sizes.items())


def _kept_by(backbone: nn.Module, image_size: tuple[int, int]) -> tuple[int, int]:
    """Bytes of an image that autograd keeps, and of its largest map."""
    of_weights = {value.untyped_storage()._cdata for value in (*backbone.parameters(), *backbone.buffers())}
    seen: dict[int, int] = {}
    alive: list[Tensor] = []

    def keep(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage._cdata not in of_weights:
            seen[storage._cdata] = storage.nbytes()
            alive.append(value)
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        backbone.train()(torch.zeros(_LOOKED_AT, 3, *image_size))
    return sum(seen.values()) // _LOOKED_AT, max(seen.values(), default=0) // _LOOKED_AT


def advice(stage: StagePlan, memory: int) -> list[str]:
    """Settings that make a stage smaller, those of its largest parts first; nothing if it fits.

    Args:
        stage: that is planned.
        memory: bytes that a process has.
    """
    if stage.total <= memory:
        return []
    return [f"{part.name}: {part.remedy}" for part in stage.parts if part.remedy and not part.on_disk][:3]


def to_json(stages: tuple[StagePlan, ...]) -> list[Mapping[str, object]]:
    """The stages for machines."""
    return [stage.to_json() for stage in stages]
