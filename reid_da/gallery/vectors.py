"""Blocks of feature vectors on disk: append-only float32 files that are read by mapping them into memory.

A block is known to a database that counts its rows: what lies behind them in the file was written by a process that was
killed before it was counted, and is overwritten by the next one. Each piece that was appended has a checksum.
"""

import errno
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reid_da.atomic import naming, open_own
from reid_da.errors import InputError
from reid_da.features import pieces

Vectors = NDArray[np.float32]

BLOCK_ROWS = 2**16
"""Vectors in a block; of 512 dimensions they take 128 MiB."""
SEGMENT_ROWS = 2**12
"""Most vectors that share a checksum."""
_ITEM = 4


class Segment(NamedTuple):
    """Rows of a block that were written together."""

    block: int
    first: int
    rows: int
    checksum: bytes


class VectorFiles:
    """The files of an index's vectors.

    Args:
        folder: where they lie.
        dim: length D of a vector.
    """

    def __init__(self, folder: Path, dim: int) -> None:
        self._folder, self.dim = folder, dim

    def path(self, block: int) -> Path:
        """File of a block."""
        return self._folder / f"vectors-{block:06d}.f32"

    def append(self, block: int, first: int, vectors: Vectors) -> list[Segment]:
        """Write vectors behind the rows that count, and flush them to the disk.

        Args:
            block: the block; its file is made if ``first`` is 0.
            first: number of rows of the block that count.
            vectors: (N, D).

        Raises:
            OSError: the disk is full, or the file is shorter than the rows that count, or no regular file.
        """
        path = self.path(block)
        with naming(path), open_own(path, "r+b" if first or path.exists() else "xb") as file:
            start = first * self.dim * _ITEM
            if file.seek(0, os.SEEK_END) < start:
                raise OSError(errno.EIO, "is shorter than its rows; reid-da index verify tells more", str(path))
            file.truncate(start)
            file.seek(start)
            segments = []
            for rows in pieces(len(vectors), SEGMENT_ROWS):
                content = np.ascontiguousarray(vectors[rows], dtype="<f4").tobytes()
                file.write(content)
                segments.append(Segment(block, first + rows.start, rows.stop - rows.start, checksum(content)))
            file.flush()
            os.fsync(file.fileno())
        if not first:
            flush_folder(self._folder)
        return segments

    def map(self, block: int, rows: int) -> Vectors:
        """(rows, D) vectors of a block, mapped into memory and read only.

        Raises:
            FileNotFoundError: the block has been compacted away in the meantime.
            InputError: the file is shorter than its rows.
        """
        path = self.path(block)
        if path.stat().st_size < rows * self.dim * _ITEM:
            raise InputError(f"{path}: is cut off; restore it, or remove its images and add them again")
        return np.memmap(path, dtype="<f4", mode="r", shape=(rows, self.dim))

    def damaged(self, segments: Sequence[Segment]) -> Iterator[tuple[Segment, str]]:
        """Segments whose vectors are not those that were written, and why."""
        for segment in segments:
            try:
                vectors = self.map(segment.block, segment.first + segment.rows)[segment.first :]
            except (OSError, InputError) as error:
                yield segment, error.strerror or str(error) if isinstance(error, OSError) else "cut off"
                continue
            if checksum(np.ascontiguousarray(vectors).tobytes()) != segment.checksum:
                yield segment, "the checksum differs"

    def strays(self, known: Sequence[int]) -> list[Path]:
        """Files of blocks that nobody counts: left behind by a process that was killed."""
        wanted = {self.path(block) for block in known}
        return sorted(path for path in self._folder.glob("vectors-*.f32") if path not in wanted)


def checksum(content: bytes) -> bytes:
    """16 bytes that tell whether content is what was written."""
    return hashlib.blake2b(content, digest_size=16).digest()


def flush_folder(folder: Path) -> None:
    """Put the names of new files on the disk, where the system can."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.ENOSYS):
            raise
    finally:
        os.close(descriptor)
