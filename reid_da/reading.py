"""Reading files that others have written: regular files only, and no more of them than makes sense."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

MAX_LIST_BYTES = 2**28
"""Largest size of a list of images; that of MSMT17 has 3 MB."""


class UnsuitableFileError(Exception):
    """A file that is not worth reading whatever its content; the text says why, without the path."""


def open_regular(path: str | os.PathLike[str], *, limit: int) -> BinaryIO:
    """Open a regular file to read; links are followed.

    A device has no end, and a pipe may never give a byte: neither is read.

    Args:
        path: the file.
        limit: largest size in bytes.

    Raises:
        OSError: it cannot be opened.
        UnsuitableFileError: it is no regular file, or larger than ``limit``.
    """
    # without waiting: opening a pipe that nobody writes to would take forever
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise UnsuitableFileError("is a folder")
        if not stat.S_ISREG(status.st_mode):
            raise UnsuitableFileError("is not a regular file but a device, a pipe or the like")
        if status.st_size > limit:
            raise UnsuitableFileError(f"has {status.st_size:,} bytes, more than {limit:,}")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: str | os.PathLike[str], *, limit: int) -> bytes:
    """Content of a regular file of at most ``limit`` bytes.

    Raises:
        OSError: it cannot be read.
        UnsuitableFileError: it is no regular file, or larger than ``limit``, perhaps because it grows.
    """
    with open_regular(path, limit=limit) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise UnsuitableFileError(f"has more than {limit:,} bytes")
    return content


def read_list(path: str | os.PathLike[str], *, encoding: str = "utf-8-sig", errors: str = "strict") -> str:
    """Text of a regular file of at most :data:`MAX_LIST_BYTES`, such as a list of images.

    Raises:
        OSError: it cannot be read.
        UnicodeDecodeError: it is not in the encoding.
        UnsuitableFileError: it is no regular file, or too large.
    """
    return read_regular(path, limit=MAX_LIST_BYTES).decode(encoding, errors)


def read_error(path: str | os.PathLike[str], error: Exception) -> str:
    """``PATH: why`` for an error of the two functions above."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"{Path(path)}: {reason}"
