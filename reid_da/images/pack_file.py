"""The file of a packed array of images: uint8 pixels, a checksum for each image, and a description at the end.

Layout: the pixels (N, V, H, W, 3) from the first byte on, so that they can be mapped into memory; N little-endian
uint32 CRC-32 values, one for the V views of each image; a JSON description; 24 bytes with N, the length of the
description, the CRC-32 of both, and a signature. As it is one file, one rename replaces all of it, and a file that was
cut off has no signature. Until then it lies beside its place, and a process that was killed over it has not worked in
vain; see :class:`~reid_da.images.partial_pack.PartialPack`.
"""

import errno
import json
import logging
import math
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from reid_da.errors import InputError
from reid_da.images.ahead import map_ahead
from reid_da.images.partial_pack import PartialPack
from reid_da.images.source import FailedImage
from reid_da.locks import lock_file
from reid_da.progress import track
from reid_da.text import size_text

VERSION = 1
"""Of the format; files of another version are written anew."""

_TAIL = struct.Struct("<QQI4s")
_SIGNATURE = b"RDPK"
_CHECKSUM = np.dtype("<u4")

CACHE_VARIABLE = "REID_DA_CACHE"
"""Environment variable that names the folder of all caches."""

MakeImages: TypeAlias = Callable[[Sequence[int]], Iterable[NDArray[np.uint8] | FailedImage]]
"""From rows to the (V, H, W, 3) pixels of the image in each, or why it has none."""

CACHE_REMEDY = f"name another folder with cache_dir or {CACHE_VARIABLE}, or decode on the fly with cache='never'"
"""What to do where a cache cannot be written."""

logger = logging.getLogger(__name__)


class CacheUnavailableError(InputError):
    """The cache cannot be written where it should be, or there is no room for it."""


class UnusablePackError(Exception):
    """A packed file that cannot be used; the text says why, without the path."""


class UnreadablePackError(UnusablePackError):
    """A packed file that cannot be read at the moment; its content may be valid."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PackFile:
    """A packed file, mapped into memory.

    Attributes:
        pixels: (N, V, H, W, 3) uint8, read-only, read from the disk as it is used.
        recipe: what the pixels were made of and how; a file is current if its recipe is the wanted one.
        failed: images that could not be made; their pixels are zero.
    """

    pixels: NDArray[np.uint8] = field(repr=False)
    recipe: dict[str, str]
    failed: tuple[FailedImage, ...]


def pack_bytes(shape: tuple[int, ...]) -> int:
    """Size in bytes of the file of an array of this shape, the description left out."""
    return math.prod(shape) + shape[0] * _CHECKSUM.itemsize


def open_or_build(
    path: Path,
    images: MakeImages,
    *,
    shape: tuple[int, int, int, int, int],
    recipe: dict[str, str],
    num_workers: int,
    max_disk_share: float = 1.0,
    remedy: str = CACHE_REMEDY,
) -> PackFile:
    """The packed file at ``path``, written first if there is none or it is not usable, with the reason in the log.

    If several processes want it at once, one writes it and the others wait for that one. What a killed process has
    written is gone on with. Images whose files could not be read when the file was written are tried again.

    Args:
        path: the file.
        images: makes the images; asked only for those that are needed.
        shape: N, V, H, W and 3.
        recipe: what the pixels are made of and how, as names and values; a file with others is not usable.
        num_workers: number of threads that compute checksums.
        max_disk_share: largest share of the free disk that a new file may take.
        remedy: what to do if it cannot be written, for the error.

    Raises:
        CacheUnavailableError: the folder cannot be written, the file would take more of the disk than it may, or
            there is one that cannot be read at the moment, which is not replaced.
    """
    read = partial(read_pack, path, shape=shape, recipe=recipe, num_workers=num_workers)
    try:
        try:
            return _with_unread_images(path, read(), images)
        except UnreadablePackError:
            raise
        except UnusablePackError:
            pass
        path.parent.mkdir(parents=True, exist_ok=True)
        with _only_writer(path):
            # the process that this one waited for may have written it
            try:
                return read()
            except UnreadablePackError:
                raise
            except UnusablePackError as reason:
                if path.exists():
                    logger.warning("%s: rebuilding the image cache: %s", path, reason)
                else:
                    size = size_text(pack_bytes(shape))
                    logger.info(
                        "%s: building the image cache, %d images, %s (see `reid-da cache`)", path, shape[0], size
                    )
            _check_room(path.parent, pack_bytes(shape), max_disk_share=max_disk_share, remedy=remedy)
            write_pack(path, images, shape=shape, recipe=recipe)
            return read()
    except OSError as error:
        raise CacheUnavailableError(
            f"{path}: cannot write the cache of images ({error.strerror or error}); {remedy}"
        ) from error
    except UnusablePackError as error:
        raise CacheUnavailableError(
            f"{path}: the cache of images: {error}; remove the file to have it made again, or {remedy}"
        ) from error


def _with_unread_images(path: Path, pack: PackFile, images: MakeImages) -> PackFile:
    """The pack, and in it the images whose files could not be read when it was written and can be read now."""
    unread = [failure.index for failure in pack.failed if failure.is_passing]
    if not unread:
        return pack
    found = dict(zip(unread, images(unread), strict=True))
    if all(isinstance(image, FailedImage) and image.is_passing for image in found.values()):
        return pack
    failed = {failure.index: failure for failure in pack.failed}

    def with_found(rows: Sequence[int]) -> Iterator[NDArray[np.uint8] | FailedImage]:
        return (found.get(row, failed.get(row, pack.pixels[row])) for row in rows)

    shape: Any = pack.pixels.shape
    logger.info("%s: %d images that could not be read before are tried again", path, len(unread))
    with _only_writer(path):
        write_pack(path, with_found, shape=shape, recipe=pack.recipe)
        return read_pack(path, shape=shape, recipe=pack.recipe, num_workers=1)


def check_output(path: Path) -> None:
    """See to it that a packed file for which a user has named the place replaces nothing else.

    A cache goes without: whatever has the name of a file of its own is one that was spoiled, and is made again.

    Raises:
        InputError: there is something that is no packed file, or it cannot be read.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name a file in it, such as {path / 'styles.pack'}")
    if not path.exists():
        return
    try:
        is_pack = path.is_file() and _has_signature(path)
    except OSError as error:
        raise InputError(f"{path}: exists and cannot be read ({error.strerror or error}); name another file") from error
    if not is_pack:
        raise InputError(f"{path}: exists and is not a packed file, or is truncated; name another file")


