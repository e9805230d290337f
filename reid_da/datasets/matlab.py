"""MATLAB files of published protocols."""

import math
import zlib
from pathlib import Path
from typing import Any

import scipy.io
from scipy.io.matlab import MatReadError

from reid_da.errors import InputError
from reid_da.mat_files import compressed_elements, unpacked_sizes
from reid_da.reading import UnsuitableFileError, open_regular

MAT_ERRORS = (
    *(MatReadError, UnsuitableFileError, ValueError, LookupError, NotImplementedError, OSError, TypeError),
    *(AttributeError, MemoryError, zlib.error),
)
"""Errors that a file may cause while it is read and parsed: of another format, truncated, or of another structure."""

MAX_BYTES = 2**27
"""Largest size of a file and of what it unpacks to; the largest protocol, that of MARS, has less than a megabyte."""


def read_variables(file: Path, *names: str) -> list[Any]:
    """Variables of a MATLAB file (version 7 or below), in the order of their names. Sizes are looked at first.

    Raises:
        InputError: there is no such file, it cannot be read, is larger than a protocol, or lacks one of them.
    """
    if not file.exists():
        raise InputError(f"{file}: no such file; copy it from the authors' evaluation code")
    try:
        with open_regular(file, limit=MAX_BYTES) as stream:
            for _, payload in compressed_elements(stream):
                for size in unpacked_sizes(payload):
                    _check_size(size)
            stream.seek(0)
            _check_size(8 * sum(math.prod(shape) for name, shape, _ in scipy.io.whosmat(stream) if name in names))
            stream.seek(0)
            found = scipy.io.loadmat(stream, variable_names=names)
        return [found[name] for name in names]
    except MAT_ERRORS as error:
        wanted = "variable" if len(names) == 1 else "variables"
        raise InputError(
            f"{file}: no {wanted} {', '.join(names)} in it ({reason(error)}); copy the file again"
        ) from error


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        raise UnsuitableFileError(f"it unpacks to more than {MAX_BYTES:,} bytes")


def reason(error: Exception) -> str:
    """What an error says, in one line."""
    return (str(error).splitlines() or [type(error).__name__])[0]
