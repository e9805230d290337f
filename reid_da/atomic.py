"""Files and folders that appear complete or not at all, or belong to one process for a while."""

import errno
import glob
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from reid_da.errors import InputError
from reid_da.locks import NO_FOLLOW, link_error, lock_file

LOCK_FILE = ".lock"
"""Name of the file that the process has locked which owns a folder for a while."""

_WRITE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}
"""Errors of ``write`` and ``fsync``, which do not say of which file."""
_TEMPORARY = ".tmp"
_NAME_CHARACTERS = 40
"""How much of a name is in that of a temporary file, so that long names stay within 255 bytes."""


def check_writable(path: str | os.PathLike[str]) -> None:
    """Refuse a place where something other than a regular file is, such as a folder or ``/dev/null``.

    Raises:
        InputError: it is.
    """
    target = Path(path)
    if target.is_dir():
        raise InputError(f"{target}: is a folder; give the name of the file to write")
    if target.exists() and not target.is_file():
        raise InputError(f"{target}: is not a regular file but a device, a pipe or the like; name a file to write")


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Path of a temporary file beside ``path`` that takes its place when the block ends without an error.

    The content is flushed to the disk before the rename, and the folder after it, so that a power cut leaves the
    old file or the new one, never a part. On an error the temporary file is removed and ``path`` is untouched. A link
    at ``path`` is replaced, not followed.

    Raises:
        InputError: there is something at ``path`` that is no regular file.
        OSError: it cannot be written; the error names ``path``.
    """
    with atomic_paths(path) as (temporary,):
        yield temporary


@contextmanager
def atomic_paths(*paths: str | os.PathLike[str]) -> Iterator[tuple[Path, ...]]:
    """As :func:`atomic_path` for files that belong together: none takes its place before all are on the disk."""
    targets = [Path(path) for path in paths]
    for target in targets:
        check_writable(target)
    with ExitStack() as stack:
        stack.enter_context(naming(", ".join(map(str, targets))))
        temporaries = tuple(stack.enter_context(_temporary_file(target)) for target in targets)
        yield temporaries
        for temporary in temporaries:
            _finish(temporary)
        for temporary, target in zip(temporaries, targets, strict=True):
            temporary.replace(target)
            _flush(target.parent)


@contextmanager
def _temporary_file(target: Path) -> Iterator[Path]:
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=_prefix(target), suffix=_TEMPORARY)
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def put_in_place(temporary: Path, target: Path) -> None:
    """Let a finished file take the place of ``target``, in the same folder; on the disk before it has the name."""
    with naming(target):
        _flush(temporary)
        temporary.replace(target)
        _flush(target.parent)


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Path of a temporary folder beside ``path`` that becomes ``path`` when the block ends without an error.

    ``path`` must not exist. Files written directly into the folder get the permissions that a plain ``open`` would
    give them, whatever wrote them, and are flushed to the disk before the rename. What a killed process leaves behind
    is called ``.NAME.*.tmp``; see :func:`remove_leftovers`.

    Raises:
        OSError: it cannot be written; the error names ``path``.
    """
    target = Path(path)
    with naming(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=_prefix(target), suffix=_TEMPORARY))
        try:
            yield temporary
            for file in temporary.iterdir():
                _finish(file)
            _flush(temporary)
            temporary.chmod(0o777 & ~_umask())
            temporary.rename(target)
            _flush(target.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(folder: Path, *, of: str | None = None) -> None:
    """Remove temporary folders that killed processes have left in ``folder``; only whoever holds its lock may.

    Args:
        folder: where they lie.
        of: name of the folder that they should have become; any by default.
    """
    prefix = ".*." if of is None else glob.escape(_prefix(Path(of)))
    pattern = f"{prefix}*{_TEMPORARY}"
    for path in folder.glob(pattern):
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Let errors of writing in the block say what was being written.

    ``write`` and ``fsync`` do not name the file, errors about a temporary file name one that nobody knows, and
    safetensors and torch wrap the system's error in one of their own; see :func:`recording` for torch, which loses it.

    Raises:
        OSError: with the number of the system's error and ``path``.
    """
    try:
        yield
    except Exception as error:
        number, name = _error_number(error), getattr(error, "filename", None)
        is_temporary = name is not None and os.fsdecode(name).endswith(_TEMPORARY)
        if number is None or not (is_temporary or (name is None and number in _WRITE_ERRORS)):
            raise
        raise OSError(number, os.strerror(number), os.fspath(path)) from error


def _error_number(error: Exception) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))  # how Rust writes it
    return int(found.group(1)) if found else None


@contextmanager
def recording(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A new file to write to, whose first error of writing is raised at the end whatever the writer made of it.

    ``torch.save`` answers a full disk with an error of its own, a stack of C++ calls without the cause.

    Raises:
        OSError: the file exists, or cannot be written; the error names it.
    """
    stream = _RecordingFile(path, "xb")
    with naming(path):
        try:
            with stream:
                yield stream  # type: ignore[misc]
        except Exception:
            if stream.error is None:
                raise
            raise stream.error from None
        if stream.error is not None:
            raise stream.error


class _RecordingFile:
    """The part of a binary file that writers use, with the first error that it met."""

    def __init__(self, path: str | os.PathLike[str], mode: str) -> None:
        self._file = open_own(path, mode)
        self.error: OSError | None = None

    def __enter__(self) -> "_RecordingFile":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._file.close()
        except OSError as error:
            self.error = self.error or error

    def write(self, content: Any) -> int:
        try:
            return int(self._file.write(content))
        except OSError as error:
            self.error = self.error or error
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def open_own(path: str | os.PathLike[str], mode: str, *, encoding: str | None = None, buffering: int = -1) -> IO[Any]:
    """Open a file that only this package writes: links are not followed, and anything but a regular file is refused.

    Args:
        path: the file.
        mode: as for ``open``; ``w`` cuts the file off only when it is known to be a regular one, ``x`` makes it.
        encoding: of text.
        buffering: as for ``open``.

    Raises:
        OSError: it cannot be opened, or is a link or no regular file.
    """

    def opener(name: str, flags: int) -> int:
        truncate = flags & os.O_TRUNC
        extra = NO_FOLLOW | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
        try:
            descriptor = os.open(name, (flags & ~os.O_TRUNC) | extra, 0o666)
        except OSError as error:
            raise link_error(name) if error.errno == errno.ELOOP else error from None
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "is not a regular file; remove it", name)
            if truncate:
                os.ftruncate(descriptor, 0)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    return open(os.fspath(path), mode, encoding=encoding, buffering=buffering, opener=opener)


