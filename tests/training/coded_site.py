"""A data set that says in its pixels which image and which camera style a batch holds.

The files are PNG under the names of Market-1501 (Pillow goes by the content), and as large as the network's input: no
decoder and no resizing rounds anything, so that the pixels are the same on every machine.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from reid_da.images.augment import IMAGENET_MEAN, IMAGENET_STD

SIZE = (32, 16)
"""Height and width of the images."""


def write_coded_site(
    root: Path, *, pids: tuple[int, ...], num_cameras: int, per_camera: int = 1, size: tuple[int, int] = SIZE
) -> Path:
    """A data set with every person in every camera, and ready-made views in the style of every other camera.

    Training image ``row`` (in the order of the names) in the style of camera ``view`` has the levels
    ``row, view, pid`` in its upper left pixel. The rest shows the person, as stripes, in the colours of the camera.

    Args:
        root: folder of the data set.
        pids: identities, in increasing order.
        num_cameras: number of cameras.
        per_camera: images of each person in each camera.
        size: height and width.
    """
    number = 0
    for pid in pids:
        for camid in range(num_cameras):
            for take in range(per_camera):
                name = f"{pid:04d}_c{camid + 1}s1_{take:06d}_01"
                for view in range(num_cameras):
                    pixels = _picture(number, view=view, pid=pid, size=size)
                    own = f"bounding_box_train/{name}.jpg"
                    styled = f"bounding_box_train_camstyle/{name}_fake_{camid + 1}to{view + 1}.jpg"
                    _write(root / (own if view == camid else styled), pixels)
                number += 1
    for split in ("query", "bounding_box_test"):
        for camid in range(num_cameras):
            _write(
                root / split / f"{pids[-1] + 1:04d}_c{camid + 1}s1_000000_01.jpg",
                _picture(number + camid, view=camid, pid=pids[-1] + 1, size=size),
            )
    return root


def levels(images: Tensor) -> Tensor:
    """(B, 3, H, W) float64 levels 0..255 of normalised images whose pixels were copied, not interpolated."""
    mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return ((images.double() * std + mean) * 255).round()


def codes(images: Tensor) -> Tensor:
    """(B, 3) int64 ``row, view, pid`` of normalised images that were not augmented."""
    return levels(images)[:, :, 0, 0].long()


def _picture(row: int, *, view: int, pid: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """(H, W, 3) pixels."""
    rng = np.random.default_rng([row, pid])
    person = np.random.default_rng(pid).integers(60, 200, (size[0] // 4, 1, 3)).repeat(4, axis=0)
    colour = np.array([(30, 0, -30), (-30, 20, 10), (0, -30, 30), (20, 20, -20)][view % 4])
    pixels = person + colour + rng.integers(-12, 13, (*size, 3))
    pixels[0, 0] = row, view, pid
    return pixels.clip(0, 255).astype(np.uint8)


def _write(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, format="PNG")
