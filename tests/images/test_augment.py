"""Augmentation against references that treat one image, or one pixel, at a time."""

import colorsys
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import stats
from torchvision.transforms.v2 import functional as tv

from reid_da.images import augment
from reid_da.images.augment import (
    color_jitter,
    crop_resize,
    erase,
    normalize,
    padded_crop_boxes,
    random_erasing_boxes,
    random_sized_rect_crop_boxes,
    resize,
    whole_image_boxes,
)

ROUNDING = 1.02  # values are whole, and the kernel for uint8 rounds after each of its two passes


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_images(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    images = torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, generator=seeded(seed))
    return images.permute(0, 3, 1, 2)


def bilinear(channel: np.ndarray, box: tuple[int, int, int, int], size: tuple[int, int]) -> np.ndarray:
    """Crop one channel, then resize it pixel by pixel in float64: centres at half-integers, edges repeated."""
    top, left, height, width = box
    crop = channel[top : top + height, left : left + width].astype(np.float64)
    result = np.zeros(size)
    for row in range(size[0]):
        for column in range(size[1]):
            y = min(max((row + 0.5) * height / size[0] - 0.5, 0), height - 1)
            x = min(max((column + 0.5) * width / size[1] - 0.5, 0), width - 1)
            y0, x0 = math.floor(y), math.floor(x)
            y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
            upper = crop[y0, x0] * (x0 + 1 - x) + crop[y0, x1] * (x - x0)
            lower = crop[y1, x0] * (x0 + 1 - x) + crop[y1, x1] * (x - x0)
            result[row, column] = upper * (y0 + 1 - y) + lower * (y - y0)
    return result


boxes_inside = st.tuples(st.integers(1, 12), st.integers(1, 9)).flatmap(
    lambda sides: st.tuples(
        st.integers(0, 12 - sides[0]), st.integers(0, 9 - sides[1]), st.just(sides[0]), st.just(sides[1])
    )
)


@pytest.fixture(params=["in turn", "at once"])
def crop(request: pytest.FixtureRequest):
    """Both ways to crop: the one for the CPU and the one for all other devices."""
    return augment._crop_resize_in_turn if request.param == "in turn" else augment._crop_resize_at_once


@pytest.mark.parametrize("way", [augment._crop_resize_in_turn, augment._crop_resize_at_once])
@given(
    boxes=st.lists(boxes_inside, min_size=1, max_size=3),
    size=st.tuples(st.integers(12, 20), st.integers(9, 15)),
    data=st.data(),
)
def test_crop_resize_equals_pixel_by_pixel(way, boxes: list, size: tuple[int, int], data: st.DataObject) -> None:
    images = random_images(len(boxes), 12, 9)
    mirrored = data.draw(st.lists(st.booleans(), min_size=len(boxes), max_size=len(boxes)))
    result = way(images, torch.tensor(boxes), size=size, mirrored=torch.tensor(mirrored))
    assert result.dtype == torch.uint8
    for image, box, is_mirrored, found in zip(images.numpy(), boxes, mirrored, result.numpy(), strict=True):
        for channel in range(3):
            expected = bilinear(image[channel], box, size)
            expected = expected[:, ::-1] if is_mirrored else expected
            np.testing.assert_allclose(found[channel], expected, atol=ROUNDING)


def test_crop_resize_equals_pillow(crop) -> None:
    images = random_images(8, 64, 32)
    boxes = random_sized_rect_crop_boxes(8, (64, 32), generator=seeded(1))
    for size in ((64, 32), (128, 64), (70, 50)):
        result = crop(images, boxes, size=size, mirrored=torch.zeros(8, dtype=torch.bool))
        for image, (top, left, height, width), found in zip(images, boxes.tolist(), result, strict=True):
            cut = Image.fromarray(image.permute(1, 2, 0).numpy()).crop((left, top, left + width, top + height))
            expected = np.asarray(cut.resize((size[1], size[0]), Image.Resampling.BILINEAR))
            difference = np.abs(found.permute(1, 2, 0).numpy().astype(int) - expected)
            assert difference.max() <= 1
            assert difference.mean() < 0.25


