"""Files and folders that are either whole or absent, or one process's own for a while."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # a system without advisory locks
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = ".lock"
"""Name of the file that the process has locked which owns a folder for a while."""


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


@contextmanager
def own_folder(path: str | os.PathLike[str]) -> Iterator[None]:
    """Make a folder, and be the only process that owns it while the block runs.

    The system lets go of the lock when a process is killed. Where it has no advisory locks, everybody is let in. If the
    folder is empty at the end, it goes again, with the parents that were made for it.

    Raises:
        BlockingIOError: another process owns the folder.
    """
    folder = Path(path)
    made = missing_folders(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _lock(folder / LOCK_FILE):
            yield
    finally:
        remove_empty(made)


def missing_folders(path: Path) -> list[Path]:
    """A folder and those of its parents that do not exist, from the inside to the outside."""
    return [folder for folder in (path, *path.parents) if not folder.exists()]


def remove_empty(folders: Sequence[Path]) -> None:
    """Remove folders, from the first to the last, up to one that is not empty."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return


@contextmanager
def _lock(file: Path) -> Iterator[None]:
    """Hold a lock file, which is removed at the end."""
    stream = _locked(file)
    try:
        yield
    finally:
        # removed before it is let go: a process that waits at this moment must not lock a file that is no more
        with suppress(OSError):
            file.unlink()
        stream.close()


def _locked(file: Path) -> IO[bytes]:
    """The file, opened and locked; it is not there any more if its former owner removed it in between."""
    while True:
        stream = file.open("ab")
        try:
            if fcntl is not None:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(file.stat(), os.fstat(stream.fileno())):
                return stream
        except BlockingIOError:
            stream.close()
            raise
        except FileNotFoundError:
            pass
        except OSError:
            return stream  # a file system without locks
        stream.close()


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
