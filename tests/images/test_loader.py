"""The loader gives the same batches however far it works ahead, and says what goes wrong."""

import copy
import time
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from reid_da.datasets import load_dataset
from reid_da.errors import InputError
from reid_da.images import (
    AugmentationSettings,
    Batch,
    Loader,
    OnTheFlyImages,
    PackedImages,
    SequentialSampler,
    ShuffledSampler,
    Stream,
    TestTransform,
    TrainTransform,
    pack_images,
)

COUNT = 23
SIZE = (16, 8)
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, 1, *SIZE, 3), dtype=np.uint8)


def loader(prefetch: int = 2, *, source=None, transform=None, seed: int = 0, num_workers: int = 1) -> Loader:
    return Loader(
        source or PackedImages(PIXELS),
        ShuffledSampler(torch.arange(COUNT), batch_size=4, seed=seed),
        transform or TrainTransform(AugmentationSettings(hue=0.1), size=SIZE, seed=seed + 1),
        prefetch=prefetch,
        num_workers=num_workers,
    )


def taken(batches: Iterable[Batch], count: int | None = None) -> list[tuple[list[int], Tensor]]:
    return [(batch.index.tolist(), batch.images) for batch in islice(batches, count)]


def assert_same(first: list, second: list) -> None:
    assert [index for index, _ in first] == [index for index, _ in second]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(first, second, strict=True))


def test_batches_hold_the_images_that_they_name() -> None:
    batches = taken(loader(transform=TestTransform(size=SIZE)).batches())
    assert len(batches) == 5
    for index, images in batches:
        expected = TestTransform(size=SIZE)(torch.from_numpy(PIXELS[index, 0]).permute(0, 3, 1, 2))
        assert torch.equal(images, expected)


@pytest.mark.parametrize(("prefetch", "num_workers"), [(1, 1), (2, 1), (3, 2), (10, 4)])
def test_the_same_numbers_with_and_without_prefetching(prefetch: int, num_workers: int) -> None:
    plain, ahead = loader(0), loader(prefetch, num_workers=num_workers)
    for _ in range(3):
        assert_same(taken(plain.batches()), taken(ahead.batches()))


@pytest.mark.parametrize("prefetch", [0, 3])
@pytest.mark.parametrize("steps", [0, 1, 4, 5, 7])
def test_saved_states_count_what_was_handed_out(prefetch: int, steps: int) -> None:
    unbroken = taken(Stream(loader(0)), 12)
    interrupted = loader(prefetch)
    stream = Stream(interrupted)
    assert_same(taken(stream, steps), unbroken[:steps])
    state = copy.deepcopy(interrupted.state_dict())
    # what follows must not depend on how far the thread got
    assert_same(taken(stream, 2), unbroken[steps : steps + 2])
    stream.close()
    resumed = loader(prefetch, seed=50)
    resumed.load_state_dict(state)
    assert_same(taken(Stream(resumed), 12 - steps), unbroken[steps:])


@pytest.mark.parametrize("prefetch", [0, 3])
def test_closing_puts_back_what_was_not_handed_out(prefetch: int) -> None:
    expected = taken(loader(0).batches())
    images = loader(prefetch)
    batches = images.batches()
    assert_same(taken(batches, 2), expected[:2])
    batches.close()
    assert_same(taken(images.batches()), expected[2:])


@pytest.mark.parametrize("prefetch", [0, 3])
def test_restart(prefetch: int) -> None:
    reference = ShuffledSampler(torch.arange(COUNT), batch_size=4, seed=0)
    epochs = [[batch.tolist() for batch in reference.batches()] for _ in range(2)]
    stream = Stream(loader(prefetch))
    assert next(stream).index.tolist() == epochs[0][0]
    stream.restart()
    assert next(stream).index.tolist() == epochs[1][0]
    stream.close()


def test_leaving_a_loop_ends_the_threads(threads_end: Callable[[], bool]) -> None:
    assert threads_end()
    for _ in loader(3, num_workers=2).batches():
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
    batches = loader(prefetch, source=source).batches()
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
    order = SequentialSampler(torch.arange(8), batch_size=2)
    images = Loader(source, order, TestTransform(size=SIZE), prefetch=prefetch)
    content = table.path(5).read_bytes()
    table.path(5).write_bytes(b"")
    batches = images.batches()
    assert [next(batches).index.tolist() for _ in range(2)] == [[0, 1], [2, 3]]
    with pytest.raises(InputError, match=r"005.jpg \(empty\)"):
        next(batches)
    assert threads_end()
    # the batch that failed was not handed out: once the file is there it comes
    table.path(5).write_bytes(content)
    assert next(images.batches()).index.tolist() == [4, 5]


def test_only_one_iterator_at_a_time() -> None:
    images = loader()
    batches = images.batches()
    next(batches)
    for forbidden in (images.restart, lambda: images.load_state_dict({}), lambda: next(images.batches())):
        with pytest.raises(RuntimeError, match="is open"):
            forbidden()
    batches.close()
    images.restart()


def test_packed_and_decoded_images_make_the_same_batches(rendered: Path, tmp_path: Path) -> None:
    table = load_dataset(rendered / "site-a").train.select(range(30))
    sources = (pack_images(table, size=(64, 32), cache_dir=tmp_path), OnTheFlyImages(table, size=(64, 32)))
    assert_same(*(taken(loader(source=source).batches()) for source in sources))


def test_wrong_numbers() -> None:
    with pytest.raises(ValueError, match="expected prefetch >= 0 and num_workers >= 1, got -1 and 1"):
        loader(-1)
    with pytest.raises(ValueError, match="got 2 and 0"):
        loader(num_workers=0)
