"""What several commands print alike."""

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape

from reid_da.errors import InputError


def print_json(value: object) -> None:
    """Print JSON on standard output; NaN, which JSON lacks, is a mistake in the value."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


def show_log() -> None:
    """Let the library's log appear on standard error, a line for each record."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("reid_da").setLevel(logging.INFO)


def check_output(path: Path | None) -> None:
    """Refuse a file that cannot be written, before the work that it is for; folders that are missing will be made.

    Args:
        path: the file as the user gave it, or None for none.

    Raises:
        InputError: it is a folder, or its folder cannot be made or written to.
    """
    if path is None:
        return
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give the name of the file to write")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise InputError(f"{path}: cannot be written, {folder} is no folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{path}: cannot be written, the folder {folder} must not be written to")


@contextmanager
def stoppable(command: str = "", run: Path | None = None) -> Iterator[None]:
    """Say how to go on when Ctrl-C ends the block.

    Args:
        command: that resumes a run.
        run: folder of the run; None where the same command goes on by itself.
    """
    try:
        yield
    except KeyboardInterrupt:
        if run is None:
            text = "stopped; the same command goes on"
        elif (run / "config.yaml").exists():
            text = f"stopped; go on with `{command} --resume {run}`"
        else:
            text = "stopped before the end of the first epoch; nothing is left of it"
        Console(stderr=True, highlight=False).print(escape(text), soft_wrap=True)
        raise typer.Exit(130) from None
