"""A data set whose cameras differ in nothing but their colours."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of two cameras, one of which sees everything red and the other everything blue."""
    root = tmp_path_factory.mktemp("flat") / "site"
    rng = np.random.default_rng(0)
    for split, count in (("bounding_box_train", 32), ("query", 1), ("bounding_box_test", 1)):
        (root / split).mkdir(parents=True)
        for number in range(count):
            for camera, colour in ((1, (200, 60, 60)), (2, (60, 60, 200))):
                pixels = np.clip(colour + rng.normal(0, 12, (16, 8, 3)), 0, 255).astype(np.uint8)
                name = f"{number + 1:04d}_c{camera}s1_{number:06d}_01.png"
                Image.fromarray(pixels).save(root / split / name.replace(".png", ".jpg"), quality=95)
    return root
