"""The command ``reid-da``: parse, call, print."""

import sys

from rich.console import Console

from reid_da.cli.app import app
from reid_da.errors import InputError


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a user's mistake ends it with one line and exit status 2."""
    try:
        app(arguments)
    except InputError as error:
        # soft_wrap: one line stays one line, whatever the width of the terminal
        Console(stderr=True, highlight=False).print(f"[red]error:[/] {_escape(str(error))}", soft_wrap=True)
        sys.exit(2)


def _escape(text: str) -> str:
    return text.replace("[", r"\[")
