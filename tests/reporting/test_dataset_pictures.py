"""The bars of the picture are the counts, and the file is a picture."""

import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from PIL import Image

from reid_da.datasets import SampleTable
from reid_da.datasets.statistics import CameraCounts, DatasetStatistics, IdentityStatistics, SplitCounts
from reid_da.reporting.dataset_pictures import draw_statistics, statistics_figure


def identities(ids_by_num_cameras: tuple[int, ...], images_per_id: tuple[int, ...]) -> IdentityStatistics:
    return IdentityStatistics(
        ids=len(images_per_id),
        ids_by_num_cameras=ids_by_num_cameras,
        images_per_id=images_per_id,
        cross_camera_share=None,
    )


def camera(name: str, train_images: int, test_images: int, train_ids: int, test_ids: int) -> CameraCounts:
    return CameraCounts(
        name=name,
        train_images=train_images,
        query_images=test_images // 2,
        gallery_images=test_images - test_images // 2,
        train_ids=train_ids,
        test_ids=test_ids,
        unlabelled=0,
    )


def statistics(
    cameras: tuple[CameraCounts, ...], train: IdentityStatistics, test: IdentityStatistics
) -> DatasetStatistics:
    images = sum(camera.images for camera in cameras)
    split = SplitCounts(name="train", images=images, ids=0, cameras=len(cameras), junk=0, distractors=0, unlabelled=0)
    return DatasetStatistics(
        name="small", reading="", splits=(split,), cameras=cameras, train=train, test=test, sizes=None
    )


NOBODY = identities((), ())
SMALL = statistics(
    (camera("c1", 10, 5, 4, 3), camera("c2", 20, 7, 5, 2)),
    identities((1, 0, 4), (2, 2, 5, 5, 6)),
    identities((2, 3), (1, 2, 2, 3, 3)),
)


def panels(of: DatasetStatistics) -> list[Axes]:
    """Axes in the order images by camera, ids by camera, ids by number of cameras, ids by number of images."""
    return statistics_figure(of).axes


def bars(axes: Axes) -> dict[str, list[float]]:
    return {str(bars.get_label()): [bar.get_height() for bar in bars] for bars in axes.containers}


def test_bars_are_the_counts() -> None:
    images, ids, camera_spread, images_per_id = panels(SMALL)

    assert bars(images) == {"train": [10, 20], "test": [5, 7]}
    assert bars(ids) == {"train": [4, 5], "test": [3, 2]}
    assert bars(camera_spread) == {"train": [1, 0, 4], "test": [2, 3, 0]}
    assert bars(images_per_id) == {"train": [0, 2, 0, 0, 2, 1], "test": [1, 2, 2, 0, 0, 0]}
    assert [label.get_text() for label in ids.get_xticklabels()] == ["c1", "c2"]


def test_pairs_of_bars_stand_around_their_number() -> None:
    _, _, camera_spread, images_per_id = panels(SMALL)

    for axes in (camera_spread, images_per_id):
        train, test = ([bar.get_x() + bar.get_width() / 2 for bar in bars] for bars in axes.containers)
        centres = [(left + right) / 2 for left, right in zip(train, test, strict=True)]
        assert centres == pytest.approx(list(range(1, len(centres) + 1)))


def test_many_images_share_bins_that_hold_every_identity() -> None:
    images_per_id = tuple(range(1, 1001))

    *_, axes = panels(statistics(SMALL.cameras, identities((1000,), images_per_id), NOBODY))

    assert len(bars(axes)["train"]) <= 30
    assert sum(bars(axes)["train"]) == 1000


def test_every_panel_has_title_and_labels() -> None:
    images, ids, camera_spread, images_per_id = panels(SMALL)

    assert all(axes.get_title() for axes in (images, camera_spread, images_per_id))
    assert all(axes.get_xlabel() for axes in (ids, camera_spread, images_per_id))
    assert all(axes.get_ylabel() for axes in (images, ids, camera_spread, images_per_id))
    assert statistics_figure(SMALL).get_suptitle() == "small: 42 images, 2 cameras"


def test_half_without_images_is_left_out() -> None:
    only_train = statistics((camera("c1", 10, 0, 4, 0),), NOBODY, NOBODY)

    images, ids, *others = panels(only_train)

    assert bars(images) == {"train": [10]}
    assert bars(ids) == {"train": [4]}
    for axes in others:
        assert bars(axes) == {}
        assert [text.get_text() for text in axes.texts] == ["none known"]


def test_without_identities_there_are_images_by_camera_and_no_empty_panels() -> None:
    unlabelled = statistics((camera("c1", 10, 4, 0, 0), camera("c2", 20, 0, 0, 0)), NOBODY, NOBODY)

    (images,) = panels(unlabelled)

    assert bars(images) == {"train": [10, 20], "test": [4, 0]}
    assert [label.get_text() for label in images.get_xticklabels()] == ["c1", "c2"]
    assert "identities unknown" in statistics_figure(unlabelled).get_suptitle()


def test_file_is_a_picture(tmp_path: Path) -> None:
    many = tuple(camera(f"entrance {number}", number, 0, number, 0) for number in range(100))
    path = tmp_path / "new" / "statistics.png"

    draw_statistics(statistics(many, SMALL.train, NOBODY), path)

    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        assert image.size == (1540, 550)
    assert [file.name for file in path.parent.iterdir()] == ["statistics.png"]


def test_no_state_of_pyplot() -> None:
    program = "import sys, reid_da.reporting.dataset_pictures; sys.exit('matplotlib.pyplot' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_unlabelled_crops_are_shown_by_camera(tmp_path: Path) -> None:
    rows = []
    for number in range(14):
        path, camid = f"{number:02d}.png", number % 3
        Image.new("RGB", (8, 16), (0, 0, 80 * camid + 40)).save(tmp_path / path)
        rows.append((path, -2, camid))
    table = SampleTable.from_rows("train", tmp_path, rows)
    cameras = tuple(camera(f"cam{number}", 5 - number // 2, 0, 0, 0) for number in range(3))
    unknown = statistics(cameras, NOBODY, NOBODY)
    samples, counts = sorted(statistics_figure(unknown, table=table).axes, key=lambda axes: len(axes.containers))
    assert bars(counts) == {"train": [5, 5, 4]}
    assert [label.get_text() for label in samples.get_yticklabels()] == ["cam0", "cam1", "cam2"]
    canvas = samples.images[0].get_array()
    for number in range(3):
        line = canvas[number * 134 + 64]
        shown = {tuple(map(int, pixel)) for pixel in line} - {(255, 255, 255)}
        assert shown == {(0, 0, 80 * number + 40)}
