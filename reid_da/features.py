"""Feature arrays and the labels of their rows: checked, and never copied whole without need."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from reid_da.errors import InputError, first_few
from reid_da.finite import fault_of_rows

Array: TypeAlias = Tensor | ArrayLike
"""A tensor, or anything that numpy takes for an array."""
Labels: TypeAlias = NDArray[np.int64]
"""(N,) int64 identities or cameras."""

PIECE_ROWS = 8192
"""Rows of features that are multiplied, and converted where needed, at a time."""
_SQUARED_ROWS = 256


def feature_tensor(features: Array, name: str) -> Tensor:
    """``features`` as an (N, D) tensor of floating point numbers, sharing their memory where that is possible.

    Args:
        features: (N, D) array or tensor; integers become float32, floats keep their type, tensors their device.
        name: what to call it in a message.

    Raises:
        InputError: not a matrix of real numbers with at least one row and one column.
    """
    if isinstance(features, Tensor) and (features.layout != torch.strided or features.is_quantized):
        raise InputError(f"{name}: expected a full matrix of real numbers, got a sparse or quantised tensor")
    tensor = features.detach() if isinstance(features, Tensor) else _shared_tensor(np.asarray(features), name)
    if tensor.ndim != 2 or 0 in tensor.shape:
        raise InputError(f"{name}: expected a matrix (images, dimensions), got the shape {tuple(tensor.shape)}")
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise InputError(f"{name}: expected real numbers, got {tensor.dtype}")
    tensor = tensor if tensor.is_floating_point() else tensor.float()
    return tensor if _can_be_multiplied_in_place(tensor) else tensor.contiguous()


def _shared_tensor(array: NDArray[Any], name: str) -> Tensor:
    if array.dtype.kind not in "fiu":
        raise InputError(f"{name}: expected real numbers, got the type {array.dtype}")
    dtype = array.dtype.newbyteorder("=") if array.dtype.kind == "f" else np.dtype(np.float32)
    if dtype.itemsize > 8:
        dtype = np.dtype(np.float64)
    array = array.astype(dtype, copy=False)
    if min(array.strides, default=0) < 0:
        array = array.copy()
    with warnings.catch_warnings():
        # a read-only array is welcome: nothing here writes to features
        warnings.filterwarnings("ignore", message=".*not writable", category=UserWarning)
        return torch.from_numpy(array)


def _can_be_multiplied_in_place(tensor: Tensor) -> bool:
    """Whether rows or columns lie in memory as BLAS wants them; without it numpy's product is slower by far."""
    (num_rows, num_columns), (row_step, column_step) = tensor.shape, tensor.stride()
    return (column_step == 1 and row_step >= num_columns) or (row_step == 1 and column_step >= num_rows)


