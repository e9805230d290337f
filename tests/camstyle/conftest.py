"""Image sources in memory and tables that go with them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

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
