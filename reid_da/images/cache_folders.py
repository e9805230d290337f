"""What the image cache takes on the disk, and removing it."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from reid_da.images.pack import CACHE_FOLDER, shared_cache_dirs

_DEEPEST = 8


@dataclass(frozen=True, kw_only=True)
class CacheFolder:
    """The cache of one data set.

    Attributes:
        path: its folder.
        files: the files in it: packed images and camera styles, finished or not.
        size: their bytes on the disk.
    """

    path: Path
    files: tuple[Path, ...]
    size: int


def find_caches(folders: Iterable[Path]) -> list[CacheFolder]:
    """Caches in data sets below some folders, and those that data sets have elsewhere.

    Args:
        folders: looked through to a depth of 8; links are not followed.

    Returns:
        The caches with any files, sorted by their path. Those outside of data sets are below ``REID_DA_CACHE`` or in
        the user's cache folder.
    """
    found = {path.resolve() for folder in folders for path in _below(folder)}
    found |= {path.resolve() for shared in shared_cache_dirs() if shared.is_dir() for path in shared.iterdir()}
    caches = [_cache(path) for path in sorted(found) if path.is_dir()]
    return [cache for cache in caches if cache.files]


def clear_cache(cache: CacheFolder) -> None:
    """Remove the files of a cache, and its folder if nothing else is in it."""
    for file in cache.files:
        file.unlink(missing_ok=True)
    if not any(cache.path.iterdir()):
        cache.path.rmdir()


def _cache(path: Path) -> CacheFolder:
    files = tuple(sorted(file for file in path.iterdir() if ".pack" in file.name and file.is_file()))
    # blocks, since a file that is being written has holes
    return CacheFolder(path=path, files=files, size=sum(_bytes(file) for file in files))


def _bytes(file: Path) -> int:
    status = file.stat()
    return min(status.st_size, 512 * status.st_blocks) if hasattr(status, "st_blocks") else status.st_size


def _below(folder: Path) -> Iterator[Path]:
    depth = len(folder.parts)
    for root, names, _ in os.walk(folder):
        if CACHE_FOLDER in names:
            yield Path(root) / CACHE_FOLDER
        is_deep = len(Path(root).parts) - depth >= _DEEPEST
        names[:] = [] if is_deep else [name for name in names if not name.startswith(".")]
