"""Features of any model in a file: ``.npz``, or ``.mat`` as the Market-1501 evaluation scripts write it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from numpy.typing import NDArray

from reid_da.atomic import atomic_path
from reid_da.errors import InputError
from reid_da.evaluation._features import feature_pair, row_squares
from reid_da.evaluation._relevance import Relevance

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
        query_paths: (Q,) names of the images, or None.
        gallery_paths: (G,) names of the images, or None.
    """

    query_features: NDArray[np.floating[Any]]
    query_pids: NDArray[np.int64]
    query_camids: NDArray[np.int64]
    gallery_features: NDArray[np.floating[Any]]
    gallery_pids: NDArray[np.int64]
    gallery_camids: NDArray[np.int64]
    query_paths: NDArray[np.str_] | None = None
    gallery_paths: NDArray[np.str_] | None = None

    @property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        """The six arrays in the order in which :func:`evaluate_retrieval` takes them."""
        return tuple(getattr(self, name) for name in _MAT_NAMES)


def load_feature_file(path: str | os.PathLike[str]) -> FeatureSet:
    """Features and labels from a file, checked.

    Args:
        path: ``.npz`` with the arrays that :class:`FeatureSet` names, or ``.mat`` with ``query_f, query_label,
            query_cam, gallery_f, gallery_label, gallery_cam``, labels as rows or columns. Version 7.3 of ``.mat``
            takes h5py (extra ``matlab``).

    Raises:
        InputError: the file cannot be read, an array is missing, the arrays do not fit together, rows of features
            are NaN, infinite or all zero, or no query has its identity in the gallery.
    """
    found, names = read_arrays(path)
    missing = [name for name in names.values() if name not in found]
    if missing:
        raise InputError(f"{path}: no {', '.join(missing)} (found: {', '.join(sorted(found)) or 'nothing'})")
    try:
        for side in ("query", "gallery"):
            check_orientation(found[names[f"{side}_features"]], found[names[f"{side}_pids"]], names[f"{side}_features"])
        checked = _checked({ours: found[theirs] for ours, theirs in names.items()})
        return replace(
            checked,
            query_paths=path_array(found, "query_paths", length=len(checked.query_features)),
            gallery_paths=path_array(found, "gallery_paths", length=len(checked.gallery_features)),
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def read_arrays(path: str | os.PathLike[str]) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """All arrays of a feature file by name, not checked, and the names that ours have in a file of its kind.

    Raises:
        InputError: there is no such file, or it cannot be read.
    """
    path = Path(path)
    readers = {".npz": (_read_npz, {name: name for name in _MAT_NAMES}), ".mat": (_read_mat, _MAT_NAMES)}
    if path.suffix not in readers:
        raise InputError(f"{path}: expected a feature file that ends in .npz or .mat")
    read, names = readers[path.suffix]
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        return read(path), names
    except InputError:
        raise
    except Exception as error:  # readers meet a damaged file with errors of any type
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: cannot be read as {path.suffix} ({reason}); write the features again") from error


def check_orientation(features: NDArray[Any], labels: NDArray[Any], name: str) -> None:
    """Refuse features that have a column for each image where a row is expected; MATLAB scripts often do.

    Args:
        features: (N, D) array; anything else is left to other checks.
        labels: N labels or names of the images, as rows or columns.
        name: what to call the features.

    Raises:
        InputError: there are as many columns as labels, and not as many rows.
    """
    if features.ndim == 2 and features.shape[1] == labels.size != features.shape[0]:
        raise InputError(
            f"{name}: the shape {features.shape} with {labels.size} labels has one column per image; transpose it to "
            f"one row per image and save it again ({name}.T in Python, {name}' in MATLAB)"
        )


def path_array(found: Mapping[str, NDArray[Any]], name: str, *, length: int) -> NDArray[np.str_] | None:
    """The names of images in an array of a feature file, or None where it has none.

    Raises:
        InputError: they are not as many as the features, or no text.
    """
    if name not in found:
        return None
    values = found[name]
    if values.shape != (length,) or values.dtype.kind != "U":
        raise InputError(f"{name}: expected {length} texts, got the type {values.dtype} and shape {values.shape}")
    return values


def save_feature_file(path: str | os.PathLike[str], features: FeatureSet) -> None:
    """Write ``features`` to an ``.npz`` file, whole or not at all.

    Raises:
        InputError: ``path`` does not end in ``.npz``.
    """
    columns = {field.name: getattr(features, field.name) for field in fields(features)}
    save_arrays(path, {name: array for name, array in columns.items() if array is not None})


def save_arrays(path: str | os.PathLike[str], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays to an ``.npz`` file, whole or not at all.

    Raises:
        InputError: ``path`` does not end in ``.npz``.
    """
    check_npz(path)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **dict[str, Any](arrays))


def check_npz(path: str | os.PathLike[str]) -> None:
    """Refuse the name of a file to write that does not end in ``.npz``.

    Raises:
        InputError: it does not.
    """
    if Path(path).suffix != ".npz":
        raise InputError(f"{path}: expected the name of a feature file to write to end in .npz")


def _read_npz(path: Path) -> dict[str, NDArray[Any]]:
    # numpy leaves a damaged file open unless somebody else closes it
    with path.open("rb") as file:
        archive = np.load(file, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise ValueError("a single array without a name")
        return {name: archive[name] for name in archive.files}


def _read_mat(path: Path) -> dict[str, NDArray[Any]]:
    if is_hdf5(path):
        return _read_mat73(path)
    return {name: array for name, array in scipy.io.loadmat(path).items() if not name.startswith("__")}


def is_hdf5(path: Path) -> bool:
    """Whether a ``.mat`` file is of version 7.3, which is HDF5 behind 512 bytes of header."""
    with path.open("rb") as file:
        return file.read(10) == b"MATLAB 7.3"


def _read_mat73(path: Path) -> dict[str, NDArray[Any]]:
    """Numeric arrays of a ``.mat`` file of version 7.3, with the axes that MATLAB shows: HDF5 holds them in reverse."""
    try:
        import h5py
    except ImportError as error:
        raise InputError(
            f"{path}: is of version 7.3, which needs h5py: install reid-da[matlab], or save it again in MATLAB with "
            "save(..., '-v7')"
        ) from error
    with h5py.File(path, "r") as file:
        datasets = {name: item for name, item in file.items() if isinstance(item, h5py.Dataset)}
        return {name: item[()].T for name, item in datasets.items() if item.dtype.kind in "fiub"}


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
