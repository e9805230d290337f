"""Listing image files and reading their names."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from reid_da.errors import InputError, first_few

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
"""Suffixes, in lower case, of the files that count as images; anything else (``Thumbs.db``) is passed over."""

STYLED_SUFFIX = "_camstyle"
"""How the names of folders end that hold images in the styles of other cameras: copies, which no camera took."""


def list_images(folder: Path, *, recursive: bool = False) -> list[str]:
    """Sorted paths, relative to ``folder`` and with forward slashes, of the image files in it.

    Hidden files and folders (a name that starts with a dot) are passed over: among them is our own cache. So are
    sub-folders of camera-style images (:data:`STYLED_SUFFIX`), which are made of the images beside them.

    Args:
        folder: the folder to list, whatever its own name.
        recursive: look into sub-folders too; a link back to a folder around it is passed over.

    Raises:
        InputError: a folder cannot be listed; without its images the data set would be another one.
    """
    found: list[str] = []
    for current, folders, files in os.walk(folder, followlinks=True, onerror=_refuse):
        folders[:] = sorted(filter(_may_hold_images, folders)) if recursive else []
        folders[:] = [name for name in folders if not _leads_back(Path(current, name))]
        prefix = Path(current).relative_to(folder).as_posix()
        prefix = "" if prefix == "." else prefix + "/"
        found += [prefix + name for name in files if is_image_name(name)]
    return sorted(found)


def _refuse(error: OSError) -> None:
    raise InputError(f"{error.filename}: cannot be listed: {error.strerror}") from error


def _leads_back(folder: Path) -> bool:
    return folder.is_symlink() and any(folder.samefile(parent) for parent in folder.parents)


def _may_hold_images(folder: str) -> bool:
    return not folder.startswith(".") and not folder.endswith(STYLED_SUFFIX)


def is_image_name(name: str) -> bool:
    """Whether a file of this name counts as an image."""
    return not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES


def match_names(pattern: re.Pattern[str], names: Iterable[str], *, folder: Path) -> list[re.Match[str]]:
    """One match of ``pattern`` for each name.

    Args:
        pattern: searched for from the start of each name.
        names: file names, or paths relative to ``folder``.
        folder: named in the error.

    Raises:
        InputError: a name does not match; tells how many and the first three.
    """
    names = list(names)
    matches = [pattern.match(name) for name in names]
    missed = [name for name, match in zip(names, matches, strict=True) if match is None]
    if missed:
        raise InputError(
            f"{folder}: {len(missed)} of {len(names)} image names do not match the pattern {pattern.pattern!r}: "
            f"{first_few(missed)}; rename or remove them, or name another format or pattern"
        )
    return [match for match in matches if match is not None]


def describe_folder(folder: Path) -> str:
    """What lies directly in a folder, in a few words, for messages about a wrong layout."""
    entries = sorted(folder.iterdir())
    folders = [entry.name + "/" for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    images = [entry.name for entry in entries if entry.is_file() and is_image_name(entry.name)]
    others = [entry.name for entry in entries if entry.is_file() and not is_image_name(entry.name)]
    parts = [first_few(folders)] if folders else []
    parts += [f"{len(images)} images"] if images else []
    parts += [first_few(others)] if others else []
    return ", ".join(parts) or "nothing"


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sorting key that reads digits as numbers: ``cam2`` comes before ``cam10``."""
    parts = re.findall(r"\d+|\D+", text)
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts)
