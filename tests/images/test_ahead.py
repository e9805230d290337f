"""Order, bounds, errors and the end of work done ahead."""

import threading
import time

import pytest

from reid_da.images.ahead import iterate_ahead, map_ahead


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


def test_closing_early_ends_the_threads() -> None:
    before = threading.active_count()
    for results in (
        map_ahead(lambda item: item, range(100), workers=3, ahead=5),
        iterate_ahead(iter(range(100)), ahead=3),
    ):
        assert next(results) == 0
        assert threading.active_count() > before
        results.close()
        assert threading.active_count() == before


def test_iterating_ahead_gives_the_same_items() -> None:
    assert list(iterate_ahead(iter([]), ahead=2)) == []
    assert list(iterate_ahead(iter([None, 0, "a"]), ahead=2)) == [None, 0, "a"]


def test_iterating_ahead_surfaces_errors_after_the_items_before_them() -> None:
    def items():
        yield 1
        raise OSError("gone")

    results = iterate_ahead(items(), ahead=4)
    assert next(results) == 1
    with pytest.raises(OSError, match="gone"):
        next(results)