def working_dtype(*features: Tensor) -> torch.dtype:
    """The type to multiply ``features`` in: float64 where one of them is, otherwise float32."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in features) else torch.float32


def feature_pair(query_features: Array, gallery_features: Array) -> tuple[Tensor, Tensor, torch.dtype]:
    """Queries (Q, D), gallery (G, D), and the :func:`working_dtype` of the two.

    Raises:
        InputError: as :func:`feature_tensor`, or unequal dimensions or devices.
    """
    query = feature_tensor(query_features, "query_features")
    gallery = feature_tensor(gallery_features, "gallery_features")
    for what, ours, theirs in (
        ("dimensions", query.shape[1], gallery.shape[1]),
        ("device", query.device, gallery.device),
    ):
        if ours != theirs:
            hint = ""
            if what == "dimensions" and len(query) == len(gallery):
                hint = f"; both have {len(query)} rows: if these are the dimensions, transpose them to a row per image"
            raise InputError(f"query_features and gallery_features differ in {what}: {ours} and {theirs}{hint}")
    return query, gallery, working_dtype(query, gallery)


def pieces(num_rows: int, size: int | None = None) -> Iterator[slice]:
    """Slices of at most ``size`` rows (by default :data:`PIECE_ROWS`) that cover ``num_rows`` rows in order."""
    size = size or PIECE_ROWS
    for start in range(0, num_rows, size):
        yield slice(start, min(start + size, num_rows))


def native(tensor: Tensor) -> Any:
    """``tensor`` as what :func:`native_library` works on, in the same memory."""
    return tensor.numpy() if tensor.device.type == "cpu" else tensor


def native_library(device: torch.device) -> Any:
    """numpy on the CPU, otherwise torch, for functions that both have under one name.

    Between two matrix products of numpy's, torch's threads are in the way: they wait for more work in a busy loop.
    """
    return np if device.type == "cpu" else torch


def row_squares(
    features: Tensor, name: str, *, dtype: torch.dtype, label: Callable[[int], object] | None = None
) -> Tensor:
    """(N,) squared Euclidean lengths of the rows of ``features`` (N, D), which are checked on the way.

    Args:
        features: (N, D) float.
        name: what to call them in a message.
        dtype: to compute in.
        label: what to call a row, e.g. the name of its image; its number from 0 if None.

    Raises:
        InputError: rows with NaN or infinite values, rows of zeros, or rows too long or too short to be scaled to unit
            length in ``dtype``; the message tells which.
    """
    library, squares = native_library(features.device), features.new_empty(len(features), dtype=dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        for rows in pieces(len(features), _SQUARED_ROWS):
            library.sum(library.square(native(features[rows].to(dtype))), 1, out=native(squares[rows]))
    suspects = (~(squares.isfinite() & (squares > 0))).nonzero().flatten()
    if len(suspects):
        raise _bad_rows(features[suspects], suspects.tolist(), name, dtype, label)
    return squares


def _bad_rows(
    features: Tensor, numbers: list[int], name: str, dtype: torch.dtype, label: Callable[[int], object] | None
) -> InputError:
    """Error for rows (given with their numbers) whose length is zero or not finite."""
    which = f"rows counted from 0: {first_few(numbers)}" if label is None else first_few(map(label, numbers))
    return fault_of_rows(features, numbers, name, label=label) or InputError(
        f"{name}: {len(numbers)} rows are too large or too small to square in {str(dtype).removeprefix('torch.')}; "
        f"scale the features ({which})"
    )


def check_directions(features: Tensor, name: str, *, label: Callable[[int], object] | None = None) -> None:
    """Refuse features (N, D) that cannot be scaled to unit length in float32; see :func:`row_squares`.

    Raises:
        InputError: as said, or there are no rows or no columns.
    """
    row_squares(feature_tensor(features, name), name, dtype=torch.float32, label=label)


def label_array(labels: Array, name: str, *, length: int) -> Labels:
    """``labels`` as (length,) int64.

    Raises:
        InputError: wrong length or shape, or a value that is not a whole number that fits into 64 bits.
    """
    values = _label_values(labels, name)
    if values.shape != (length,):
        raise InputError(
            f"{name}: expected {length} values, one per row of features, got the shape {values.shape}; features with "
            "one column per image have to be transposed"
        )
    if values.dtype.kind not in "iuf" or not (np.floor(values) == values).all() or not np.isfinite(values).all():
        raise InputError(f"{name}: expected whole numbers, got {first_few(values)} (type {values.dtype})")
    # astype would give other numbers, -1 for the largest of uint64: junk
    if len(values) and not (values.min() >= -(2**63) and values.max() < 2**63):
        raise InputError(f"{name}: expected whole numbers of at most 64 bits with sign, got {values.max()}")
    return values.astype(np.int64)


def _label_values(labels: Array, name: str) -> NDArray[Any]:
    if not isinstance(labels, Tensor):
        return np.asarray(labels)
    if labels.layout != torch.strided or labels.is_quantized:
        raise InputError(f"{name}: expected whole numbers, got a sparse or quantised tensor")
    values = labels.detach().cpu()
    # numpy knows no bfloat16
    exact: NDArray[Any] = (values.double() if values.dtype == torch.bfloat16 else values).numpy()
    return exact
