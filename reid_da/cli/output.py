"""What several commands print alike."""

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from reid_da.atomic import check_writable
from reid_da.errors import InputError
from reid_da.launch import started_rank
from reid_da.text import markup, printable


class PlainConsole(Console):
    """A console that obeys its own styles only: control characters in what it prints are shown as escapes."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """Segments of a renderable; those that rich makes for the terminal itself are marked as control."""
        for segment in super().render(renderable, options):
            text = segment.text if segment.control else printable(segment.text, keep_lines=True)
            yield segment if text == segment.text else Segment(text, segment.style, segment.control)


def show(renderable: RenderableType) -> None:
    """Print a table or the like on standard output."""
    PlainConsole().print(renderable)


def say(text: object, *, error: bool = False) -> None:
    """Print one line as it is: no markup, no control characters, no line breaks of its own.

    Args:
        text: the line.
        error: print it on standard error.
    """
    PlainConsole(stderr=error).print(markup(text), soft_wrap=True)


def print_json(value: object) -> None:
    """Print JSON on standard output; NaN, which JSON lacks, is a mistake in the value."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


class _PlainFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), keep_lines=record.exc_info is not None)


def show_log() -> None:
    """Let the library's log appear on standard error, a line for each record."""
    logging.basicConfig(level=logging.WARNING)
    for handler in logging.getLogger().handlers:
        if type(handler) is logging.StreamHandler:
            handler.setFormatter(_PlainFormatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    # of several processes the first one tells what all of them do
    logging.getLogger("reid_da").setLevel(logging.INFO if started_rank() == 0 else logging.ERROR)


def check_output(path: Path | None) -> None:
    """Refuse a file that cannot be written, before the work that it is for; folders that are missing will be made.

    Args:
        path: the file as the user gave it, or None for none.

    Raises:
        InputError: it is a folder, a device or a pipe, or its folder cannot be made or written to.
    """
    if path is None:
        return
    check_writable(path)
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise InputError(f"{path}: cannot be written, {folder} is not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{path}: cannot be written, the folder {folder} is not writable")


def check_picture(path: Path | None) -> None:
    """Refuse a picture that cannot be written, or whose suffix names no format, before the work that it is for.

    Args:
        path: the file as the user gave it, or None for none.

    Raises:
        InputError: it is such a file.
    """
    from reid_da.reporting.picture_files import picture_format

    if path is None:
        return
    check_output(path)
    picture_format(path)


@contextmanager
def stoppable(command: str = "", run: Path | None = None) -> Iterator[None]:
    """Say how to resume when Ctrl-C ends the block.

    Args:
        command: that resumes a run.
        run: folder of the run; None where the same command resumes by itself.
    """
    try:
        yield
    except KeyboardInterrupt:
        if run is None:
            text = "stopped; run the same command again to resume"
        elif (run / "config.yaml").exists():
            text = f"stopped; resume with `{command} --resume {run}`"
        else:
            text = "stopped before the end of the first epoch; nothing was saved, run the same command again"
        PlainConsole(stderr=True, highlight=False).print(markup(text), soft_wrap=True)
        raise typer.Exit(130) from None
