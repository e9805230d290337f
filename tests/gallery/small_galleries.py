"""Made-up images and vectors for tests of indexes."""

import numpy as np

from reid_da.gallery.protocol import ModelCard, NewImage
from reid_da.gallery.store import Gallery

DIM = 8


def card(dim: int = DIM) -> ModelCard:
    return ModelCard(
        model="none", backbone="none", last_stride=1, weights="none", image_size=(4, 2), flip=False,
        fingerprint="f" * 32, dim=dim,
    )  # fmt: skip


def images(*names: str, camera: str | None = None, time: float | None = None, track: str | None = None):
    return [
        NewImage(
            path=f"/crops/{name}", size=1, mtime_ns=1, digest=name.encode().ljust(16, b"\0"), camera=camera, time=time,
            track=track,
        )
        for name in names
    ]  # fmt: skip


def unit(*shape: int, seed: int = 0):
    vectors = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def fill(gallery: Gallery, count: int, *, seed: int = 0, prefix: str = "", **origin):
    vectors = unit(count, gallery.card.dim, seed=seed)
    with gallery.writing() as writer:
        writer.append(images(*(f"{prefix}{number}" for number in range(count)), **origin), vectors)
    return vectors
