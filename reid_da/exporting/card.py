"""The model card beside an exported model: what it takes and gives, what it was trained on, what it reached."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

import reid_da
from reid_da.config import ExperimentSettings
from reid_da.evaluation.camera_norms import ANY_CAMERA
from reid_da.reporting.evaluation_tables import export_table
from reid_da.reporting.tables import Column, Row, Table, to_markdown
from reid_da.training.portable import settings_without_paths
from reid_da.training.trained import TrainedModel

_LICENCES = (
    "The code of reid-da is under the Apache License 2.0. That says nothing about the weights: whoever passes them on "
    "must follow the terms of the data that they were trained on. The usual re-identification sets (Market-1501, "
    "DukeMTMC-reID, MSMT17, CUHK03) are for non-commercial research; DukeMTMC-reID was withdrawn by its authors. "
    "Weights that began with ImageNet are also subject to its terms (here: {weights})."
)
_LIMITS = (
    "The features describe what a person looks like on a crop: clothes, bags, build. They do not identify anybody "
    "across days or changes of clothes, and two people dressed alike can be nearer to each other than two images of "
    "one. The figures above hold for the named cameras; on others calibrate a threshold before a similarity is taken "
    "for an answer."
)


def model_card(export: Mapping[str, Any], model: TrainedModel) -> str:
    """The card as Markdown.

    Args:
        export: :meth:`reid_da.exporting.Export.to_json`.
        model: what was exported.
    """
    height, width = export["image_size"]
    settings = model.settings
    parts = [
        f"# {Path(export['file']).name}",
        f"A person re-identification model, exported by reid-da {reid_da.__version__} as {export['format']}.",
        "## Input and output",
        _interface(export, height, width),
        "## Figures",
        _figures(export),
        to_markdown(_parity(export)).rstrip(),
        "## Training",
        _training(model),
        "## Limits",
        _LIMITS,
        "## Licences",
        _LICENCES.format(weights=f"`weights: {settings.model.weights}`" if settings else "see its file"),
    ]
    if settings is not None:
        parts += [
            "## Settings",
            f"```yaml\n{yaml.safe_dump(settings_without_paths(settings), sort_keys=False).rstrip()}\n```",
        ]
    return "\n\n".join(parts) + "\n"


def _interface(export: Mapping[str, Any], height: int, width: int) -> str:
    if export["format"] == "safetensors":
        return (
            f'`reid_da.load("{Path(export["file"]).name}")` gives the model; it resizes images to {height}x{width} '
            f"and gives unit vectors of {export['dim']} numbers."
        )
    values = (
        "uint8 RGB pixels from 0 to 255, not normalised"
        if export["pixels"] == "uint8"
        else "float32 RGB, `(pixels / 255 - mean) / std` with mean (0.485, 0.456, 0.406) and std (0.229, 0.224, 0.225)"
    )
    return (
        f"- `images`: (B, 3, {height}, {width}), {values}; any B. Resize crops to {height}x{width} (height x width) "
        f"with bicubic interpolation before.{_of_camera(export['camera'])}\n"
        f"- `features`: (B, {export['dim']}) float32 of unit length; products are cosine similarities."
    )


def _of_camera(camera: str | None) -> str:
    if camera is None:
        return ""
    whose = (
        "images of all cameras together"
        if camera == ANY_CAMERA
        else f"camera `{camera}`, and is for images of it alone"
    )
    return f" The model normalises by camera; this file has the statistics of {whose}."


def _figures(export: Mapping[str, Any]) -> str:
    if export["exported"] is None:
        return "Not evaluated: no test set was given."
    definition = "AP is the mean of the precision at each true match; percent"
    return f"{to_markdown(export_table(export)).rstrip()} ({definition})"


def _parity(export: Mapping[str, Any]) -> Table:
    return Table(
        columns=[Column(heading="images in a batch"), Column(heading="largest difference", form="{:.1e}")],
        rows=[Row(cells=[int(size), value]) for size, value in export["differences"].items()],
        notes=["of a component of the unit vectors, from the PyTorch model, on random images"],
    )


def _training(model: TrainedModel) -> str:
    settings: ExperimentSettings | None = model.settings
    if settings is None:
        return f"None by reid-da: {Path(model.name).name}."
    names = {role: _data_name(getattr(settings.data, role)) for role in ("source", "target")}
    return (
        f"Method `{settings.method}`, backbone `{settings.model.backbone}`, epoch {model.epoch} of {settings.epochs}; "
        f"source: {names['source']}, target: {names['target']} (names of the folders)."
    )


def _data_name(paths: object) -> str:
    if paths is None:
        return "none"
    return ", ".join(f"`{Path(str(path)).name}`" for path in (paths if isinstance(paths, tuple) else (paths,)))
