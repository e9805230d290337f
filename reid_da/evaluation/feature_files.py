"""Features of any model in a file: ``.npz``, or ``.mat`` as the Market-1501 evaluation scripts write it."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reid_da.atomic import atomic_path
from reid_da.datasets.folders import camera_name
from reid_da.datasets.persons import number_persons
from reid_da.errors import InputError, first_few
from reid_da.evaluation import array_files
from reid_da.evaluation._relevance import Relevance
from reid_da.features import feature_pair, row_squares

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
            Identities and cameras are numbers, also as floats or text, or names, which are numbered in sorted order
            over query and gallery together; ``-1`` is junk. Both arrays of cameras may be missing: then all images
            count as of one camera, and only ``same_camera="include"`` can evaluate them.

    Raises:
        InputError: the file cannot be read, an array is missing, the arrays do not fit together, rows of features
            are NaN, infinite or all zero, or no query has its identity in the gallery.
    """
    cameras = ("query_camids", "gallery_camids")
    required = [name for name in _MAT_NAMES if name not in cameras]
    found, names = read_arrays(path, required, optional=[*cameras, "query_paths", "gallery_paths"])
    absent = [names[name] for name in cameras if names[name] not in found]
    if len(absent) == 1:
        raise _missing(path, absent, found)
    try:
        for side in ("query", "gallery"):
            check_orientation(found[names[f"{side}_features"]], found[names[f"{side}_pids"]], names[f"{side}_features"])
        checked = _checked({ours: found[names[ours]] for ours in _MAT_NAMES if names[ours] in found})
        return replace(
            checked,
            query_paths=path_array(found, "query_paths", length=len(checked.query_features)),
            gallery_paths=path_array(found, "gallery_paths", length=len(checked.gallery_features)),
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def read_arrays(
    path: str | os.PathLike[str], required: Sequence[str], *, optional: Sequence[str] = ()
) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Arrays of a feature file by the names that they have there, not checked, and these names by ours.

    Args:
        path: ``.npz`` or ``.mat``.
        required: our names of the arrays that must be there.
        optional: of those that may be missing.

    Raises:
        InputError: there is no such file, it cannot be read, or a required array is missing.
    """
    path = Path(path)
    if path.suffix not in (".npz", ".mat"):
        raise InputError(f"{path}: expected a feature file that ends in .npz or .mat")
    names = {name: _MAT_NAMES.get(name, name) if path.suffix == ".mat" else name for name in (*required, *optional)}
    numbers = [names[name] for name in names if name.endswith("_features")]
    labels = [name for name in names.values() if name not in numbers]
    found, present = array_files.read_arrays(path, numbers, labels)
    missing = [names[name] for name in required if names[name] not in found]
    if missing:
        raise _missing(path, missing, present)
    return found, names


def _missing(path: str | os.PathLike[str], names: Sequence[str], present: Iterable[str]) -> InputError:
    return InputError(f"{path}: no {', '.join(names)} (found: {first_few(sorted(present), 20) or 'nothing'})")


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
    """Write ``features`` to an ``.npz`` file, all of it or nothing.

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


def _checked(arrays: dict[str, NDArray[Any]]) -> FeatureSet:
    """The arrays as a :class:`FeatureSet`, with labels in one dimension."""
    query, gallery, dtype = feature_pair(arrays["query_features"], arrays["gallery_features"])
    row_squares(query, "query_features", dtype=dtype)
    row_squares(gallery, "gallery_features", dtype=dtype)
    query_pids, gallery_pids = _numbered(arrays, "query_pids", "gallery_pids", number_persons)
    if "query_camids" in arrays:
        query_camids, gallery_camids = _numbered(arrays, "query_camids", "gallery_camids", _number_cameras)
    else:
        query_camids, gallery_camids = np.zeros(len(query), np.int64), np.zeros(len(gallery), np.int64)
    relevance = Relevance(
        query_pids,
        query_camids,
        gallery_pids,
        gallery_camids,
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


def _numbered(
    arrays: Mapping[str, NDArray[Any]], query: str, gallery: str, number: Callable[[list[str]], NDArray[np.int64]]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Labels of query and gallery in one dimension; text is numbered over both, numbers stay as they are."""
    values = [_flat(arrays[name]) for name in (query, gallery)]
    if not any(value.dtype.kind in "USO" for value in values):
        return values[0], values[1]
    texts = [_texts(value, name) for value, name in zip(values, (query, gallery), strict=True)]
    numbers = number([*texts[0], *texts[1]])
    return numbers[: len(texts[0])], numbers[len(texts[0]) :]


def _number_cameras(names: list[str]) -> NDArray[np.int64]:
    known = [camera_name(name) for name in names]
    if all(name.isdecimal() and len(name) < 19 for name in known):
        return np.array([int(name) for name in known], dtype=np.int64)
    return np.unique(np.array(known), return_inverse=True)[1].astype(np.int64)


def _texts(values: NDArray[Any], name: str) -> list[str]:
    """The labels as text; MATLAB has text in cells, each an array of its own."""
    if values.ndim != 1:
        raise InputError(f"{name}: expected one label for each image, got the shape {values.shape}")
    texts = []
    for value in values.tolist():
        while isinstance(value, np.ndarray) and value.size == 1:
            value = value.item()
        text = value.decode(errors="replace") if isinstance(value, bytes) else value
        if isinstance(text, np.ndarray) or text is None or not str(text).strip():
            raise InputError(f"{name}: a label is empty or no text or number; write -1 for junk")
        texts.append(str(text).strip())
    return texts


def _flat(labels: NDArray[Any]) -> NDArray[Any]:
    """``labels`` without the second dimension that MATLAB gives every array."""
    return labels.reshape(-1) if labels.ndim == 2 and 1 in labels.shape else labels
