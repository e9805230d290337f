"""Files with the published names, which the reader of such files finds complete."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from reid_da.camstyle import TransferViews, find_styled_images, write_styled_images
from reid_da.camstyle.files import default_folder
from reid_da.datasets import SampleTable
from reid_da.errors import InputError
from reid_da.images import PackedImages

CAMIDS = [0, 14, 2, 0]


def grey_of_camera(images: Tensor, from_camids: Tensor, to_camids: Tensor) -> Tensor:
    return (10 * to_camids).to(torch.uint8)[:, None, None, None].expand_as(images)


@pytest.fixture
def table(make_table: Callable[..., SampleTable]) -> SampleTable:
    return make_table(CAMIDS)


@pytest.fixture
def views(make_source: Callable[..., PackedImages]) -> TransferViews:
    source = make_source(np.zeros((4, 8, 4, 3), dtype=np.uint8), failed=[3])
    return TransferViews(source, torch.tensor(CAMIDS), grey_of_camera, num_cameras=15)


@pytest.mark.parametrize(
    ("naming", "name"),
    [("cyclegan", "0000_c1s1_000000_00_fake_1to15.jpg"), ("stargan", "0000_c1s1_000000_00_fake_15.jpg")],
)
def test_names_and_pixels(views: TransferViews, table: SampleTable, naming: str, name: str) -> None:
    folder = default_folder(table)
    assert write_styled_images(views, table, folder, naming=naming) == 6  # type: ignore[arg-type]
    assert len(list(folder.iterdir())) == 6
    assert np.abs(np.asarray(Image.open(folder / name)).astype(int) - 140).max() <= 2
    whole = table.select([0, 1, 2])
    styled = find_styled_images(whole, folder, num_cameras=15)
    assert not styled.missing
    assert styled.path(1, 2) is not None


def test_folder_that_exists(views: TransferViews, table: SampleTable, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exists already; remove it, or name another folder"):
        write_styled_images(views, table, tmp_path, naming="stargan")


def test_folder_that_cannot_be_made(views: TransferViews, table: SampleTable, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        write_styled_images(views, table, tmp_path / "file" / "styles", naming="stargan")


def test_an_error_leaves_no_folder(table: SampleTable, make_source: Callable[..., PackedImages]) -> None:
    def broken(images: Tensor, from_camids: Tensor, to_camids: Tensor) -> Tensor:
        raise RuntimeError("out of memory")

    source = make_source(np.zeros((4, 8, 4, 3), dtype=np.uint8))
    views = TransferViews(source, torch.tensor(CAMIDS), broken, num_cameras=15)
    with pytest.raises(RuntimeError, match="out of memory"):
        write_styled_images(views, table, table.root / "styles", naming="stargan")
    assert not list(table.root.glob("*styles*"))
