"""Features of a run's model, kept with the run: reports and pictures of the same images extract them once."""

import hashlib
import json
import logging
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from reid_da.atomic import atomic_path
from reid_da.datasets import Dataset, SampleTable
from reid_da.evaluation.extraction import features_of_splits, path_column
from reid_da.evaluation.feature_files import FeatureSet
from reid_da.images.pack import digest_of_files
from reid_da.models.camera_norm import CameraNormed
from reid_da.models.weights import hash_weights
from reid_da.training.trained import TrainedModel

logger = logging.getLogger(__name__)

FOLDER = "features"
"""Folder in that of the run."""
_MOST_FILES = 8


def test_features(model: TrainedModel, dataset: Dataset) -> FeatureSet:
    """Features of query and gallery, as :meth:`TrainedModel.extract` gives them.

    Raises:
        InputError: images cannot be decoded, or features are not finite.
    """
    query, gallery = dataset.query.without_junk(), dataset.gallery.without_junk()
    network = model.for_data(dataset)
    found = [table_features(model, table, name=str(dataset.root), network=network) for table in (query, gallery)]
    return FeatureSet(
        query_features=found[0],
        query_pids=query.pids,
        query_camids=query.camids,
        gallery_features=found[1],
        gallery_pids=gallery.pids,
        gallery_camids=gallery.camids,
        query_paths=path_column(query),
        gallery_paths=path_column(gallery),
    )


def table_features(model: TrainedModel, table: SampleTable, *, name: str, network: nn.Module) -> NDArray[np.float32]:
    """(N, D) features of the images of a table, from the run's folder if they are there, else put there.

    They are known by the weights, the size of the images, and path, size and time of change of every image file.

    Args:
        model: the model; of one that is of no run nothing is kept.
        table: the images.
        name: where they come from, for messages.
        network: of the model, for the data set of the table.

    Raises:
        InputError: an image cannot be decoded, or features are not finite.
    """
    file = None
    if model.run is not None:
        file = model.run / FOLDER / f"{_key(model, network, table)}.safetensors"
        known = _read(file, len(table))
        if known is not None:
            return known
    features: NDArray[np.float32] = features_of_splits(
        {"images": table}, network, name=name, image_size=model.image_size
    )["images_features"]
    if file is not None:
        _write(file, features)
    return features


def _key(model: TrainedModel, network: nn.Module, table: SampleTable) -> str:
    digest = hashlib.blake2b(repr((tuple(model.image_size), str(table.root.resolve()))).encode(), digest_size=16)
    hash_weights(digest.update, model.network)
    digest.update(str(getattr(model.network, "test_feature", "")).encode())
    if isinstance(network, CameraNormed):
        digest.update(repr(list(network.statistics)).encode())
        digest.update(torch.stack([*network.statistics.values(), network.common]).cpu().numpy().tobytes())
    digest.update(f"{table.fingerprint} {digest_of_files(table)}".encode())
    return digest.hexdigest()


def _read(file: Path, count: int) -> NDArray[np.float32] | None:
    """The features in a file; None where there is none, or it is not what was written."""
    try:
        with safe_open(file, framework="np") as opened:
            notes = json.loads((opened.metadata() or {})["features"])
            features: NDArray[np.float32] = opened.get_tensor("features")
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None
    is_whole = len(features) == count and notes.get("checksum") == _checksum(features)
    return features if is_whole else None


def _write(file: Path, features: NDArray[np.float32]) -> None:
    try:
        file.parent.mkdir(exist_ok=True)
        with atomic_path(file) as temporary:
            tensors = {"features": torch.from_numpy(np.ascontiguousarray(features))}
            save_file(tensors, temporary, metadata={"features": json.dumps({"checksum": _checksum(features)})})
        files = sorted(file.parent.glob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns)
        for old in files[:-_MOST_FILES]:
            old.unlink(missing_ok=True)
    except OSError as error:  # they are there to save time, and no reason to stop
        logger.warning("%s: the features are not kept for the next time (%s)", file.parent, error.strerror)


def _checksum(features: NDArray[np.float32]) -> str:
    return hashlib.blake2b(np.ascontiguousarray(features).tobytes(), digest_size=16).hexdigest()
