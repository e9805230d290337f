"""Listing image files and reading their names."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from reid_da.errors import InputError, first_few

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pnm"}
)
"""Suffixes, in lower case, of the files that count as images; of an animated one the first picture counts."""

UNREAD_SUFFIXES = frozenset(
    {
        *(".avif", ".heic", ".heif", ".jxl", ".jp2", ".j2k", ".jpx", ".apng", ".mpo", ".tga", ".psd", ".svg", ".qoi"),
        *(".pcx", ".ico", ".dds", ".exr", ".hdr", ".raw", ".dng", ".cr2", ".nef", ".arw"),
        *(".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".mjpeg", ".wmv"),
    }
)
"""Suffixes of pictures and films that are not read, but counted and named, so that nobody misses them unawares."""

STYLED_SUFFIX = "_camstyle"
"""How the names of folders end that hold images in the styles of other cameras: copies, which no camera took."""


def list_images(folder: Path, *, recursive: bool = False) -> list[str]:
    """Sorted paths, relative to ``folder`` and with forward slashes, of the image files in it.

    Hidden files and folders (a name that starts with a dot) are passed over: among them is our own cache. So are
    sub-folders of camera-style images (:data:`STYLED_SUFFIX`), which are made of the images beside them. A folder
    that several links lead to is listed once.

    Args:
        folder: the folder to list, whatever its own name.
        recursive: look into sub-folders too.

    Raises:
        InputError: a folder cannot be listed (without its images the data set would be another one), or a path is not
            UTF-8, so that no manifest, log or result could name it.
    """
    found = sorted(path for path in _files(folder, recursive=recursive) if is_image_name(path.rpartition("/")[2]))
    unnameable = [path for path in found if not is_utf8(path)]
    if unnameable:
        raise InputError(
            f"{folder}: {len(unnameable)} of {len(found)} image paths are not UTF-8: {first_few(unnameable)}; rename "
            "them"
        )
    return found


def list_unread(folder: Path) -> list[str]:
    """Sorted paths of the pictures and films at any depth whose kind is not read (:data:`UNREAD_SUFFIXES`)."""
    names = (path for path in _files(folder, recursive=True) if _suffix(path) in UNREAD_SUFFIXES)
    return sorted(path for path in names if not path.rpartition("/")[2].startswith("."))


def count_suffixes(paths: Iterable[str]) -> str:
    """How many of the paths have which suffix, as text: ``.avif 2, .heic 1``."""
    counts = Counter(_suffix(path) for path in paths)
    return ", ".join(f"{suffix} {count}" for suffix, count in sorted(counts.items()))


def is_utf8(text: str) -> bool:
    """Whether a path of the file system is text that can be written down."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _files(folder: Path, *, recursive: bool) -> Iterator[str]:
    """Relative paths of all files, with forward slashes, in any order."""
    top = folder.resolve()
    linked: set[Path] = set()
    for current, folders, files in os.walk(folder, followlinks=True, onerror=_refuse):
        prefix = Path(current).relative_to(folder).as_posix()
        prefix = "" if prefix == "." else prefix + "/"
        yield from (prefix + name for name in files)
        wanted = sorted(filter(_may_hold_images, folders)) if recursive else []
        folders[:] = [name for name in wanted if _is_new(Path(current, name), top, linked)]


def _is_new(folder: Path, top: Path, linked: set[Path]) -> bool:
    """Whether a folder is not listed anyway: it is no link into the tree, around it, or to where another one leads."""
    if not folder.is_symlink():
        return True
    target = folder.resolve()
    if target.is_relative_to(top) or top.is_relative_to(target) or any(target.is_relative_to(seen) for seen in linked):
        return False
    linked.add(target)
    return True


def _refuse(error: OSError) -> None:
    raise InputError(f"{error.filename}: cannot be listed: {error.strerror}") from error


def _may_hold_images(folder: str) -> bool:
    return not folder.startswith(".") and not folder.endswith(STYLED_SUFFIX)


def is_image_name(name: str) -> bool:
    """Whether a file of this name counts as an image."""
    return not name.startswith(".") and _suffix(name) in IMAGE_SUFFIXES


def _suffix(path: str) -> str:
    # as pathlib has it, which takes twenty times as long
    stem, _, suffix = path.rpartition("/")[2].rpartition(".")
    return f".{suffix.lower()}" if stem else ""


def match_names(
    pattern: re.Pattern[str], names: Iterable[str], *, folder: Path, advice: str = ""
) -> list[re.Match[str]]:
    """One match of ``pattern`` for each name.

    Args:
        pattern: searched for from the start of each name.
        names: file names, or paths relative to ``folder``.
        folder: named in the error.
        advice: what to do about names that do not match.

    Raises:
        InputError: a name does not match; tells how many and the first three.
    """
    names = list(names)
    matches = [pattern.match(name) for name in names]
    missed = [name for name, match in zip(names, matches, strict=True) if match is None]
    if missed:
        advice = advice or "rename or remove them, or name another format or pattern"
        raise InputError(
            f"{folder}: {len(missed)} of {len(names)} image names do not match the pattern {pattern.pattern!r}: "
            f"{first_few(missed)}; {advice}"
        )
    return [match for match in matches if match is not None]


def describe_folder(folder: Path) -> str:
    """What lies in a folder, in a few words, for messages about a wrong layout."""
    entries = sorted(folder.iterdir())
    folders = [entry.name + "/" for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    images = [entry.name for entry in entries if entry.is_file() and is_image_name(entry.name)]
    others = [entry.name for entry in entries if entry.is_file() and not is_image_name(entry.name)]
    parts = [first_few(folders)] if folders else []
    parts += [f"{len(images)} images"] if images else []
    parts += [first_few(others)] if others else []
    return ", ".join(parts) or "nothing"


def describe_paths(paths: Sequence[str]) -> str:
    """Where images lie, in a few words: how many, in how many folders, and the first of three folders."""
    first = {path.rpartition("/")[0]: path for path in reversed(paths)}
    examples = first_few([first[folder] for folder in sorted(first, key=natural_key)])
    if set(first) == {""}:
        examples = first_few(paths)
    where = "" if set(first) == {""} else f" in {_plural(len(first), 'folder')}"
    return f"{_plural(len(paths), 'image')}{where} ({examples})"


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sorting key that reads digits as numbers: ``cam2`` comes before ``cam10``."""
    parts = re.findall(r"\d+|\D+", text)
    # a number by its length and digits: int() refuses thousands of them
    return tuple((0, len(part.lstrip("0")), part.lstrip("0")) if part.isdecimal() else (1, 0, part) for part in parts)


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
