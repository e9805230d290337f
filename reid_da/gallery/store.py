"""An index of images on disk: SQLite is the truth, vectors lie beside it in blocks, and one process writes."""

import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reid_da.atomic import atomic_path, own_folder
from reid_da.errors import InputError
from reid_da.features import pieces
from reid_da.gallery import database
from reid_da.gallery.protocol import Known, ModelCard, Record
from reid_da.gallery.provenance import Origin
from reid_da.gallery.vectors import VectorFiles, Vectors
from reid_da.gallery.writer import Writer

NONE = -1
"""Stands for a camera or an identity that is not known."""
_NO_TIME = -1e300
_MAPPING_TRIES = 20
_SQL_VARIABLES = 500


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

    @property
    def place(self) -> str:
        """Its folder."""
        return str(self.path)

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

    def gaps(self) -> tuple[int, int, int]:
        """Number of images, of those whose camera is not known, and of those whose time is not."""
        images, no_camera, no_time = self.rows(
            "SELECT count(*), count(*) - count(camera), count(*) - count(time) FROM images"
        )[0]
        return images, no_camera, no_time

    def cameras(self) -> list[str]:
        """Names of the cameras."""
        return [name for (name,) in self.rows("SELECT name FROM cameras ORDER BY name")]

    def known(self, paths: Collection[str]) -> dict[str, Known]:
        """Those of the given paths that are there."""
        rows = self.rows(
            "SELECT images.id, path, size, mtime_ns, name, time, track FROM images "
            "LEFT JOIN cameras ON cameras.id = camera"
        )
        return {
            path: Known(number, size, mtime, Origin(*origin))
            for number, path, size, mtime, *origin in rows
            if path in paths
        }

    def forgotten(self, digests: Collection[bytes]) -> set[bytes]:
        """Those of the given digests that are of images that were forgotten."""
        marks = ",".join("?" * len(digests))
        return {d for (d,) in self.rows(f"SELECT digest FROM forgotten WHERE digest IN ({marks})", list(digests))}

    @contextmanager
    def writing(self) -> Iterator[Writer]:
        """Be the one process that writes while the block runs.

        Raises:
            BlockingIOError: another process writes.
        """
        with own_folder(self.path):
            yield Writer(self._connection, self.files, self.file)


_RECORDS = (
    "SELECT images.id, path, cameras.name, time, track, identity, identities.name FROM images "
    "LEFT JOIN cameras ON cameras.id = camera LEFT JOIN identities ON identities.id = identity"
)


def create(path: Path, card: ModelCard, meta: Mapping[str, str] | None = None) -> Gallery:
    """Make an empty index, whose database appears with its tables or not at all.

    Args:
        path: its folder.
        card: the model that will make its vectors.
        meta: values that belong to the index as a whole.

    Raises:
        InputError: there is something else at the path.
        BlockingIOError: another process is making it.
    """
    if path.exists() and not path.is_dir():
        raise InputError(f"{path}: is a file; name a folder for the index")
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
                    values |= meta or {}
                    connection.executemany("INSERT INTO meta VALUES (?, ?)", list(values.items()))
                    connection.commit()
    return Gallery(path)