@contextmanager
def _only_writer(path: Path) -> Iterator[None]:
    """Wait until no other process writes the file.

    Raises:
        OSError: the file system has no locks, so that nobody can know.
    """

    def on_wait() -> None:
        logger.info("waiting for another process that writes %s", path)

    with lock_file(path.with_name(f"{path.name}.lock"), on_wait=on_wait) as is_held:
        if not is_held:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK), str(path))
        yield


def _has_signature(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - len(_SIGNATURE), 0))
        return file.read() == _SIGNATURE


def _check_room(folder: Path, needed: int, *, max_disk_share: float, remedy: str) -> None:
    free = shutil.disk_usage(folder).free
    if needed > max_disk_share * free:
        raise CacheUnavailableError(
            f"{folder}: the cache of images needs {size_text(needed)}, but may take {max_disk_share:.0%} of the"
            f" {size_text(free)} that are free; {remedy}"
        )


def write_pack(
    path: Path, images: MakeImages, *, shape: tuple[int, int, int, int, int], recipe: dict[str, str]
) -> None:
    """Write a packed file, whole or not at all, and with what a killed process has written of it already.

    Args:
        path: the file; one that exists is replaced.
        images: makes the images that are left.
        shape: N, V, H, W and 3.
        recipe: what the pixels are made of and how, as names and values.

    Raises:
        OSError: the file cannot be written.
    """
    blank = np.zeros(shape[1:], dtype=np.uint8)
    description = {"version": VERSION, "shape": list(shape), "recipe": recipe}
    with PartialPack(path, description=description, image_bytes=blank.size) as part:
        if len(part):
            logger.info("%s: going on after %d of %d images", path, len(part), shape[0])
        begin = len(part)
        for index, image in enumerate(images(range(begin, shape[0])), start=begin):
            if isinstance(image, FailedImage):
                assert image.index == index
                part.append(blank, failure=image)
                continue
            assert image.shape == blank.shape
            assert image.dtype == np.uint8
            part.append(image)
        assert len(part) == shape[0]
        failed = [asdict(failure) for failure in part.failed]
        text = json.dumps({**description, "failed": failed}).encode()
        trailer = np.array(part.checksums, dtype=_CHECKSUM).tobytes() + text
        part.finish(trailer + _TAIL.pack(shape[0], len(text), zlib.crc32(trailer), _SIGNATURE))


