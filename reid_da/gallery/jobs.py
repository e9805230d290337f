"""What commands do with an index beside what its modules do."""

from pathlib import Path

from pydantic import ValidationError

from reid_da.clustering import ClusteringSettings
from reid_da.errors import InputError
from reid_da.gallery import database
from reid_da.gallery.places import add_folders

HIDDEN_INDEX = ".gallery"
"""Folder of the index that is made in a folder of images."""


def index_of(path: Path, *, model: str | None, layout: str | None = None, device: str = "auto") -> Path:
    """The folder of an index: the path itself, or that of an index in a folder of images, brought up to date.

    Args:
        path: an index, or a folder of images.
        model: for a folder: the model.
        layout: for a folder: what its folders are.
        device: where the model computes.

    Raises:
        InputError: it is neither, or has no model.
    """
    if (path / database.FILE).exists() or not path.is_dir():
        return path
    place = path / HIDDEN_INDEX
    add_folders(place, [path], model=model, device=device, model_options={}, layout=layout)
    return place


def clustering_settings(*, eps: float, min_samples: int, k1: int, metric: str) -> ClusteringSettings:
    """Settings of the clustering from options of a command line.

    Raises:
        InputError: a value is out of its range.
    """
    values = {"eps": eps, "min_samples": min_samples, "k1": k1, "k2": min(6, k1), "metric": metric}
    try:
        return ClusteringSettings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"--{str(first['loc'][0]).replace('_', '-')}: {first['msg']}") from error
