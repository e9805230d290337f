"""The packed image cache: every file is decoded and resized once, batches are copied out of memory-mapped pixels."""

import hashlib
import logging
import os
import re
import stat
import tempfile
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reid_da.datasets import SampleTable
from reid_da.errors import InputError
from reid_da.images.ahead import available_cores, map_ahead
from reid_da.images.decode import FileSizes, Interpolation, OnError, check_settings, decode_row, undecodable
from reid_da.images.pack_file import CACHE_REMEDY, CACHE_VARIABLE, CacheUnavailableError, open_or_build
from reid_da.images.source import FailedImage, check_index
from reid_da.progress import track

logger = logging.getLogger(__name__)


CACHE_FOLDER = ".reid-da-cache"
"""Folder of the cache in a data set."""


class PackedImages:
    """Images in one array (N, V, H, W, 3), usually on disk and mapped into memory.

    V is the number of views of an image: 1, or more in a cache of camera styles.
    """

    def __init__(
        self,
        pixels: NDArray[np.uint8],
        *,
        failed: tuple[FailedImage, ...] = (),
        table: SampleTable | None = None,
    ) -> None:
        """Wrap pixels.

        Args:
            pixels: (N, V, H, W, 3) uint8 RGB.
            failed: images that could not be decoded, whose pixels are zero.
            table: the N files that they are from, for their sizes; None: they count as files of this size.

        Raises:
            ValueError: the pixels have another shape or type.
        """
        if pixels.ndim != 5 or pixels.shape[4] != 3 or pixels.dtype != np.uint8:
            raise ValueError(f"expected uint8 pixels (N, V, H, W, 3), got {pixels.dtype} {pixels.shape}")
        self.pixels = pixels
        self.failed = failed
        self._sizes = None if table is None else FileSizes(table, unknown=self.size)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return int(self.pixels.shape[2]), int(self.pixels.shape[3])

    @property
    def num_views(self) -> int:
        """Number V of views of each image."""
        return int(self.pixels.shape[1])

    def __len__(self) -> int:
        return len(self.pixels)

    def gather(self, index: Tensor, views: Tensor | None = None) -> Tensor:
        """(B, 3, H, W) uint8 RGB images on the CPU, channels last in memory; a copy.

        Args:
            index: (B,) int64 rows in 0..N-1; repeats are allowed.
            views: (B,) int64 in 0..V-1; may be left out where V is 1.

        Raises:
            IndexError: ``index`` or ``views`` leaves its range.
            TypeError: one of them is no int64 vector.
            ValueError: ``views`` is left out although there are several.
        """
        check_index(index, len(self))
        if views is None:
            if self.num_views > 1:
                raise ValueError(f"each image has {self.num_views} views: say which with views")
            views = torch.zeros_like(index)
        check_index(views, self.num_views, name="views")
        return torch.from_numpy(self.pixels[index.numpy(), views.numpy()]).permute(0, 3, 1, 2)

    def original_sizes(self, index: Tensor, views: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """(B, 2) int64 heights and widths of the files; see :class:`reid_da.images.source.KnowsFiles`."""
        return torch.tensor(self.size).expand(len(index), 2) if self._sizes is None else self._sizes(index)


def default_cache_dir(table: SampleTable) -> Path:
    """Folder where the packed images of a table go unless told otherwise.

    In this order: a folder for this data set below the one that the environment variable ``REID_DA_CACHE`` names;
    ``.reid-da-cache`` in the data set where that can be written; a folder for this data set in the user's cache folder
    (``$XDG_CACHE_HOME/reid-da``, else ``~/.cache/reid-da``); where there is no such folder, as in a container with a
    bare user id, one in the folder for temporary files that nobody else can write to.

    Raises:
        InputError: ``REID_DA_CACHE`` names the home of an unknown user.
    """
    root = table.root.resolve()
    # data sets with equal names, or with equal paths inside, stay apart
    own = f"{root.name}-{hashlib.sha256(bytes(root)).hexdigest()[:8]}"
    if named := os.environ.get(CACHE_VARIABLE):
        try:
            return Path(named).expanduser() / own
        except RuntimeError as error:
            raise InputError(f"{CACHE_VARIABLE}={named}: there is no such home folder; name another one") from error
    if os.access(root, os.W_OK):
        return root / CACHE_FOLDER
    base = _user_cache_dir()
    return (_temporary_cache_dir() if base is None else base / "reid-da") / own


def shared_cache_dirs() -> list[Path]:
    """Folders with caches of several data sets: that of ``REID_DA_CACHE``, and that in the user's cache folder."""
    base = _user_cache_dir()
    named = os.environ.get(CACHE_VARIABLE)
    return ([Path(named).expanduser()] if named else []) + ([] if base is None else [base / "reid-da"])


def _user_cache_dir() -> Path | None:
    """The user's cache folder, which may not exist yet; None where there is none that can be written."""
    named = os.environ.get("XDG_CACHE_HOME")
    try:
        folder = Path(named) if named else Path.home() / ".cache"
    except RuntimeError:
        return None
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    return folder if os.access(existing, os.W_OK | os.X_OK) else None


@lru_cache(maxsize=1)
def _temporary_cache_dir() -> Path:
    user = str(os.getuid()) if hasattr(os, "getuid") else "cache"
    folder = Path(tempfile.gettempdir()) / f"reid-da-{user}"
    # everybody may write beside it: one that somebody else has made is not used
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    is_own = stat.S_ISDIR(status.st_mode) and not status.st_mode & 0o022
    if not is_own or (hasattr(os, "getuid") and status.st_uid != os.getuid()):
        raise CacheUnavailableError(f"{folder}: belongs to somebody else; name a folder for the cache, {CACHE_REMEDY}")
    logger.info("no home folder: images are packed in %s; name another one with cache_dir or REID_DA_CACHE", folder)
    return folder


def pack_images(
    table: SampleTable,
    *,
    size: tuple[int, int] = (256, 128),
    cache_dir: str | os.PathLike[str] | None = None,
    interpolation: Interpolation = "bilinear",
    on_error: OnError = "raise",
    num_workers: int | None = None,
    max_disk_share: float = 1.0,
) -> PackedImages:
    """The images of a table, decoded and resized to one packed file; the file is made, or used again if it is current.

    A file is made anew, with the reason in the log, if image files changed (by size and time of modification), or if it
    is damaged, which its checksums tell. It is keyed by the table's fingerprint, the size and the interpolation, and is
    whole or absent whatever happens. If several processes want it at once, one makes it and the others wait.

    Args:
        table: the images.
        size: height and width to resize to; the aspect ratio of the files is not kept.
        cache_dir: folder of the file; by default :func:`default_cache_dir`.
        interpolation: how to resize; either way averages over the pixels skipped.
        on_error: what to do about images that cannot be decoded: ``raise``, or ``skip``: keep their rows, so that the
            rows of all others stay what they are, fill them with zeros, log each path and list them in ``failed``.
        num_workers: number of threads; by default one for each core that the process may use.
        max_disk_share: largest share of the free disk that a new file may take.

    Raises:
        InputError: an argument is wrong, the table is empty, or images cannot be decoded (how many, the first three).
        CacheUnavailableError: the folder cannot be written, or the file would take more of the disk than it may.
    """
    check_settings(size, interpolation=interpolation, on_error=on_error, num_workers=num_workers)
    if not len(table):
        raise InputError(f"{table.name}: there are no images to pack")
    folder = default_cache_dir(table) if cache_dir is None else Path(cache_dir)
    name = re.sub(r"[^\w.-]+", "-", table.name)
    path = folder / f"{name}-{table.fingerprint}-{size[0]}x{size[1]}-{interpolation}.pack"
    workers = num_workers or available_cores()
    decode = partial(decode_row, table, size=size, interpolation=interpolation)

    def images(rows: Sequence[int]) -> Iterator[NDArray[np.uint8] | FailedImage]:
        decoded = map_ahead(decode, rows, workers=workers, ahead=8 * workers)
        done = len(table) - len(rows)
        return track(map(_as_views, decoded), f"packing {table.name}", total=len(table), done=done)

    pack = open_or_build(
        path,
        images,
        shape=(len(table), 1, *size, 3),
        recipe={
            "images": table.fingerprint,
            "image files": digest_of_files(table),
            "interpolation": interpolation,
        },
        num_workers=workers,
        max_disk_share=max_disk_share,
    )
    if pack.failed and on_error == "raise":
        raise undecodable(table, pack.failed)
    for failure in pack.failed:
        logger.warning("%s: left out: %s", table.path(failure.index), failure.reason)
    return PackedImages(pack.pixels, failed=pack.failed, table=table)


def _as_views(image: NDArray[np.uint8] | FailedImage) -> NDArray[np.uint8] | FailedImage:
    """(1, H, W, 3) pixels: an image file is the only view."""
    return image if isinstance(image, FailedImage) else image[None]


def digest_of_files(table: SampleTable) -> str:
    """Hash of the sizes and times of modification of the files, which tells whether one was changed."""
    digest = hashlib.sha256()
    for row in range(len(table)):
        try:
            status = table.path(row).stat()
            digest.update(f"{status.st_size} {status.st_mtime_ns}\n".encode())
        except OSError as error:
            digest.update(f"{error.errno}\n".encode())
    return digest.hexdigest()[:16]
