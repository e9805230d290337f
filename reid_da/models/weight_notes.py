"""The note that an imported weight file carries: which network it is of, and where it comes from."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open

from reid_da.errors import InputError

KEY = "reid_da_weights"
"""Entry of the file's metadata that holds the note."""


@dataclass(frozen=True, kw_only=True)
class WeightNote:
    """What an imported file says of itself.

    Attributes:
        backbone: name for :func:`reid_da.models.create_backbone`.
        layout: toolkit whose names the original had.
        last_stride: of the last stage, as that toolkit trains it.
        stem_relu: whether a ResNet has the ReLU after its first convolution.
        pooling: ``gem`` where the file holds a power for it, else ``default``.
        image_size: height and width that position embeddings are for; None where any size will do.
        source: name of the original file, without its folder.
        sha256: of the original file, in hexadecimal.
        taken: number of tensors taken.
        parameters: number of values in them, without batch counters.
        ignored: names of tensors left out: classifiers and other heads.
        remarks: what was changed, and what differs from the original toolkit.
    """

    backbone: str
    layout: str
    last_stride: int = 2
    stem_relu: bool = True
    pooling: str = "default"
    image_size: tuple[int, int] | None = None
    source: str = ""
    sha256: str = ""
    taken: int = 0
    parameters: int = 0
    ignored: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    def settings(self) -> dict[str, Any]:
        """Settings of ``model`` that a training needs to use the file, whatever the preset says about them."""
        found: dict[str, Any] = {"backbone": self.backbone, "width": 1, "last_stride": self.last_stride}
        if self.backbone.startswith("resnet"):
            found["stem_relu"] = self.stem_relu
        return found if self.pooling == "default" else {**found, "pooling": self.pooling}

    def options(self) -> dict[str, Any]:
        """Arguments of :func:`reid_da.models.create_backbone` for the backbone."""
        return {
            "name": self.backbone,
            "last_stride": self.last_stride,
            "stem_relu": self.stem_relu,
            "pooling": self.pooling,
        }

    def yaml(self, path: Path) -> str:
        """The line of a settings file that uses the file at ``path``."""
        values = {**self.settings(), "weights": str(path)}
        text: str = yaml.safe_dump(values, default_flow_style=True, sort_keys=False, width=10_000, allow_unicode=True)
        return f"model: {text.strip()}"


def read_note(path: Path) -> WeightNote | None:
    """The note of an imported file; None for any other file.

    Raises:
        InputError: the file is damaged, or its note is not one of this version.
    """
    if path.suffix != ".safetensors":
        return None
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(KEY)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path}: damaged, or not a safetensors file ({error})") from error
    if text is None:
        return None
    try:
        values = json.loads(text)
        size = values.pop("image_size")
        ignored, remarks = (tuple(map(str, values.pop(key))) for key in ("ignored", "remarks"))
        fitted = None if size is None else (int(size[0]), int(size[1]))
        return WeightNote(**values, ignored=ignored, remarks=remarks, image_size=fitted)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise InputError(f"{path}: its note on the weights cannot be read; import the original file again") from error
