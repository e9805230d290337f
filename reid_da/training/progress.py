"""The bar that shows how an epoch goes."""

import os
import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class EpochProgress:
    """Bar with losses, learning rate, images per second and time left; on a terminal and on the first process only.

    Args:
        description: which epoch.
        steps: number of steps.
    """

    def __init__(self, description: str, steps: int) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal or os.environ.get("RANK", "0") != "0",
        )
        self._task = self._progress.add_task(description, total=steps, figures="")
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
