"""Named arrays out of files of others: only those that are asked for, and only after a look at their sizes.

A compressed file can hold a thousand times its own size. That is looked at before anything is unpacked, so that a file
of some megabytes does not fill the memory.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import scipy.io
from numpy.typing import NDArray

from reid_da.errors import InputError
from reid_da.mat_files import compressed_elements, unpacked_sizes
from reid_da.reading import UnsuitableFileError, open_regular
from reid_da.text import size_text

MAX_RATIO = 20
"""How many times its size in the file an array may have: features hardly compress."""
_ALWAYS_ALLOWED = 64 * 2**20
"""Bytes below which an array may compress as well as it likes, as labels do."""
_LARGEST_FILE = 2**44
_NUMERIC = {"double", "single", "logical", "char"} | {
    f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}

Arrays = tuple[dict[str, NDArray[Any]], list[str]]
"""Arrays by name, and the names of all arrays in the file."""


def read_arrays(path: Path, numbers: Sequence[str], labels: Sequence[str] = ()) -> Arrays:
    """Those arrays of an ``.npz`` or ``.mat`` file that have the given names.

    Version 7.3 of ``.mat`` takes h5py; of its arrays only those of numbers are read.

    Args:
        path: the file.
        numbers: names of arrays of numbers; those that the file does not hold are left out of the result.
        labels: names of arrays that may also be MATLAB's cells, an object array of texts.

    Raises:
        InputError: the file cannot be read, an array is of another kind, or has too many bytes.
    """
    read = {".npz": _read_npz, ".mat": _read_mat}[path.suffix]
    try:
        with open_regular(path, limit=_LARGEST_FILE) as file:
            return read(file, numbers, labels)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (UnsuitableFileError, InputError) as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:  # readers meet a damaged file with errors of any type
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: cannot be read as {path.suffix} ({reason}); write the features again") from error


def _read_npz(file: BinaryIO, numbers: Sequence[str], labels: Sequence[str]) -> Arrays:
    if file.read(4) == b"\x93NUM":
        raise ValueError("a single array without a name")
    file.seek(0)
    with np.load(file, allow_pickle=False) as archive:
        entries = {info.filename.removesuffix(".npy"): info for info in archive.zip.infolist()}
        wanted = [name for name in (*numbers, *labels) if name in archive.files]
        for name in wanted:
            _check_ratio(name, entries[name].file_size, packed=entries[name].compress_size)
        _check_memory(sum(entries[name].file_size for name in wanted))
        return {name: archive[name] for name in wanted}, list(archive.files)


def _read_mat(file: BinaryIO, numbers: Sequence[str], labels: Sequence[str]) -> Arrays:
    # version 7.3 is HDF5 behind 512 bytes of header
    if file.read(10) == b"MATLAB 7.3":
        return _read_mat73(file, [*numbers, *labels])
    file.seek(0)
    listed = {name: (shape, kind) for name, shape, kind in scipy.io.whosmat(file) if not name.startswith("__")}
    wanted = [name for name in (*numbers, *labels) if name in listed]
    for name in wanted:
        if listed[name][1] not in (_NUMERIC if name in numbers else {*_NUMERIC, "cell"}):
            raise InputError(f"{name}: expected a full matrix of numbers, got a {listed[name][1]}")
    _check_memory(sum(8 * math.prod(listed[name][0]) for name in wanted))
    for element, payload in compressed_elements(file):
        if element is None or element in wanted:
            _check_inflated(element or "an array", payload)
    file.seek(0)
    found = scipy.io.loadmat(file, variable_names=wanted) if wanted else {}
    return {name: found[name] for name in wanted}, list(listed)


def _read_mat73(file: BinaryIO, names: Sequence[str]) -> Arrays:
    """Arrays with the axes that MATLAB shows: HDF5 holds them in reverse."""
    try:
        import h5py
    except ImportError as error:
        raise InputError(
            "is of version 7.3, which needs h5py: install reid-da[matlab], or save it again in MATLAB with "
            "save(..., '-v7')"
        ) from error
    with h5py.File(file, "r") as archive:
        # a link of another kind, and data elsewhere, would have this read files that nobody named
        links = {name: archive.get(name, getlink=True) for name in archive}
        found = {name: archive[name] for name in names if isinstance(links.get(name), h5py.HardLink)}
        found = {name: item for name, item in found.items() if isinstance(item, h5py.Dataset)}
        found = {name: item for name, item in found.items() if item.dtype.kind in "fiub"}
        for name, item in found.items():
            if item.external or item.is_virtual:
                raise InputError(f"{name}: its values are in another file; save it again in one")
            _check_ratio(name, item.nbytes, packed=item.id.get_storage_size())
        _check_memory(sum(item.nbytes for item in found.values()))
        return {name: item[()].T for name, item in found.items()}, list(links)


def _check_ratio(name: str, size: int, *, packed: int) -> None:
    if size > max(_ALWAYS_ALLOWED, MAX_RATIO * packed):
        raise InputError(
            f"{name}: would take {size_text(size)} or more, unpacked from {size_text(packed)}; write it uncompressed"
        )


def _check_memory(size: int) -> None:
    free = _available_memory()
    if free is not None and size > free:
        raise InputError(f"the arrays would take {size_text(size)}, but {size_text(free)} of memory are free")


def _available_memory() -> int | None:
    """Bytes that the system can give to a process; None where it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    sizes = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return 1024 * sizes[0] if sizes else None


def _check_inflated(name: str, payload: bytes) -> None:
    """Unpack an element and throw it away: what a tag in it says about its size need not be true."""
    for size in unpacked_sizes(payload):
        _check_ratio(name, size, packed=len(payload))
