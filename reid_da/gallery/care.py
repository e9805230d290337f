"""Looking after an index: choosing images, finding what is old, missing or damaged."""

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from reid_da.errors import InputError, first_few
from reid_da.gallery.provenance import CALENDAR_FROM
from reid_da.gallery.qdrant import Collection, point_id
from reid_da.gallery.store import Gallery
from reid_da.gallery.vectors import Segment

_TOLERANCE = 1e-3
"""By how much the length of a vector may differ from 1."""


def file_status(path: str) -> tuple[int, int] | None:
    """Size in bytes of a file and when it was changed, or None where there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116 (a path object for each of a million images takes longer)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def select(index: Gallery | Collection, names: Iterable[str | Path]) -> list[int]:
    """Ids of images by what names them: an id, a path, or a folder, whether or not its files still exist.

    Raises:
        InputError: something names none.
    """
    found: set[int] = set()
    for name in names:
        text = str(name)
        ids = _on_disk(index, text) if isinstance(index, Gallery) else _on_server(index, text)
        if not ids:
            raise InputError(f"{text}: no image of {index.place} by this id, path or folder")
        found.update(ids)
    return sorted(found)


def _on_disk(gallery: Gallery, text: str) -> list[int]:
    place = str(Path(text).resolve())
    rows = gallery.rows("SELECT id FROM images WHERE id = ?", (int(text),)) if _is_id(text) else []
    rows = rows or gallery.rows(
        "SELECT id FROM images WHERE path = ? OR substr(path, 1, ?) = ?", (place, len(place) + 1, place + os.sep)
    )
    return [number for (number,) in rows]


def _on_server(collection: Collection, text: str) -> list[int]:
    place = str(Path(text).resolve())
    ids = list(collection.records([int(text)])) if _is_id(text) else []
    ids = ids or list(collection.records([point_id(place)]))
    return ids or [number for number, fields in collection.scroll() if fields["path"].startswith(place + os.sep)]


def _is_id(text: str) -> bool:
    return text.isdecimal() and len(text) < 19


def missing(index: Gallery | Collection) -> list[int]:
    """Ids of the images whose files do not exist any more; on a server, of those that this machine has added."""
    if isinstance(index, Gallery):
        paths = index.rows("SELECT id, path FROM images ORDER BY id")
    else:
        paths = [(number, fields["path"]) for number, fields in index.scroll() if fields["host"] == index.host]
    return [number for number, path in paths if file_status(path) is None]


def older_than(index: Gallery | Collection, days: float, *, now: Callable[[], float] = time.time) -> list[int]:
    """Ids of the images that were taken, or where that is not known added, more than ``days`` ago.

    A time that is not one of the calendar (seconds since the start of a film) does not count as known.

    Raises:
        InputError: ``days`` is not above 0.
    """
    if not days > 0:
        raise InputError(f"--retain-days: expected a number above 0, got {days:g}")
    limit = now() - days * 86400
    if isinstance(index, Gallery):
        rows = index.rows("SELECT id, time, added FROM images ORDER BY id")
    else:
        rows = [(number, fields.get("time"), fields["added"]) for number, fields in index.scroll()]
    return [number for number, taken, added in rows if _since(taken, added) < limit]


def _since(taken: float | None, added: float) -> float:
    return added if taken is None or taken < CALENDAR_FROM else min(taken, added)


def verify(gallery: Gallery, *, files: bool = False) -> list[str]:
    """What is wrong with an index, one line each; nothing if it is sound.

    Args:
        gallery: the index.
        files: also look whether the files of the images are there and unchanged.
    """
    problems = [f"{gallery.file}: {text}" for (text,) in gallery.rows("PRAGMA integrity_check") if text != "ok"]
    segments = [Segment(*row) for row in gallery.rows("SELECT block, first, rows, checksum FROM segments")]
    for segment, reason in gallery.files.damaged(segments):
        path, last = gallery.files.path(segment.block), segment.first + segment.rows - 1
        hit = gallery.rows(
            "SELECT count(*) FROM images WHERE block = ? AND row BETWEEN ? AND ?", (segment.block, segment.first, last)
        )[0][0]
        problems.append(f"{path}: vectors {segment.first} to {last}: {reason}; {hit} images")
    covered = dict(gallery.rows("SELECT block, sum(rows) FROM segments GROUP BY block"))
    for block, rows in gallery.rows("SELECT id, rows FROM blocks"):
        if covered.get(block, 0) != rows:
            problems.append(
                f"{gallery.files.path(block)}: {rows} vectors counted, {covered.get(block, 0)} with checksums"
            )
    outside = gallery.rows("SELECT count(*) FROM images JOIN blocks ON blocks.id = block WHERE row >= rows OR row < 0")
    if outside[0][0]:
        problems.append(f"{gallery.file}: {outside[0][0]} images without a vector")
    if not problems:
        problems += _bad_vectors(gallery)
    if gallery.meta("unclean"):
        problems.append(f"{gallery.path}: vectors of forgotten images are still there: reid-da index compact")
    if files:
        rows = gallery.rows("SELECT path, size, mtime_ns FROM images ORDER BY id")
        problems += [
            f"{path}: {'is missing' if file_status(path) is None else 'has changed'}"
            for path, *known in rows
            if file_status(path) != tuple(known)
        ]
    return problems


def _bad_vectors(gallery: Gallery) -> list[str]:
    snapshot = gallery.snapshot()
    bad: list[int] = []
    for rows in snapshot.pieces(np.arange(len(snapshot)), 2**14):
        lengths = np.linalg.norm(snapshot.vectors(rows), axis=1)
        bad += snapshot.ids[rows[~(np.abs(lengths - 1) < _TOLERANCE)]].tolist()
    return [f"{gallery.path}: vectors that are not of unit length, images {first_few(bad)}"] if bad else []
