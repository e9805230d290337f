"""Progress bars: on a terminal only, on the first process only, on standard error."""

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from reid_da.text import markup

T = TypeVar("T")


def track(items: Iterable[T], description: str, *, total: int | None = None, done: int = 0) -> Iterator[T]:
    """Yield ``items`` while a bar shows how many are done and the time left.

    Args:
        items: what to iterate over.
        description: what is being done, in a few words.
        total: number of items, needed where ``items`` has no length.
        done: how many of ``total`` an earlier process has done; ``items`` are the others.
    """
    if total is None and isinstance(items, Sequence):
        total = len(items)
    console = Console(stderr=True)
    if not console.is_terminal or os.environ.get("RANK", "0") != "0":
        yield from items
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(markup(description), total=total, completed=done)
        for item in items:
            yield item
            progress.advance(task)
