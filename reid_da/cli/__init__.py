"""The command ``reid-da``: parse, call, print."""

import os
import sys
from typing import NoReturn

# Before torch is imported: how long its threads wait at full speed for each other before they sleep. Without a bound
# (GNU's default is 300,000 turns) one other busy process makes a training on two cores several times as slow; with none
# at all (OMP_WAIT_POLICY=PASSIVE) a small network is a third slower on a quiet machine, as it sleeps in every layer.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

from rich.console import Console
from rich.markup import escape

from reid_da.cli.app import app
from reid_da.errors import InputError


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a user's mistake ends it with one line and exit status 2."""
    try:
        app(arguments)
    except InputError as error:
        _fail(str(error))
    except OSError as error:
        # the disk is full, a folder must not be written to: nothing that a traceback would explain better
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))


def _fail(message: str) -> NoReturn:
    # soft_wrap: one line stays one line, whatever the width of the terminal
    Console(stderr=True, highlight=False).print(f"[red]error:[/] {escape(message)}", soft_wrap=True)
    sys.exit(2)
