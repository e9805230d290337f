"""Transforms as wholes: what they do to a batch, and where their random numbers come from."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from reid_da.config import AugmentSettings
from reid_da.images import TestTransform, TrainTransform, transforms
from reid_da.images.augment import IMAGENET_MEAN, color_jitter, normalize, resize

SIZE = (32, 16)
NOTHING = AugmentSettings(crop="none", flip=0, erase=0)
EVERYTHING = AugmentSettings(brightness=0.2, contrast=0.2, saturation=0.3, hue=0.1)


def images(count: int, size: tuple[int, int] = SIZE) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randint(0, 256, (count, *size, 3), dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)


def transform(settings: AugmentSettings = EVERYTHING, *, seed: int = 0, size=SIZE) -> TrainTransform:
    return TrainTransform(settings, size=size, seed=seed)


def one_by_one(**changes) -> AugmentSettings:
    return AugmentSettings(**{"crop": "none", "flip": 0, "erase": 0} | changes)


def test_nothing_but_normalisation() -> None:
    batch = images(20)
    for result in (transform(NOTHING)(batch), TestTransform(size=SIZE)(batch)):
        assert result.dtype == torch.float32
        assert result.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(result, normalize(batch), atol=1e-4, rtol=0)


@pytest.mark.parametrize("settings", [EVERYTHING, AugmentSettings(crop="pad")])
def test_batch_is_treated_alike_in_parts_of_any_size(monkeypatch: pytest.MonkeyPatch, settings) -> None:
    results = []
    for at_once in (1, 7, 100):
        for name in ("_PIXELS_AT_ONCE", "_PIXELS_AT_ONCE_WITH_COLORS"):
            monkeypatch.setattr(transforms, name, at_once * SIZE[0] * SIZE[1])
        results.append(transform(settings)(images(21)))
    for first, second in pairwise(results):
        assert torch.equal(first, second)


def test_every_image_has_parameters_of_its_own() -> None:
    batch = images(1).expand(40, -1, -1, -1)
    for settings in (one_by_one(crop="rect"), one_by_one(hue=0.5), one_by_one(brightness=0.5)):
        result = transform(settings)(batch)
        assert len(torch.unique(result.flatten(1), dim=0)) > 30


def test_mirroring_half_of_the_images() -> None:
    count = 1000
    batch = images(1, (2, 4)).expand(count, -1, -1, -1)
    result = transform(one_by_one(flip=0.5), size=(2, 4))(batch)
    plain = normalize(batch[:1])
    mirrored = (result - plain.flip(3)).abs().amax(dim=(1, 2, 3)) < 1e-3
    same = (result - plain).abs().amax(dim=(1, 2, 3)) < 1e-3
    assert (mirrored ^ same).all()
    assert int(mirrored.sum()) == pytest.approx(count / 2, abs=4 * math.sqrt(count / 4))


@pytest.mark.parametrize(("fill", "values"), [("official", IMAGENET_MEAN), ("mean", (0, 0, 0))])
def test_erasing_after_normalisation(fill: str, values: tuple[float, ...]) -> None:
    count = 400
    batch = images(1).expand(count, -1, -1, -1)
    result = transform(one_by_one(erase=0.5, erase_fill=fill))(batch)
    erased = (result == torch.tensor(values).view(1, 3, 1, 1)).all(dim=1)
    kept = ~erased[:, None].expand_as(result)
    torch.testing.assert_close(result[kept], normalize(batch)[kept], atol=1e-4, rtol=0)
    share = erased.double().mean(dim=(1, 2))
    chosen = share > 0
    assert int(chosen.sum()) == pytest.approx(count / 2, abs=4 * math.sqrt(count / 4))
    assert share[chosen].mean() == pytest.approx(0.11, abs=0.02)


def test_padding_counts_pixels_of_the_result() -> None:
    # a white image of half the size: the black that comes in from the sides is up to three pixels wide
    batch = torch.full((300, 3, 16, 8), 255, dtype=torch.uint8)
    result = transform(one_by_one(crop="pad", crop_pad=3))(batch)
    black = result < normalize(torch.zeros(1, 3, 1, 1)) + 1e-3
    black_rows = black.all(dim=(1, 3)).sum(dim=1)
    assert black_rows.unique().tolist() == [0, 1, 2, 3]
    assert torch.bincount(black_rows)[1:].float().std() < 30


def test_larger_images_are_shrunk_first() -> None:
    batch = images(5, (64, 48))
    assert torch.equal(transform()(batch), transform()(resize(batch, size=SIZE)))


def test_test_transform_resizes_as_pillow_does() -> None:
    batch = images(3, (50, 20)) // 3 + 80
    for interpolation in ("bilinear", "bicubic"):
        result = TestTransform(size=SIZE, interpolation=interpolation)(batch)
        for image, found in zip(batch, result, strict=True):
            resized = Image.fromarray(image.permute(1, 2, 0).numpy()).resize(
                (SIZE[1], SIZE[0]), Image.Resampling[interpolation.upper()]
            )
            expected = normalize(torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None])
            torch.testing.assert_close(found, expected[0], atol=1.01 / 255 / 0.224, rtol=0)


def test_colors_change_before_normalisation() -> None:
    batch = images(6)
    result = transform(one_by_one(brightness=0.4))(batch)
    mean = torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)
    back = result * torch.tensor((0.229, 0.224, 0.225)).view(1, 3, 1, 1) + mean
    dark = batch < 180  # not cut off
    factors = [(back[row] * 255)[dark[row]].sum() / batch[row][dark[row]].sum() for row in range(6)]
    assert len({round(float(factor), 3) for factor in factors}) == 6
    for row, factor in enumerate(factors):
        assert 0.6 <= factor <= 1.4
        expected = color_jitter(batch[row : row + 1].float(), brightness=factor[None])
        torch.testing.assert_close(back[row : row + 1] * 255, expected, atol=0.05, rtol=1e-4)


def test_factors_are_never_negative() -> None:
    batch = torch.full((200, 3, *SIZE), 100, dtype=torch.uint8)
    result = transform(one_by_one(brightness=3.0))(batch)
    black = normalize(torch.zeros(1, 3, 1, 1))
    assert ((result - black).amax(dim=(1, 2, 3)) > 1e-4).all()


def test_the_seed_decides_the_numbers() -> None:
    first, second = transform(seed=1), transform(seed=1)
    results = [first(images(5)) for _ in range(2)]
    assert torch.equal(second(images(5)), results[0])
    assert torch.equal(second(images(5)), results[1])
    assert not torch.equal(results[0], results[1])
    assert not torch.equal(transform(seed=2)(images(5)), results[0])


def test_global_random_numbers_are_left_alone() -> None:
    before = torch.get_rng_state()
    transform()(images(3))
    assert torch.equal(torch.get_rng_state(), before)


def test_input_is_left_alone_and_may_be_empty() -> None:
    batch = images(3)
    before = batch.clone()
    for function in (transform(), TestTransform(size=SIZE)):
        function(batch)
        assert torch.equal(batch, before)
        assert function(batch[:0]).shape == (0, 3, *SIZE)


def test_autocast_changes_nothing() -> None:
    expected = transform()(images(4))
    with torch.autocast("cpu", torch.bfloat16):
        result = transform()(images(4))
    assert torch.equal(result, expected)


def test_what_was_drawn_can_be_applied_later_and_again() -> None:
    batch = images(5)
    reference = transform()
    expected = [reference(batch) for _ in range(2)]
    function = transform()
    first, second = (function.draw(5, SIZE) for _ in range(2))
    assert torch.equal(second(batch), expected[1])
    assert torch.equal(first(batch), expected[0])
    assert torch.equal(first(batch), expected[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("changes", [{"crop": "rect", "flip": 0.5, "erase": 0.5}, {"crop": "pad", "flip": 0.5}])
def test_a_gpu_crops_as_a_cpu_to_one_grey_level(changes) -> None:
    batch, settings = images(30), one_by_one(**changes)
    found, expected = transform(settings)(batch.cuda()).cpu(), transform(settings)(batch)
    torch.testing.assert_close(found, expected, atol=1.01 / 255 / 0.224, rtol=0)
    assert (found - expected).abs().mean() < 0.3 / 255 / 0.224


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_changes_colours_as_a_cpu() -> None:
    batch, settings = images(30), one_by_one(brightness=0.2, contrast=0.2, saturation=0.3, hue=0.1)
    torch.testing.assert_close(transform(settings)(batch.cuda()).cpu(), transform(settings)(batch), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop": "random"}, "crop"),
        ({"erase_fill": "black"}, "erase_fill"),
        ({"flip": 1.5}, "flip"),
        ({"erase": -0.1}, "erase"),
        ({"crop_scale": (1, 0.64)}, "crop_scale\n.*a range is two numbers, the smaller first"),
        ({"erase_area": (0.1, 1.1)}, "erase_area"),
        ({"crop_aspect": (0, 1)}, "crop_aspect"),
        ({"hue": 0.6}, "hue"),
        ({"contrast": -1}, "contrast"),
        ({"crop_pad": float("nan")}, "crop_pad"),
    ],
)
def test_wrong_settings(changes: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        AugmentSettings(**changes)
