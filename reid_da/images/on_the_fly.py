"""Images decoded when they are asked for, and the choice between that and the packed cache."""

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from reid_da.datasets import SampleTable
from reid_da.errors import InputError, unknown_name
from reid_da.images.ahead import available_cores
from reid_da.images.decode import Interpolation, OnError, check_settings, decode_row, undecodable
from reid_da.images.pack import pack_images
from reid_da.images.pack_file import CacheUnavailableError
from reid_da.images.source import FailedImage, ImageSource, check_index

MAX_DISK_SHARE = 0.5
"""Share of the free disk that a packed cache may take where the choice is automatic."""

logger = logging.getLogger(__name__)


class OnTheFlyImages:
    """Images of a table, decoded by threads at every visit; the pixels are those of the packed cache."""

    def __init__(
        self,
        table: SampleTable,
        *,
        size: tuple[int, int] = (256, 128),
        interpolation: Interpolation = "bilinear",
        on_error: OnError = "raise",
        num_workers: int | None = None,
    ) -> None:
        """Start the threads; no file is read yet.

        Args:
            table: the images.
            size: height and width to resize to; the aspect ratio of the files is not kept.
            interpolation: how to resize.
            on_error: what to do at an image that cannot be decoded: ``raise``, or ``skip``: give zeros in its place
                and log its path at the first visit.
            num_workers: number of threads; by default one for each core that the process may use.

        Raises:
            InputError: an argument is wrong.
        """
        check_settings(size, interpolation=interpolation, on_error=on_error, num_workers=num_workers)
        self.size = size
        self._table = table
        self._interpolation = interpolation
        self._on_error = on_error
        self._failed: dict[int, FailedImage] = {}
        self._pool = ThreadPoolExecutor(num_workers or available_cores(), thread_name_prefix="reid-da-decode")

    @property
    def failed(self) -> tuple[FailedImage, ...]:
        """Images visited so far that could not be decoded, in the order of their index."""
        return tuple(self._failed[index] for index in sorted(self._failed))

    def __len__(self) -> int:
        return len(self._table)

    def gather(self, index: Tensor, views: Tensor | None = None) -> Tensor:
        """(B, 3, H, W) uint8 RGB images on the CPU, channels last in memory.

        Args:
            index: (B,) int64 rows in 0..N-1; repeats are allowed.
            views: (B,) zeros, or None: files have one view.

        Raises:
            InputError: an image cannot be decoded, and errors are to be raised.
            IndexError: ``index`` or ``views`` leaves its range.
            TypeError: one of them is no int64 vector.
        """
        check_index(index, len(self))
        if views is not None:
            check_index(views, 1, name="views")
        decode = partial(decode_row, self._table, size=self.size, interpolation=self._interpolation)
        pixels = np.zeros((len(index), *self.size, 3), dtype=np.uint8)
        for place, decoded in enumerate(self._pool.map(decode, index.tolist())):
            if isinstance(decoded, FailedImage):
                self._note(decoded)
            else:
                self._failed.pop(int(index[place]), None)  # what could not be read before
                pixels[place] = decoded
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)

    def _note(self, failure: FailedImage) -> None:
        if self._on_error == "raise":
            raise undecodable(self._table, [failure])
        if failure.index not in self._failed:
            self._failed[failure.index] = failure
            logger.warning("%s: zeros in its place: %s", self._table.path(failure.index), failure.reason)


def open_images(
    table: SampleTable,
    *,
    size: tuple[int, int] = (256, 128),
    cache: Literal["auto", "always", "never"] = "auto",
    cache_dir: str | os.PathLike[str] | None = None,
    interpolation: Interpolation = "bilinear",
    on_error: OnError = "raise",
    num_workers: int | None = None,
) -> ImageSource:
    """The images of a table, from the packed cache or decoded on the fly.

    Args:
        table: the images.
        size: height and width to resize to; the aspect ratio of the files is not kept.
        cache: ``always``: pack them; ``never``: decode them at every visit; ``auto``: pack them, unless the cache's
            folder cannot be written or the file would take more than half of the free disk.
        cache_dir: folder of the packed file; by default :func:`~reid_da.images.default_cache_dir`.
        interpolation: how to resize.
        on_error: what to do about images that cannot be decoded: ``raise``, or ``skip``: zeros in their place.
        num_workers: number of threads; by default one for each core that the process may use.

    Raises:
        InputError: an argument is wrong, the table is empty, images cannot be decoded, or the cache cannot be written
            although it always should.
    """
    if cache not in ("auto", "always", "never"):
        raise unknown_name("cache", cache, ("auto", "always", "never"))
    if not len(table):
        raise InputError(f"{table.name}: there are no images")
    if cache != "never":
        try:
            return pack_images(
                table,
                size=size,
                cache_dir=cache_dir,
                interpolation=interpolation,
                on_error=on_error,
                num_workers=num_workers,
                max_disk_share=MAX_DISK_SHARE if cache == "auto" else 1.0,
            )
        except CacheUnavailableError as error:
            if cache == "always":
                raise
            logger.warning("decoding on the fly: %s", error)
    return OnTheFlyImages(table, size=size, interpolation=interpolation, on_error=on_error, num_workers=num_workers)
