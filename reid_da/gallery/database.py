"""The SQLite database of an index: its tables, its connection, and its errors in words."""

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from reid_da.errors import InputError
from reid_da.locks import link_error

FILE = "index.sqlite"
VERSION = 1
"""Of the tables; an index of a later one is refused."""
TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE cameras (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE identities (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT);
CREATE TABLE blocks (id INTEGER PRIMARY KEY AUTOINCREMENT, rows INTEGER NOT NULL);
CREATE TABLE segments (
    block INTEGER NOT NULL REFERENCES blocks ON DELETE CASCADE, first INTEGER NOT NULL, rows INTEGER NOT NULL,
    checksum BLOB NOT NULL, PRIMARY KEY (block, first)
) WITHOUT ROWID;
CREATE TABLE images (
    id INTEGER PRIMARY KEY AUTOINCREMENT, path TEXT NOT NULL UNIQUE, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    digest BLOB NOT NULL, camera INTEGER REFERENCES cameras, time REAL, track TEXT, added REAL NOT NULL,
    block INTEGER NOT NULL REFERENCES blocks, row INTEGER NOT NULL, identity INTEGER REFERENCES identities,
    UNIQUE (block, row)
);
CREATE INDEX images_identity ON images (identity) WHERE identity IS NOT NULL;
CREATE TABLE forgotten (digest BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE operations (
    id INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, action TEXT NOT NULL, undone INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE changes (
    operation INTEGER NOT NULL REFERENCES operations ON DELETE CASCADE,
    image INTEGER NOT NULL REFERENCES images ON DELETE CASCADE, before INTEGER, after INTEGER,
    PRIMARY KEY (operation, image)
) WITHOUT ROWID;
CREATE INDEX changes_image ON changes (image);
CREATE TABLE renames (
    operation INTEGER NOT NULL REFERENCES operations ON DELETE CASCADE, identity INTEGER NOT NULL, before TEXT,
    after TEXT, PRIMARY KEY (operation, identity)
) WITHOUT ROWID;
"""
SCHEMES = ("qdrant", "http", "https")
"""Of URLs, which name collections on a server and no folders."""
_BUSY_SECONDS = 10.0


def connect(folder: Path, *, across_threads: bool = False) -> sqlite3.Connection:
    """A connection to the database of an index, in which transactions are begun by hand.

    What is committed is on the disk (``synchronous=FULL``), and what is deleted is overwritten (``secure_delete``).

    Args:
        folder: the index.
        across_threads: let other threads use the connection; they have to take turns.

    Raises:
        InputError: there is no index.
        OSError: the file is a link, or cannot be opened.
    """
    text = folder.as_posix()
    if text.partition(":/")[0] in SCHEMES:
        url = text.replace(":/", "://", 1) if "://" not in text else text
        raise InputError(
            f"{url}: this command needs an index on disk; copy the collection into one: reid-da index copy {url} FOLDER"
        )
    file = folder / FILE
    if file.is_symlink():
        raise link_error(file)
    if folder.is_file():
        raise InputError(f"{folder}: is a file, and no index")
    if not file.is_file():
        raise InputError(f"{folder}: no index there; make one with: reid-da index add {folder} FOLDER --model RUN")
    with naming_errors(file):
        uri = f"{file.absolute().as_uri()}?mode=rw"
        connection = sqlite3.connect(
            uri, uri=True, isolation_level=None, timeout=_BUSY_SECONDS, check_same_thread=not across_threads
        )
        try:
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON", "foreign_keys=ON"):
                connection.execute(f"PRAGMA {pragma}").fetchall()
        except BaseException:
            connection.close()
            raise
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection, file: Path) -> Iterator[sqlite3.Cursor]:
    """All of the block's writes, on the disk when it ends, or none of them."""
    with naming_errors(file), closing(connection.cursor()) as cursor:
        cursor.execute("BEGIN IMMEDIATE")
        try:
            yield cursor
            cursor.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.rollback()
            raise


@contextmanager
def reading(connection: sqlite3.Connection, file: Path) -> Iterator[sqlite3.Cursor]:
    """Reads in the block see one state of the database."""
    with naming_errors(file), closing(connection.cursor()) as cursor:
        cursor.execute("BEGIN")
        try:
            yield cursor
        finally:
            if connection.in_transaction:
                connection.rollback()


@contextmanager
def naming_errors(file: Path) -> Iterator[None]:
    """Errors of SQLite as those that the command line explains in one line.

    Raises:
        InputError: the database is damaged, or is none.
        OSError: the disk is full, the file cannot be written, or another process is writing.
    """
    try:
        yield
    except sqlite3.Error as error:
        text = str(error)
        for words, number in (
            ("full", errno.ENOSPC),
            ("disk I/O error", errno.EIO),
            ("readonly", errno.EROFS),
            ("unable to open", errno.EACCES),
        ):
            if words in text:
                raise OSError(number, os.strerror(number), str(file)) from error
        if "locked" in text or "busy" in text:
            raise BlockingIOError(errno.EAGAIN, "is in use by another process", str(file)) from error
        raise InputError(f"{file}: is damaged, or no index ({text})") from error
