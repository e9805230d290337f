"""Features of any model in a file: ``.npz``, or ``.mat`` as the Market-1501 evaluation scripts write it."""

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reid_da.atomic import atomic_path
from reid_da.errors import InputError, first_few
from reid_da.evaluation._features import feature_pair, row_squares
from reid_da.evaluation._relevance import Relevance
from reid_da.evaluation.array_files import read_arrays

_MAT_NAMES = {
    "query_features": "query_f",
    "query_pids": "query_label",
    "query_camids": "query_cam",
    "gallery_features": "gallery_f",
    "gallery_pids": "gallery_label",
    "gallery_camids": "gallery_cam",
}
"""Our name of each array, and its name in a ``.mat`` file."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureSet:
    """Features and labels of a query and a gallery set.

    Attributes:
        query_features: (Q, D) float.
        query_pids: (Q,) int64, -1 for junk.
        query_camids: (Q,) int64.
        gallery_features: (G, D) float.
        gallery_pids: (G,) int64, -1 for junk.
        gallery_camids: (G,) int64.
    """

    query_features: NDArray[np.floating[Any]]
    query_pids: NDArray[np.int64]
    query_camids: NDArray[np.int64]
    gallery_features: NDArray[np.floating[Any]]
    gallery_pids: NDArray[np.int64]
    gallery_camids: NDArray[np.int64]

    @property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        """The six arrays in the order in which :func:`evaluate_retrieval` takes them."""
        return tuple(getattr(self, field.name) for field in fields(self))


def load_feature_file(path: str | os.PathLike[str]) -> FeatureSet:
    """Features and labels from a file, checked.

    Args:
        path: ``.npz`` with the arrays that :class:`FeatureSet` names, or ``.mat`` (version 7 or below) with
            ``query_f, query_label, query_cam, gallery_f, gallery_label, gallery_cam``, labels as rows or columns.

    Raises:
        InputError: the file cannot be read, an array is missing, the arrays do not fit together, rows of features
            are NaN, infinite or all zero, or no query has its identity in the gallery.
    """
    path = Path(path)
    if path.suffix not in (".npz", ".mat"):
        raise InputError(f"{path}: expected a feature file that ends in .npz or .mat")
    names = _MAT_NAMES if path.suffix == ".mat" else {name: name for name in _MAT_NAMES}
    found, present = read_arrays(path, list(names.values()))
    missing = [name for name in names.values() if name not in found]
    if missing:
        raise InputError(f"{path}: no {', '.join(missing)} (found: {first_few(sorted(present), 20) or 'nothing'})")
    try:
        return _checked({ours: found[theirs] for ours, theirs in names.items()})
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def save_feature_file(path: str | os.PathLike[str], features: FeatureSet) -> None:
    """Write ``features`` to an ``.npz`` file, all of it or nothing.

    Raises:
        InputError: ``path`` does not end in ``.npz``.
    """
    if Path(path).suffix != ".npz":
        raise InputError(f"{path}: expected the name of a feature file to write to end in .npz")
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **{field.name: getattr(features, field.name) for field in fields(features)})


def _checked(arrays: dict[str, NDArray[Any]]) -> FeatureSet:
    """The arrays as a :class:`FeatureSet`, with labels in one dimension."""
    query, gallery, dtype = feature_pair(arrays["query_features"], arrays["gallery_features"])
    row_squares(query, "query_features", dtype=dtype)
    row_squares(gallery, "gallery_features", dtype=dtype)
    relevance = Relevance(
        *(_flat(arrays[name]) for name in ("query_pids", "query_camids", "gallery_pids", "gallery_camids")),
        shape=(len(query), len(gallery)),
        # the cameras matter only where the evaluation leaves the same camera out, and it checks that itself
        same_camera="include",
    )
    return FeatureSet(
        query_features=query.numpy(),
        query_pids=relevance.query_pids,
        query_camids=relevance.query_camids,
        gallery_features=gallery.numpy(),
        gallery_pids=relevance.gallery_pids,
        gallery_camids=relevance.gallery_camids,
    )


def _flat(labels: NDArray[Any]) -> NDArray[Any]:
    """``labels`` without the second dimension that MATLAB gives every array."""
    return labels.reshape(-1) if labels.ndim == 2 and 1 in labels.shape else labels
