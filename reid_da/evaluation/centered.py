"""Per-camera centring of query and gallery, and camera means kept with a model."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from reid_da.atomic import atomic_path
from reid_da.centering import CameraMeans, center_cameras, center_with
from reid_da.errors import InputError, unknown_name
from reid_da.evaluation.feature_files import FeatureSet
from reid_da.features import Array

FILE_NAME = "camera_means.safetensors"
"""Name of the file in a run folder."""


def centered_set(features: FeatureSet) -> FeatureSet:
    """Query and gallery without the means of their cameras, over both together; see :func:`center_cameras`.

    Like re-ranking this is transductive: what is found for a query depends on the other images. Labels are not read.
    """
    stacked = np.concatenate([features.query_features, features.gallery_features])
    cameras = np.concatenate([features.query_camids, features.gallery_camids])
    centered = center_cameras(stacked, cameras).numpy()
    count = len(features.query_features)
    return replace(features, query_features=centered[:count], gallery_features=centered[count:])


def center_arrays(arrays: dict[str, NDArray[Any]], splits: Sequence[str]) -> None:
    """Take the means of the cameras out of ``SPLIT_features``, by ``SPLIT_camids``, over all the splits, in place."""
    sizes = np.cumsum([len(arrays[f"{split}_features"]) for split in splits])
    features, camids = (
        np.concatenate([arrays[f"{split}_{kind}"] for split in splits]) for kind in ("features", "camids")
    )
    centered = center_cameras(features, camids).numpy()
    for split, part in zip(splits, np.split(centered, sizes[:-1]), strict=True):
        arrays[f"{split}_features"] = part


@dataclass(frozen=True, kw_only=True, eq=False)
class NamedMeans:
    """Camera means of a model with the names of the cameras.

    Attributes:
        names: (C,) names of the cameras in the order of ``means.camids``.
        means: their means.
        data: name of the data set.
        epoch: of the checkpoint that gave the features, or None.
        image_size: height and width of the images.
    """

    names: tuple[str, ...]
    means: CameraMeans
    data: str
    epoch: int | None
    image_size: tuple[int, int]

    def center(self, features: Array, cameras: Sequence[str]) -> Tensor:
        """(N, D) unit features without the means of their cameras.

        Args:
            features: (N, D) features of the same model.
            cameras: N names.

        Raises:
            InputError: a camera is not known, or the arrays do not fit together.
        """
        number_of = dict(zip(self.names, self.means.camids.tolist(), strict=True))
        for name in cameras:
            if name not in number_of:
                raise unknown_name("camera", name, self.names)
        return center_with(features, [number_of[name] for name in cameras], self.means)


def save_means(path: Path, named: NamedMeans) -> None:
    """Write camera means as one file, whole or not at all."""
    means = named.means
    notes = {
        "names": named.names, "camids": means.camids.tolist(), "counts": means.counts.tolist(), "data": named.data,
        "epoch": named.epoch, "image_size": named.image_size,
    }  # fmt: skip
    with atomic_path(path) as temporary:
        tensors = {"means": means.means.cpu().contiguous(), "overall": means.overall.cpu().contiguous()}
        save_file(tensors, temporary, metadata={"camera_means": json.dumps(notes)})


def load_means(path: Path) -> NamedMeans:
    """Read camera means.

    Raises:
        InputError: there are none, or the file is damaged.
    """
    if not path.exists():
        raise InputError(f"{path}: there are no camera means yet: reid-da center {path.parent}")
    try:
        with safe_open(path, framework="pt") as file:
            notes = json.loads((file.metadata() or {})["camera_means"])
            tensors = {name: file.get_tensor(name) for name in ("means", "overall")}
        means = CameraMeans(
            camids=np.array(notes["camids"], dtype=np.int64),
            counts=np.array(notes["counts"], dtype=np.int64),
            means=tensors["means"],
            overall=tensors["overall"],
        )
        height, width = notes["image_size"]
        names = tuple(map(str, notes["names"]))
        if not len(names) == len(means.camids) == len(means.means):
            raise ValueError("its parts have different lengths")
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: is not a file of camera means, or is damaged: {error}") from error
    return NamedMeans(
        names=names, means=means, data=str(notes["data"]), epoch=notes["epoch"], image_size=(height, width)
    )
