"""Reading image files to see whether they are whole, and what they are."""

import hashlib
import io
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from reid_da.datasets.findings import Finding, Severity, found
from reid_da.datasets.table import Dataset
from reid_da.errors import InputError
from reid_da.progress import track
from reid_da.reading import UnsuitableFileError, open_regular, read_regular

Fault = Literal["missing", "unreadable", "empty", "not-an-image", "truncated", "damaged", "huge"]
"""What can be wrong with an image file."""

MAX_BYTES = 256 * 2**20
"""Files larger than this are not read: no picture of a person needs a quarter of a gigabyte."""
MIN_SIDE = 32
"""Images whose shorter side has fewer pixels than this are pointed out as very small."""

_ORIENTATION = 0x0112  # EXIF tag; 1 is upright
_SIDEWAYS = (5, 6, 7, 8)
_SIGNATURES = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF8",
    b"BM",
    b"RIFF",
    b"P5",
    b"P6",
    b"II*\0",
    b"MM\0*",
)  # first bytes of image files
_FILES_PER_JOB = 32

# what each fault is called and what to do about it, in the order of the report
_FAULTS: dict[Fault, tuple[str, str]] = {
    "missing": ("missing-files", "the file does not exist: restore it, or remove it from the list or manifest"),
    "unreadable": ("unreadable-files", "the file cannot be read: look at its permissions and at the disk"),
    "empty": ("empty-files", "the file has no content: copy it again"),
    "not-an-image": ("not-images", "the content is not an image, whatever the name says: replace or remove the file"),
    "truncated": ("truncated-images", "the file ends before the picture does: copy or download it again"),
    "damaged": ("damaged-images", "the file begins as an image but cannot be decoded: copy or download it again"),
    "huge": ("huge-images", "far too large for the box of a person, not decoded: crop or remove the image"),
}

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFile:
    """What one file turned out to be.

    Attributes:
        fault: why it cannot be used as an image, or None.
        detail: more about the fault, where there is more to say.
        digest: hash of the content (BLAKE2b, 16 bytes); None where the content was not read.
        format: format by content, as Pillow calls it, e.g. ``JPEG``; empty where unknown.
        mode: mode of the pixels, as Pillow calls it, e.g. ``RGB``, ``L``; empty where unknown.
        width: pixels across, turned upright; 0 where unknown.
        height: pixels down, turned upright; 0 where unknown.
        is_rotated: whether an EXIF tag asks for the stored picture to be turned or mirrored.
    """

    fault: Fault | None = None
    detail: str = ""
    digest: bytes | None = None
    format: str = ""
    mode: str = ""
    width: int = 0
    height: int = 0
    is_rotated: bool = False


def file_names(dataset: Dataset) -> dict[Path, str]:
    """Relative path of each file of the data set by its full path; a file in two splits occurs once."""
    tables = dataset.splits.values()
    return {table.path(row): name for table in tables for row, name in enumerate(table.paths)}


def inspect_images(paths: Sequence[Path], *, num_workers: int | None = None) -> list[ImageFile]:
    """What each of the files is, in the order of ``paths``; every file is read once and decoded in memory.

    Decoding is the only way to see that a file is cut short. JPEG files are decoded at an eighth of their size
    without colour: the whole stream is still parsed, so every truncation is seen that a full decoding shows.

    Args:
        paths: the files; they need not exist.
        num_workers: number of threads; default one per core.

    Raises:
        InputError: ``num_workers`` is less than 1.
    """
    with _bombs_as_errors():
        return list(_in_threads(inspect_image, paths, "reading images", num_workers=num_workers))


def image_sizes(paths: Sequence[Path], *, num_workers: int | None = None) -> NDArray[np.int64]:
    """(N, 2) int64 height and width of the images by their headers; zeros where a file has no readable header.

    Args:
        paths: N files.
        num_workers: number of threads; default one per core.

    Raises:
        InputError: ``num_workers`` is less than 1.
    """
    with _bombs_as_errors():
        sizes = list(_in_threads(_header_size, paths, "reading sizes", num_workers=num_workers))
    return np.array(sizes, dtype=np.int64).reshape(-1, 2)


def inspect_image(path: Path) -> ImageFile:
    """What one file is; see :func:`inspect_images`."""
    try:
        content = read_regular(path, limit=MAX_BYTES)
    except UnsuitableFileError as error:
        return ImageFile(fault="huge" if path.is_file() else "unreadable", detail=str(error))
    except FileNotFoundError:
        return ImageFile(fault="missing")
    except OSError as error:
        return ImageFile(fault="unreadable", detail=error.strerror or str(error))
    if not content:
        return ImageFile(fault="empty")
    return _inspect_content(content, digest=hashlib.blake2b(content, digest_size=16).digest())


def image_findings(names: Sequence[str], files: Sequence[ImageFile]) -> list[Finding]:
    """What is wrong or odd about the files one by one.

    Args:
        names: how to call each file in the report: N relative paths.
        files: N results of :func:`inspect_images`.
    """
    pairs = list(zip(names, files, strict=True))
    findings = []
    for fault, (code, message) in _FAULTS.items():
        faulty = [f"{name} ({file.detail})" if file.detail else name for name, file in pairs if file.fault == fault]
        findings += found("problem", code, message, faulty)
    whole = [(name, file) for name, file in pairs if file.fault is None]
    for oddity in _ODDITIES:
        odd = [f"{name} ({oddity.detail(file)})" for name, file in whole if oddity.applies(name, file)]
        findings += found(oddity.severity, oddity.code, oddity.message, odd)
    return findings


