"""Progress bars: on a terminal only, on the first process only, on standard error."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from reid_da.launch import started_rank
from reid_da.text import markup

T = TypeVar("T")


def _bar(*columns: ProgressColumn) -> Progress:
    console = Console(stderr=True)
    is_hidden = not console.is_terminal or started_rank() != 0
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        *columns,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=is_hidden,
    )


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
    with _bar() as progress:
        task = progress.add_task(markup(description), total=total, completed=done)
        for item in items:
            yield item
            progress.advance(task)


class EpochProgress:
    """Bar with losses, learning rate, images per second and time left; on a terminal and on the first process only.

    Args:
        description: which epoch.
        steps: number of steps.
    """

    def __init__(self, description: str, steps: int) -> None:
        self._progress = _bar(TextColumn("{task.fields[figures]}"))
        self._task = self._progress.add_task(markup(description), total=steps, figures="")
        self._begin = time.perf_counter()

    def __enter__(self) -> "EpochProgress":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def advance(self, losses: Mapping[str, float], num_images: int, learning_rate: float) -> None:
        """Show one more step.

        Args:
            losses: means so far by name.
            num_images: images of the epoch so far.
            learning_rate: of the last parameter group.
        """
        speed = num_images / max(time.perf_counter() - self._begin, 1e-9)
        figures = [f"{name.removeprefix('loss_')} {value:.3f}" for name, value in losses.items()]
        figures += [f"lr {learning_rate:.2g}", f"{speed:.0f} images/s"]
        self._progress.update(self._task, advance=1, figures=" ".join(figures))
