"""Pairs that must be one person: an image, and the same image in the style of another camera."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from reid_da.datasets import SampleTable
from reid_da.datasets.table import UNLABELLED_PID
from reid_da.errors import InputError
from reid_da.gallery.embedder import Embedder
from reid_da.gallery.store import Gallery
from reid_da.images import open_images
from reid_da.styles.open import open_style

MOST_IMAGES = 1000
"""Images that tell the styles of the cameras."""
_BATCH = 64


def styled_similarities(
    gallery: Gallery, embedder: Embedder, *, style: str = "statistics", count: int = 300, seed: int = 0
) -> NDArray[np.float64]:
    """(P,) cosine similarities of images to themselves in the style of another camera, drawn at random.

    A style changes colours and light, not the pose, the angle or what is hidden, so that such pairs are more alike than
    those of a person whom two cameras took: they tell what the light alone costs.

    Args:
        gallery: the index; images of two cameras at least.
        embedder: its model.
        style: see :func:`~reid_da.styles.open.open_style`.
        count: images, at most.
        seed: of the choice.

    Raises:
        InputError: the cameras are not known or there is one, or images cannot be decoded.
    """
    known = [record for record in gallery.all_records() if record.camera is not None]
    names = sorted({str(record.camera) for record in known})
    if len(names) < 2:
        raise InputError(f"{gallery.path}: styles need images of two known cameras at least")
    generator = np.random.default_rng(seed)
    rows = np.sort(generator.permutation(len(known))[:MOST_IMAGES])
    root = Path(Path(known[0].path).anchor)
    table = SampleTable.from_rows(
        str(gallery.path),
        root,
        [
            (Path(image.path).relative_to(root).as_posix(), UNLABELLED_PID, names.index(str(image.camera)))
            for image in (known[row] for row in rows.tolist())
        ],
    )
    source = open_images(table, size=embedder.model.image_size, interpolation="bicubic", cache="never")
    views = open_style(style, source, table, num_cameras=len(names), cache="never", device="cpu")
    picked = np.sort(generator.permutation(len(table))[:count])
    cameras = table.camids[picked]
    others = (cameras + generator.integers(1, len(names), size=len(picked))) % len(names)
    found = []
    for start in range(0, len(picked), _BATCH):
        part = torch.from_numpy(picked[start : start + _BATCH])
        sides = []
        for camids in (cameras, others):
            of_part = camids[start : start + _BATCH]
            pixels = views.gather(part, torch.from_numpy(of_part)).permute(0, 2, 3, 1).numpy()
            sides.append(embedder(pixels, [names[camera] for camera in of_part]).astype(np.float64))
        found.append((sides[0] * sides[1]).sum(axis=1))
    return np.concatenate(found)
