"""Small image folders on disk."""

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from PIL import Image

MakeImages = Callable[[Path, Iterable[str]], Path]


@pytest.fixture(scope="session")
def make_images() -> MakeImages:
    """Function that writes a small image, each with its own content, at every given path below a folder."""

    def make(root: Path, names: Iterable[str]) -> Path:
        for number, name in enumerate(sorted(names)):
            file = root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 64), (number * 7 % 256, number % 256, 40)).save(file)
        return root

    return make
