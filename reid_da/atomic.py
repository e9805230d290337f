"""Files and folders that are either whole or absent."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Path of a temporary file beside ``path`` that takes its place when the block ends without an error.

    The content is flushed to the disk before the rename, and the folder after it, so that a power cut leaves the
    old file or the new one, never a part. On an error the temporary file is removed and ``path`` is untouched.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes private files; the result gets the permissions that a plain open() would give
        temporary.chmod(0o666 & ~_umask())
        put_in_place(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def put_in_place(temporary: Path, target: Path) -> None:
    """Let a finished file take the place of ``target``, in the same folder; on the disk before it has the name."""
    _flush(temporary)
    temporary.replace(target)
    _flush(target.parent)


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Path of a temporary folder beside ``path`` that becomes ``path`` when the block ends without an error.

    ``path`` must not exist. Files written directly into the folder are flushed to the disk before the rename. What a
    killed process leaves behind is called ``.NAME.*.tmp``; see :func:`remove_leftovers`.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp"))
    try:
        yield temporary
        for file in (*temporary.iterdir(), temporary):
            _flush(file)
        temporary.chmod(0o777 & ~_umask())
        temporary.rename(target)
        _flush(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary folders that killed processes have left in ``folder``."""
    for path in folder.glob(".*.tmp"):
        shutil.rmtree(path, ignore_errors=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value
