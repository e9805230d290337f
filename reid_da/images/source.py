"""What the rest of the package asks of a source of images."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


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
