"""Packed camera views: the same pixels as the views they were made of, and nothing stale."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from reid_da.datasets import SampleTable
from reid_da.errors import InputError
from reid_da.images import PackedImages
from reid_da.styles import PackedViews, TransferViews, open_packed_views, pack_views, style_cache_path

NUM_IMAGES, NUM_CAMERAS = 37, 15
CAMIDS = torch.arange(NUM_IMAGES) * 7 % NUM_CAMERAS
PIXELS = np.random.default_rng(0).integers(0, 200, (NUM_IMAGES, 6, 3, 3), dtype=np.uint8)


def brighten(images: Tensor, from_camids: Tensor, to_camids: Tensor) -> Tensor:
    """A transfer that tells image, own and wanted camera apart."""
    return images + (2 * to_camids + from_camids % 2).to(torch.uint8)[:, None, None, None]


@pytest.fixture
def table(make_table: Callable[..., SampleTable]) -> SampleTable:
    return make_table(CAMIDS.tolist())


@pytest.fixture
def views(make_source: Callable[..., PackedImages]) -> TransferViews:
    return TransferViews(make_source(PIXELS, failed=[20]), CAMIDS, brighten, num_cameras=NUM_CAMERAS)


@pytest.fixture
def packed(views: TransferViews, table: SampleTable, tmp_path: Path) -> PackedViews:
    return pack_views(views, table, tmp_path / "a.pack", style="brighten")


def test_packed_views_are_the_views(views: TransferViews, packed: PackedViews) -> None:
    index = torch.arange(NUM_IMAGES)
    assert (len(packed), packed.size, packed.num_cameras) == (NUM_IMAGES, (6, 3), NUM_CAMERAS)
    assert [failure.index for failure in packed.failed] == [20]
    whole = index != 20
    for camera in range(NUM_CAMERAS):
        wanted = torch.full_like(index, camera)
        assert torch.equal(packed.gather(index, wanted)[whole], views.gather(index, wanted)[whole])


def test_own_camera_and_no_camera_give_the_real_image(packed: PackedViews) -> None:
    index = torch.tensor([5, 0, 36, 5])
    expected = torch.from_numpy(PIXELS[index.numpy()]).permute(0, 3, 1, 2)
    assert torch.equal(packed.gather(index), expected)
    assert torch.equal(packed.gather(index, CAMIDS[index]), expected)
    with pytest.raises(IndexError, match=r"leaves the range 0\.\.36"):
        packed.gather(torch.tensor([37]))


def test_made_once_and_again_for_another_style(
    views: TransferViews, packed: PackedViews, table: SampleTable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def never(images: Tensor, from_camids: Tensor, to_camids: Tensor) -> Tensor:
        raise AssertionError

    unused = TransferViews(views, CAMIDS, never, num_cameras=NUM_CAMERAS)
    again = pack_views(unused, table, tmp_path / "a.pack", style="brighten")
    np.testing.assert_array_equal(again.pixels, packed.pixels)
    with caplog.at_level(logging.WARNING):
        pack_views(views, table, tmp_path / "a.pack", style="brighten more")
    assert "it was made of other style" in caplog.text


def test_opened_by_its_path(packed: PackedViews, table: SampleTable, tmp_path: Path) -> None:
    opened = open_packed_views(tmp_path / "a.pack", table, size=(6, 3), num_cameras=NUM_CAMERAS)
    np.testing.assert_array_equal(opened.pixels, packed.pixels)


@pytest.mark.parametrize(
    ("name", "size", "num_cameras", "rows", "message"),
    [
        ("a.pack", (8, 4), NUM_CAMERAS, NUM_IMAGES, r"not 8x4; .*--size 6x3, .*=\[6,3\].* --size 8x4"),
        ("a.pack", (6, 3), 6, NUM_IMAGES, r"its shape is \(37, 15, 6, 3, 3\)"),
        ("a.pack", (6, 3), NUM_CAMERAS, 36, r"its shape is \(37, 15, 6, 3, 3\)"),
        ("b.pack", (6, 3), NUM_CAMERAS, NUM_IMAGES, "there is none; make it again"),
    ],
)
@pytest.mark.usefixtures("packed")
def test_what_does_not_fit(
    table: SampleTable,
    tmp_path: Path,
    name: str,
    size: tuple[int, int],
    num_cameras: int,
    rows: int,
    message: str,
) -> None:
    with pytest.raises(InputError, match=message):
        open_packed_views(tmp_path / name, table.select(np.arange(rows)), size=size, num_cameras=num_cameras)


@pytest.mark.usefixtures("packed")
def test_views_of_other_images_are_refused(make_table: Callable[..., SampleTable], tmp_path: Path) -> None:
    other = make_table(CAMIDS.tolist(), folder="elsewhere")
    with pytest.raises(InputError, match="not usable as the camera styles of site/train: it was made of other images"):
        open_packed_views(tmp_path / "a.pack", other, size=(6, 3), num_cameras=NUM_CAMERAS)


def test_lengths_must_agree(views: TransferViews, packed: PackedViews, table: SampleTable, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="views of 37 images, but 3 rows"):
        pack_views(views, table.select([0, 1, 2]), tmp_path / "b.pack", style="")
    with pytest.raises(ValueError, match="37 images, but 3 cameras"):
        PackedViews(packed.pixels, CAMIDS[:3])


def test_name_of_the_file(table: SampleTable, tmp_path: Path) -> None:
    path = style_cache_path(table, size=(128, 64), name="my run", cache_dir=tmp_path)
    assert path == tmp_path / f"site-train-{table.fingerprint}-128x64-styles-my-run.pack"
