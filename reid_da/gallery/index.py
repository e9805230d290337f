"""Adding images to an index, taking them out, and looking after it."""

import hashlib
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reid_da.api import Model, load
from reid_da.datasets.listing import list_images
from reid_da.errors import InputError
from reid_da.features import pieces
from reid_da.gallery import database
from reid_da.gallery.care import file_status
from reid_da.gallery.provenance import Origin, exif_time, origins
from reid_da.gallery.store import Gallery, ModelCard, create
from reid_da.gallery.vectors import checksum
from reid_da.gallery.writer import NewImage, Writer
from reid_da.images.ahead import available_cores, map_ahead
from reid_da.images.decode import ImageError, decode_content, read_image
from reid_da.progress import track

logger = logging.getLogger(__name__)

BATCH = 128
"""Images that are added together: what a killed process has to do again."""


@dataclass(frozen=True, kw_only=True)
class Embedder:
    """A model as an index uses it.

    Attributes:
        model: the model.
        card: what the index knows of it.
    """

    model: Model
    card: ModelCard

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, D) unit vectors of (N, H, W, 3) images of the model's size."""
        tensor = torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2)
        return self.model.embed(tensor, flip=self.card.flip)

    def decode(self, content: bytes, **limits: Any) -> NDArray[np.uint8]:
        """(H, W, 3) pixels of an image file in the model's size; the options are those of ``decode_content``."""
        return decode_content(content, size=self.model.image_size, interpolation="bicubic", **limits)

    def embed_files(self, paths: Sequence[Path]) -> NDArray[np.float32]:
        """(N, D) unit vectors of image files.

        Raises:
            InputError: one cannot be decoded.
        """
        pixels = []
        for path in paths:
            try:
                pixels.append(self.decode(read_image(path)))
            except ImageError as error:
                raise InputError(f"{path}: cannot be decoded as an image ({error})") from error
        return self(np.stack(pixels))


@dataclass(kw_only=True)
class Added:
    """What :func:`add` has done.

    Attributes:
        added: number of new images, those included whose files have changed.
        unchanged: number of images that were there.
        described: number of those whose camera, time or track is another now.
        forgotten: number of images that are not taken up as they were forgotten.
        broken: images that cannot be decoded, with the reason; they are tried again the next time.
        readings: in words how the names of each folder were read.
        no_camera: number of images whose camera is not known.
        no_time: number of images whose time is not known.
    """

    added: int = 0
    unchanged: int = 0
    described: int = 0
    forgotten: int = 0
    broken: list[str] = field(default_factory=list)
    readings: list[str] = field(default_factory=list)
    no_camera: int = 0
    no_time: int = 0


