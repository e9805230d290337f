"""Views on the fly: real images stay as they are, others go through the transfer with the right cameras."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from reid_da.datasets import SampleTable
from reid_da.images import OnTheFlyImages, PackedImages
from reid_da.styles import TransferViews, there_and_back
from reid_da.styles.transfer import camera_batches

CAMIDS = torch.tensor([0, 2, 1, 2])
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 3, 3), dtype=np.uint8)


def paint_cameras(images: Tensor, from_camids: Tensor, to_camids: Tensor) -> Tensor:
    """A transfer that paints the whole image in 100 + 10 * own camera + wanted camera."""
    return (100 + 10 * from_camids + to_camids).to(torch.uint8)[:, None, None, None].expand_as(images)


@pytest.fixture
def views(make_source: Callable[..., PackedImages]) -> TransferViews:
    return TransferViews(make_source(PIXELS, failed=[3]), CAMIDS, paint_cameras, num_cameras=3)


def test_own_camera_is_the_real_image_and_others_are_transferred(views: TransferViews) -> None:
    index = torch.tensor([1, 1, 0, 2, 3])

    images = views.gather(index, torch.tensor([2, 0, 1, 1, 1]))

    assert images.dtype == torch.uint8
    assert images.is_contiguous(memory_format=torch.channels_last)
    pixels = images.permute(0, 2, 3, 1).numpy()
    assert (pixels[0] == PIXELS[1]).all()
    assert (pixels[1] == 120).all()
    assert (pixels[2] == 101).all()
    assert (pixels[3] == PIXELS[2]).all()
    assert (pixels[4] == 121).all()


def test_a_device_makes_the_same_views(make_source: Callable[..., PackedImages]) -> None:
    def shift(images: Tensor, from_camids: Tensor, to_camids: Tensor) -> Tensor:
        return images ^ (1 + 3 * from_camids + to_camids).to(torch.uint8)[:, None, None, None]

    views = TransferViews(make_source(PIXELS), CAMIDS, shift, num_cameras=3, block_size=2)
    index, wanted = torch.arange(4).repeat(3), torch.arange(3).repeat_interleave(4)

    there = views.gather_on("cpu", index, wanted)

    assert torch.equal(there, views.gather(index, wanted))
    assert there.is_contiguous(memory_format=torch.channels_last)


def test_the_way_back_leads_over_the_next_camera() -> None:
    ways = []

    def note(images: Tensor, from_camids: Tensor, to_camids: Tensor) -> Tensor:
        ways.append((from_camids.tolist(), to_camids.tolist()))
        return images + 1

    images = torch.zeros(3, 3, 2, 1, dtype=torch.uint8)
    back = there_and_back(note, images, torch.tensor([14, 1, 4]), cameras=torch.tensor([1, 4, 14]))

    assert ways == [([14, 1, 4], [1, 4, 14]), ([1, 4, 14], [14, 1, 4])]
    assert (back == 2).all()


def test_without_views_the_images_are_real(views: TransferViews) -> None:
    assert (views.gather(torch.arange(4)).permute(0, 2, 3, 1).numpy() == PIXELS).all()


def test_source_is_not_changed(views: TransferViews) -> None:
    views.gather(torch.arange(4), torch.zeros(4, dtype=torch.int64))

    assert (views.gather(torch.arange(4)).permute(0, 2, 3, 1).numpy() == PIXELS).all()


def test_views_are_a_source(views: TransferViews) -> None:
    assert len(views) == 4
    assert views.size == (6, 3)
    assert views.num_cameras == 3
    assert [failure.index for failure in views.failed] == [3]


@pytest.mark.parametrize("wrong", [3, -1])
def test_camera_out_of_range(views: TransferViews, wrong: int) -> None:
    with pytest.raises(IndexError, match=f"{wrong} leaves the range 0..2"):
        views.gather(torch.tensor([0]), torch.tensor([wrong]))


def test_image_out_of_range(views: TransferViews) -> None:
    with pytest.raises(IndexError, match=r"leaves the range 0..3"):
        views.gather(torch.tensor([4]), torch.tensor([0]))


def test_cameras_must_be_whole_numbers(views: TransferViews) -> None:
    with pytest.raises(TypeError, match="int64"):
        views.gather(torch.tensor([0]), torch.tensor([1.0]))


def test_lengths_must_agree(make_source: Callable[..., PackedImages]) -> None:
    with pytest.raises(ValueError, match="4 images, but 3 cameras"):
        TransferViews(make_source(PIXELS), CAMIDS[:3], paint_cameras, num_cameras=3)


def test_one_pass_sees_every_decodable_image_once(make_source: Callable[..., PackedImages]) -> None:
    pixels = np.zeros((150, 2, 1, 3), dtype=np.uint8)
    pixels[:, 0, 0, 0] = np.arange(150)
    camids = torch.arange(150) % 7

    batches = list(camera_batches(make_source(pixels, failed=[0, 70]), camids, "counting"))

    seen = torch.cat([images[:, 0, 0, 0] for images, _ in batches]).long()
    assert seen.tolist() == [number for number in range(150) if number not in (0, 70)]
    assert torch.equal(torch.cat([own for _, own in batches]), seen % 7)


def test_one_pass_leaves_out_what_fails_only_when_it_is_read(tmp_path: Path) -> None:
    Image.new("RGB", (2, 4), (9, 9, 9)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    table = SampleTable.from_rows("few", tmp_path, [("a.png", 0, 0), ("b.png", 0, 1)])
    source = OnTheFlyImages(table, size=(4, 2), on_error="skip")

    [(images, own)] = camera_batches(source, torch.tensor([0, 1]), "reading")

    assert (images == 9).all()
    assert own.tolist() == [0]
