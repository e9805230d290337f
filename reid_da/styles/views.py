"""What a target stream asks of camera-style views, and how it draws them."""

from typing import Protocol

from torch import Tensor

from reid_da.images import FailedImage, ImageSource
from reid_da.images.source import sizes_of_files


class CameraViews(ImageSource, Protocol):
    """Images of a target training set, each as any of its cameras would have taken it.

    View c of an image is its picture in the style of camera c; the view of its own camera is the real image.
    """

    @property
    def num_cameras(self) -> int:
        """Number C of views of each image."""
        ...

    def gather(self, index: Tensor, views: Tensor | None = None) -> Tensor:
        """(B, 3, H, W) uint8 RGB images on the CPU, channels last in memory.

        Args:
            index: (B,) int64, rows in 0..N-1; repeats are allowed.
            views: (B,) int64, the camera wanted for each image, in 0..C-1; by default the real images.
        """
        ...


class ViewsOfSource:
    """What camera views have in common with the real images that they are views of.

    Args:
        source: the N real images.
    """

    def __init__(self, source: ImageSource) -> None:
        self._source = source

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self._source.size

    @property
    def failed(self) -> tuple[FailedImage, ...]:
        """Real images known to be undecodable."""
        return self._source.failed

    def __len__(self) -> int:
        return len(self._source)

    def original_sizes(self, index: Tensor, views: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """(B, 2) int64 heights and widths of the real images' files; a view that is made here has that of its image."""
        return sizes_of_files(self._source, index)
