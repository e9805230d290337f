"""What a target stream asks of camera-style views, and how it draws them."""

from typing import Protocol

import torch
from torch import Generator, Tensor

from reid_da.images import ImageSource


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


def sample_views(camids: Tensor, *, num_cameras: int, generator: Generator) -> Tensor:
    """(B,) int64 cameras, drawn uniformly for each image of a batch.

    The own camera is drawn as often as any other, so that the real image is seen with probability 1/C, as in ECN
    (Zhong et al., CVPR 2019).

    Args:
        camids: (B,) int64 own cameras of the images; a draw depends only on how many there are.
        num_cameras: number C of cameras.
        generator: on the device where the result shall be.
    """
    return torch.randint(num_cameras, camids.shape, generator=generator, device=generator.device)
