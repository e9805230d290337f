"""Batches are the same however far the threads work ahead, and say what goes wrong."""

import time
from collections.abc import Callable, Generator, Iterable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from reid_da.config import AugmentSettings
from reid_da.datasets import load_dataset
from reid_da.errors import InputError
from reid_da.images import (
    Batch,
    OnTheFlyImages,
    PackedImages,
    Selection,
    ShuffledSampler,
    TestTransform,
    TrainTransform,
    load_batches,
    pack_images,
)

COUNT = 23
SIZE = (16, 8)
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, 1, *SIZE, 3), dtype=np.uint8)


def load(
    prefetch: int = 2, *, source=None, transform=None, seed: int = 0, num_workers: int = 1, passes: int = 1
) -> Generator[Batch, None, None]:
    """Batches of four images in random order."""
    order = ShuffledSampler(4).batches(torch.arange(COUNT), None, seed)
    return load_batches(
        source or PackedImages(PIXELS),
        (Selection(rows=rows) for rows in islice(order, passes * (COUNT // 4))),
        transform or TrainTransform(AugmentSettings(hue=0.1), size=SIZE, seed=seed + 1),
        prefetch=prefetch,
        num_workers=num_workers,
    )


def taken(batches: Iterable[Batch], count: int | None = None) -> list[tuple[list[int], Tensor]]:
    return [(batch.rows.tolist(), batch.images) for batch in islice(batches, count)]


def assert_same(first: list, second: list) -> None:
    assert [index for index, _ in first] == [index for index, _ in second]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(first, second, strict=True))


def test_batches_hold_the_images_that_they_name() -> None:
    batches = taken(load(transform=TestTransform(size=SIZE)))
    assert len(batches) == 5
    for index, images in batches:
        expected = TestTransform(size=SIZE)(torch.from_numpy(PIXELS[index, 0]).permute(0, 3, 1, 2))
        assert torch.equal(images, expected)


@pytest.mark.parametrize(("prefetch", "num_workers"), [(1, 1), (2, 1), (3, 2), (10, 4)])
def test_the_same_numbers_with_and_without_prefetching(prefetch: int, num_workers: int) -> None:
    plain, ahead = (load(number, num_workers=num_workers, passes=3) for number in (0, prefetch))
    assert_same(taken(plain), taken(ahead))


@pytest.mark.parametrize("prefetch", [0, 3])
def test_labels_and_views_go_with_their_images(prefetch: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (6, 2, *SIZE, 3), dtype=np.uint8)
    chosen = Selection(rows=torch.tensor([4, 1]), views=torch.tensor([1, 0]), labels=torch.tensor([7, 9]))
    (batch,) = load_batches(PackedImages(pixels), [chosen], TestTransform(size=SIZE), prefetch=prefetch)
    assert (batch.rows.tolist(), batch.views.tolist(), batch.labels.tolist()) == ([4, 1], [1, 0], [7, 9])
    expected = TestTransform(size=SIZE)(torch.from_numpy(pixels[[4, 1], [1, 0]]).permute(0, 3, 1, 2))
    assert torch.equal(batch.images, expected)


def test_leaving_a_loop_ends_the_threads(threads_end: Callable[[], bool]) -> None:
    assert threads_end()
    for _ in load(3, num_workers=2):
        break
    assert threads_end()


class Counted(PackedImages):
    """Images that count the batches asked for."""

    def __init__(self) -> None:
        super().__init__(PIXELS)
        self.batches = 0

    def gather(self, index: Tensor, views: Tensor | None = None) -> Tensor:
        self.batches += 1
        return super().gather(index, views)


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_batches_are_prepared_while_nobody_asks(prefetch: int) -> None:
    source = Counted()
    batches = load(prefetch, source=source)
    next(batches)
    deadline = time.monotonic() + 20
    while source.batches < 1 + prefetch and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert source.batches == 1 + prefetch
    batches.close()


@pytest.mark.parametrize("prefetch", [0, 3])
def test_errors_surface_at_their_batch(make_table, threads_end, prefetch: int) -> None:
    table = make_table(8)
    source = OnTheFlyImages(table, size=SIZE, num_workers=1)
    order = (Selection(rows=rows) for rows in torch.arange(8).split(2))
    table.path(5).write_bytes(b"")
    batches = load_batches(source, order, TestTransform(size=SIZE), prefetch=prefetch)
    assert [next(batches).rows.tolist() for _ in range(2)] == [[0, 1], [2, 3]]
    with pytest.raises(InputError, match=r"005.jpg \(empty\)"):
        next(batches)
    assert threads_end()


def test_packed_and_decoded_images_make_the_same_batches(rendered: Path, tmp_path: Path) -> None:
    table = load_dataset(rendered / "site-a").train.select(range(30))
    sources = (pack_images(table, size=(64, 32), cache_dir=tmp_path), OnTheFlyImages(table, size=(64, 32)))
    assert_same(*(taken(load(source=source)) for source in sources))


def test_wrong_numbers() -> None:
    with pytest.raises(ValueError, match="expected prefetch >= 0 and num_workers >= 1, got -1 and 1"):
        load(-1)
    with pytest.raises(ValueError, match="got 2 and 0"):
        load(num_workers=0)
