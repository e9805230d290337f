"""The record of a data set: columns of paths, identities and cameras."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reid_da.errors import InputError

UNLABELLED_PID = -2
"""pid of an image whose identity is not known (an unlabelled target)."""
JUNK_PID = -1
"""pid of a junk image: neither right nor wrong, left out of every evaluation (Market-1501)."""
UNKNOWN_CAMERA = "unknown"
"""Name of the one camera of a data set whose cameras are not known."""

SameCamera = Literal["exclude", "include"]
"""Whether gallery images of the query's identity and camera count."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SampleTable:
    """Images of one split as columns of equal length N.

    The order of the rows is the identity of the memory slots of a target training set: readers sort by relative
    path, and :attr:`fingerprint` tells whether two tables name the same images in the same order.

    Attributes:
        name: data set and split, for messages, e.g. ``market1501/train``.
        root: folder that ``paths`` are relative to.
        paths: N relative paths with forward slashes, no duplicates.
        pids: (N,) int64, identity numbers of the data set; :data:`JUNK_PID` junk, :data:`UNLABELLED_PID` unknown.
        camids: (N,) int64, camera numbers from 0.
    """

    name: str
    root: Path
    paths: tuple[str, ...] = field(repr=False)
    pids: NDArray[np.int64] = field(repr=False)
    camids: NDArray[np.int64] = field(repr=False)

    def __post_init__(self) -> None:
        for column in ("pids", "camids"):
            values = np.array(getattr(self, column), dtype=np.int64)
            if values.shape != (len(self.paths),):
                raise ValueError(f"{self.name}: {column} has shape {values.shape}, expected ({len(self.paths)},)")
            values.setflags(write=False)
            object.__setattr__(self, column, values)
        if len(set(self.paths)) != len(self.paths):
            raise ValueError(f"{self.name}: a path occurs more than once")
        if len(self) and self.camids.min() < 0:
            raise ValueError(f"{self.name}: camids start at 0, got {self.camids.min()}")

    @classmethod
    def from_rows(cls, name: str, root: Path, rows: Sequence[tuple[str, int, int]]) -> "SampleTable":
        """Table of (relative path, pid, camid) rows, sorted by path."""
        ordered = sorted(rows)
        return cls(
            name=name,
            root=root,
            paths=tuple(row[0] for row in ordered),
            pids=np.array([row[1] for row in ordered], dtype=np.int64),
            camids=np.array([row[2] for row in ordered], dtype=np.int64),
        )

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> Path:
        """Path of the image in row ``index``, including the root."""
        return self.root / PurePosixPath(self.paths[index])

    def select(self, rows: ArrayLike) -> "SampleTable":
        """Table of the given rows only (an index array or a boolean mask), in that order."""
        chosen = np.asarray(rows)
        # an empty list becomes an array of floats, which is no index
        index = np.arange(len(self))[chosen if chosen.size else chosen.astype(np.int64)]
        return replace(
            self,
            paths=tuple(self.paths[i] for i in index),
            pids=self.pids[index],
            camids=self.camids[index],
        )

    def without_junk(self) -> "SampleTable":
        """Table without the rows of :data:`JUNK_PID`, which no evaluation looks at."""
        return self.select(self.pids != JUNK_PID)

    @property
    def is_labelled(self) -> bool:
        """Whether the identity of every image is known."""
        return not bool((self.pids == UNLABELLED_PID).any())

    @property
    def num_pids(self) -> int:
        """Number of different identities, junk and unlabelled images not counted."""
        return len(np.unique(self.pids[self.pids >= 0]))

    @property
    def cameras(self) -> NDArray[np.int64]:
        """(C,) int64, the cameras that have an image, in increasing order."""
        return np.unique(self.camids)

    def labels(self) -> NDArray[np.int64]:
        """(N,) int64 training classes 0..C-1, numbered in the order of the sorted pids.

        Raises:
            InputError: an image has no identity (unlabelled or junk).
        """
        if len(self) and self.pids.min() < 0:
            raise InputError(f"{self.name}: {int((self.pids < 0).sum())} images have no identity to train on")
        return np.unique(self.pids, return_inverse=True)[1].astype(np.int64)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the relative paths in their order (SHA-256, 16 hexadecimal digits).

        Two tables with the same fingerprint assign the same memory slots to the same files.
        """
        digest = hashlib.sha256()
        for path in self.paths:
            digest.update(path.encode("utf-8", "surrogateescape") + b"\0")
        return digest.hexdigest()[:16]

    def content_fingerprint(self, *, labels: bool) -> str:
        """Hash of everything that a training on the table depends on: :attr:`fingerprint`, a dash, and 16 more digits.

        Args:
            labels: whether the identities count, beside paths and cameras.
        """
        digest = hashlib.sha256(self.camids.tobytes())
        if labels:
            digest.update(self.pids.tobytes())
        return f"{self.fingerprint}-{digest.hexdigest()[:16]}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """A re-ID data set: its splits and what its cameras are called.

    Attributes:
        name: short name, e.g. ``market1501``; for own data the name of the folder.
        format: name of the layout that it was read from, e.g. ``market1501``, ``manifest``.
        root: folder of the data set.
        train: training images; identities may be unknown (:data:`UNLABELLED_PID`).
        query: query images, empty where the data set has no test split.
        gallery: gallery images with junk and distractors, empty where the data set has no test split.
        camera_names: name of every camera; ``camera_names[camid]``.
        distractor_pid: pid that marks images of nobody in the query set (0 in Market-1501), or None.
        notes: what the reader left out or took for granted, one sentence each.
        layout: how the paths were read, in a few words, e.g. ``a folder for each person``.
        person_names: what the identities are called that are not numbers on disk, by pid; empty where they are.
        passed_over: paths below ``root`` of pictures whose kind is not read.
    """

    name: str
    format: str
    root: Path
    train: SampleTable
    query: SampleTable
    gallery: SampleTable
    camera_names: tuple[str, ...]
    distractor_pid: int | None = None
    notes: tuple[str, ...] = ()
    layout: str = ""
    person_names: Mapping[int, str] = field(default_factory=dict, repr=False)
    passed_over: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        for table in self.splits.values():
            if len(table) and int(table.camids.max()) >= len(self.camera_names):
                raise ValueError(f"{table.name}: camid {table.camids.max()} has no name")

    @property
    def splits(self) -> dict[str, SampleTable]:
        """The tables by name: ``train``, ``query``, ``gallery``."""
        return {"train": self.train, "query": self.query, "gallery": self.gallery}

    @property
    def title(self) -> str:
        """What to call the data set: its folder, and what it was recognised as where that is another name."""
        folder = self.root.resolve().name
        return self.name if folder == self.name or self.format == "joined" else f"{folder} ({self.name})"

    @property
    def num_cameras(self) -> int:
        """Number of cameras of the data set, in whichever split they occur."""
        return len(self.camera_names)

    @property
    def has_cameras(self) -> bool:
        """Whether it is known which camera took which image."""
        return self.camera_names != (UNKNOWN_CAMERA,)

    @property
    def same_camera(self) -> SameCamera:
        """What an evaluation does with gallery images of the query's identity and camera.

        ``exclude``, as papers do, unless all images are by one camera, or by cameras that are not known: then nothing
        would be left, and ``include`` is the only evaluation that there is.
        """
        cameras = np.unique(np.concatenate([table.camids for table in self.splits.values()]))
        return "include" if len(cameras) == 1 else "exclude"

    @property
    def reading(self) -> str:
        """One line that says how the data set was read: layout, images of each split, identities, cameras."""
        how = f" ({self.layout})" if self.layout else ""
        images = ", ".join(f"{name} {len(table):,}" for name, table in self.splits.items() if len(table))
        people = [name for name, table in self.splits.items() if len(table) and (table.pids == UNLABELLED_PID).all()]
        labelled = f"; identities of {', '.join(people)} unknown" if people else ""
        cameras = _plural(self.num_cameras, "camera") if self.has_cameras else "cameras unknown"
        return f"{self.root}: read as {self.format}{how}: {images or 'no images'}; {cameras}{labelled}"


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
