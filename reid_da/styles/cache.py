"""Camera views that are made once and kept: one packed file with an axis for the cameras."""

import os
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reid_da.datasets import SampleTable
from reid_da.errors import InputError
from reid_da.images import FailedImage, PackedImages, default_cache_dir
from reid_da.images.ahead import available_cores, map_ahead
from reid_da.images.pack import digest_of_files
from reid_da.images.pack_file import CACHE_REMEDY, UnusablePackError, describe_pack, open_or_build, read_pack
from reid_da.images.source import check_index
from reid_da.progress import track
from reid_da.styles.views import CameraViews

_CHUNK = 16
"""Images whose views are made at a time."""


class PackedViews(PackedImages):
    """Camera views out of a packed file; see :class:`~reid_da.styles.CameraViews`.

    The view of an image's own camera is the real image.
    """

    def __init__(self, pixels: NDArray[np.uint8], camids: Tensor, *, failed: tuple[FailedImage, ...] = ()) -> None:
        """Wrap pixels.

        Args:
            pixels: (N, C, H, W, 3) uint8 RGB, a view of each of N images for each of C cameras.
            camids: (N,) int64 camera that took each.
            failed: images that could not be decoded, whose pixels are zero.

        Raises:
            ValueError: pixels and cameras differ in length.
        """
        super().__init__(pixels, failed=failed)
        if len(pixels) != len(camids):
            raise ValueError(f"{len(pixels)} images, but {len(camids)} cameras of images")
        self._camids = camids

    @property
    def num_cameras(self) -> int:
        """Number C of views of each image."""
        return self.num_views

    def gather(self, index: Tensor, views: Tensor | None = None) -> Tensor:
        """(B, 3, H, W) uint8 RGB images; as in :class:`PackedImages`, but without ``views`` the real ones."""
        if views is None:
            check_index(index, len(self))
            views = self._camids[index]
        return super().gather(index, views)


def style_cache_path(
    table: SampleTable, *, size: tuple[int, int], name: str, cache_dir: str | os.PathLike[str] | None = None
) -> Path:
    """Where the views of a table's images go unless told otherwise: beside its packed images.

    Args:
        table: the images.
        size: height and width of the views.
        name: of the style.
        cache_dir: folder of the file; by default :func:`~reid_da.images.default_cache_dir`.
    """
    folder = default_cache_dir(table) if cache_dir is None else Path(cache_dir)
    stem = re.sub(r"[^\w.-]+", "-", f"{table.name}-{table.fingerprint}-{size[0]}x{size[1]}-styles-{name}")
    return folder / f"{stem}.pack"


def pack_views(
    views: CameraViews,
    table: SampleTable,
    path: Path,
    *,
    style: str,
    num_workers: int | None = None,
    max_disk_share: float = 1.0,
    remedy: str = CACHE_REMEDY,
) -> PackedViews:
    """The views of all images as one packed file, made now, or used again if it is current.

    A process that is killed over it leaves what it has made to the next one.

    Args:
        views: of the N images for C cameras.
        table: what the images are.
        path: the file.
        style: what the views are made with, e.g. a name and a hash of weights; a file of another style is not current.
        num_workers: number of threads; by default one for each core that the process may use.
        max_disk_share: largest share of the free disk that a new file may take.
        remedy: what to do if the file cannot be written, for the error.

    Raises:
        CacheUnavailableError: the folder cannot be written, or the file would take more of the disk than it may.
        InputError: an image cannot be decoded.
        ValueError: views and table differ in length.
    """
    if len(views) != len(table):
        raise ValueError(f"{table.name}: views of {len(views)} images, but {len(table)} rows")
    workers = num_workers or available_cores()

    def images(rows: Sequence[int]) -> Iterator[NDArray[np.uint8] | FailedImage]:
        chunks = [rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK)]
        made = map_ahead(partial(_all_views, views), chunks, workers=workers, ahead=2 * workers)
        found = (image for chunk in made for image in chunk)
        return track(found, f"styles of {table.name}", total=len(table), done=len(table) - len(rows))

    pack = open_or_build(
        path,
        images,
        shape=(len(table), views.num_cameras, *views.size, 3),
        recipe=_recipe(table) | {"style": style},
        num_workers=workers,
        max_disk_share=max_disk_share,
        remedy=remedy,
    )
    return PackedViews(pack.pixels, torch.tensor(table.camids), failed=pack.failed)


def open_packed_views(path: Path, table: SampleTable, *, size: tuple[int, int], num_cameras: int) -> PackedViews:
    """Views that :func:`pack_views` has written.

    Args:
        path: the file.
        table: what the images are.
        size: height and width that the views must have.
        num_cameras: number of cameras of the data set.

    Raises:
        InputError: the file is damaged, or of other images, of another size or of another number of cameras.
    """
    try:
        shape, _ = describe_pack(path)
        if shape[2:4] != size:
            raise InputError(
                f"{path}: its views have {shape[2]}x{shape[3]} pixels, not {size[0]}x{size[1]}; use images of its size"
                f" (check --size {shape[2]}x{shape[3]}, data.image_size=[{shape[2]},{shape[3]}] in a training), or make"
                f" it again with --size {size[0]}x{size[1]}"
            )
        expected = (len(table), num_cameras, *size, 3)
        pack = read_pack(path, shape=expected, recipe=_recipe(table), num_workers=available_cores())
    except UnusablePackError as error:
        raise InputError(f"{path}: not usable as the camera styles of {table.name}: {error}; make it again") from error
    return PackedViews(pack.pixels, torch.tensor(table.camids), failed=pack.failed)


def _recipe(table: SampleTable) -> dict[str, str]:
    return {"images": table.fingerprint, "image files": digest_of_files(table)}


def _all_views(views: CameraViews, rows: Sequence[int]) -> list[NDArray[np.uint8] | FailedImage]:
    """(C, H, W, 3) views of each of some rows, or why it has none."""
    index = torch.tensor(rows).repeat_interleave(views.num_cameras)
    cameras = torch.arange(views.num_cameras).repeat(len(rows))
    pixels = views.gather(index, cameras).permute(0, 2, 3, 1).numpy()
    images = pixels.reshape(len(rows), views.num_cameras, *pixels.shape[1:])
    # asked after the images: a source that decodes as it goes learns only then which ones it cannot decode
    failed = {failure.index: failure for failure in views.failed}
    return [failed.get(row, image) for row, image in zip(rows, images, strict=True)]
