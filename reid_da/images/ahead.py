"""Work that threads do ahead of the one who waits for it, in order and within bounds."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice, repeat
from typing import Final, TypeVar, cast

T = TypeVar("T")
R = TypeVar("R")

_END: Final = object()


def available_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_ahead(function: Callable[[T], R], items: Iterable[T], *, workers: int, ahead: int) -> Generator[R, None, None]:
    """Yield ``function(item)`` for each item, in the order of the items, computed by threads.

    Unlike ``Executor.map`` it holds at most ``ahead`` results, however slow the caller is. An error of ``function``
    surfaces at its place in the order. Closing the iterator early drops what has not begun and waits for the rest.

    Args:
        function: called in the threads; it should spend its time where Python's lock is released.
        items: read by the caller's thread.
        workers: number of threads.
        ahead: number of items in work or ready, at least 1.
    """
    remaining = iter(items)
    with ThreadPoolExecutor(workers, thread_name_prefix="reid-da-images") as pool:
        pending: deque[Future[R]] = deque(pool.submit(function, item) for item in islice(remaining, ahead))
        try:
            while pending:
                result = pending.popleft().result()
                pending.extend(pool.submit(function, item) for item in islice(remaining, 1))
                yield result
        finally:
            for future in pending:
                future.cancel()


def iterate_ahead(items: Iterator[T], *, ahead: int) -> Generator[T, None, None]:
    """Yield ``items``, which one thread computes up to ``ahead`` items before they are asked for.

    An error while computing an item surfaces at its place. Closing the iterator early waits for the item in work.
    """
    results = map_ahead(lambda _: next(items, _END), repeat(None), workers=1, ahead=ahead)
    try:
        for item in results:
            if item is _END:
                return
            yield cast(T, item)
    finally:
        results.close()
