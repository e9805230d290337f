"""What the rest of the package asks of a source of images."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from reid_da.errors import InputError


@dataclass(frozen=True, kw_only=True)
class FailedImage:
    """An image that could not be decoded; its pixels are zero.

    Attributes:
        index: row of the table.
        reason: why, in a few words.
        is_passing: whether the file could not be read at the time, which tells nothing about its content. Only what
            is wrong with the bytes of a file may be remembered.
    """

    index: int
    reason: str
    is_passing: bool = False


class ImageSource(Protocol):
    """Images by index, all of one size: the packed cache, decoding on the fly, or a cache of camera styles."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        ...

    @property
    def failed(self) -> tuple[FailedImage, ...]:
        """Images known to be undecodable, in the order of their index."""
        ...

    def __len__(self) -> int:
        """Number of images N."""
        ...

    def gather(self, index: Tensor, views: Tensor | None = None) -> Tensor:
        """(B, 3, H, W) uint8 RGB images on the CPU, channels last in memory; may be called from several threads.

        Args:
            index: (B,) int64, rows in 0..N-1; repeats are allowed.
            views: (B,) int64, which view of each image, for a source that has several.
        """
        ...


@dataclass(frozen=True)
class OneView:
    """The same view of every image of a source, such as the style of one camera.

    Attributes:
        source: images with several views.
        view: the view.
    """

    source: ImageSource
    view: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.source.size

    @property
    def failed(self) -> tuple[FailedImage, ...]:
        """Images known to be undecodable, in the order of their index."""
        return self.source.failed

    def __len__(self) -> int:
        """Number of images N."""
        return len(self.source)

    def gather(self, index: Tensor, views: Tensor | None = None) -> Tensor:
        """(B, 3, H, W) uint8 RGB images; see :meth:`ImageSource.gather`."""
        if views is not None:
            raise TypeError("views: there is one")
        return self.source.gather(index, torch.full_like(index, self.view))


@dataclass(frozen=True)
class Subset:
    """Some images of a source, all of which can be decoded.

    Attributes:
        source: the images.
        rows: (M,) int64 rows of the source.
    """

    source: ImageSource
    rows: Tensor

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.source.size

    @property
    def failed(self) -> tuple[FailedImage, ...]:
        """None."""
        return ()

    def __len__(self) -> int:
        """Number of images M."""
        return len(self.rows)

    def gather(self, index: Tensor, views: Tensor | None = None) -> Tensor:
        """(B, 3, H, W) uint8 RGB images; see :meth:`ImageSource.gather`."""
        return self.source.gather(self.rows[index], views)


@runtime_checkable
class KnowsFiles(Protocol):
    """A source whose images were files of other sizes."""

    def original_sizes(self, index: Tensor, views: Tensor | None = None) -> Tensor:
        """(B, 2) int64 heights and widths of the files, upright; arguments as those of :meth:`ImageSource.gather`."""
        ...


@runtime_checkable
class CutsFiles(Protocol):
    """A source that decodes its files whenever they are wanted, so that it can cut crops out of them."""

    @property
    def cuts_files(self) -> bool:
        """Whether it does so for all of its images."""
        ...

    def gather_crops(self, index: Tensor, boxes: Tensor, views: Tensor | None = None) -> Tensor:
        """(B, 3, H, W) uint8 RGB contents of boxes in the files, resized; see :meth:`ImageSource.gather`.

        Args:
            index: (B,) int64 rows in 0..N-1.
            boxes: (B, 4) int64 ``top, left, height, width`` in pixels of the files.
            views: (B,) int64, which view of each image, for a source that has several.
        """
        ...


@runtime_checkable
class MakesViews(Protocol):
    """A source that makes views of real images by arithmetic, for which a GPU takes next to no time."""

    def gather_on(self, device: torch.device | str, index: Tensor, views: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 RGB images on a device, made there; see :meth:`ImageSource.gather`.

        To one grey level they are those of the CPU.

        Args:
            device: where to make them.
            index: (B,) int64 rows in 0..N-1, on the CPU.
            views: (B,) int64, which view of each image, on the CPU.
        """
        ...


def sizes_of_files(source: ImageSource, index: Tensor, views: Tensor | None = None) -> Tensor:
    """(B, 2) int64 heights and widths that images had before they were resized.

    Raises:
        InputError: the source does not know them.
    """
    if not isinstance(source, KnowsFiles):
        raise InputError("augment.crop_on=original: these images come without their files; set augment.crop_on=resized")
    return source.original_sizes(index, views)


def usable_rows(source: ImageSource) -> Tensor:
    """(M,) int64 indices of the images that are not known to be undecodable, in increasing order."""
    usable = torch.ones(len(source), dtype=torch.bool)
    usable[torch.tensor([failure.index for failure in source.failed], dtype=torch.int64)] = False
    return usable.nonzero().flatten()


def check_index(index: Tensor, length: int, *, name: str = "index") -> None:
    """Check that an argument of :meth:`ImageSource.gather` is an index into ``length`` things.

    Raises:
        TypeError: it is not a vector of int64.
        IndexError: a value lies outside of 0..length-1; a negative one would otherwise count from the end.
    """
    if index.dtype != torch.int64 or index.ndim != 1:
        raise TypeError(f"{name} must be an int64 vector, got {index.dtype} of shape {tuple(index.shape)}")
    if not len(index):
        return
    least, most = int(index.min()), int(index.max())
    if least < 0 or most >= length:
        raise IndexError(f"{name} from {least} to {most} leaves the range 0..{length - 1}")