def test_crop_resize_of_gradients(crop) -> None:
    rows, columns = np.mgrid[:100, :50].astype(np.uint8)
    image = torch.from_numpy(np.stack((rows, columns, rows + columns)))
    box = torch.tensor([[10, 5, 80, 40]])
    result = crop(image[None], box, size=(160, 120), mirrored=torch.tensor([False]))[0].numpy()
    y = (10 + (np.arange(160) + 0.5) * 80 / 160 - 0.5).clip(10, 89)
    x = (5 + (np.arange(120) + 0.5) * 40 / 120 - 0.5).clip(5, 44)
    np.testing.assert_allclose(result[0], np.broadcast_to(y[:, None], (160, 120)), atol=ROUNDING)
    np.testing.assert_allclose(result[1], np.broadcast_to(x, (160, 120)), atol=ROUNDING)
    np.testing.assert_allclose(result[2], y[:, None] + x, atol=ROUNDING)


def test_whole_images_of_the_same_size_stay_what_they_are(crop) -> None:
    images = random_images(3, 20, 10)
    mirrored = torch.tensor([False, True, False])
    result = crop(images, whole_image_boxes(3, (20, 10)), size=(20, 10), mirrored=mirrored)
    assert torch.equal(result[::2], images[::2])
    assert torch.equal(result[1], images[1].flip(2))


def test_crop_resize_shrinks_as_pillow_does_on_a_cpu() -> None:
    images = random_images(1, 64, 32)
    result = crop_resize(images, whole_image_boxes(1, (64, 32)), size=(20, 12))
    expected = Image.fromarray(images[0].permute(1, 2, 0).numpy()).resize((12, 20), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(result[0].permute(1, 2, 0).numpy(), np.asarray(expected).astype(int), atol=1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(crop, dtype: torch.dtype) -> None:
    images, boxes, mirrored = random_images(2, 20, 10), whole_image_boxes(2, (20, 10)), torch.tensor([True, False])
    with torch.autocast("cpu", dtype):
        inside = normalize(crop(images, boxes, size=(30, 15), mirrored=mirrored))
    assert torch.equal(inside, normalize(crop(images, boxes, size=(30, 15), mirrored=mirrored)))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(20, 10), (90, 45), (33, 50)])
def test_resize_equals_pillow(interpolation: str, size: tuple[int, int]) -> None:
    images = random_images(2, 64, 32) // 3 + 80  # Pillow cuts overshoots off after each of its two passes, and rounds
    resampling = Image.Resampling[interpolation.upper()]
    result = resize(images, size=size, interpolation=interpolation)
    for image, found in zip(images, result, strict=True):
        expected = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((size[1], size[0]), resampling)
        np.testing.assert_allclose(
            found.permute(1, 2, 0).numpy().astype(int), np.asarray(expected).astype(int), atol=1.01
        )


def test_resize_cuts_overshoots_off() -> None:
    image = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    image[:, :, 4:] = 255
    result = resize(image, size=(32, 32), interpolation="bicubic")[0, 0, :, 0].int()
    assert (result.diff() >= 0).all()
    assert (result[0], result[-1]) == (0, 255)


