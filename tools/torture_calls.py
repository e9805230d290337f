"""A system that fails on purpose: the n-th call on a file below a folder gives an error, or ends the process.

Calls are caught where Python makes them; what C++ or Rust write by themselves meets a limited size of files.
"""

import builtins
import contextlib
import errno
import fcntl
import io
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

ERRORS = {
    "open": (errno.EACCES, errno.EIO, errno.EMFILE, errno.ENOSPC, errno.EROFS, errno.ESTALE),
    "read": (errno.EIO, errno.ESTALE),
    "write": (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG),
    "fsync": (errno.EIO, errno.ENOSPC),
    "rename": (errno.EIO, errno.EACCES, errno.ENOSPC, errno.EROFS),
    "mkdir": (errno.EACCES, errno.ENOSPC, errno.EROFS),
    "unlink": (errno.EACCES, errno.EIO, errno.EROFS),
    "stat": (errno.EIO, errno.EACCES, errno.ESTALE),
    "list": (errno.EIO, errno.EACCES, errno.EMFILE),
    "chmod": (errno.EPERM, errno.EROFS),
    "lock": (errno.ENOLCK, errno.EIO),
}
"""What each kind of call may answer."""

_FUNCTIONS = {
    "open": "open",
    "fsync": "fsync",
    "replace": "rename",
    "rename": "rename",
    "mkdir": "mkdir",
    "unlink": "unlink",
    "remove": "unlink",
    "rmdir": "unlink",
    "stat": "stat",
    "lstat": "stat",
    "scandir": "list",
    "listdir": "list",
    "truncate": "write",
    "ftruncate": "write",
    "chmod": "chmod",
}
"""Functions of ``os`` and their kind."""


class Calls:
    """Counts calls by kind, and lets one of them fail.

    Attributes:
        counts: how many calls there were of each kind.
    """

    def __init__(self, root: Path, *, kind: str = "", number: int = 0, error: int = 0) -> None:
        """Say what to do; :meth:`install` begins.

        Args:
            root: calls on files elsewhere are none of ours.
            kind: of the call that fails.
            number: which of this kind, from 1; 0 for none.
            error: its number, or 0 to kill the process instead.
        """
        self.counts: Counter[str] = Counter()
        self._root = os.fspath(root)
        self._fatal = (kind, number)
        self._error = error
        self._lock = threading.Lock()
        self._readlink = os.readlink
        self._file = type("File", (_File,), {"calls": self})

    def install(self) -> None:
        """From now on, in this process, for good."""
        for name, kind in _FUNCTIONS.items():
            setattr(os, name, self._watched(getattr(os, name), kind))
        fcntl.flock = self._watched(fcntl.flock, "lock")
        self._open = io.open
        io.open = builtins.open = self._open_file

    def step(self, kind: str, place: Any) -> None:
        """Count a call, and be it if it is the one.

        Raises:
            OSError: it is.
        """
        path = self._path(place)
        if not path.startswith(self._root):
            return
        with self._lock:
            self.counts[kind] += 1
            is_fatal = self._fatal == (kind, self.counts[kind])
        if is_fatal and not self._error:
            os.kill(os.getpid(), signal.SIGKILL)
        if is_fatal:
            raise OSError(
                self._error, os.strerror(self._error), *([] if kind in ("read", "write", "fsync") else [path])
            )

    def _path(self, place: Any) -> str:
        if isinstance(place, io.IOBase):
            place = place.fileno()
        if isinstance(place, int):
            try:
                return self._readlink(f"/proc/self/fd/{place}")
            except OSError:
                return ""
        return os.path.abspath(os.fsdecode(place)) if isinstance(place, (str, bytes, os.PathLike)) else ""  # noqa: PTH100

    def _watched(self, function: Callable[..., Any], kind: str) -> Callable[..., Any]:
        def watched(*arguments: Any, **options: Any) -> Any:
            if arguments:
                self.step(kind, arguments[0])
            return function(*arguments, **options)

        return watched

    def _open_file(
        self, file: Any, mode: str = "r", buffering: int = -1, encoding: Any = None, errors: Any = None,
        newline: Any = None, closefd: bool = True, opener: Any = None,
    ) -> Any:  # fmt: skip
        """As ``open``, with files below the root made of :class:`_File`."""
        if not self._path(file).startswith(self._root):
            return self._open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        if opener is None and not isinstance(file, int):
            self.step("open", file)
        raw = self._file(file, mode.replace("b", "").replace("t", ""), closefd, opener)
        if buffering == 0:
            return raw
        with contextlib.ExitStack() as stack:
            stack.callback(raw.close)
            kind = io.BufferedRandom if "+" in mode else io.BufferedReader if "r" in mode else io.BufferedWriter
            buffered: Any = kind(raw, buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE)
            if "b" not in mode:
                buffered = io.TextIOWrapper(buffered, encoding, errors, newline, buffering == 1)
            stack.pop_all()
        return buffered


class _File(io.FileIO):
    """A file whose reading and writing is counted."""

    calls: Calls

    def readinto(self, buffer: Any) -> Any:
        self.calls.step("read", self)
        return super().readinto(buffer)

    def readall(self) -> Any:
        self.calls.step("read", self)
        return super().readall()

    def read(self, size: Any = -1) -> Any:
        self.calls.step("read", self)
        return super().read(size)

    def write(self, content: Any) -> Any:
        self.calls.step("write", self)
        return super().write(content)
