"""The command ``reid-da``: parse, call, print."""

import sys
from typing import NoReturn

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
