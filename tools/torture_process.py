"""The command line in a process of its own, forked off one that has imported everything: what became of it."""

import contextlib
import importlib
import os
import pkgutil
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torture_calls import Calls

MAX_SECONDS, MAX_BYTES = 60, 4 * 2**30
"""What no command on a tiny data set may take: of a processor, since a busy machine makes others wait; of memory."""

MAX_WAIT = 10 * MAX_SECONDS
"""Seconds after which a command is thought to hang, whatever it computes."""


def import_everything() -> None:
    """Import the package and what it imports late, so that a forked process need not."""
    import matplotlib.backends.backend_agg
    import matplotlib.figure  # noqa: F401
    import torch

    import reid_da
    import reid_da.cli

    torch.set_num_threads(1)
    for module in pkgutil.walk_packages(reid_da.__path__, "reid_da."):
        with contextlib.suppress(ImportError):  # extras
            importlib.import_module(module.name)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a command ended.

    Attributes:
        arguments: of ``reid-da``.
        status: exit status; minus the number of the signal that ended it.
        out: standard output.
        err: standard error.
        seconds: how long it took.
        computed: seconds of a processor that it took.
        bytes: memory at its peak.
    """

    arguments: Sequence[str]
    status: int
    out: str = field(repr=False)
    err: str = field(repr=False)
    seconds: float
    computed: float
    bytes: int

    @property
    def faults(self) -> list[str]:
        """What no command may do, whatever happens to it."""
        found = []
        if "Traceback (most recent call last)" in self.err or "Exception ignored" in self.err:
            found.append("traceback")
        elif self.status not in (0, 1, 2, 130, -signal.SIGKILL):
            found.append("crash")
        if self.status == 2 and "traceback" not in found and "rror" not in self.err and "Usage" not in self.err:
            found.append("no message")
        if self.computed >= MAX_SECONDS or self.seconds >= MAX_WAIT:
            found.append("over 60 s")
        if self.bytes > MAX_BYTES:
            found.append("over 4 GB")
        if "\x1b" in self.out + self.err:
            found.append("escape")
        return found


def run(
    arguments: Sequence[str],
    folder: Path,
    *,
    calls: Calls | None = None,
    file_bytes: int | None = None,
    kill_after: float | None = None,
    kill_signal: int = signal.SIGKILL,
    kill_when: Callable[[], bool] | None = None,
    on_end: Callable[[], None] | None = None,
) -> Outcome:
    """Run ``reid-da`` with the given arguments.

    Args:
        arguments: of the command line.
        folder: where its output is kept meanwhile, and its working directory.
        calls: what to do to its calls of the system.
        file_bytes: largest file that it may write.
        kill_after: seconds after which it gets a signal.
        kill_signal: that signal.
        kill_when: asked all the time; the signal is sent as soon as it says so.
        on_end: called in the process when the command has ended.
    """
    out, err = folder / "stdout", folder / "stderr"
    begin = time.monotonic()
    sys.stdout.flush()  # or the process writes it once more
    process = os.fork()
    if process == 0:
        _be_the_command(arguments, folder, (out, err), calls, file_bytes, on_end)
    while True:
        ended, status, usage = os.wait4(process, os.WNOHANG)
        seconds = time.monotonic() - begin
        if ended:
            break
        if seconds >= MAX_WAIT + 5:
            os.kill(process, signal.SIGKILL)
        elif kill_after is not None and seconds >= kill_after:
            os.kill(process, kill_signal)
            kill_after = None
        elif kill_when is not None and kill_when():
            os.kill(process, kill_signal)
            kill_when = None
        time.sleep(0.005)
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in (out, err)]
    return Outcome(
        arguments=arguments,
        status=os.waitstatus_to_exitcode(status),
        out=texts[0],
        err=texts[1],
        seconds=seconds,
        computed=usage.ru_utime + usage.ru_stime,
        bytes=1024 * usage.ru_maxrss,
    )


def _be_the_command(
    arguments: Sequence[str],
    folder: Path,
    outputs: tuple[Path, Path],
    calls: Calls | None,
    file_bytes: int | None,
    on_end: Callable[[], None] | None,
) -> None:
    """Never comes back."""
    status = 1
    try:
        for descriptor, path in zip((1, 2), outputs, strict=True):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(folder)
        resource.setrlimit(resource.RLIMIT_DATA, (MAX_BYTES + 2**30, MAX_BYTES + 2**30))
        if file_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
        if calls is not None:
            calls.install()
        from reid_da.cli import main

        main(list(arguments))
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            if on_end is not None:
                on_end()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)
