"""Export of a model: written, run again at several batch sizes, compared, evaluated, described."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from reid_da.atomic import atomic_paths
from reid_da.datasets import Dataset
from reid_da.errors import InputError, unknown_name
from reid_da.evaluation.camera_norms import ANY_CAMERA
from reid_da.evaluation.extraction import open_test_images
from reid_da.evaluation.retrieval import RetrievalResult, evaluate_retrieval
from reid_da.exporting.card import model_card
from reid_da.exporting.formats import (
    Exportable,
    Format,
    OnnxNetwork,
    Pixels,
    check_can_write,
    open_torchscript,
    write_onnx,
    write_torchscript,
)
from reid_da.images.augment import normalize
from reid_da.models.camera_norm import UNKNOWN_CAMERA
from reid_da.training.portable import read_portable, save_portable
from reid_da.training.trained import TrainedModel

BATCH_SIZES = (1, 2, 5, 16)
"""Sizes of the batches that both models are run on; one of them is the size of the exporter's example."""
TOLERANCE = 1e-4
"""Largest difference of a component of two unit vectors that is taken for rounding."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """What was written, and what it was found to be worth.

    Attributes:
        file: the exported model.
        card: the model card beside it.
        kind: the format.
        pixels: what the model takes.
        image_size: height and width of its images.
        dim: length D of its features.
        differences: largest absolute difference of a component from the PyTorch model, by batch size.
        data: name of the data set that it was evaluated on, or None.
        before: evaluation of the PyTorch model, or None.
        after: evaluation of the exported file, or None.
        camera: whose batch-norm statistics a model that normalises by camera has; None for other models.
    """

    file: Path
    card: Path
    kind: str
    pixels: str
    image_size: tuple[int, int]
    dim: int
    differences: dict[int, float]
    data: str | None = None
    before: RetrievalResult | None = None
    after: RetrievalResult | None = None
    camera: str | None = None

    def to_json(self) -> dict[str, Any]:
        """All of it; the figures under their usual names."""
        return {
            "file": str(self.file),
            "card": str(self.card),
            "format": self.kind,
            "pixels": self.pixels,
            "image_size": list(self.image_size),
            "dim": self.dim,
            "differences": {str(size): value for size, value in self.differences.items()},
            "data": self.data,
            "camera": self.camera,
            "pytorch": self.before.to_json() if self.before else None,
            "exported": self.after.to_json() if self.after else None,
        }


def export_model(
    model: TrainedModel,
    file: Path,
    *,
    kind: Format,
    pixels: Pixels | None = None,
    dataset: Dataset | None = None,
    camera: str | None = None,
) -> Export:
    """Write a model for use elsewhere; nothing is written unless it gives the features of the PyTorch model.

    ``onnx`` and ``torchscript`` take (B, 3, H, W) images, any number B of one size, and give (B, D) float32 features of
    unit length. ``safetensors`` holds the weights and the settings of a run, which :func:`reid_da.load` reads. No
    format holds a path of this machine.

    Args:
        model: the model.
        file: to write; the card has its name with ``.md`` behind it.
        kind: ``onnx``, ``torchscript`` or ``safetensors``.
        pixels: what the exported model takes: ``uint8``, RGB from 0 to 255, normalised inside; or ``normalized``. By
            default the first, but for ``safetensors``, which holds no preprocessing.
        dataset: with query and gallery, to evaluate both models on; or None. A model for one camera is not evaluated.
        camera: of a model that normalises by camera, whose statistics ``onnx`` and ``torchscript`` have, or ``any`` for
            those of all; ``safetensors`` holds all of them.

    Raises:
        InputError: an option is unknown, a package is missing, the model is not one of a run (``safetensors``), it
            cannot be exported, or the exported one gives other features.
    """
    for name, value, choices in (("format", kind, get_args(Format)), ("pixels", pixels or "uint8", get_args(Pixels))):
        if value not in choices:
            raise unknown_name(name, value, choices)
    if kind == "safetensors" and pixels == "uint8":
        raise InputError("pixels: a safetensors file holds weights and no preprocessing; leave the option out")
    chosen: Pixels = pixels or ("normalized" if kind == "safetensors" else "uint8")
    check_can_write(kind)
    exportable = Exportable(_network_for(model, kind, camera).cpu(), pixels=chosen).eval()
    if model.is_by_camera and camera != ANY_CAMERA:
        dataset = None
    card = file.with_name(f"{file.name}.md")
    with atomic_paths(file, card) as (temporary, temporary_card):
        exported = _written(model, exportable, temporary, kind)
        found = compare(exportable, exported, image_size=model.image_size)
        differences, dim = found
        before, after = _evaluations(exportable, exported, dataset, model.image_size)
        export = Export(
            file=file, card=card, kind=kind, pixels=chosen, image_size=model.image_size, dim=dim,
            differences=differences, data=None if dataset is None else dataset.name, before=before, after=after,
            camera=camera,
        )  # fmt: skip
        temporary_card.write_text(model_card(export.to_json(), model), encoding="utf-8")
    return export


def compare(
    model: Exportable,
    exported: nn.Module,
    *,
    image_size: tuple[int, int],
    batch_sizes: Sequence[int] = BATCH_SIZES,
    tolerance: float = TOLERANCE,
) -> tuple[dict[int, float], int]:
    """Largest difference between the features of two models by batch size, and their length D.

    Args:
        model: the original.
        exported: what was written and read again.
        image_size: height and width.
        batch_sizes: numbers of random images.
        tolerance: the largest difference that is allowed.

    Raises:
        InputError: a difference is larger, or the shapes differ.
    """
    differences, dim = {}, 0
    for size in batch_sizes:
        images = _random_images(size, image_size)
        images = images if model.pixels == "uint8" else normalize(images)
        with torch.inference_mode():
            expected, found = model(images), exported(images)
        dim = expected.shape[1]
        if found.shape != expected.shape:
            raise InputError(
                f"the exported model gives features of shape {tuple(found.shape)} for {size} images, not"
                f" {tuple(expected.shape)}; nothing was written"
            )
        differences[size] = float((expected - found).abs().max())
        # not "> tolerance": NaN has to fail
        if not differences[size] <= tolerance:
            raise InputError(
                f"the exported model gives other features: they differ by {differences[size]:.2g} for a batch of "
                f"{size}, more than {tolerance:g}; nothing was written"
            )
    return differences, dim


def _network_for(model: TrainedModel, kind: Format, camera: str | None) -> nn.Module:
    """The network to write.

    Raises:
        InputError: it normalises by camera and no camera was named, or a camera was named in vain.
    """
    if not model.is_by_camera:
        if camera is not None:
            raise InputError(f"--camera: {model.name} does not normalise by camera; leave the option out")
        return model.network
    norms = model.stored_norms()
    if kind == "safetensors":
        if camera is not None:
            raise InputError("--camera: a safetensors file holds the statistics of all cameras; leave the option out")
        return model.network
    if camera is None:
        raise InputError(
            f"{model.name}: normalises by camera, and {kind} holds one network: give --camera NAME "
            f"({', '.join(norms.names)}), or --camera {ANY_CAMERA} for the statistics of all"
        )
    if camera == ANY_CAMERA:
        return norms.apply(model.network).at(UNKNOWN_CAMERA)
    return norms.at(model.network, camera)


def _written(model: TrainedModel, exportable: Exportable, path: Path, kind: Format) -> nn.Module:
    """Write the model to ``path`` and read it again."""
    if kind == "safetensors":
        if model.settings is None or model.epoch is None:
            raise InputError(
                f"{model.name}: format safetensors is for runs and their checkpoints; this is a bare backbone"
            )
        named = path.with_suffix(".safetensors")
        try:
            norms = model.stored_norms() if model.is_by_camera else None
            save_portable(named, model.network, model.settings, epoch=model.epoch, norms=norms)
            portable = read_portable(named)
            named.replace(path)
        finally:
            named.unlink(missing_ok=True)
        assert portable is not None
        return Exportable(portable.network().eval(), pixels=exportable.pixels).eval()
    write, read = {"onnx": (write_onnx, OnnxNetwork), "torchscript": (write_torchscript, open_torchscript)}[kind]
    try:
        write(path, exportable, image_size=model.image_size)
    # what a network does that a format has no operator for is told by many kinds of errors
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{model.name}: cannot be written as {kind}: {reason}") from error
    opened: nn.Module = read(path)
    return opened


def _evaluations(
    model: Exportable, exported: nn.Module, dataset: Dataset | None, image_size: tuple[int, int]
) -> tuple[RetrievalResult | None, RetrievalResult | None]:
    if dataset is None:
        return None, None
    images = open_test_images(dataset, image_size=image_size)
    transform: Callable[[Tensor], Tensor] = _as_it_is if model.pixels == "uint8" else normalize
    first, second = (
        evaluate_retrieval(*images.features(network, transform=transform).arrays, same_camera=dataset.same_camera)
        for network in (model, exported)
    )
    return first, second


def _as_it_is(images: Tensor) -> Tensor:
    return images


def _random_images(count: int, image_size: tuple[int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, 3, *image_size), dtype=torch.uint8, generator=generator)