def test_normalize() -> None:
    images = torch.tensor([0, 255, 51], dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 4, 5)
    expected = [-0.485 / 0.229, (1 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
    for values in (images, images.float()):
        result = normalize(values)
        assert result.shape == (2, 3, 4, 5)
        torch.testing.assert_close(result[0, :, 0, 0], torch.tensor(expected))
    other = normalize(images, mean=(0.5, 0.5, 0.2), std=(0.5, 2, 1))
    torch.testing.assert_close(other[1, :, 3, 4], torch.tensor([-1, 0.25, 0]))


def test_normalize_into_a_given_place() -> None:
    images = random_images(4, 6, 5)
    place = torch.zeros(9, 3, 6, 5).contiguous(memory_format=torch.channels_last)
    assert normalize(images, out=place[2:6]).data_ptr() == place[2].data_ptr()
    assert torch.equal(place[2:6], normalize(images.contiguous()))
    assert not place[:2].any()
    assert not place[6:].any()


def test_erase() -> None:
    images = torch.rand(4, 3, 6, 5, generator=seeded())
    boxes = [(1, 2, 3, 2), (0, 0, 0, 0), (0, 0, 6, 5), (5, 4, 1, 1)]
    expected = images.clone()
    for image, (top, left, height, width) in zip(expected, boxes, strict=True):
        for channel, value in enumerate((0.485, -2, 0.406)):
            image[channel, top : top + height, left : left + width] = value
    before = images.clone()
    assert torch.equal(erase(images, torch.tensor(boxes), fill=(0.485, -2, 0.406)), expected)
    assert torch.equal(images, before)
    last = images.contiguous(memory_format=torch.channels_last)
    assert erase(last, torch.tensor(boxes), fill=(0.485, -2, 0.406), inplace=True) is last
    assert torch.equal(last, expected)


def reference_box(source: random.Random, size: tuple[int, int], scale, aspect, tries: int):
    """One box by the loop of the authors' code."""
    for _ in range(tries):
        area = source.uniform(*scale) * size[0] * size[1]
        ratio = source.uniform(*aspect)
        height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if height <= size[0] and width <= size[1]:
            return source.randint(0, size[0] - height), source.randint(0, size[1] - width), height, width
    return None


@pytest.mark.parametrize(("size", "tries"), [((256, 128), 10), ((256, 128), 1), ((128, 64), 2)])
def test_crops_are_distributed_as_one_by_one(size: tuple[int, int], tries: int) -> None:
    count, source = 4000, random.Random(5)
    boxes = random_sized_rect_crop_boxes(count, size, tries=tries, generator=seeded(3)).numpy()
    references = [reference_box(source, size, (0.64, 1), (2, 3), tries) or (0, 0, *size) for _ in range(count)]
    expected = np.array(references)
    for column in range(4):
        assert stats.ks_2samp(boxes[:, column], expected[:, column]).pvalue > 0.01
    whole, expected_whole = ((values[:, 2:] == size).all(axis=1).mean() for values in (boxes, expected))
    assert whole == pytest.approx(expected_whole, abs=4 * math.sqrt(0.5 / count))


def test_crops_keep_their_ranges() -> None:
    boxes = random_sized_rect_crop_boxes(20000, (256, 128), generator=seeded()).double()
    top, left, height, width = boxes.T
    assert (top + height).max() == 256
    assert (left + width).max() == 128
    assert boxes[:, :2].min() == 0
    # sides are rounded to pixels
    share = height * width / (256 * 128)
    assert 0.64 - 0.01 < share.min() < 0.65
    assert share.max() <= 1
    cropped = share < 1
    ratio = (height / width)[cropped]
    assert 2 - 0.03 < ratio.min() < 2.02
    assert 2.95 < ratio.max() < 3 + 0.03


@pytest.mark.parametrize("size", [(128, 128), (64, 128), (10, 10)])
def test_images_that_no_crop_fits_stay_whole(size: tuple[int, int]) -> None:
    boxes = random_sized_rect_crop_boxes(500, size, generator=seeded())
    assert torch.equal(boxes, torch.tensor((0, 0, *size)).expand(500, 4))


def test_erased_boxes_are_distributed_as_one_by_one() -> None:
    count, size, source = 8000, (256, 128), random.Random(7)
    boxes = random_erasing_boxes(count, size, generator=seeded(11)).numpy()
    chosen = boxes[boxes[:, 2] > 0]
    assert len(chosen) == pytest.approx(count / 2, abs=4 * math.sqrt(count / 4))
    assert not boxes[boxes[:, 2] == 0].any()
    expected = np.array([reference_box(source, size, (0.02, 0.2), (0.3, 3), 100) for _ in range(4000)])
    for column in range(4):
        assert stats.ks_2samp(chosen[:, column], expected[:, column]).pvalue > 0.01


def test_nothing_is_erased_where_no_box_fits() -> None:
    boxes = random_erasing_boxes(50, (10, 10), probability=1, area=(0.9, 1), aspect=(3, 3), generator=seeded())
    assert not boxes.any()


@pytest.mark.parametrize("probability", [0, 1])
def test_erasing_never_and_always(probability: float) -> None:
    boxes = random_erasing_boxes(300, (64, 32), probability=probability, generator=seeded())
    assert ((boxes[:, 2] > 0) == bool(probability)).all()


def test_numbers_taken_do_not_depend_on_their_use() -> None:
    first, second = seeded(), seeded()
    random_erasing_boxes(10, (64, 32), probability=0.1, generator=first)
    random_erasing_boxes(10, (32, 32), probability=1, area=(0.5, 0.9), generator=second)
    assert torch.equal(first.get_state(), second.get_state())


def test_padded_crops() -> None:
    boxes = padded_crop_boxes(5000, (256, 128), padding=10, generator=seeded())
    assert (boxes[:, 2:] == torch.tensor([256, 128])).all()
    for places in boxes[:, :2].T:
        counts = torch.bincount(places, minlength=21)
        assert len(counts) == 21
        assert stats.chisquare(counts.numpy()).pvalue > 0.01


JITTERS = {
    "brightness": (tv.adjust_brightness, (0.5, 1.0, 1.7)),
    "contrast": (tv.adjust_contrast, (0.4, 1.0, 1.9)),
    "saturation": (tv.adjust_saturation, (0.0, 1.0, 2.5)),
    "hue": (tv.adjust_hue, (-0.5, 0.13, 0.4)),
}


@pytest.mark.parametrize("name", JITTERS)
def test_color_jitter_equals_torchvision_one_by_one(name: str) -> None:
    function, values = JITTERS[name]
    images = random_images(3, 10, 7).float()
    images[0, :, :2] = images[0, :1, :2]  # some grey
    images[1, :, 0] = 0
    result = color_jitter(images.to(torch.uint8), **{name: torch.tensor(values)})
    for image, value, found in zip(images, values, result, strict=True):
        # torchvision's grey weights add up to 0.9999
        torch.testing.assert_close(found / 255, function(image / 255, value), atol=3e-4, rtol=0)


def test_hue_equals_the_standard_library() -> None:
    images = random_images(2, 6, 5).float()
    equal = [[10.0, 200, 200], [200, 10, 200], [200, 200, 10], [10, 10, 200], [77, 77, 77]]
    images[0, :, 0] = torch.tensor(equal).T
    shifts = (0.3, -0.2)
    result = color_jitter(images, hue=torch.tensor(shifts))
    for image, shift, found in zip(images, shifts, result, strict=True):
        for pixel, value in zip(image.flatten(1).T.tolist(), found.flatten(1).T.tolist(), strict=True):
            hue, saturation, brightness = colorsys.rgb_to_hsv(*(channel / 255 for channel in pixel))
            expected = colorsys.hsv_to_rgb((hue + shift) % 1, saturation, brightness)
            assert value == pytest.approx([255 * channel for channel in expected], abs=1e-3)


def test_color_jitter_in_order() -> None:
    images = random_images(2, 10, 7).float()
    factors = {name: torch.tensor(values[1:]) for name, (_, values) in JITTERS.items()}
    expected = images
    for name, values in factors.items():
        expected = color_jitter(expected, **{name: values})
    before = images.clone()
    assert torch.equal(color_jitter(images, **factors), expected)
    assert torch.equal(images, before)
