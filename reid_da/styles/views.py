"""What a target stream asks of camera-style views, and how it draws them."""

from typing import Protocol

import torch
from torch import Generator, Tensor

from reid_da.errors import InputError
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


def sample_views(
    camids: Tensor, *, num_cameras: int, generator: Generator, per_image: int = 1, with_own: bool = True
) -> Tensor:
    """(B * V,) int64 cameras, drawn uniformly: V different ones for each image of a batch, one image after the other.

    As in ECN (Zhong et al., CVPR 2019) the own camera is drawn as often as any other, so that for V = 1 the real image
    is seen with probability 1/C.

    Args:
        camids: (B,) int64 own cameras of the images; without ``with_own`` they must be less than C.
        num_cameras: number C of cameras.
        generator: on the device where the result shall be.
        per_image: V.
        with_own: whether the own camera may be drawn.

    Raises:
        InputError: there are fewer cameras to draw from than V.
    """
    choices = num_cameras if with_own else num_cameras - 1
    if per_image > choices:
        raise InputError(f"views.per_image is {per_image}, but an image has {choices} different views; lower it")
    if per_image == 1:
        drawn = torch.randint(choices, camids.shape, generator=generator, device=generator.device)
    else:
        keys = torch.rand(len(camids), choices, generator=generator, device=generator.device)
        drawn = keys.argsort(dim=1)[:, :per_image].flatten()
    if with_own:
        return drawn
    # the cameras but the own one, counted on without a gap
    return drawn + (drawn >= camids.repeat_interleave(per_image)).long()
