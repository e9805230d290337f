"""An index of images on disk: SQLite is the truth, vectors lie beside it in blocks, and one process writes."""

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reid_da.atomic import atomic_path, own_folder
from reid_da.errors import InputError
from reid_da.features import pieces
from reid_da.gallery import database
from reid_da.gallery.vectors import BLOCK_ROWS, Segment, VectorFiles, Vectors

NONE = -1
"""Stands for a camera or an identity that is not known."""
_NO_TIME = -1e300
_MAPPING_TRIES = 20
_SQL_VARIABLES = 500
_COPIED_ROWS = 4096
"""Vectors that are copied at a time when blocks are written anew."""


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """The model that made the vectors of an index, and how to load it again.

    Attributes:
        model: run, checkpoint, file of weights, or backbone.
        backbone: network that a file of weights belongs to.
        last_stride: stride of its last stage.
        weights: ``imagenet`` or ``none``, for a backbone.
        image_size: height and width.
        flip: whether features are averaged with those of mirror images.
        fingerprint: of the weights and of what else the features depend on.
        dim: length of the features.
    """

    model: str
    backbone: str
    last_stride: int
    weights: str
    image_size: tuple[int, int]
    flip: bool
    fingerprint: str
    dim: int


@dataclass(frozen=True, kw_only=True)
class NewImage:
    """An image to be added.

    Attributes:
        path: absolute path.
        size: of the file in bytes.
        mtime_ns: when the file was changed.
        digest: of its content.
        camera: name, or None if not known.
        time: seconds since 1970, or since any other start; None if not known.
        track: images of one track in one camera show one person; None if not known.
    """

    path: str
    size: int
    mtime_ns: int
    digest: bytes
    camera: str | None = None
    time: float | None = None
    track: str | None = None


