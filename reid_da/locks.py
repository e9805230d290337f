"""Locks between processes: one owner at a time, and the system lets go when the owner is killed.

``filelock`` is not used: it leaves its files behind, takes file systems without locks for contention or falls back to
files that outlive a kill, and releases up to 3.20.0 follow planted links and truncate what they point to.
"""

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    HAS_FCNTL = False
    import msvcrt
else:
    HAS_FCNTL = True

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EOPNOTSUPP}
"""Errors of file systems that have no locks; NFS reports EBADF for a file that is not writable."""
_POLL_SECONDS = 0.05
NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
"""Flag of ``os.open`` that refuses links, where the system has it."""


@contextmanager
def lock_file(file: Path, *, on_wait: Callable[[], object] | None = None) -> Iterator[bool]:
    """Hold a lock file while the block runs; it is removed at the end.

    Nothing is ever written to the file nor cut off it, and links are not followed, so that a file which somebody else
    has put there is unharmed.

    Args:
        file: the file; its folder exists.
        on_wait: called once if another process holds it, which is then waited for; if None, that is an error.

    Yields:
        Whether it is held: not where the file system has no locks.

    Raises:
        BlockingIOError: another process holds the lock, and ``on_wait`` is None.
        OSError: the file cannot be made, or is a link or no regular file.
    """
    descriptor, is_held = _acquire(file, on_wait)
    try:
        yield is_held
    finally:
        # removed before it is let go: a process that waits at this moment must not lock a file that is no more
        with suppress(OSError):
            file.unlink()
        os.close(descriptor)


def _acquire(file: Path, on_wait: Callable[[], object] | None) -> tuple[int, bool]:
    while True:
        descriptor = _open(file)
        try:
            is_held = _lock(descriptor)
            # its former owner may have removed it in between
            if is_held is None or (is_held and _is_at(file, descriptor)):
                return descriptor, bool(is_held)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if is_held:
            continue
        if on_wait is None:
            raise BlockingIOError(errno.EAGAIN, "is in use by another process", str(file))
        on_wait()
        on_wait = _nothing
        time.sleep(_POLL_SECONDS)


def _nothing() -> None: ...


def _open(file: Path) -> int:
    """Descriptor of the lock file, which is made if there is none."""
    flags = NO_FOLLOW | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    while True:
        try:
            try:
                descriptor = os.open(file, flags | os.O_RDWR)
            except PermissionError:  # left behind by another user: to lock it, reading is enough
                descriptor = os.open(file, flags | os.O_RDONLY)
        except FileNotFoundError:
            try:
                return os.open(file, flags | os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            except FileExistsError:
                if file.is_symlink():  # that leads nowhere
                    raise link_error(file) from None
                continue
        except OSError as error:
            raise link_error(file) if error.errno == errno.ELOOP else error from None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "is not a regular file; remove it", str(file))
        return descriptor


def link_error(path: str | os.PathLike[str]) -> OSError:
    """Error for a link in a place where only this package puts files."""
    return OSError(errno.ELOOP, "is a symbolic link, which is not followed; remove it", os.fspath(path))


def _lock(descriptor: int) -> bool | None:
    """Whether the file is locked now: False if somebody else has it, None where there are no locks."""
    try:
        if HAS_FCNTL:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        if error.errno == getattr(errno, "EDEADLOCK", None):  # what Windows says after some tries
            return False
        if error.errno in _NO_LOCKS:
            return None
        raise
    return True


def _is_at(file: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.lstat(file), os.fstat(descriptor))
    except FileNotFoundError:
        return False
