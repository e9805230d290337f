"""The command ``reid-da``: parse, call, print."""

import errno
import os
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

# Before torch is imported: how long its threads wait at full speed for each other before they sleep. Without a bound
# (GNU's default is 300,000 turns) one other busy process makes a training on two cores several times as slow; with none
# at all (OMP_WAIT_POLICY=PASSIVE) a small network is a third slower on a quiet machine, as it sleeps in every layer.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

from reid_da.atomic import naming
from reid_da.cli.app import app
from reid_da.cli.output import PlainConsole
from reid_da.errors import InputError, ProcessLostError
from reid_da.launch import started_size
from reid_da.text import markup

_OUT_OF_MEMORY = re.compile("can't allocate memory|not enough memory|out of memory", re.IGNORECASE)
"""What torch says, on a CPU and on a GPU."""
_BROKEN_PIPE_STATUS = 128 + 13
"""Exit status of a program that a shell ends because nobody reads its output."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a user's mistake ends it with one line and exit status 2."""
    _replace_closed_streams()
    try:
        try:
            app(arguments, standalone_mode=True)
        finally:
            # what is still in the buffer: at the end of the interpreter it would be too late for a message
            with naming("standard output"):
                sys.stdout.flush()
    except InputError as error:
        _fail(str(error), is_lost=isinstance(error, ProcessLostError))
    except KeyboardInterrupt:  # before a command has begun; what commands say is in cli.output.stoppable
        sys.exit(130)
    except BrokenPipeError:
        _end_of_pipe()
    except OSError as error:
        # the disk is full, a folder is not writable: nothing that a traceback would explain better
        _fail(_reason(error))
    except (MemoryError, RuntimeError) as error:
        if str(error).startswith("Symlink loop"):  # Path.resolve() before Python 3.13
            _fail(f"{str(error).partition(' from ')[2].strip(chr(39))}: links lead in a circle; remove one of them")
        if isinstance(error, RuntimeError) and not _OUT_OF_MEMORY.search(str(error)):
            raise
        _fail("out of memory; use smaller images or batches, or more memory")


def _reason(error: OSError) -> str:
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"{error.strerror}: raise the limit (ulimit -n), or use fewer workers"
    if error.filename and error.strerror:
        named = f"{error.filename} -> {error.filename2}" if error.filename2 else f"{error.filename}"
        return f"{named}: {error.strerror}"
    return error.strerror or str(error)


def _fail(message: str, *, is_lost: bool = False) -> NoReturn:
    """End with one line, unless another of several processes has said it, or knows why this one is alone."""
    _drop_stdout()
    if started_size() > 1:
        from reid_da.processes import may_speak  # imports torch, for which a mistake should not wait

        if not may_speak(patience=3.0 if is_lost else 0.0):
            sys.exit(2)
    # soft_wrap: one line stays one line, whatever the width of the terminal
    with suppress(OSError):
        PlainConsole(stderr=True, highlight=False).print(f"[red]error:[/] {markup(message)}", soft_wrap=True)
    sys.exit(2)


def _end_of_pipe() -> NoReturn:
    """Exit silently, as programs do whose output is piped to ``head``."""
    _drop_stdout()
    sys.exit(_BROKEN_PIPE_STATUS)


def _drop_stdout() -> None:
    """Where standard output cannot be written to, lead it to nowhere, or its buffer fails again at the end."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _replace_closed_streams() -> None:
    """Give a process that was started without standard output or error something to write to."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
