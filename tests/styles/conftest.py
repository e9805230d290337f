"""Image sources in memory, tables that go with them, and data sets whose cameras differ in nothing but colours."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from reid_da.datasets import SampleTable
from reid_da.images import FailedImage, PackedImages


@pytest.fixture
def make_source() -> Callable[..., PackedImages]:
    """Function from (N, H, W, 3) uint8 pixels to a source of them."""

    def make(pixels: NDArray[np.uint8], *, failed: Sequence[int] = ()) -> PackedImages:
        return PackedImages(pixels[:, None], failed=tuple(FailedImage(index=i, reason="cut off") for i in failed))

    return make


@pytest.fixture
def make_table(tmp_path: Path) -> Callable[..., SampleTable]:
    """Function from cameras to a table of images, named in the way of Market-1501; no files are written."""

    def make(camids: Sequence[int], *, folder: str = "bounding_box_train") -> SampleTable:
        paths = tuple(f"{folder}/{row:04d}_c{camid + 1}s1_{row:06d}_00.jpg" for row, camid in enumerate(camids))
        return SampleTable(
            name="site/train", root=tmp_path, paths=paths, pids=np.arange(len(camids)), camids=np.array(camids)
        )

    return make


RED, BLUE, GREEN = (200, 60, 60), (60, 60, 200), (60, 160, 60)


def write_site(root: Path, colours: dict[int, tuple[int, int, int]], *, count: int) -> Path:
    """A data set with a colour for each camera, which sees everything in it."""
    rng = np.random.default_rng(0)
    for split, number_of_people in (("bounding_box_train", count), ("query", 1), ("bounding_box_test", 1)):
        (root / split).mkdir(parents=True)
        for number in range(number_of_people):
            for camera, colour in colours.items():
                pixels = np.clip(colour + rng.normal(0, 12, (16, 8, 3)), 0, 255).astype(np.uint8)
                name = f"{number + 1:04d}_c{camera}s1_{number:06d}_01.jpg"
                Image.fromarray(pixels).save(root / split / name, quality=95)
    return root


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cameras, one of which sees everything red and the other everything blue."""
    return write_site(tmp_path_factory.mktemp("flat") / "site", {1: RED, 2: BLUE}, count=32)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cameras 1, 2 and 15, a few images each."""
    return write_site(tmp_path_factory.mktemp("three") / "site", {1: RED, 2: BLUE, 15: GREEN}, count=8)