def read_pack(
    path: Path, *, shape: tuple[int, int, int, int, int], recipe: dict[str, str], num_workers: int
) -> PackFile:
    """The packed file, after every pixel of it was compared with its checksum (about 1 GB/s on a core).

    Args:
        path: the file.
        shape: N, V, H, W and 3 that it must have.
        recipe: what it must be made of.
        num_workers: number of threads that compute checksums.

    Raises:
        UnusablePackError: the file is absent, cut off, damaged, of another version, shape or recipe.
    """
    with _readable():
        checksums, description = _read_trailer(path)
        _check_current(description, shape, recipe)
        # asarray: every batch would pay for the methods of memmap's own class
        pixels = np.asarray(np.memmap(path, dtype=np.uint8, mode="r", shape=shape))
    _verify(pixels, checksums, num_workers=num_workers)
    # older files do not say whether a failure was a passing one: better to try again
    failed = tuple(FailedImage(**{"is_passing": True, **failure}) for failure in description["failed"])
    return PackFile(pixels=pixels, recipe=description["recipe"], failed=failed)


def describe_pack(path: Path) -> tuple[tuple[int, ...], dict[str, str]]:
    """Shape N, V, H, W, 3 and recipe of a packed file, whose pixels are not looked at.

    Raises:
        UnusablePackError: the file is absent, cut off, or its description is damaged.
    """
    with _readable():
        _, description = _read_trailer(path)
    return tuple(description["shape"]), description["recipe"]


@contextmanager
def _readable() -> Iterator[None]:
    """Turn errors of the system into reasons why a file is not usable."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise UnusablePackError("there is none") from None
    except OSError as error:
        raise UnreadablePackError(f"it cannot be read ({error.strerror or error})") from error


def _read_trailer(path: Path) -> tuple[NDArray[np.uint32], dict[str, Any]]:
    """Checksums and description at the end of a file."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END) - _TAIL.size
        file.seek(max(end, 0))
        tail = file.read(_TAIL.size)
        if end < 0 or not tail.endswith(_SIGNATURE):
            raise UnusablePackError("it is cut off")
        num_images, text_bytes, checksum, _ = _TAIL.unpack(tail)
        start = end - text_bytes - num_images * _CHECKSUM.itemsize
        file.seek(max(start, 0))
        trailer = file.read(end - file.tell())
    if start < 0 or zlib.crc32(trailer) != checksum:
        raise UnusablePackError("its description is damaged")
    description = json.loads(trailer[num_images * _CHECKSUM.itemsize :])
    if start != math.prod(description["shape"]):
        raise UnusablePackError("its length does not agree with its description")
    return np.frombuffer(trailer, dtype=_CHECKSUM, count=num_images), description


def _check_current(description: dict[str, Any], shape: tuple[int, ...], recipe: dict[str, str]) -> None:
    if description["version"] != VERSION:
        raise UnusablePackError(f"it is of version {description['version']}, not {VERSION}")
    if tuple(description["shape"]) != shape:
        raise UnusablePackError(f"its shape is {tuple(description['shape'])}, not {shape}")
    changed = sorted(key for key in recipe if description["recipe"].get(key) != recipe[key])
    if changed:
        raise UnusablePackError(f"it was made of other {' and '.join(changed)}")


def _verify(pixels: NDArray[np.uint8], checksums: NDArray[np.uint32], *, num_workers: int) -> None:
    """Compare every image with its checksum.

    Raises:
        UnusablePackError: some differ.
    """
    found = map_ahead(lambda image: zlib.crc32(image.data), pixels, workers=num_workers, ahead=4 * num_workers)
    shown = track(found, "checking packed images", total=len(pixels))
    damaged = int((np.fromiter(shown, dtype=_CHECKSUM, count=len(pixels)) != checksums).sum())
    if damaged:
        raise UnusablePackError(f"{damaged} of its images are damaged")