def _inspect_content(content: bytes, *, digest: bytes) -> ImageFile:
    try:
        with Image.open(io.BytesIO(content)) as image:
            # size and mode first: the draft changes them
            (width, height), mode = image.size, image.mode
            image.draft("L", (1, 1))
            image.load()
            if image.format == "JPEG" and _is_filled_up(content):
                return ImageFile(fault="truncated", detail="the rest is zeros", digest=digest)
            orientation = image.getexif().get(_ORIENTATION, 1)
            if orientation in _SIDEWAYS:
                width, height = height, width
            return ImageFile(
                digest=digest,
                # MPO is JPEG with a second picture inside, as some cameras write it
                format="JPEG" if image.format == "MPO" else image.format or "",
                mode=mode,
                width=width,
                height=height,
                is_rotated=orientation != 1,
            )
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        return ImageFile(fault="huge", detail=str(error).partition(" exceeds")[0], digest=digest)
    except UnidentifiedImageError:
        return ImageFile(fault="damaged" if content.startswith(_SIGNATURES) else "not-an-image", digest=digest)
    except MemoryError:
        raise  # no fault of the file
    except Exception as error:  # the plugins of Pillow raise errors of a dozen types on damaged files
        if "truncated" in str(error).lower():
            return ImageFile(fault="truncated", digest=digest)
        return ImageFile(fault="damaged", detail=str(error), digest=digest)


def _is_filled_up(content: bytes) -> bool:
    """Whether a JPEG file was filled up with zeros, as broken-off downloads and copies are.

    Zeros are valid data of the compressed stream, so that decoders silently paint the missing part grey. What
    gives them away is that no end marker follows the last start of a scan.
    """
    return content.endswith(bytes(16)) and content.rfind(b"\xff\xd9") < content.rfind(b"\xff\xda")


def _header_size(path: Path) -> tuple[int, int]:
    try:
        with open_regular(path, limit=MAX_BYTES) as file, Image.open(file) as image:
            return image.height, image.width
    except Exception:  # as above: what is wrong with the file is for inspect_images to say
        return 0, 0


@contextmanager
def _bombs_as_errors() -> Iterator[None]:
    """Turn Pillow's warning of huge images into an error and silence its others, in the worker threads too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _in_threads(
    function: Callable[[Path], T], paths: Sequence[Path], description: str, *, num_workers: int | None
) -> Iterator[T]:
    """``function`` of each path in order, by threads (Pillow decodes outside the interpreter lock)."""
    if num_workers is not None and num_workers < 1:
        raise InputError(f"num_workers must be at least 1, got {num_workers}")
    pool = ThreadPoolExecutor(num_workers or os.cpu_count() or 1)
    try:
        # files in jobs of several: the bookkeeping of a job costs as much as a small file
        jobs = [paths[start : start + _FILES_PER_JOB] for start in range(0, len(paths), _FILES_PER_JOB)]
        results: Iterable[list[T]] = pool.map(lambda job: [function(path) for path in job], jobs)
        yield from track(chain.from_iterable(results), description, total=len(paths))
    finally:
        # an interrupted check stops at once rather than after the files that are still queued
        pool.shutdown(cancel_futures=True)


def _format_of_suffix(name: str) -> str | None:
    return Image.registered_extensions().get(Path(name).suffix.lower())


def _is_deep(file: ImageFile) -> bool:
    return file.mode == "F" or file.mode.startswith("I")


def _size(file: ImageFile) -> str:
    return f"{file.width} x {file.height}"


class _Oddity(NamedTuple):
    severity: Severity
    code: str
    message: str
    applies: Callable[[str, ImageFile], bool]
    detail: Callable[[ImageFile], str]


_ODDITIES = (
    _Oddity(
        "warning",
        "format-mismatch",
        "the content is another image format than the suffix says: some programs will refuse it; rename it",
        lambda name, file: _format_of_suffix(name) not in (file.format, None),
        lambda file: file.format,
    ),
    _Oddity(
        "warning",
        "small-images",
        f"fewer than {MIN_SIDE} pixels across or down: hardly a person to be seen; consider leaving them out",
        lambda _, file: min(file.width, file.height) < MIN_SIDE,
        _size,
    ),
    _Oddity(
        "warning",
        "wide-images",
        "wider than high: a false detection, or lying on its side; look at some of them",
        lambda _, file: file.width > file.height,
        _size,
    ),
    _Oddity(
        "problem",
        "deep-images",
        "more than 8 bits for each channel, which training refuses: convert the file to 8 bits",
        lambda _, file: _is_deep(file),
        lambda file: file.mode,
    ),
    _Oddity(
        "note",
        "not-rgb-images",
        "the pixels are not RGB (grey, palette, transparency): they are converted when they are read",
        lambda _, file: file.mode != "RGB" and not _is_deep(file),
        lambda file: file.mode,
    ),
    _Oddity(
        "note",
        "rotated-images",
        "an EXIF tag asks for the picture to be turned: done here when it is read, but not by all programs",
        lambda _, file: file.is_rotated,
        _size,
    ),
)
