"""Adding images to an index."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reid_da.datasets.listing import list_images
from reid_da.errors import InputError
from reid_da.features import pieces
from reid_da.gallery.care import file_status
from reid_da.gallery.embedder import Embedder, check_model
from reid_da.gallery.protocol import ImageIndex, Known, NewImage, Writes
from reid_da.gallery.provenance import Origin, exif_time, origins
from reid_da.gallery.vectors import checksum
from reid_da.images.ahead import available_cores, map_ahead
from reid_da.images.decode import ImageError, read_image
from reid_da.progress import track

BATCH = 128
"""Images that are added together: what a killed process has to do again."""


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
        images: number of images in the index.
        no_camera: number of those whose camera is not known.
        no_time: number of those whose time is not known.
        no_mean: cameras without a mean, or statistics, of their own where vectors depend on the camera; those over all
            cameras are taken for them.
    """

    added: int = 0
    unchanged: int = 0
    described: int = 0
    forgotten: int = 0
    broken: list[str] = field(default_factory=list)
    readings: list[str] = field(default_factory=list)
    images: int = 0
    no_camera: int = 0
    no_time: int = 0
    no_mean: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """What was done, in words."""
        parts = [f"{self.added:,} images added", f"{self.unchanged:,} were there"]
        if self.described:
            parts.append(f"{self.described:,} described anew")
        if self.forgotten:
            parts.append(f"{self.forgotten:,} left out that were forgotten")
        if self.broken:
            parts.append(f"{len(self.broken):,} cannot be decoded")
        lines = [f"{', '.join(parts)}; {self.images:,} in all"]
        if self.no_camera or self.no_time:
            lines.append(f"camera unknown: {self.no_camera:,} images; time unknown: {self.no_time:,} images")
        if self.no_mean:
            lines.append(f"without statistics of their own, those of all cameras are used: {', '.join(self.no_mean)}")
        return lines


@dataclass(frozen=True, kw_only=True)
class Listed:
    """Images of folders.

    Attributes:
        origins: camera, time and track by absolute path.
        readings: in words how the names of each folder were read.
    """

    origins: dict[str, Origin]
    readings: tuple[str, ...]


def find_images(
    folders: Sequence[Path],
    *,
    pattern: str | None = None,
    layout: str | None = None,
    table: Path | None = None,
    fps: float = 1.0,
) -> Listed:
    """The images of folders, with what tells their cameras and times; no image is opened.

    Args:
        folders: folders, or single images.
        pattern: see :func:`~reid_da.gallery.provenance.origins`, as for ``layout``, ``table`` and ``fps``.
        layout: what the folders are.
        table: camera and time of each image.
        fps: frames per second, where times are numbers of frames.

    Raises:
        InputError: a folder does not exist, has no images, or does not tell its cameras.
    """
    found: dict[str, Origin] = {}
    readings = []
    for folder in folders:
        root, paths = _images(folder)
        described, words = origins(root, paths, pattern=pattern, layout=layout, table=table, fps=fps)
        readings.append(f"{folder}: {len(paths):,} images, {words}")
        base = root.resolve()
        found.update((str(base / path), origin) for path, origin in zip(paths, described, strict=True))
    return Listed(origins=found, readings=tuple(readings))


def _images(folder: Path) -> tuple[Path, list[str]]:
    if folder.is_file():
        return folder.parent, [folder.name]
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder or image")
    paths = list_images(folder, recursive=True)
    if not paths:
        raise InputError(f"{folder}: has no images in it")
    return folder, paths


def add(index: ImageIndex, embedder: Embedder, images: Listed, *, num_workers: int | None = None) -> Added:
    """Add images that are not in the index yet, batch by batch; a killed process loses the last batch.

    An image is known by its absolute path. Where size or time of the file differ, it is embedded anew. The origin of
    images that are known is brought up to date.

    Args:
        index: the index.
        embedder: its model.
        images: what is to be in it; see :func:`find_images`.
        num_workers: threads that decode; as many as there are cores by default.

    Raises:
        BlockingIOError: another process writes to the index.
        InputError: the model is another one, or an index without images has none afterwards.
        OSError: the disk is full.
    """
    check_model(index, embedder.card)
    result = Added(readings=list(images.readings))
    with index.writing() as writer:
        _add(index, writer, embedder, images.origins, result, num_workers or available_cores())
    result.images, result.no_camera, result.no_time = index.gaps()
    if not result.images and result.broken:
        raise InputError(
            f"{index.place}: is still empty, none of {len(images.origins):,} images can be decoded: {result.broken[0]}"
        )
    if embedder.knows_cameras:
        result.no_mean = embedder.lacking(list(index.cameras()))
    return result


def _add(
    index: ImageIndex,
    writer: Writes,
    embedder: Embedder,
    found: dict[str, Origin],
    result: Added,
    num_workers: int,
) -> None:
    known = index.known(found.keys())
    new: list[str] = []
    described = {}
    for path, origin in found.items():
        before = known.get(path)
        if before is None or file_status(path) != (before.size, before.mtime_ns):
            new.append(path)
            continue
        result.unchanged += 1
        after = _merged(origin, before.origin)
        if after != before.origin:
            described[before.id] = _columns(after)
    _check_cameras_stay(embedder, known, described)
    if described:
        writer.describe(described)
        result.described = len(described)
    chunks = [new[part] for part in pieces(len(new), BATCH)]
    with ThreadPoolExecutor(num_workers) as pool:
        read = partial(_read, embedder=embedder, found=found, pool=pool)
        for batch in track(map_ahead(read, chunks, workers=1, ahead=2), "adding images", total=len(chunks)):
            result.broken += [entry for entry in batch if isinstance(entry, str)]
            entries = [entry for entry in batch if not isinstance(entry, str)]
            forgotten = index.forgotten([image.digest for image, _ in entries])
            wanted = [entry for entry in entries if entry[0].digest not in forgotten]
            result.forgotten += len(entries) - len(wanted)
            if wanted:
                images = [image for image, _ in wanted]
                vectors = embedder(np.stack([pixels for _, pixels in wanted]), [image.camera for image in images])
                writer.append(images, vectors)
                result.added += len(wanted)


def _merged(origin: Origin, before: Origin) -> Origin:
    """What is told now; what is not stays as it was: a time may be from EXIF data."""
    return Origin(
        camera=origin.camera or before.camera,
        time=before.time if origin.time is None else origin.time,
        track=origin.track or before.track,
    )


def _columns(origin: Origin) -> tuple[str | None, float | None, str | None]:
    return origin.camera, origin.time, origin.track


def _check_cameras_stay(
    embedder: Embedder,
    known: Mapping[str, Known],
    described: Mapping[int, tuple[str | None, float | None, str | None]],
) -> None:
    """Where the camera is part of the vector, it cannot be corrected afterwards.

    Raises:
        InputError: a camera would change.
    """
    if not embedder.knows_cameras:
        return
    for path, image in known.items():
        if image.id in described and described[image.id][0] != image.origin.camera:
            raise InputError(
                f"{path}: was embedded as an image of camera {image.origin.camera}, and is of {described[image.id][0]} "
                "now; remove it (reid-da index remove) and add it again"
            )


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
