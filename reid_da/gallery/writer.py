"""The writes to an index: each is on the disk when it returns, or has not happened."""

import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from reid_da.features import pieces
from reid_da.gallery import database
from reid_da.gallery.protocol import NewImage
from reid_da.gallery.vectors import BLOCK_ROWS, Segment, VectorFiles, Vectors

_COPIED_ROWS = 4096
"""Vectors that are copied at a time when blocks are written anew."""


class Writer:
    """The writes of the process that owns an index; each is on the disk when it returns, or has not happened."""

    def __init__(self, connection: sqlite3.Connection, files: VectorFiles, file: Path) -> None:
        self._connection, self._files, self._file = connection, files, file
        self._remove_strays()
        if self._rows("SELECT 1 FROM meta WHERE key = 'unclean'"):  # a process was killed before it had forgotten all
            self.compact()

    def _rows(self, query: str) -> list[Any]:
        with database.naming_errors(self._file):
            return self._connection.execute(query).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Cursor]:
        """Writes to the database that happen together."""
        with database.transaction(self._connection, self._file) as cursor:
            yield cursor

    def set_meta(self, key: str, value: str | None) -> None:
        """Store a value of the index as a whole, or remove it."""
        with self.transaction() as cursor:
            if value is None:
                cursor.execute("DELETE FROM meta WHERE key = ?", (key,))
            else:
                cursor.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def append(self, images: Sequence[NewImage], vectors: Vectors) -> None:
        """Add images with their (N, D) vectors; an image whose path is there already is replaced."""
        places, segments = self._write_vectors(vectors)
        with self.transaction() as cursor:
            cursor.executemany("DELETE FROM images WHERE path = ?", [(image.path,) for image in images])
            cameras = self._cameras(cursor, {image.camera for image in images})
            self._count(cursor, segments)
            cursor.executemany(
                "INSERT INTO images (path, size, mtime_ns, digest, camera, time, track, added, block, row) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        *(image.path, image.size, image.mtime_ns, image.digest),
                        *(cameras[image.camera], image.time, image.track, time.time()),
                        *place,
                    )
                    for image, place in zip(images, places, strict=True)
                ],
            )
            _next_generation(cursor)

    def describe(self, images: Mapping[int, tuple[str | None, float | None, str | None]]) -> None:
        """Set camera, time and track of images by their ids."""
        with self.transaction() as cursor:
            cameras = self._cameras(cursor, {camera for camera, _, _ in images.values()})
            cursor.executemany(
                "UPDATE images SET camera = ?, time = ?, track = ? WHERE id = ?",
                [(cameras[camera], when, track, number) for number, (camera, when, track) in images.items()],
            )
            _next_generation(cursor)

    def remove(self, ids: Sequence[int], *, forget: bool = False) -> None:
        """Take images out of the index.

        Their vectors stay in the blocks, which nobody reads, until :meth:`compact`; to forget is to do that at once,
        and not to take up files of the same content again.

        Args:
            ids: of the images.
            forget: see above.
        """
        numbers = [(int(number),) for number in ids]
        with self.transaction() as cursor:
            if forget:
                cursor.executemany("INSERT OR IGNORE INTO forgotten SELECT digest FROM images WHERE id = ?", numbers)
            cursor.executemany("DELETE FROM images WHERE id = ?", numbers)
            cursor.execute("DELETE FROM identities WHERE id NOT IN (SELECT identity FROM images WHERE identity NOTNULL)"
                           " AND id NOT IN (SELECT before FROM changes WHERE before NOTNULL)"
                           " AND id NOT IN (SELECT after FROM changes WHERE after NOTNULL)")  # fmt: skip
            cursor.execute("DELETE FROM renames WHERE identity NOT IN (SELECT id FROM identities)")
            if forget:
                _mark_unclean(cursor)
            _next_generation(cursor)
        if forget:
            self.compact()

    def compact(self) -> int:
        """Write blocks anew that hold vectors of removed images, without these; the number of vectors dropped.

        Nothing of the removed images is left in the files of the index afterwards, as far as the file system
        overwrites what it is asked to.
        """
        live = dict(self._rows("SELECT block, count(*) FROM images GROUP BY block"))
        counted = dict(self._rows("SELECT id, rows FROM blocks"))
        old = [block for block, rows in counted.items() if live.get(block, 0) < rows]
        if old:
            self._rewrite(old, counted)
        with self.transaction() as cursor:
            cursor.execute("DELETE FROM meta WHERE key = 'unclean'")
        self._remove_strays()
        for leftover in self._file.parent.glob("approximate-*"):
            leftover.unlink()
        with database.naming_errors(self._file):
            self._connection.execute("VACUUM")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return sum(counted[block] - live.get(block, 0) for block in old)

    def _rewrite(self, old: Sequence[int], counted: Mapping[int, int]) -> None:
        marks = ",".join(map(str, old))
        images = self._rows(f"SELECT id, block, row FROM images WHERE block IN ({marks}) ORDER BY id")
        maps = {block: self._files.map(block, counted[block]) for block in old if counted[block]}
        places, segments = [], []
        block, first = self._new_block(), 0
        for part in pieces(len(images), _COPIED_ROWS):
            vectors = np.stack([maps[of_block][row] for _, of_block, row in images[part]])
            more_places, more = self._write_vectors(vectors, block=block, first=first)
            places += more_places
            segments += more
            block, first = places[-1][0], places[-1][1] + 1
        with self.transaction() as cursor:
            self._count(cursor, segments)
            cursor.executemany(
                "UPDATE images SET block = ?, row = ? WHERE id = ?",
                [(*place, image[0]) for place, image in zip(places, images, strict=True)],
            )
            cursor.execute(f"DELETE FROM blocks WHERE id IN ({marks})")

    def _new_block(self) -> int:
        last = self._rows("SELECT seq FROM sqlite_sequence WHERE name = 'blocks'")
        return int(last[0][0]) + 1 if last else 1

    def _write_vectors(
        self, vectors: Vectors, *, block: int | None = None, first: int = 0
    ) -> tuple[list[tuple[int, int]], list[Segment]]:
        """Append to the last block, or the given one, and to new ones; nothing counts before :meth:`_count`."""
        if block is None:
            last = self._rows("SELECT id, rows FROM blocks ORDER BY id DESC LIMIT 1")
            block, first = last[0] if last else (self._new_block(), 0)
        places, segments, done = [], [], 0
        while done < len(vectors):
            if first >= BLOCK_ROWS:
                block, first = max(block + 1, self._new_block()), 0
            part = vectors[done : done + BLOCK_ROWS - first]
            segments += self._files.append(block, first, part)
            places += [(block, first + row) for row in range(len(part))]
            done, first = done + len(part), first + len(part)
        return places, segments

    @staticmethod
    def _count(cursor: sqlite3.Cursor, segments: Sequence[Segment]) -> None:
        for block in sorted({segment.block for segment in segments}):
            cursor.execute("INSERT OR IGNORE INTO blocks VALUES (?, 0)", (block,))
        cursor.executemany("INSERT INTO segments VALUES (?, ?, ?, ?)", segments)
        cursor.executemany(
            "UPDATE blocks SET rows = ? WHERE id = ?",
            [(segment.first + segment.rows, segment.block) for segment in segments],
        )

    @staticmethod
    def _cameras(cursor: sqlite3.Cursor, names: set[str | None]) -> dict[str | None, int | None]:
        known = sorted(name for name in names if name is not None)
        cursor.executemany("INSERT OR IGNORE INTO cameras (name) VALUES (?)", [(name,) for name in known])
        found: dict[str | None, int | None] = {None: None}
        for name in known:
            found[name] = cursor.execute("SELECT id FROM cameras WHERE name = ?", (name,)).fetchone()[0]
        return found

    def _remove_strays(self) -> None:
        """Remove what a killed process has left: blocks that nobody counts."""
        known = [block for (block,) in self._rows("SELECT id FROM blocks")]
        for path in self._files.strays(known):
            with suppress(FileNotFoundError):
                path.unlink()


def _mark_unclean(cursor: sqlite3.Cursor) -> None:
    """Until the next compaction, vectors are on the disk that should not be; a killed process leaves the mark."""
    cursor.execute("INSERT OR REPLACE INTO meta VALUES ('unclean', '1')")


def _next_generation(cursor: sqlite3.Cursor) -> None:
    cursor.execute("UPDATE meta SET value = value + 1 WHERE key = 'generation'")
