"""The grid shows the right views at the right places."""

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor

from reid_da.datasets import SampleTable
from reid_da.images import PackedImages
from reid_da.reporting.style_pictures import draw_views, views_figure
from reid_da.styles import TransferViews

CAMIDS = np.array([0, 2, 1, 1])
HEIGHT, WIDTH = 8, 4


def grey(images: Tensor, from_camids: Tensor, to_camids: Tensor) -> Tensor:
    """A transfer that makes grey images of level 100 + 10 * own camera + wanted camera."""
    return (100 + 10 * from_camids + to_camids).to(torch.uint8)[:, None, None, None].expand_as(images)


@pytest.fixture
def views() -> TransferViews:
    """Views of four images, the real ones of level 0, 1, 2, 3."""
    levels = np.arange(4, dtype=np.uint8)[:, None, None, None, None]
    source = PackedImages(np.broadcast_to(levels, (4, 1, HEIGHT, WIDTH, 3)))
    return TransferViews(source, torch.tensor(CAMIDS), grey, num_cameras=3)


@pytest.fixture
def table(tmp_path: Path) -> SampleTable:
    return SampleTable(name="few", root=tmp_path, paths=("a", "b", "c", "d"), pids=np.zeros(4), camids=CAMIDS)


def labels(axes: Axes) -> tuple[list[str], list[str]]:
    return [text.get_text() for text in axes.get_yticklabels()], [text.get_text() for text in axes.get_xticklabels()]


def test_rows_are_images_and_columns_cameras(views: TransferViews, table: SampleTable) -> None:
    [axes] = views_figure(views, table, [3, 0]).axes

    picture = np.asarray(axes.images[0].get_array())
    expected = [[3, 110, 3, 112], [0, 0, 101, 102]]
    for row, y in enumerate(axes.get_yticks()):
        for column, x in enumerate(axes.get_xticks()):
            # ticks are at the middle of the images
            cell = picture[int(y) - HEIGHT // 2 : int(y) + HEIGHT // 2, int(x) - WIDTH // 2 : int(x) + WIDTH // 2]
            assert cell.shape == (HEIGHT, WIDTH, 3)
            assert (cell == expected[row][column]).all()
    assert (picture == 255).all(2).sum() == picture[:, :, 0].size - 8 * HEIGHT * WIDTH


def test_labels_and_frames(views: TransferViews, table: SampleTable) -> None:
    [axes] = views_figure(views, table, [3, 0]).axes

    assert labels(axes) == (["c2", "c1"], ["real", "c1", "c2", "c3"])
    centres = [
        (frame.get_x() + (frame.get_width() - 1) / 2, frame.get_y() + (frame.get_height() - 1) / 2)
        for frame in axes.patches
        if isinstance(frame, Rectangle)
    ]
    x, y = axes.get_xticks(), axes.get_yticks()
    # around the view of the own camera; the middle of four pixels lies between them
    assert np.allclose(np.array(centres) + 1, [(x[2], y[0]), (x[1], y[1])])


def test_chosen_cameras_and_the_way_back(views: TransferViews, table: SampleTable) -> None:
    back = torch.tensor([50, 60], dtype=torch.uint8)[:, None, None, None].expand(2, 3, HEIGHT, WIDTH)

    [axes] = views_figure(views, table, [3, 1], cameras=(1, 2), back=back).axes

    assert labels(axes) == (["c2", "c3"], ["real", "c2", "c3", "back"])
    picture = np.asarray(axes.images[0].get_array())
    middles = picture[np.ix_(axes.get_yticks().astype(int), axes.get_xticks().astype(int))][:, :, 0]
    assert middles.tolist() == [[3, 3, 112, 50], [1, 121, 1, 60]]
    frames = [frame.get_x() for frame in axes.patches if isinstance(frame, Rectangle)]
    assert frames[1] - frames[0] == axes.get_xticks()[1] - axes.get_xticks()[0]


def test_cameras_with_names(views: TransferViews, table: SampleTable) -> None:
    [axes] = views_figure(views, table, [1], camera_names=("hall", "gate", "stairs")).axes

    assert labels(axes) == (["stairs"], ["real", "hall", "gate", "stairs"])


def test_file_is_a_picture(views: TransferViews, table: SampleTable, tmp_path: Path) -> None:
    path = tmp_path / "new" / "views.png"

    draw_views(views, table, [0, 1, 2], path)

    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        colours = {colour[0] for _, colour in image.convert("RGB").getcolors(2**20) or [] if len(set(colour)) == 1}
    assert {0, 1, 2, 101, 102, 120, 121, 110, 112} <= colours
    assert [file.name for file in path.parent.iterdir()] == ["views.png"]
