"""Histogram matching: by hand, against a slow search in fractions, and on images."""

from collections.abc import Callable

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from reid_da.images import PackedImages
from reid_da.styles.histogram import HistogramTransfer, camera_histograms, look_up, matching_tables

MakeSource = Callable[..., PackedImages]


def slow_table(own: list[int], other: list[int]) -> list[int]:
    """Level that each level becomes in one channel: the definition in whole numbers."""
    # all times 2 * sum(own) * sum(other)
    shares = [2 * sum(own) * sum(other[: upto + 1]) for upto in range(256)]
    table = []
    for level in range(256):
        rank = sum(other) * (2 * sum(own[:level]) + own[level])
        table.append(next(upto for upto, share in enumerate(shares) if share >= rank))
    return table


def histogram(**counts: int) -> Tensor:
    """(256,) counts given as ``l100=5``: five pixels of level 100."""
    result = torch.zeros(256, dtype=torch.int64)
    for level, count in counts.items():
        result[int(level[1:])] = count
    return result


def three_channels(*cameras: Tensor) -> Tensor:
    return torch.stack([camera.expand(3, 256) for camera in cameras])


def random_images(seed: int, count: int, *, low: int, high: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(low, high, (count, 8, 4, 3), dtype=np.uint8)


def test_counts_by_camera_and_channel(make_source: MakeSource) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (150, 3, 2, 3), dtype=np.uint8)
    camids = np.random.default_rng(1).integers(0, 3, 150)

    found = camera_histograms(make_source(pixels, failed=[5]), torch.tensor(camids), num_cameras=4)

    camids[5] = -1
    for camid in range(4):
        for channel in range(3):
            expected = np.bincount(pixels[camids == camid, :, :, channel].ravel(), minlength=256)
            assert found[camid, channel].tolist() == expected.tolist()


def test_table_by_hand() -> None:
    # ranks of own levels: 10 -> 1/4, 20 -> 5/8, 30 -> 7/8; shares of the other: 50 -> 1/4, 60 -> 1/2, 200 -> 1
    own, other = histogram(l10=4, l20=2, l30=2), histogram(l50=1, l60=1, l200=2)

    table = matching_tables(three_channels(own, other))[0, 1, 0]

    assert table[[10, 20, 30]].tolist() == [50, 200, 200]


def test_white_of_many_pixels_becomes_the_middle_of_its_range() -> None:
    # half of the pixels are overexposed here; in the other camera that half spreads over 101 to 110
    own = histogram(l50=10, l255=10)
    other = histogram(l50=10, **{f"l{level}": 1 for level in range(101, 111)})

    assert matching_tables(three_channels(own, other))[0, 1, 0, 255] == 105


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_tables_are_those_of_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    # few levels with pixels, so that there are steps and gaps
    counts = rng.integers(0, 50, (2, 3, 256)) * (rng.random((2, 3, 256)) < 0.05)
    counts[:, :, rng.integers(256)] += 1

    tables = matching_tables(torch.from_numpy(counts))

    assert tables.shape == (2, 2, 3, 256)
    channel = int(rng.integers(3))
    own, other = counts[:, channel].tolist()
    assert tables[0, 1, channel].tolist() == slow_table(own, other)
    assert tables[1, 0, channel].tolist() == slow_table(other, own)
    assert (tables.int().diff(dim=3) >= 0).all()


@given(st.integers(0, 2**32 - 1), st.integers(1, 1000))
def test_equal_histograms_change_nothing_that_occurs(seed: int, multiple: int) -> None:
    counts = torch.from_numpy(np.random.default_rng(seed).integers(0, 5, 256))
    counts[0] += 1

    table = matching_tables(three_channels(counts, multiple * counts))[0, 1, 0]

    levels = counts.nonzero().flatten()
    assert torch.equal(table[levels].long(), levels)


def test_camera_without_images_leaves_images_as_they_are() -> None:
    tables = matching_tables(three_channels(histogram(l10=3), histogram(), histogram(l90=3)))

    same = torch.arange(256, dtype=torch.uint8).expand(3, 256)
    assert torch.equal(tables[0, 1], same)
    assert torch.equal(tables[1, 2], same)
    assert torch.equal(tables[1, 1], same)
    assert (tables[0, 2, :, 10] == 90).all()


def test_look_up_takes_the_table_of_image_and_channel() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (5, 7, 3, 3), dtype=np.uint8)
    tables = rng.integers(0, 256, (5, 3, 256), dtype=np.uint8)

    found = look_up(torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.from_numpy(tables))

    assert found.dtype == torch.uint8
    assert found.is_contiguous(memory_format=torch.channels_last)
    expected = np.empty_like(pixels)
    for place in np.ndindex(pixels.shape):
        expected[place] = tables[place[0], place[3], pixels[place]]
    assert (found.permute(0, 2, 3, 1).numpy() == expected).all()


def test_matched_images_have_the_histogram_of_the_wanted_camera(make_source: MakeSource) -> None:
    cameras = [random_images(0, 50, low=20, high=180), random_images(1, 40, low=100, high=240)]
    camids = torch.tensor([0] * 50 + [1] * 40)
    histograms = camera_histograms(make_source(np.concatenate(cameras)), camids, num_cameras=2)
    own, wanted = torch.zeros(50, dtype=torch.int64), torch.ones(50, dtype=torch.int64)

    images = HistogramTransfer(histograms)(torch.from_numpy(cameras[0]).permute(0, 3, 1, 2), own, wanted)

    matched = camera_histograms(make_source(images.permute(0, 2, 3, 1).numpy()), own, num_cameras=1)[0]
    shares = [counts.cumsum(1) / counts.sum(1, keepdim=True) for counts in (histograms[0], matched, histograms[1])]
    # a level holds 1/160 of the pixels, so no share can be nearer than about half of that
    assert (shares[1] - shares[2]).abs().max() < 0.01
    assert (shares[0] - shares[2]).abs().max() > 0.4
