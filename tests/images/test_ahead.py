"""Order, bounds, errors and the end of work done ahead."""

import gc
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from reid_da.images.ahead import map_ahead


def test_order_is_kept_though_later_items_are_ready_first() -> None:
    def slow_at_first(item: int) -> int:
        time.sleep(0.02 if item % 4 == 0 else 0)
        return item * item

    assert list(map_ahead(slow_at_first, range(20), workers=4, ahead=8)) == [n * n for n in range(20)]


@pytest.mark.parametrize("ahead", [1, 3])
def test_no_more_than_allowed_is_begun(ahead: int) -> None:
    begun = []
    results = map_ahead(begun.append, range(50), workers=2, ahead=ahead)
    for taken in range(1, 6):
        next(results)
        time.sleep(0.01)
        assert len(begun) <= taken + ahead
    results.close()
    assert len(begun) <= 5 + ahead


def test_error_surfaces_at_its_place() -> None:
    results = map_ahead(lambda item: 1 / (item - 2), range(5), workers=2, ahead=4)
    assert [next(results), next(results)] == [-0.5, -1.0]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_closing_early_ends_the_threads(threads_end: Callable[[], bool]) -> None:
    assert threads_end()
    before = threading.active_count()
    results = map_ahead(lambda item: item, range(100), workers=3, ahead=5)
    assert next(results) == 0
    assert threading.active_count() == before + 3
    results.close()
    assert threads_end()


def test_closing_drops_what_has_not_begun_and_waits_for_nothing(threads_end: Callable[[], bool]) -> None:
    begun, released = [], threading.Event()

    def wait_but_for_the_first(item: int) -> None:
        begun.append(item)
        if item:
            released.wait(timeout=10)

    results = map_ahead(wait_but_for_the_first, range(100), workers=1, ahead=5)
    next(results)
    results.close()
    assert any(thread.name.startswith("reid-da-images") for thread in threading.enumerate())
    released.set()
    assert threads_end()
    assert len(begun) <= 2


def test_an_iterator_that_is_dropped_in_a_cycle_does_not_block_the_collector() -> None:
    for _ in range(5):
        cycle = [map_ahead(lambda item: item, range(100), workers=2, ahead=4)]
        next(cycle[0])
        cycle.append(cycle)
        del cycle
        finished = threading.Thread(target=gc.collect)
        finished.start()
        finished.join(timeout=5)
        assert not finished.is_alive()


def test_an_end_that_waits(threads_end: Callable[[], bool]) -> None:
    finished = []

    def slow(item: int) -> None:
        time.sleep(0.05 if item else 0)
        finished.append(item)

    results = map_ahead(slow, range(100), workers=2, ahead=4, wait=True)
    next(results)
    results.close()
    count = len(finished)
    assert threads_end()
    assert len(finished) == count


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), KeyboardInterrupt()])
def test_an_error_while_threads_are_started_leaves_none_waiting(
    threads_end: Callable[[], bool], monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    submit, begun = ThreadPoolExecutor.submit, []

    def fail_at_the_second(pool: ThreadPoolExecutor, *arguments: Any) -> Any:
        if begun:
            raise error
        begun.append(pool)
        return submit(pool, *arguments)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", fail_at_the_second)
    before = torch.get_num_threads()
    with pytest.raises(type(error)):
        next(map_ahead(str, range(4), workers=3, ahead=4))
    assert threads_end()
    assert torch.get_num_threads() == before


def test_no_items() -> None:
    assert list(map_ahead(str, [], workers=2, ahead=2)) == []


def test_torch_computes_on_one_core_in_the_threads_and_as_before_elsewhere() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert set(map_ahead(lambda _: torch.get_num_threads(), range(8), workers=2, ahead=4)) == {1}
        assert torch.get_num_threads() == 2
        elsewhere = []
        thread = threading.Thread(target=lambda: elsewhere.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert elsewhere == [2]
    finally:
        torch.set_num_threads(before)
