"""The one function that training calls, on the rendered images and with mistakes."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from reid_da.datasets import SampleTable, load_dataset
from reid_da.errors import InputError
from reid_da.images import OnTheFlyImages, PackedImages, open_images
from reid_da.styles import CameraViews, Style, create_foreign_views, create_views

MakeTable = Callable[..., SampleTable]
MakeSource = Callable[..., PackedImages]

SIZE = (32, 16)


@pytest.fixture(scope="module")
def train(rendered: Path) -> SampleTable:
    """A few training images of every camera of site-b."""
    table = load_dataset(rendered / "site-b").train
    return table.select(np.concatenate([np.nonzero(table.camids == camid)[0][:40] for camid in range(6)]))


@pytest.fixture(scope="module")
def source(train: SampleTable) -> PackedImages:
    images = open_images(train, size=SIZE, cache="never").gather(torch.arange(len(train)))
    return PackedImages(images.permute(0, 2, 3, 1).numpy()[:, None])


def mean_colours(images: Tensor) -> Tensor:
    """(B, 3) mean colour of each image."""
    return images.double().mean((2, 3))


def nearest_camids(colours: Tensor, real: Tensor, camids: Tensor) -> Tensor:
    """(N,) cameras of the real images nearest by colour, each image itself left out."""
    distances = torch.cdist(colours, real)
    distances.fill_diagonal_(torch.inf)
    return camids[distances.argmin(1)]


@pytest.mark.parametrize("style", ["statistics", "histogram"])
def test_views_look_like_their_cameras(style: Style, train: SampleTable, source: PackedImages) -> None:
    camids, index = torch.tensor(train.camids), torch.arange(len(train))
    wanted = (camids + torch.randint(1, 6, camids.shape, generator=torch.Generator().manual_seed(0))) % 6
    views: CameraViews = create_views(style, source, train, num_cameras=6)
    real = mean_colours(source.gather(index))

    nearest = nearest_camids(mean_colours(views.gather(index, wanted)), real, camids)

    assert (nearest_camids(real, real, camids) == camids).double().mean() > 0.6
    assert (nearest == wanted).double().mean() > 0.5
    assert (nearest == camids).double().mean() < 0.15


@pytest.mark.parametrize("style", ["statistics", "histogram"])
def test_own_camera_gives_the_bytes_of_the_real_image(style: Style, train: SampleTable, source: PackedImages) -> None:
    views = create_views(style, source, train, num_cameras=6)
    index = torch.arange(len(train))

    assert torch.equal(views.gather(index, torch.tensor(train.camids)), source.gather(index))


def test_files(make_table: MakeTable, make_source: MakeSource) -> None:
    table = make_table([0, 1])
    folder = table.root / "styles"
    folder.mkdir()
    for name in ("0000_c1s1_000000_00_fake_2", "0001_c2s1_000001_00_fake_1"):
        Image.new("RGB", (9, 9), (50, 50, 50)).save(folder / f"{name}.png")
    source = make_source(np.zeros((2, *SIZE, 3), dtype=np.uint8))
    opened = []

    def open_files(files: SampleTable) -> OnTheFlyImages:
        opened.append(files.paths)
        return OnTheFlyImages(files, size=SIZE)

    for views in (
        create_views("files", source, table, num_cameras=2, folder=folder),
        create_views("files", source, table, num_cameras=2, folder=folder, open_files=open_files),
    ):
        images = views.gather(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0]))
        assert images[:, 0, 0, 0].tolist() == [0, 50, 50]
    assert opened == [("0000_c1s1_000000_00_fake_2.png", "0001_c2s1_000001_00_fake_1.png")]


def test_missing_files_may_be_allowed(make_table: MakeTable, make_source: MakeSource) -> None:
    table = make_table([0, 1])
    Image.new("RGB", (9, 9)).save(table.root / "0000_c1s1_000000_00_fake_2.png")
    source = make_source(np.full((2, *SIZE, 3), 7, dtype=np.uint8))

    with pytest.raises(InputError, match="1 of 2 camera-style images are missing"):
        create_views("files", source, table, num_cameras=2, folder=table.root)
    views = create_views("files", source, table, num_cameras=2, folder=table.root, on_missing="real")

    assert views.gather(torch.tensor([0, 1]), torch.tensor([1, 0]))[:, 0, 0, 0].tolist() == [0, 7]


@pytest.mark.parametrize("style", ["statistics", "histogram"])
def test_camera_without_images_has_real_views_and_is_named(
    style: Style, make_table: MakeTable, make_source: MakeSource, caplog: pytest.LogCaptureFixture
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, *SIZE, 3), dtype=np.uint8)
    source = make_source(pixels)

    with caplog.at_level(logging.WARNING):
        views = create_views(style, source, make_table([0, 2, 0]), num_cameras=4)

    assert "site/train: no images of camera c2, c4" in caplog.text
    index = torch.arange(3)
    assert torch.equal(views.gather(index, torch.full((3,), 1)), source.gather(index))
    assert not torch.equal(views.gather(index, torch.full((3,), 2)), source.gather(index))


@pytest.mark.parametrize("style", ["statistics", "histogram", "files"])
@pytest.mark.parametrize(("camids", "number"), [([0, 0], 1), ([], 0)])
def test_one_camera_is_not_enough(
    style: Style, camids: list[int], number: int, make_table: MakeTable, make_source: MakeSource
) -> None:
    source = make_source(np.zeros((len(camids), *SIZE, 3), dtype=np.uint8))

    with pytest.raises(InputError, match=f"at least two cameras, .* of {number}; switch it off"):
        create_views(style, source, make_table(camids), num_cameras=2)


def test_unknown_style(make_table: MakeTable, make_source: MakeSource) -> None:
    source = make_source(np.zeros((2, *SIZE, 3), dtype=np.uint8))

    with pytest.raises(InputError, match="unknown camera style 'statistic' .*'statistics'"):
        create_views("statistic", source, make_table([0, 1]), num_cameras=2)  # type: ignore[arg-type]


def test_source_and_table_must_fit(make_table: MakeTable, make_source: MakeSource) -> None:
    source = make_source(np.zeros((2, *SIZE, 3), dtype=np.uint8))

    with pytest.raises(ValueError, match="2 images, but 3 rows"):
        create_views("statistics", source, make_table([0, 1, 1]), num_cameras=2)
    with pytest.raises(ValueError, match="camid 2 does not fit 2 cameras"):
        create_views("statistics", source, make_table([0, 2]), num_cameras=2)


@pytest.mark.parametrize("style", ["statistics", "histogram"])
def test_images_of_another_data_set_look_like_the_cameras_of_the_target(
    style: str, rendered: Path, train: SampleTable, source: PackedImages
) -> None:
    foreign_table = load_dataset(rendered / "site-a").train
    foreign_table = foreign_table.select(np.arange(0, len(foreign_table), 8))
    foreign = open_images(foreign_table, size=SIZE, cache="never")
    target_camids = torch.tensor(train.camids)

    views = create_foreign_views(
        style,  # type: ignore[arg-type]
        foreign,
        torch.tensor(foreign_table.camids),
        target=source,
        target_camids=target_camids,
        num_target_cameras=6,
    )

    assert (len(views), views.num_cameras, views.size) == (len(foreign_table), 6, SIZE)
    index = torch.arange(len(foreign_table))
    target_colours = torch.stack(
        [mean_colours(source.gather((target_camids == camid).nonzero().flatten())).mean(0) for camid in range(6)]
    )
    for camid in range(6):
        colour = mean_colours(views.gather(index, torch.full_like(index, camid))).mean(0)
        assert (target_colours - colour).norm(dim=1).argmin() == camid
    # the own cameras are not those of the target, so that no view is the image as it is
    assert not torch.equal(views.gather(index, torch.tensor(foreign_table.camids) % 6), foreign.gather(index))