def fingerprint(model: Model, *, flip: bool) -> str:
    """Of all that the features of a model depend on: its weights, the size of its images, and mirror images."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr((tuple(model.image_size), flip, "bicubic", type(model.network).__name__)).encode())
    for name, tensor in sorted(model.network.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(repr((name, tuple(values.shape), str(values.dtype))).encode())
        digest.update(values.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def load_embedder(
    model: str | Path,
    *,
    backbone: str = "resnet50",
    last_stride: int = 2,
    weights: str = "imagenet",
    image_size: tuple[int, int] | None = None,
    flip: bool = False,
    device: str = "auto",
) -> Embedder:
    """A model for an index; the arguments are those of :func:`reid_da.load`.

    Raises:
        InputError: there is no such model.
    """
    loaded = load(
        model, backbone=backbone, last_stride=last_stride, weights=weights, image_size=image_size, device=device
    )
    path = Path(model)
    card = ModelCard(
        model=str(path.resolve()) if path.exists() else str(model),
        backbone=backbone,
        last_stride=last_stride,
        weights=weights,
        image_size=loaded.image_size,
        flip=flip,
        fingerprint=fingerprint(loaded, flip=flip),
        dim=loaded.dim,
    )
    return Embedder(model=loaded, card=card)


def embedder_of(gallery: Gallery, *, model: str | Path | None = None, device: str = "auto") -> Embedder:
    """The model that made the vectors of an index.

    Args:
        gallery: the index.
        model: where the model is now; where it was by default.
        device: where it computes.

    Raises:
        InputError: it is not there any more, or is another one now.
    """
    card = gallery.card
    try:
        found = load_embedder(
            model or card.model,
            backbone=card.backbone,
            last_stride=card.last_stride,
            weights=card.weights,
            image_size=card.image_size,
            flip=card.flip,
            device=device,
        )
    except InputError as error:
        raise InputError(f"{gallery.path}: its model cannot be loaded: {error}; give it with --model") from error
    check_model(gallery, found.card)
    return found


def check_model(gallery: Gallery, card: ModelCard) -> None:
    """Refuse vectors of another model than that of an index: they mean nothing to each other.

    Raises:
        InputError: it is another model.
    """
    if card.fingerprint != gallery.card.fingerprint:
        raise InputError(
            f"{gallery.path}: holds vectors of another model ({gallery.card.model}, {gallery.card.fingerprint[:8]}) "
            f"than {card.model} ({card.fingerprint[:8]}): other weights, image size or --flip; use that model, or make "
            "a new index"
        )


def open_or_create(
    path: Path, *, model: str | Path | None, device: str = "auto", **options: Any
) -> tuple[Gallery, Embedder]:
    """An index and its model; a new index if there is none, which needs a model.

    Args:
        path: the index.
        model: needed for a new index; for one that exists only where its model has moved.
        device: where the model computes.
        options: ``backbone``, ``last_stride``, ``weights``, ``image_size``, ``flip``, for a new index.

    Raises:
        InputError: no model for a new index, or another one than that of the index.
    """
    if (path / database.FILE).exists():
        opened = Gallery(path)
        try:
            return opened, embedder_of(opened, model=model, device=device)
        except BaseException:
            opened.close()
            raise
    if model is None:
        raise InputError(f"{path}: a new index needs a model: --model RUN")
    embedder = load_embedder(model, device=device, **options)
    return create(path, embedder.card), embedder


def add(
    gallery: Gallery,
    embedder: Embedder,
    folders: Sequence[Path],
    *,
    pattern: str | None = None,
    layout: str | None = None,
    table: Path | None = None,
    fps: float = 1.0,
    num_workers: int | None = None,
) -> Added:
    """Add the images of folders that are not in the index yet, batch by batch; a killed process loses the last batch.

    An image is known by its absolute path. Where size or time of the file differ, it is embedded anew. The origin of
    images that are known is brought up to date.

    Args:
        gallery: the index.
        embedder: its model.
        folders: folders, or single images.
        pattern: see :func:`~reid_da.gallery.provenance.origins`, as for ``layout``, ``table`` and ``fps``.
        layout: what the folders are.
        table: camera and time of each image.
        fps: frames per second, where times are numbers of frames.
        num_workers: threads that decode; as many as there are cores by default.

    Raises:
        BlockingIOError: another process writes to the index.
        InputError: a folder does not exist, has no images, or does not tell its cameras; the model is another one.
        OSError: the disk is full.
    """
    check_model(gallery, embedder.card)
    result = Added()
    found: dict[str, Origin] = {}
    for folder in folders:
        root, paths = _images(folder)
        described, words = origins(root, paths, pattern=pattern, layout=layout, table=table, fps=fps)
        result.readings.append(f"{folder}: {len(paths):,} images, {words}")
        base = root.resolve()
        found.update((str(base / path), origin) for path, origin in zip(paths, described, strict=True))
    with gallery.writing() as writer:
        _add(gallery, writer, embedder, found, result, num_workers or available_cores())
    counts = gallery.rows("SELECT count(*) - count(camera), count(*) - count(time) FROM images")[0]
    result.no_camera, result.no_time = counts
    return result


def _images(folder: Path) -> tuple[Path, list[str]]:
    if folder.is_file():
        return folder.parent, [folder.name]
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder or image")
    paths = list_images(folder, recursive=True)
    if not paths:
        raise InputError(f"{folder}: has no images in it")
    return folder, paths


def _add(
    gallery: Gallery, writer: Writer, embedder: Embedder, found: dict[str, Origin], result: Added, num_workers: int
) -> None:
    known = {
        path: (number, size, mtime, origin)
        for number, path, size, mtime, *origin in gallery.rows(
            "SELECT images.id, path, size, mtime_ns, name, time, track FROM images "
            "LEFT JOIN cameras ON cameras.id = camera"
        )
        if path in found
    }
    new, described = [], {}
    for path, origin in found.items():
        before = known.get(path)
        if before is None or file_status(path) != before[1:3]:
            new.append(path)
            continue
        result.unchanged += 1
        camera, when, of_track = before[3]
        # what a later call does not tell stays: a time may be from EXIF data
        after = (origin.camera or camera, when if origin.time is None else origin.time, origin.track or of_track)
        if after != (camera, when, of_track):
            described[before[0]] = after
    if described:
        writer.describe(described)
        result.described = len(described)
    forgotten = {digest for (digest,) in gallery.rows("SELECT digest FROM forgotten")}
    chunks = [new[part] for part in pieces(len(new), BATCH)]
    with ThreadPoolExecutor(num_workers) as pool:
        read = partial(_read, embedder=embedder, found=found, pool=pool)
        for batch in track(map_ahead(read, chunks, workers=1, ahead=2), "adding images", total=len(chunks)):
            result.broken += [entry for entry in batch if isinstance(entry, str)]
            entries = [entry for entry in batch if not isinstance(entry, str)]
            wanted = [entry for entry in entries if entry[0].digest not in forgotten]
            result.forgotten += len(entries) - len(wanted)
            if wanted:
                vectors = embedder(np.stack([pixels for _, pixels in wanted]))
                writer.append([image for image, _ in wanted], vectors)
                result.added += len(wanted)


def _read(
    paths: Sequence[str], *, embedder: Embedder, found: dict[str, Origin], pool: ThreadPoolExecutor
) -> list[tuple[NewImage, NDArray[np.uint8]] | str]:
    """Images of a batch with their pixels, or why they cannot be decoded."""
    return list(pool.map(lambda path: _read_one(path, found[path], embedder), paths))


def _read_one(path: str, origin: Origin, embedder: Embedder) -> tuple[NewImage, NDArray[np.uint8]] | str:
    # before the content: a file that changes in between is added again the next time
    status = file_status(path)
    try:
        content = read_image(Path(path))
        pixels = embedder.decode(content)
    except ImageError as error:
        return f"{path} ({error})"
    size, mtime = status or (0, 0)
    if origin.time is None:
        origin = replace(origin, time=exif_time(content))
    image = NewImage(
        path=path,
        size=size,
        mtime_ns=mtime,
        digest=checksum(content),
        camera=origin.camera,
        time=origin.time,
        track=origin.track,
    )
    return image, pixels
