"""Work that threads do ahead of the one who waits for it, in order and within bounds."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from threading import Barrier
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def available_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_ahead(
    function: Callable[[T], R], items: Iterable[T], *, workers: int, ahead: int, wait: bool = False
) -> Generator[R, None, None]:
    """Yield ``function(item)`` for each item, in the order of the items, computed by threads.

    Unlike ``Executor.map`` it holds at most ``ahead`` results, however slow the caller is. An error of ``function``
    surfaces at its place in the order. Closing the iterator early drops what has not begun; what has goes on to its
    end without being waited for, so ``function`` must not write to what others read, unless ``wait`` is given.

    Args:
        function: called in the threads; it should spend its time where Python's lock is released. In them torch
            computes on one core.
        items: read by the caller's thread.
        workers: number of threads.
        ahead: number of items in work or ready, at least 1.
        wait: whether an early end waits for what has begun; only for callers that close the iterator themselves.
    """
    remaining = iter(items)
    pool = _one_core_each(workers)
    try:
        pending = deque(pool.submit(function, item) for item in islice(remaining, ahead))
        while pending:
            result = pending.popleft().result()
            pending.extend(pool.submit(function, item) for item in islice(remaining, 1))
            yield result
    finally:
        # A dropped iterator is closed by the garbage collector, which may run in any thread and in the middle of
        # starting one, with a lock held that joining a thread needs: waiting here could wait forever.
        pool.shutdown(wait=wait, cancel_futures=True)


def _one_core_each(workers: int) -> ThreadPoolExecutor:
    """Threads in which torch computes on one core, as it does in the worker processes of its own loader.

    By default an operation in any thread is shared out to all cores, and then waits for those that the training step
    or another worker keeps busy: small operations take many times as long.
    """
    num_threads = torch.get_num_threads()
    all_begun = Barrier(workers)

    def begin() -> None:
        torch.get_num_threads()  # takes over the common number, which the first operation would do later
        torch.set_num_threads(1)
        all_begun.wait()

    pool = ThreadPoolExecutor(workers, thread_name_prefix="reid-da-images")
    try:
        for begun in [pool.submit(begin) for _ in range(workers)]:
            begun.result()
    except BaseException:
        # those that have begun would wait forever for those that never will, and the end of the process for them
        all_begun.abort()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    finally:
        # what a thread sets holds for itself and for threads to come: give those their number back
        torch.set_num_threads(num_threads)
    return pool
