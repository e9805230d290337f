"""Colour statistics against a transcription of Reinhard et al. (2001) pixel by pixel in float64."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from reid_da.images import PackedImages
from reid_da.styles.statistics import (
    MAX_STRETCH,
    CameraStatistics,
    StatisticsTransfer,
    camera_statistics,
    transfer_maps,
)

Pixels = NDArray[np.uint8]
MakeSource = Callable[..., PackedImages]

TO_LMS = np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]])


def opponent(rgb: Pixels) -> tuple[float, float, float]:
    """l, alpha, beta of one pixel."""
    long, medium, short = (math.log2(value + 1) for value in TO_LMS @ rgb.astype(np.float64))
    return (
        (long + medium + short) / math.sqrt(3),
        (long + medium - 2 * short) / math.sqrt(6),
        (long - medium) / math.sqrt(2),
    )


def from_opponent(lightness: float, alpha: float, beta: float) -> NDArray[np.float64]:
    """RGB, not rounded nor clipped, of l, alpha and beta."""
    third, sixth, half = lightness / math.sqrt(3), alpha / math.sqrt(6), beta / math.sqrt(2)
    logs = np.array([third + sixth + half, third + sixth - half, third - 2 * sixth])
    result: NDArray[np.float64] = np.linalg.solve(TO_LMS, 2.0**logs - 1)
    return result


def slow_statistics(pixels: Pixels) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    values = np.array([opponent(rgb) for rgb in pixels.reshape(-1, 3)])
    return values.mean(0), values.std(0)


def slow_transfer(image: Pixels, own: Pixels, other: Pixels) -> NDArray[np.float64]:
    """One image from the camera that took the images ``own`` to the one that took ``other``."""
    (own_mean, own_std), (mean, std) = slow_statistics(own), slow_statistics(other)
    result = []
    for rgb in image.reshape(-1, 3):
        value = (np.array(opponent(rgb)) - own_mean) * std / own_std + mean
        result.append(from_opponent(*value).clip(0, 255))
    return np.array(result).reshape(image.shape)


def as_tensor(pixels: Pixels) -> Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def random_camera(seed: int, *, count: int = 3, gain: float = 1.0, tint: tuple[float, ...] = (1, 1, 1)) -> Pixels:
    """Images of (5, 4) pixels whose levels keep away from black and white."""
    rng = np.random.default_rng(seed)
    levels = rng.normal(110, 25, (count, 5, 4, 1)) + rng.normal(0, 12, (count, 5, 4, 3))
    return (levels * gain * np.array(tint)).clip(1, 254).astype(np.uint8)


def statistics_of(cameras: list[Pixels], make_source: MakeSource) -> CameraStatistics:
    camids = torch.repeat_interleave(torch.arange(len(cameras)), torch.tensor([len(camera) for camera in cameras]))
    return camera_statistics(make_source(np.concatenate(cameras)), camids, num_cameras=len(cameras))


def transfer_all(statistics: CameraStatistics, pixels: Pixels, own: int, wanted: int) -> Pixels:
    camids = [torch.full((len(pixels),), camid) for camid in (own, wanted)]
    images = StatisticsTransfer(statistics)(as_tensor(pixels), *camids)
    assert images.dtype == torch.uint8
    assert images.is_contiguous(memory_format=torch.channels_last)
    result: Pixels = images.permute(0, 2, 3, 1).numpy()
    return result


def test_statistics_are_those_of_all_pixels_of_a_camera(make_source: MakeSource) -> None:
    cameras = [random_camera(0, count=4), random_camera(1, count=2, gain=0.5), random_camera(2, count=1)]

    statistics = statistics_of(cameras, make_source)

    for camid, pixels in enumerate(cameras):
        mean, std = slow_statistics(pixels)
        np.testing.assert_allclose(statistics.mean[camid], mean, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(statistics.std[camid], std, rtol=1e-9)


def test_undecodable_images_do_not_count(make_source: MakeSource) -> None:
    pixels = random_camera(0, count=3)
    blank = np.concatenate([pixels, np.zeros((1, 5, 4, 3), dtype=np.uint8)])

    statistics = camera_statistics(make_source(blank, failed=[3]), torch.zeros(4, dtype=torch.int64), num_cameras=1)

    assert torch.equal(statistics.mean, statistics_of([pixels], make_source).mean)


@pytest.mark.parametrize("wanted", [1, 2])
def test_transfer_is_that_of_the_paper(wanted: int, make_source: MakeSource) -> None:
    cameras = [random_camera(0), random_camera(1, gain=0.5, tint=(1.3, 1, 0.8)), random_camera(2, gain=1.8)]
    # pure colours, black and white too: clipped at both ends
    extreme = np.array([[0, 0, 0], [255] * 3, [255, 0, 0], [0, 255, 0], [0, 0, 255]] * 4, dtype=np.uint8)
    images = np.concatenate([cameras[0], extreme.reshape(1, 5, 4, 3)])

    found = transfer_all(statistics_of(cameras, make_source), images, 0, wanted)

    expected = np.stack([slow_transfer(image, cameras[0], cameras[wanted]) for image in images])
    # half a level of rounding, and a little for float32
    assert np.abs(found - expected).max() < 0.51


def test_each_image_of_a_batch_goes_its_own_way(make_source: MakeSource) -> None:
    cameras = [random_camera(0), random_camera(1, gain=0.5), random_camera(2, gain=1.6, tint=(0.8, 1, 1.2))]
    own, wanted = torch.tensor([0, 1, 2, 2]), torch.tensor([2, 0, 1, 0])
    batch = np.stack([cameras[camid][0] for camid in own.tolist()])

    found = StatisticsTransfer(statistics_of(cameras, make_source))(as_tensor(batch), own, wanted)

    for row, (a, b) in enumerate(zip(own.tolist(), wanted.tolist(), strict=True)):
        expected = slow_transfer(batch[row], cameras[a], cameras[b])
        assert np.abs(found[row].permute(1, 2, 0).numpy() - expected).max() < 0.51


def test_transferred_images_have_the_statistics_of_the_wanted_camera(make_source: MakeSource) -> None:
    cameras = [random_camera(0, count=30), random_camera(1, count=30, gain=0.6, tint=(1.2, 1, 0.9))]

    images = transfer_all(statistics_of(cameras, make_source), cameras[0], 0, 1)

    (mean, std), (wanted_mean, wanted_std) = slow_statistics(images), slow_statistics(cameras[1])
    # rounding moves a pixel of level 60 by 0.01 at most; means move less
    np.testing.assert_allclose(mean, wanted_mean, atol=0.005)
    np.testing.assert_allclose(std, wanted_std, atol=0.01)


@given(st.integers(0, 2**32 - 1))
def test_equal_statistics_change_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mean, std = torch.from_numpy(rng.normal(0, 5, 3)), torch.from_numpy(rng.uniform(0, 3, 3))
    pixels = rng.integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)

    images = transfer_all(CameraStatistics(mean=mean.expand(2, 3), std=std.expand(2, 3)), pixels, 0, 1)

    assert (images == pixels).all()


def test_camera_without_images_leaves_images_as_they_are(make_source: MakeSource) -> None:
    pixels = random_camera(0)

    statistics = camera_statistics(make_source(pixels), torch.tensor([0, 2, 2]), num_cameras=4)

    assert statistics.mean.isnan().any(1).tolist() == [False, True, False, True]
    assert (transfer_all(statistics, pixels, 0, 1) == pixels).all()
    assert (transfer_all(statistics, pixels, 3, 0) == pixels).all()
    assert (transfer_all(statistics, pixels, 0, 2) != pixels).any()


def test_stretch_is_limited() -> None:
    std = torch.tensor([[1.0, 0.01, 1.0], [1.0, 1.0, 0.01]], dtype=torch.float64)
    statistics = CameraStatistics(mean=torch.zeros(2, 3, dtype=torch.float64), std=std)

    matrices, _ = transfer_maps(statistics)

    # the eigenvalues of the map are the stretches of l, alpha and beta
    found = torch.linalg.eigvalsh(matrices)
    expected = torch.tensor([0.01, 1.0, MAX_STRETCH], dtype=torch.float64)
    torch.testing.assert_close(found[0, 1], expected)
    torch.testing.assert_close(found[1, 0], expected)


@pytest.mark.parametrize("level", [0, 1, 128, 255])
def test_cameras_of_one_grey(level: int, make_source: MakeSource) -> None:
    flat, other = (np.full((2, 5, 4, 3), value, dtype=np.uint8) for value in (level, 77))
    coloured = random_camera(1, tint=(1.2, 1, 0.7))
    statistics = statistics_of([flat, other, coloured], make_source)

    # what does not vary cannot be made to: it takes on the mean; and in the other direction variation vanishes
    assert (transfer_all(statistics, flat, 0, 1) == 77).all()
    mean_colour = from_opponent(*slow_statistics(coloured)[0])
    assert np.abs(transfer_all(statistics, flat, 0, 2) - mean_colour).max() < 0.51
    assert np.abs(transfer_all(statistics, coloured, 2, 1).astype(int) - 77).max() <= 1


def test_rounding_makes_no_negative_variance(make_source: MakeSource) -> None:
    flat = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None, None], (256, 5, 4, 3)).copy()

    std = camera_statistics(make_source(flat), torch.arange(256), num_cameras=256).std

    assert (std < 1e-6).all()


def test_far_beyond_white_is_white() -> None:
    mean = torch.tensor([[0.0, 0, 0], [400, 0, 0]], dtype=torch.float64)
    grey = np.full((1, 2, 2, 3), 128, dtype=np.uint8)

    images = transfer_all(CameraStatistics(mean=mean, std=torch.ones(2, 3, dtype=torch.float64)), grey, 0, 1)

    assert (images == 255).all()


@given(st.integers(0, 2**32 - 1))
def test_no_statistics_break_the_arithmetic(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mean, std = torch.from_numpy(rng.normal(0, 10, (2, 3))), torch.from_numpy(10.0 ** rng.uniform(-9, 1, (2, 3)))
    extreme = rng.choice(np.array([0, 255], dtype=np.uint8), (2, 4, 3, 3))
    matrices, offsets = (maps[0, 1].numpy() for maps in transfer_maps(CameraStatistics(mean=mean, std=std)))

    images = transfer_all(CameraStatistics(mean=mean, std=std), extreme, 0, 1)

    # whatever is brighter than twice white is cut off before the channels are mixed, so its hue is open
    for rgb, found in zip(extreme.reshape(-1, 3), images.reshape(-1, 3), strict=True):
        logs = matrices @ np.log2(TO_LMS @ rgb.astype(np.float64) + 1) + offsets
        if logs.max() < 9:
            expected = np.linalg.solve(TO_LMS, 2.0**logs - 1).clip(0, 255)
            assert np.abs(found - expected).max() < 0.52


def test_no_images(make_source: MakeSource) -> None:
    none = np.zeros((0, 5, 4, 3), dtype=np.uint8)

    assert (
        transfer_all(statistics_of([random_camera(0), random_camera(1)], make_source), none, 0, 1).shape == none.shape
    )
