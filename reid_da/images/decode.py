"""One image file to pixels: upright, RGB, of a fixed size; or the reason why not."""

import errno
import io
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import Lock
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from reid_da.datasets import SampleTable
from reid_da.errors import InputError, first_few
from reid_da.images.source import FailedImage
from reid_da.reading import UnsuitableFileError, read_regular

Interpolation = Literal["bilinear", "bicubic"]
"""How Pillow resizes; both average over the pixels that they skip when an image shrinks."""
OnError = Literal["raise", "skip"]
"""What to do about images that cannot be decoded: stop, or continue with zeros in their place."""

_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_TURNED = (5, 6, 7, 8)
"""EXIF orientations of images that lie on their side."""
_MAX_PIXELS = 89_478_485
"""Pixels above which Pillow warns of a decompression bomb; a picture of a person has fewer."""
_MAX_BYTES = 256 * 2**20
"""Largest file that is read; a picture of a person has fewer bytes."""
_LARGE_PIXELS = 2**22
"""Images with more pixels are decoded one at a time: on each of many cores they would fill the memory."""
_large_image = Lock()
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
"""Errors that are about this process and not about the file."""
MAX_WORKERS = 1024
"""Most threads that a user may ask for."""


class ImageError(Exception):
    """An image that cannot be decoded; the text says why, without the path."""


class UnreadableImageError(ImageError):
    """An image whose file cannot be read at the moment; its content may be valid."""


