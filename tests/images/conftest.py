"""Small image files of several kinds, as tables."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reid_da.datasets import SampleTable


def picture(seed: int, *, height: int, width: int) -> Image.Image:
    """Smooth random colours, so that JPEG keeps them and resizing matters."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def make_table(tmp_path: Path) -> Callable[[int], SampleTable]:
    """Function that writes some JPEG files of different sizes and gives the table of them."""

    def make(count: int) -> SampleTable:
        root = tmp_path / "photos"
        root.mkdir(exist_ok=True)
        for number in range(count):
            picture(number, height=40 + 3 * number, width=20 + number).save(root / f"{number:03d}.jpg", quality=95)
        return SampleTable.from_rows("photos/train", root, [(f"{n:03d}.jpg", n, 0) for n in range(count)])

    return make


@pytest.fixture
def threads_end() -> Callable[[], bool]:
    """Function that tells whether all threads that work ahead end within a few seconds."""

    def ended() -> bool:
        deadline = time.monotonic() + 5
        while any(thread.name.startswith("reid-da-images") for thread in threading.enumerate()):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.001)
        return True

    return ended