class Record(NamedTuple):
    """An image of an index, without its vector."""

    id: int
    path: str
    camera: str | None
    time: float | None
    track: str | None
    identity: int | None
    name: str | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Snapshot:
    """The images of an index at one moment, in the order of their ids, as columns of length N.

    Attributes:
        ids: (N,) int64.
        camids: (N,) int64 index into ``camera_names``, or -1.
        times: (N,) float64, NaN where not known.
        identities: (N,) int64, or -1.
        camera_names: names of the cameras.
        generation: grows whenever images come or go.
    """

    ids: NDArray[np.int64]
    camids: NDArray[np.int64]
    times: NDArray[np.float64]
    identities: NDArray[np.int64]
    camera_names: tuple[str, ...]
    generation: int
    dim: int
    _blocks: NDArray[np.int64] = field(repr=False)
    _rows: NDArray[np.int64] = field(repr=False)
    _maps: Mapping[int, Vectors] = field(repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    def vectors(self, rows: NDArray[np.int64]) -> Vectors:
        """(n, D) vectors of the given rows of the snapshot; a view of the file where they lie side by side in it."""
        blocks, places = self._blocks[rows], self._rows[rows]
        if len(rows) and (blocks == blocks[0]).all():
            mapped = self._maps[int(blocks[0])]
            if (np.diff(places) == 1).all():
                return mapped[places[0] : places[-1] + 1]
            return mapped[places]
        found = np.empty((len(rows), self.dim), dtype=np.float32)
        for block in np.unique(blocks):
            own = blocks == block
            found[own] = self._maps[int(block)][places[own]]
        return found

    def pieces(self, rows: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
        """The given rows in their order, cut at the ends of blocks and after ``size`` rows."""
        blocks = self._blocks[rows]
        ends = np.flatnonzero(np.diff(blocks)) + 1
        for part in np.split(rows, ends):
            for piece in pieces(len(part), size):
                yield part[piece]


class Gallery:
    """An index, opened to read; :meth:`writing` opens it to write.

    Attributes:
        path: its folder.
        card: the model that made its vectors.
    """

    def __init__(self, path: str | Path, *, across_threads: bool = False) -> None:
        """Open an index.

        Args:
            path: its folder.
            across_threads: let several threads use it, one at a time.

        Raises:
            InputError: there is none, it is damaged, or was made by a later version.
        """
        self.path = Path(path)
        self.file = self.path / database.FILE
        self._connection = database.connect(self.path, across_threads=across_threads)
        try:
            version = self.meta("version")
            if version is None or int(version) > database.VERSION:
                raise InputError(f"{self.path}: is no index that this version reads (format {version})")
            fields = json.loads(self.meta("model") or "")
            fields["image_size"] = tuple(fields["image_size"])
            self.card = ModelCard(**fields)
        except (ValueError, TypeError, KeyError) as error:
            self.close()
            raise (
                error if isinstance(error, InputError) else InputError(f"{self.file}: is damaged ({error})")
            ) from error
        except BaseException:
            self.close()
            raise
        self.files = VectorFiles(self.path, self.card.dim)

    def __enter__(self) -> "Gallery":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def meta(self, key: str) -> str | None:
        """A value that belongs to the index as a whole."""
        with database.naming_errors(self.file):
            found = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if found is None else str(found[0])

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        """Rows of a query to the database."""
        with database.naming_errors(self.file):
            return self._connection.execute(query, values).fetchall()

    @property
    def state(self) -> tuple[int, int]:
        """Changes whenever another process or this one has written."""
        return int(self.rows("PRAGMA data_version")[0][0]), self._connection.total_changes

    def __len__(self) -> int:
        return int(self.rows("SELECT count(*) FROM images")[0][0])

    def snapshot(self) -> Snapshot:
        """All images as they are now; what is written later does not change it."""
        for _ in range(_MAPPING_TRIES):
            with database.reading(self._connection, self.file) as cursor:
                generation = int(cursor.execute("SELECT value FROM meta WHERE key = 'generation'").fetchone()[0])
                cameras = cursor.execute("SELECT id, name FROM cameras ORDER BY id").fetchall()
                count = cursor.execute("SELECT count(*) FROM images").fetchone()[0]
                cursor.execute(
                    f"SELECT id, ifnull(camera, -1), ifnull(time, {_NO_TIME}), ifnull(identity, -1), block, row "
                    "FROM images ORDER BY id"
                )
                flat = np.fromiter(chain.from_iterable(cursor), dtype=np.float64, count=6 * count).reshape(-1, 6)
                blocks = cursor.execute("SELECT id, rows FROM blocks").fetchall()
                try:
                    # inside the transaction or not: a file may be compacted away at any time
                    maps = {block: self.files.map(block, rows) for block, rows in blocks if rows}
                except FileNotFoundError as error:
                    missing = error
                    continue
            ids, identities, of_block, places = flat[:, [0, 3, 4, 5]].T.astype(np.int64)
            numbers = {number: place for place, (number, _) in enumerate(cameras)}
            camids = np.array([numbers.get(int(camera), NONE) for camera in np.unique(flat[:, 1])], dtype=np.int64)
            return Snapshot(
                ids=ids,
                camids=camids[np.unique(flat[:, 1], return_inverse=True)[1]] if count else ids,
                times=np.where(flat[:, 2] == _NO_TIME, np.nan, flat[:, 2]),
                identities=identities,
                camera_names=tuple(name for _, name in cameras),
                generation=generation,
                dim=self.card.dim,
                _blocks=of_block,
                _rows=places,
                _maps=maps,
            )
        raise InputError(f"{missing.filename}: is missing; restore it, or remove its images and add them again")

    def records(self, ids: Iterable[int]) -> dict[int, Record]:
        """Images by their ids; those that do not exist are not among them."""
        wanted, found = list(ids), {}
        for part in pieces(len(wanted), _SQL_VARIABLES):
            marks = ",".join("?" * len(wanted[part]))
            for row in self.rows(_RECORDS + f" WHERE images.id IN ({marks})", wanted[part]):
                found[row[0]] = Record(*row)
        return found

    def all_records(self, where: str = "", values: Sequence[Any] = ()) -> list[Record]:
        """Images in the order of their ids."""
        return [Record(*row) for row in self.rows(f"{_RECORDS} {where} ORDER BY images.id", values)]

    @contextmanager
    def writing(self) -> Iterator["Writer"]:
        """Be the one process that writes while the block runs.

        Raises:
            BlockingIOError: another process writes.
        """
        with own_folder(self.path):
            yield Writer(self, self._connection)


_RECORDS = (
    "SELECT images.id, path, cameras.name, time, track, identity, identities.name FROM images "
    "LEFT JOIN cameras ON cameras.id = camera LEFT JOIN identities ON identities.id = identity"
)


def create(path: Path, card: ModelCard) -> Gallery:
    """Make an empty index, whose database appears with its tables or not at all.

    Raises:
        InputError: there is something else at the path.
        BlockingIOError: another process is making it.
    """
    if (
        path.is_dir()
        and not (path / database.FILE).exists()
        and any(not entry.name.startswith(".") for entry in path.iterdir())
    ):
        raise InputError(f"{path}: is a folder that is not empty, and no index; name a new folder for the index")
    file = path / database.FILE
    with own_folder(path):
        for leftover in path.glob(f".{database.FILE}.*"):
            leftover.unlink()  # of a process that was killed at this point
        if not file.exists():
            with atomic_path(file) as temporary, database.naming_errors(file):
                temporary.unlink()
                with closing(sqlite3.connect(temporary)) as connection:
                    connection.executescript(database.TABLES)
                    values = {"version": database.VERSION, "model": json.dumps(asdict(card)), "generation": 0}
                    connection.executemany("INSERT INTO meta VALUES (?, ?)", list(values.items()))
                    connection.commit()
    return Gallery(path)


class Writer:
    """The writes of the process that owns an index; each is on the disk when it returns, or has not happened."""

    def __init__(self, gallery: Gallery, connection: sqlite3.Connection) -> None:
        self._gallery, self._connection = gallery, connection
        self._remove_strays()
        if gallery.meta("unclean"):  # a process was killed before it had forgotten all
            self.compact()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Cursor]:
        """Writes to the database that happen together."""
        with database.transaction(self._connection, self._gallery.file) as cursor:
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
        gallery = self._gallery
        live = dict(gallery.rows("SELECT block, count(*) FROM images GROUP BY block"))
        counted = dict(gallery.rows("SELECT id, rows FROM blocks"))
        old = [block for block, rows in counted.items() if live.get(block, 0) < rows]
        if old:
            self._rewrite(old, counted)
        with self.transaction() as cursor:
            cursor.execute("DELETE FROM meta WHERE key = 'unclean'")
        self._remove_strays()
        for leftover in gallery.path.glob("approximate-*"):
            leftover.unlink()
        with database.naming_errors(gallery.file):
            self._connection.execute("VACUUM")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return sum(counted[block] - live.get(block, 0) for block in old)

    def _rewrite(self, old: Sequence[int], counted: Mapping[int, int]) -> None:
        marks = ",".join(map(str, old))
        images = self._gallery.rows(f"SELECT id, block, row FROM images WHERE block IN ({marks}) ORDER BY id")
        maps = {block: self._gallery.files.map(block, counted[block]) for block in old if counted[block]}
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
        last = self._gallery.rows("SELECT seq FROM sqlite_sequence WHERE name = 'blocks'")
        return int(last[0][0]) + 1 if last else 1

    def _write_vectors(
        self, vectors: Vectors, *, block: int | None = None, first: int = 0
    ) -> tuple[list[tuple[int, int]], list[Segment]]:
        """Append to the last block, or the given one, and to new ones; nothing counts before :meth:`_count`."""
        if block is None:
            last = self._gallery.rows("SELECT id, rows FROM blocks ORDER BY id DESC LIMIT 1")
            block, first = last[0] if last else (self._new_block(), 0)
        places, segments, done = [], [], 0
        while done < len(vectors):
            if first >= BLOCK_ROWS:
                block, first = max(block + 1, self._new_block()), 0
            part = vectors[done : done + BLOCK_ROWS - first]
            segments += self._gallery.files.append(block, first, part)
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
        known = [block for (block,) in self._gallery.rows("SELECT id FROM blocks")]
        for path in self._gallery.files.strays(known):
            with suppress(FileNotFoundError):
                path.unlink()


def _mark_unclean(cursor: sqlite3.Cursor) -> None:
    """Until the next compaction, vectors are on the disk that should not be; a killed process leaves the mark."""
    cursor.execute("INSERT OR REPLACE INTO meta VALUES ('unclean', '1')")


def _next_generation(cursor: sqlite3.Cursor) -> None:
    cursor.execute("UPDATE meta SET value = value + 1 WHERE key = 'generation'")
