"""MATLAB files of published protocols."""

from pathlib import Path
from typing import Any

from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from reid_da.errors import InputError

MAT_ERRORS = (MatReadError, ValueError, LookupError, NotImplementedError, OSError, TypeError, AttributeError)
"""What a file that is none, ends early or is of another structure may cause while it is read and taken apart."""


def read_variable(file: Path, name: str) -> Any:
    """A variable of a MATLAB file (version 7 or below).

    Raises:
        InputError: there is no such file, it cannot be read, or it has no such variable.
    """
    if not file.is_file():
        raise InputError(f"{file}: no such file; copy it from the authors' evaluation code")
    try:
        return loadmat(file)[name]
    except MAT_ERRORS as error:
        raise InputError(f"{file}: no variable {name} in it ({reason(error)}); copy the file again") from error


def reason(error: Exception) -> str:
    """What an error says, in one line."""
    return (str(error).splitlines() or [type(error).__name__])[0]