@contextmanager
def own_folder(path: str | os.PathLike[str]) -> Iterator[None]:
    """Make a folder, and be the only process that owns it while the block runs.

    The system lets go of the lock when a process is killed. Where a file system has no locks, everybody is let in. If
    the folder is empty at the end, it goes again, with the parents that were made for it.

    Raises:
        BlockingIOError: another process owns the folder.
    """
    folder = Path(path)
    made = missing_folders(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with lock_file(folder / LOCK_FILE):
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


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` as UTF-8, all of it or nothing."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _prefix(target: Path) -> str:
    return f".{target.name[:_NAME_CHARACTERS]}."


def _finish(path: Path) -> None:
    """Give a file the permissions of a plain open, which mkstemp and safetensors do not, and flush it to the disk."""
    if not path.is_dir():
        path.chmod(0o666 & ~_umask())
    _flush(path)


def _flush(path: Path) -> None:
    is_folder = path.is_dir()
    if is_folder and os.name == "nt":  # folders cannot be opened there
        return
    # Windows flushes only what may be written to
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not is_folder or error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.ENOSYS):
            raise  # else a network file system that does not know how to flush a folder
    finally:
        os.close(descriptor)


def _umask() -> int:
    # the only way to ask is to set it: for the moment to one that lets nobody else in
    value = os.umask(0o077)
    os.umask(value)
    return value
