"""A trained network as one ``.safetensors`` file that says itself which network it is."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from reid_da.config import ExperimentSettings, merge
from reid_da.errors import InputError
from reid_da.evaluation.camera_norms import NamedNorms
from reid_da.methods import METHODS, settings_of
from reid_da.models.weight_files import read_state_dict

_KEY = "reid_da"
"""Entry of the file's metadata that describes the network."""
_STATISTICS, _COMMON = "camera_norms.statistics", "camera_norms.common"
"""Names of batch-norm statistics of cameras among the weights."""
_UNSET: Mapping[str, Any] = {"data": dict.fromkeys(("source", "target", "test", "cache_dir")), "pretrain": None}
"""Settings of the training's machine and of stages before, which are over."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PortableModel:
    """What a portable file holds.

    Attributes:
        weights: of the network for inference.
        settings: that it was trained with, without paths.
        epoch: of its checkpoint.
        norms: batch-norm statistics of cameras, of a network that normalises by camera.
    """

    weights: Mapping[str, Tensor]
    settings: ExperimentSettings
    epoch: int
    norms: NamedNorms | None = None

    def network(self) -> nn.Module:
        """The network for inference, on the CPU.

        Raises:
            InputError: the weights are not those of the described network.
        """
        method = METHODS[self.settings.method]
        named = {method.inference_part + name: value for name, value in self.weights.items()}
        try:
            return method.restore(self.settings, named)
        except (KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"the weights are not those of the network that the file describes: {reason}") from error


def settings_without_paths(settings: ExperimentSettings) -> dict[str, Any]:
    """Settings as nested mappings of JSON values; of paths, which are nobody else's business, the last part is left."""
    named: dict[str, Any] = _last_parts(merge(settings.model_dump(mode="json"), _UNSET))
    return named


def _last_parts(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _last_parts(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_last_parts(item) for item in value]
    return value.replace("\\", "/").rstrip("/").rpartition("/")[2] if isinstance(value, str) else value


def save_portable(
    path: Path, network: nn.Module, settings: ExperimentSettings, *, epoch: int, norms: NamedNorms | None = None
) -> None:
    """Write the weights of a network for inference with what is needed to build it again."""
    description = {"settings": settings_without_paths(settings), "epoch": epoch}
    weights = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    if norms is not None:
        description["camera_norms"] = {"names": norms.names, "data": norms.data}
        weights |= {_STATISTICS: norms.statistics.cpu().contiguous(), _COMMON: norms.common.cpu().contiguous()}
    save_file(weights, path, metadata={_KEY: json.dumps(description), "format": "pt"})


def read_portable(path: Path) -> PortableModel | None:
    """The network of a portable file; None for a file of weights that does not describe its network.

    Raises:
        InputError: the file is damaged, or its description is not one of this version.
    """
    if path.suffix != ".safetensors":
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path}: damaged, or not a safetensors file ({error})") from error
    if _KEY not in metadata:
        return None
    try:
        description = json.loads(metadata[_KEY])
        settings = settings_of(description["settings"], where=str(path))
        weights, epoch, norms = dict(read_state_dict(path)), int(description["epoch"]), None
        if "camera_norms" in description:
            notes = description["camera_norms"]
            norms = NamedNorms(
                names=tuple(map(str, notes["names"])),
                statistics=weights.pop(_STATISTICS),
                common=weights.pop(_COMMON),
                data=str(notes["data"]),
                epoch=epoch,
                image_size=settings.data.image_size,
            )
        return PortableModel(weights=weights, settings=settings, epoch=epoch, norms=norms)
    except (ValueError, KeyError, TypeError) as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise InputError(f"{path}: cannot be read as a model of reid-da: {reason}") from error