def decode_image(
    path: Path, *, size: tuple[int, int], interpolation: Interpolation, box: Sequence[int] | None = None
) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB pixels of an image file, turned upright and resized.

    The orientation that EXIF data ask for is applied, as a viewer does: people stand upright. The published data sets
    carry no such data. Transparency is dropped, and grey images get three equal channels.

    Args:
        path: the file.
        size: height and width of the result.
        interpolation: how to resize.
        box: ``top, left, height, width`` of what to cut out of the upright image before it is resized; None for all.

    Raises:
        ImageError: the file is cut off, no image, larger than 89 million pixels, or of more than 8 bits per channel.
        OSError: the process has no memory or too many open files.
        UnreadableImageError: the file is missing or cannot be read at the moment.
    """
    return decode_content(read_image(path), size=size, interpolation=interpolation, box=box)


def decode_content(
    content: bytes,
    *,
    size: tuple[int, int] | None,
    interpolation: Interpolation,
    box: Sequence[int] | None = None,
    max_pixels: int = _MAX_PIXELS,
    formats: tuple[str, ...] | None = None,
) -> NDArray[np.uint8]:
    """The same for the bytes of an image file, such as one that was sent by somebody else.

    Args:
        content: the bytes.
        size: height and width of the result; those of the image if None.
        interpolation: how to resize.
        box: what to cut out; see :func:`decode_image`.
        max_pixels: images with more are refused by their header, before they are decoded.
        formats: Pillow's names of the formats that are tried; all if None.

    Raises:
        ImageError: as :func:`decode_image`.
        OSError: the process has no memory.
    """
    try:
        with Image.open(io.BytesIO(content), formats=formats) as image, ExitStack() as stack:
            _check_header(image, max_pixels)
            if image.width * image.height > _LARGE_PIXELS:
                stack.enter_context(_large_image)
            ImageOps.exif_transpose(image, in_place=True)
            pixels = image.convert("RGB")
            if box is not None:
                top, left, height, width = box
                pixels = pixels.crop((left, top, left + width, top + height))
            if size is not None:
                pixels = pixels.resize((size[1], size[0]), _RESAMPLING[interpolation])
        return np.asarray(pixels)
    except (ImageError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise ImageError("not an image" if content else "empty") from None
    # Pillow's readers raise whatever their parsing meets: OSError, SyntaxError, struct.error, zlib.error, ...
    except Exception as error:
        raise ImageError(" ".join(str(error).split()) or type(error).__name__) from error


def read_image(path: Path) -> bytes:
    """Content of an image file, apart from its decoding: faults of the moment are told from those of the bytes.

    Raises:
        OSError: the process has no memory or too many open files.
        UnreadableImageError: the file is missing, too large, or cannot be read at the moment.
    """
    try:
        return read_regular(path, limit=_MAX_BYTES)
    except UnsuitableFileError as error:
        # whatever lies there now, an image may take its place
        raise UnreadableImageError(str(error)) from error
    except OSError as error:
        if error.errno in _EXHAUSTED:
            raise
        raise UnreadableImageError(error.strerror or str(error)) from error


def decode_row(
    table: SampleTable,
    row: int,
    box: Sequence[int] | None = None,
    *,
    size: tuple[int, int],
    interpolation: Interpolation,
) -> NDArray[np.uint8] | FailedImage:
    """(H, W, 3) uint8 pixels of the image in a row of a table, or why there are none; see :func:`decode_image`."""
    try:
        return decode_image(table.path(row), size=size, interpolation=interpolation, box=box)
    except ImageError as error:
        return FailedImage(index=row, reason=str(error), is_passing=isinstance(error, UnreadableImageError))


class FileSizes:
    """Heights and widths of the images of a table, read from their headers when they are first asked for.

    Args:
        table: the N images.
        unknown: what stands in for a file without a legible header, which cannot be decoded either.
    """

    def __init__(self, table: SampleTable, *, unknown: tuple[int, int]) -> None:
        self._table = table
        self._unknown = unknown
        self._sizes = torch.zeros(len(table), 2, dtype=torch.int64)

    def __call__(self, index: Tensor) -> Tensor:
        """(B, 2) int64 heights and widths, upright, of (B,) rows."""
        for row in sorted(set(index[self._sizes[index, 0] == 0].tolist())):
            self._sizes[row] = torch.tensor(self._read(row))
        return self._sizes[index]

    def _read(self, row: int) -> tuple[int, int]:
        try:
            content = read_image(self._table.path(row))
        except ImageError:
            return self._unknown
        try:
            with Image.open(io.BytesIO(content)) as image:
                is_turned = image.getexif().get(ExifTags.Base.Orientation, 1) in _TURNED
                return (image.width, image.height) if is_turned else (image.height, image.width)
        except Exception:  # whatever Pillow's readers meet; decoding says what it is
            return self._unknown


def _check_header(image: Image.Image, max_pixels: int) -> None:
    if not image.width * image.height:
        raise ImageError(f"{image.width}x{image.height} pixels")
    if image.width * image.height > max_pixels:
        raise ImageError(f"{image.width}x{image.height} pixels, more than {max_pixels}")
    if image.mode == "F" or image.mode.startswith("I"):
        raise ImageError(f"more than 8 bits per channel (mode {image.mode})")


def check_settings(
    size: tuple[int, int], *, interpolation: Interpolation, on_error: OnError, num_workers: int | None
) -> None:
    """Check what a user says about decoding.

    Raises:
        InputError: a value is not among the valid ones; the message names the argument.
    """
    if min(size) < 1:
        raise InputError(f"size must be a height and a width of at least one pixel, got {size[0]}x{size[1]}")
    if size[0] * size[1] > _MAX_PIXELS:
        raise InputError(f"size must be of at most {_MAX_PIXELS:,} pixels, got {size[0]}x{size[1]}")
    if interpolation not in _RESAMPLING:
        raise InputError(f"interpolation must be bilinear or bicubic, got {interpolation!r}")
    if on_error not in ("raise", "skip"):
        raise InputError(f"on_error must be raise or skip, got {on_error!r}")
    if num_workers is not None and not 1 <= num_workers <= MAX_WORKERS:
        raise InputError(f"num_workers must be from 1 to {MAX_WORKERS}, got {num_workers}")


def undecodable(table: SampleTable, failed: Iterable[FailedImage]) -> InputError:
    """Error that names the images of a table that cannot be decoded: how many, and the first three."""
    listed = [f"{table.path(failure.index)} ({failure.reason})" for failure in failed]
    images = "1 image" if len(listed) == 1 else f"{len(listed)} images"
    return InputError(
        f"{table.name}: {images} of {len(table)} cannot be decoded: {first_few(listed)};"
        " repair or remove them, or leave them out: data.on_error=skip in settings, --skip-broken of camstyle"
    )
