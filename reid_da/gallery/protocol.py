"""What an index on disk and a collection on a server have in common."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from reid_da.gallery.provenance import Origin
from reid_da.gallery.vectors import Vectors


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
        center_cameras: whether the means of the cameras, which the index keeps, are taken out of the features.
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
    center_cameras: bool = False


class Record(NamedTuple):
    """An image of an index, without its vector."""

    id: int
    path: str
    camera: str | None
    time: float | None
    track: str | None
    identity: int | None
    name: str | None


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


class Known(NamedTuple):
    """An image that is there: its id, size and time of change of its file when it was added, and its origin."""

    id: int
    size: int
    mtime_ns: int
    origin: Origin


class Writes(Protocol):
    """Writes to an index; each is on the disk when it returns, or has not happened."""

    def append(self, images: Sequence[NewImage], vectors: Vectors) -> None:
        """Add images with their (N, D) vectors; an image whose path is there already is replaced."""
        ...

    def describe(self, images: Mapping[int, tuple[str | None, float | None, str | None]]) -> None:
        """Set camera, time and track of images by their ids."""
        ...

    def remove(self, ids: Sequence[int], *, forget: bool = False) -> None:
        """Take images out; to forget them is not to take up files of the same content again."""
        ...


class ImageIndex(Protocol):
    """An index of images, wherever it is."""

    @property
    def place(self) -> str:
        """Its folder or URL."""
        ...

    @property
    def card(self) -> ModelCard:
        """The model that made its vectors."""
        ...

    def __len__(self) -> int: ...

    def meta(self, key: str) -> str | None:
        """A value that belongs to the index as a whole."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...

    def records(self, ids: Iterable[int]) -> dict[int, Record]:
        """Images by their ids; those that do not exist are not among them."""
        ...

    def all_records(self) -> Sequence[Record]:
        """All images."""
        ...

    def gaps(self) -> tuple[int, int, int]:
        """Number of images, of those whose camera is not known, and of those whose time is not."""
        ...

    def cameras(self) -> Sequence[str]:
        """Names of the cameras."""
        ...

    def known(self, paths: Collection[str]) -> dict[str, Known]:
        """Those of the given paths that are there."""
        ...

    def forgotten(self, digests: Collection[bytes]) -> set[bytes]:
        """Those of the given digests that are of images that were forgotten."""
        ...

    def writing(self) -> AbstractContextManager[Writes]:
        """Write while the block runs."""
        ...
