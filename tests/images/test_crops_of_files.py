"""Crops that are drawn in the shapes of the files, as the code of ECN has it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reid_da.config import AugmentSettings
from reid_da.datasets import SampleTable
from reid_da.errors import InputError
from reid_da.images import OnTheFlyImages, Selection, TestTransform, TrainTransform, load_batches, pack_images
from reid_da.images.augment import boxes_after_resize, random_sized_rect_crop_boxes
from reid_da.images.decode import FileSizes
from reid_da.images.source import sizes_of_files

SIZE = (32, 16)
ORIGINAL = AugmentSettings(crop_on="original", flip=0, erase=0)


def boxes(count: int, sizes, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return random_sized_rect_crop_boxes(count, sizes, generator=generator)


def batch(source, settings: AugmentSettings, rows: torch.Tensor, seed: int = 3) -> torch.Tensor:
    transform = TrainTransform(settings, size=SIZE, seed=seed)
    (found,) = load_batches(source, [Selection(rows=rows)], transform, prefetch=0)
    return found.images


@pytest.mark.parametrize(
    ("height", "width", "kept"),
    [
        # means over 20,000 crops of RandomSizedRectCrop of zhunzhong07/ECN
        (128, 64, (0.9366, 0.8057)),
        (166, 64, (0.8715, 0.8968)),
        (180, 60, (0.8192, 0.9340)),
        (256, 256, (1.0, 1.0)),
    ],
)
def test_what_a_crop_keeps_depends_on_the_shape_of_the_file(height: int, width: int, kept: tuple) -> None:
    found = boxes(20000, torch.tensor([[height, width]]).expand(20000, 2))
    shares = found[:, 2:].double().mean(0) / torch.tensor([height, width])
    assert shares.tolist() == pytest.approx(kept, abs=2e-3)
    assert (found[:, :2] + found[:, 2:] <= torch.tensor([height, width])).all()


def test_sizes_of_their_own_give_the_boxes_of_one_size() -> None:
    assert torch.equal(boxes(9, (40, 20)), boxes(9, torch.tensor([[40, 20]]).expand(9, 2)))
    mixed = boxes(3, torch.tensor([[40, 20], [256, 256], [40, 20]]))
    assert mixed[1].tolist() == [0, 0, 256, 256]
    assert torch.equal(mixed[[0, 2]], boxes(3, (40, 20))[[0, 2]])


def test_boxes_after_a_resize() -> None:
    given = torch.tensor([[0, 0, 40, 20], [10, 5, 20, 10], [3, 0, 37, 20], [39, 19, 1, 1]])
    # twice as high, 1.5 times as wide; columns 7.5 to 22.5 become 8 to 22, the half-pixels to the even one
    expected = [[0, 0, 80, 30], [20, 8, 40, 14], [6, 0, 74, 30], [78, 28, 2, 2]]
    assert boxes_after_resize(given, torch.tensor([[40, 20]]).expand(4, 2), size=(80, 30)).tolist() == expected
    assert boxes_after_resize(given[3:], torch.tensor([[40, 20]]), size=(4, 2)).tolist() == [[3, 1, 1, 1]]


def test_decoding_cuts_out_of_the_file_as_pillow_does(make_table) -> None:
    table, rows = make_table(6), torch.tensor([4, 0, 5, 2])
    found = batch(OnTheFlyImages(table, size=SIZE), ORIGINAL, rows)
    files = [Image.open(table.path(row)).convert("RGB") for row in rows.tolist()]
    drawn = boxes(4, torch.tensor([(file.height, file.width) for file in files]), seed=3)
    assert (drawn[:, 2:] < torch.tensor([(file.height, file.width) for file in files])).any()
    for file, (top, left, height, width), image in zip(files, drawn.tolist(), found, strict=True):
        crop = file.crop((left, top, left + width, top + height)).resize(SIZE[::-1], Image.Resampling.BILINEAR)
        expected = TestTransform(size=SIZE)(torch.from_numpy(np.asarray(crop).copy()).permute(2, 0, 1)[None])
        torch.testing.assert_close(image, expected[0], atol=1e-5, rtol=0)


def test_the_pack_is_cropped_at_the_same_places_to_half_a_pixel(make_table, tmp_path: Path) -> None:
    table, rows = make_table(6), torch.tensor([4, 0, 5, 2])
    packed = pack_images(table, size=SIZE, cache_dir=tmp_path)
    exact = batch(OnTheFlyImages(table, size=SIZE), ORIGINAL, rows)
    resized = AugmentSettings(flip=0, erase=0)
    # here and there by up to half a pixel of 32x16, which the second resize blurs; 0.12 with boxes of other places
    assert (batch(packed, ORIGINAL, rows) - exact).abs().mean() < 0.08
    assert (batch(packed, resized, rows) - exact).abs().mean() > 0.1


@pytest.mark.parametrize("packed", [True, False])
def test_squares_are_never_cropped(tmp_path: Path, packed: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "square.png")
    table = SampleTable.from_rows("squares", tmp_path, [("square.png", 1, 0)])
    source = pack_images(table, size=SIZE, cache_dir=tmp_path) if packed else OnTheFlyImages(table, size=SIZE)
    rows = torch.zeros(8, dtype=torch.int64)
    whole = TestTransform(size=SIZE)(source.gather(rows))
    torch.testing.assert_close(batch(source, ORIGINAL, rows), whole, atol=1e-5, rtol=0)
    assert not torch.allclose(batch(source, AugmentSettings(flip=0, erase=0), rows), whole)


def test_sizes_are_those_of_upright_images_and_need_a_header(tmp_path: Path) -> None:
    image, exif = Image.new("RGB", (30, 10)), Image.Exif()
    image.save(tmp_path / "0.jpg")
    exif[274] = 6
    image.save(tmp_path / "1.jpg", exif=exif)
    (tmp_path / "2.jpg").write_text("no image")
    table = SampleTable.from_rows("photos", tmp_path, [(f"{number}.jpg", 1, 0) for number in range(3)])
    sizes = FileSizes(table, unknown=(8, 4))
    assert sizes(torch.tensor([2, 1, 0, 1])).tolist() == [[8, 4], [30, 10], [10, 30], [30, 10]]


def test_images_without_files_are_an_error() -> None:
    with pytest.raises(InputError, match="augment.crop_on=original: these images come without their files"):
        sizes_of_files(object(), torch.tensor([0]))  # type: ignore[arg-type]
