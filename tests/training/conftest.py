"""Data sets whose cameras differ in nothing but their colours."""

from pathlib import Path

import numpy as np
import pytest
from coded_site import write_coded_site
from PIL import Image

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


@pytest.fixture(scope="session")
def coded_sites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data sets ``source`` (two cameras) and ``target`` (three cameras) that say in their pixels what they are."""
    root = tmp_path_factory.mktemp("coded")
    write_coded_site(root / "source", pids=(2, 3, 5, 9), num_cameras=2, per_camera=2)
    write_coded_site(root / "target", pids=(11, 12, 13, 14, 15, 16), num_cameras=3)
    return root
