"""A settings file to begin with: it fits the machine and the data, and comments say what may be changed."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image

from reid_da.atomic import write_text
from reid_da.config import merge
from reid_da.datasets import Dataset, load_dataset
from reid_da.errors import InputError
from reid_da.images.ahead import available_cores
from reid_da.methods import load_settings, settings_of
from reid_da.models.backbones import imagenet_weights_available
from reid_da.models.importing import fitting_backbone
from reid_da.models.weight_files import read_state_dict
from reid_da.models.weight_notes import read_note
from reid_da.yaml_files import parse_yaml

_SIZES_LOOKED_AT = 32
_CPU_IMAGES = 36_000
"""Images that a training on a CPU passes at most, which takes minutes to an hour there."""


@dataclass(frozen=True, kw_only=True)
class Starter:
    """What :func:`write_starter` has decided.

    Attributes:
        text: the settings as YAML with comments.
        machine: what they were written for, in words.
        notes: what the user should know before training.
    """

    text: str
    machine: str
    notes: tuple[str, ...] = ()


def write_starter(
    output: Path,
    *,
    target: str | None = None,
    source: str | None = None,
    test: str | None = None,
    weights: str | None = None,
    cpu: bool = False,
    overwrite: bool = False,
) -> Starter:
    """Write a settings file that fits the machine and the data.

    Args:
        output: the file, ``.yaml``.
        target: data set to adapt to, with ``#layout=...`` behind it if need be; None: a placeholder.
        source: labelled data set to learn from first; None: the target alone.
        test: labelled data set that accuracy is measured on; None: the test split of the target, if it has one.
        weights: ``imagenet``, ``none`` or a file of pretrained weights; None: ImageNet weights if they are cached or
            can be downloaded, else random ones on a CPU.
        cpu: write settings for a CPU even if there is a GPU.
        overwrite: replace an existing file.

    Raises:
        InputError: the file exists or has another suffix, a data set cannot be read, or the weights fit no backbone.
    """
    if output.suffix.lower() not in (".yaml", ".yml"):
        raise InputError(f"{output}: settings are YAML; name the file {output.name}.yaml")
    if output.exists() and not overwrite:
        raise InputError(f"{output}: exists; name another file, or replace it with --overwrite")
    dataset = None if target is None else load_dataset(target)
    if test is not None:
        tested = load_dataset(test)
        if not (len(tested.query) and len(tested.gallery)):
            raise InputError(f"{test}: has no query and gallery; make them: reid-da data import {test} --test-only")
    on_gpu = torch.cuda.is_available() and not cpu
    plan = _Plan(
        name=output.stem,
        target=target,
        source=source,
        test=test,
        labelled=None if source is None else load_dataset(source),
        dataset=dataset,
        on_gpu=on_gpu,
        weights=_weights(weights, on_gpu=on_gpu),
    )
    text = "\n".join(plan.lines()) + "\n"
    tree = {key: value for key, value in parse_yaml(text, where=str(output)).items() if key != "base"}
    settings_of(merge(load_settings(plan.base).tree, tree), where=str(output))
    write_text(output, text)
    return Starter(text=text, machine=plan.machine, notes=tuple(plan.notes()))


@dataclass(frozen=True, kw_only=True)
class _Weights:
    """What the network starts from: a backbone, the value of ``model.weights``, whether they
    can be had, and other settings of ``model`` that they need."""

    backbone: str
    value: str
    is_available: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_random(self) -> bool:
        return self.value == "none"


def _weights(given: str | None, *, on_gpu: bool) -> _Weights:
    usual = "resnet50" if on_gpu else "resnet18"
    if given in ("none", "imagenet"):
        return _Weights(backbone=usual, value=given, is_available=given == "none" or imagenet_weights_available(usual))
    if given is not None:
        return _of_file(Path(given))
    available = imagenet_weights_available(usual)
    # a ResNet-50 learns nothing from some thousand crops and random weights; a small network does
    value = "imagenet" if available or on_gpu else "none"
    return _Weights(backbone=usual, value=value, is_available=available or value == "none")


def _of_file(file: Path) -> _Weights:
    """The backbone that a file of weights fits, and the settings that go with it.

    Raises:
        InputError: it cannot be read, or fits none.
    """
    note = read_note(file) if file.is_file() else None
    if note is not None:
        options = {key: value for key, value in note.settings().items() if key != "backbone"}
        return _Weights(backbone=note.backbone, value=str(file), options=options)
    name, _, _ = fitting_backbone(read_state_dict(file), origin=str(file))
    return _Weights(backbone=name, value=str(file))


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """The decisions, and the text that they make."""

    name: str
    target: str | None
    source: str | None
    test: str | None
    labelled: Dataset | None
    dataset: Dataset | None
    on_gpu: bool
    weights: _Weights

    @property
    def machine(self) -> str:
        if self.on_gpu:
            return f"a GPU ({torch.cuda.get_device_name()})"
        cores = available_cores()
        return f"a CPU ({cores} core{'s' if cores > 1 else ''})"

    @property
    def num_images(self) -> int | None:
        return None if self.dataset is None else len(self.dataset.train)

    @property
    def several_cameras(self) -> bool:
        return self.dataset is None or len(self.dataset.train.cameras) > 1

    @property
    def by_camera(self) -> bool:
        """Whether batch norms are to be by camera: with something to start from, in presets that train all of them."""
        has_start = self.source is not None or not self.weights.is_random
        has_norms = not self.weights.backbone.startswith("timm:")
        return not self.on_gpu and has_start and has_norms and self.several_cameras

    @property
    def base(self) -> str:
        if self.on_gpu:
            return "spcl" if self.source else "cap" if self.several_cameras else "cluster-contrast"
        if self.source is None:
            return "small-weights" if self.several_cameras and not self.weights.is_random else "small-target"
        return "small-source" if self.several_cameras else "small"

    @property
    def image_size(self) -> tuple[int, int]:
        if self.on_gpu:
            return (256, 128)
        height = None if self.dataset is None else _median_height(self.dataset)
        return (64, 32) if height is not None and height < 96 else (128, 64)

    @property
    def epochs(self) -> int | None:
        """Epochs of the longest stage on the target where the preset's number would take too long, or suits others."""
        usual = {"small": 30, "small-source": 30, "small-target": 20, "small-weights": 20}.get(self.base)
        if usual is None or self.num_images is None:
            return usual
        return max(5, min(usual, _CPU_IMAGES // max(self.num_images, 1)))

    def lines(self) -> Iterator[str]:
        counted = "" if self.num_images is None or self.dataset is None else _counted(self.dataset)
        yield f"# Written by `reid-da init` for {self.machine}{counted}."
        train, show = (f"reid-da {verb} {self.name}.yaml" for verb in ("train", "settings"))
        yield f"#     {train:<34}# the run goes to runs/{self.name}-seed0"
        yield f"#     {show:<34}# every setting, with its meaning and range"
        yield f"base: {self.base:<24}# preset that ships with reid-da; what is not below has its value"
        yield f"name: {_inline(self.name)}"
        if self.base == "small-target" and not self.several_cameras:
            yield "method: cluster-contrast      # the preset's method, cap, needs several cameras"
        if not self.on_gpu:
            yield "device: cpu"
        yield from self._data()
        yield from self._model()
        yield from self._length()
        yield from self._batch()
        yield ""
        yield "# Without labels, watch the figures that need none (`reid-da curves RUN`): the number of clusters and"
        yield "# their agreement from epoch to epoch should settle, and clusters should hold images of several cameras."

    def _data(self) -> Iterator[str]:
        yield ""
        yield "data:"
        if self.target is None:
            yield "  target: crops               # CHANGE: your crops, a folder for each camera; no identities needed"
        else:
            yield f"  target: {_inline(self.target)}"
        if self.source is not None:
            yield f"  source: {_inline(self.source)}"
        else:
            yield "  source: null                # the target alone; a labelled data set to learn from goes here, with"
            yield "                              # base: " + ("spcl" if self.on_gpu else "small-source")
        if self.test is not None:
            yield f"  test: {_inline(self.test)}"
        else:
            yield "  # test: people            # labelled people to test on: `reid-da data import people --test-only`"
        yield f"  image_size: {list(self.image_size)!s:<16}# height and width in pixels"

    def _model(self) -> Iterator[str]:
        weights = self.weights
        yield ""
        yield "model:"
        if self.on_gpu or not weights.is_random:
            yield f"  backbone: {_inline(weights.backbone)}"
        if not weights.is_random:
            if not self.on_gpu and "width" not in weights.options:
                yield "  width: 1"
            if not weights.options and not weights.backbone.startswith(("resnet", "mobilenet", "efficientnet")):
                yield "  last_stride: 2"
            for key, value in weights.options.items():
                yield f"  {key}: {json.dumps(value)}"
        if self.by_camera:
            yield "  camera_norm: true           # batch norms by camera: what a camera does to all images is taken out"
        elif self.base in ("small-source", "small-weights"):
            yield "  camera_norm: false          # this backbone has no batch norms"
        if not weights.is_random:
            yield f"  weights: {_inline(weights.value):<18}# imagenet (downloaded once), none, or the path of a file"
            return
        yield "  weights: none               # random. Pretrained ones are worth a lot: model.weights=PATH, with the"
        yield f"                              # backbone of the file, or `reid-da init {self.name}.yaml --weights PATH`"

    def _length(self) -> Iterator[str]:
        if self.base == "small-target" and not self.weights.is_random:
            yield "pretrain: null                # that stage of the preset stands in for pretrained weights"
        if self.epochs is not None:
            yield ""
            yield from self._epochs(self.epochs)
        if self.base == "small":
            yield "loss_weight: 0.7              # of the target's loss; to choose it without labels: `reid-da sweep`"
            if not self.several_cameras:
                yield "invariance: {camera: false}   # camera styles need several cameras"

    def _epochs(self, number: int) -> Iterator[str]:
        if self.base != "small-source":
            yield f"epochs: {number}"
            return
        last = -(-number // 2)
        milestones = f"{{milestones: [{max(1, 2 * last // 3)}]}}"
        yield f"epochs: {last:<22}# of the last stage: clusters of what ECN has learnt"
        yield f"optimizer: {milestones:<19}# where the learning rate falls to a tenth"
        yield f"pretrain: {f'{{epochs: {number}}}':<20}# of the stage before: ECN"

    def _batch(self) -> Iterator[str]:
        usual = 64 if not self.on_gpu else {"spcl": 64, "cap": 32, "cluster-contrast": 256}[self.base]
        sizes = {"target": self.num_images, "source": None if self.labelled is None else _most_drawn(self.labelled)}
        small = [
            f"{role}: {max(4, count // 2 // 4 * 4)}" for role, count in sizes.items() if count and count < 2 * usual
        ]
        if small:
            batch = "batch: {" + ", ".join(small) + "}"
            yield f"{batch:<30}# there are few images"

    def notes(self) -> Iterator[str]:
        if self.target is None:
            yield "data.target is a placeholder: set it to the folder of your crops, or give --target"
        if not self.weights.is_available:
            yield (
                f"ImageNet weights of {self.weights.backbone} are not in the cache and cannot be downloaded here: "
                "give the path of a file of weights, --weights PATH or model.weights=PATH"
            )
        elif self.weights.is_random:
            yield (
                "the network starts from random weights, as no pretrained ones are here; with a file of weights "
                "(--weights PATH) accuracy is usually much higher"
            )
        if self.num_images is not None and self.num_images < 200:
            yield f"{self.num_images} images are few to adapt to; expect little"


def _most_drawn(dataset: Dataset) -> int:
    """Twice the size of the largest batch of four images each of different persons, or fewer images."""
    return min(len(dataset.train), 2 * 4 * dataset.train.num_pids)


def _counted(dataset: Dataset) -> str:
    cameras = f" of {dataset.num_cameras} cameras" if dataset.has_cameras else ""
    return f" and {len(dataset.train):,} images{cameras}"


def _median_height(dataset: Dataset) -> int | None:
    """Median height of some training images in pixels, None if none can be read."""
    table = dataset.train
    heights = []
    for row in range(0, len(table), max(1, len(table) // _SIZES_LOOKED_AT)):
        try:
            with Image.open(table.path(row)) as image:
                heights.append(image.height)
        except (OSError, ValueError, Image.DecompressionBombError):
            continue  # `data check` tells of broken files
    return sorted(heights)[len(heights) // 2] if heights else None


def _inline(value: str) -> str:
    """A text as YAML in one line."""
    text: str = yaml.safe_dump(os.fspath(value), default_flow_style=True, width=10_000, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")
