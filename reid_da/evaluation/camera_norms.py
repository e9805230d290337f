"""Batch-norm statistics of cameras, kept with a model, so that single new images can be normalised by camera."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from reid_da.atomic import atomic_path
from reid_da.datasets.folders import camera_key
from reid_da.errors import InputError, unknown_name
from reid_da.models.camera_norm import UNKNOWN_CAMERA, CameraNormed

FILE_NAME = "camera_norms.safetensors"
"""Name of the file in a run folder."""
ANY_CAMERA = "any"
"""What stands for the statistics of all cameras where a camera is named."""


@dataclass(frozen=True, kw_only=True, eq=False)
class NamedNorms:
    """Batch-norm statistics of a model with the names of the cameras.

    Attributes:
        names: (C,) names of the cameras.
        statistics: (C, M) float32 means and variances of the M / 2 channels of the backbone's batch norms.
        common: (M,) those of images of all cameras, for an unknown one.
        data: name of the data set.
        epoch: of the checkpoint, or None.
        image_size: height and width of the images.
    """

    names: tuple[str, ...]
    statistics: Tensor
    common: Tensor
    data: str
    epoch: int | None
    image_size: tuple[int, int]

    @classmethod
    def of(
        cls, model: CameraNormed, camera_names: Sequence[str], *, data: str, epoch: int | None, size: tuple[int, int]
    ) -> "NamedNorms":
        """Those of a network, whose cameras have numbers in a data set."""
        statistics = model.statistics
        return cls(
            names=tuple(camera_names[camera] for camera in statistics),
            # a table also where no camera has any
            statistics=torch.stack([*statistics.values(), model.common])[:-1],
            common=model.common,
            data=data,
            epoch=epoch,
            image_size=size,
        )

    def apply(self, network: nn.Module) -> CameraNormed:
        """A copy of a network with these statistics; the cameras are numbered as :attr:`names`."""
        return CameraNormed.of(network, dict(enumerate(self.statistics)), self.common)

    def numbers(self, cameras: Sequence[str | None]) -> list[int]:
        """Numbers of named cameras, :data:`UNKNOWN_CAMERA` for those without statistics."""
        number_of = {camera_key(name): number for number, name in enumerate(self.names)}
        return [UNKNOWN_CAMERA if name is None else number_of.get(camera_key(name), UNKNOWN_CAMERA) for name in cameras]

    def lacking(self, cameras: Sequence[str]) -> list[str]:
        """Those of the named cameras that have no statistics of their own."""
        numbers = self.numbers(cameras)
        return sorted(name for name, number in zip(cameras, numbers, strict=True) if number == UNKNOWN_CAMERA)

    def at(self, network: nn.Module, camera: str) -> nn.Module:
        """A copy of a network for images of one camera.

        Raises:
            InputError: it has no statistics of its own.
        """
        (number,) = self.numbers([camera])
        if number == UNKNOWN_CAMERA:
            raise unknown_name("camera", camera, self.names)
        return self.apply(network).at(number)


def save_norms(path: Path, norms: NamedNorms) -> None:
    """Write statistics as one file, whole or not at all."""
    notes = {"names": norms.names, "data": norms.data, "epoch": norms.epoch, "image_size": norms.image_size}
    tensors = {"statistics": norms.statistics.cpu().contiguous(), "common": norms.common.cpu().contiguous()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"camera_norms": json.dumps(notes)})


def load_norms(path: Path) -> NamedNorms | None:
    """Read statistics; None where there is no such file.

    Raises:
        InputError: the file is damaged.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            notes = json.loads((file.metadata() or {})["camera_norms"])
            statistics, common = (file.get_tensor(name) for name in ("statistics", "common"))
        height, width = notes["image_size"]
        names = tuple(map(str, notes["names"]))
        if statistics.shape != (len(names), len(common)):
            raise ValueError("its parts have different lengths")
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: is not a file of batch-norm statistics, or is damaged ({error}); remove it and make it anew: "
            f"reid-da center {path.parent}"
        ) from error
    return NamedNorms(
        names=names,
        statistics=statistics,
        common=common,
        data=str(notes["data"]),
        epoch=notes["epoch"],
        image_size=(height, width),
    )
