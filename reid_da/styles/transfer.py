"""Views by colour transfer: made of the real images whenever they are asked for, so that they take no space."""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from reid_da.images import ImageSource, usable_rows
from reid_da.images.source import check_index
from reid_da.progress import track
from reid_da.styles.views import ViewsOfSource

_BATCH_SIZE = 64
_BLOCK_SIZE = 8
"""Images in work at a time on a CPU: the arithmetic on larger arrays waits for memory and takes twice as long."""


class ColourTransfer(Protocol):
    """Turns images of some cameras into the styles of others."""

    def __call__(self, images: Tensor, from_camids: Tensor, to_camids: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 RGB images in the styles asked for.

        Args:
            images: (B, 3, H, W) uint8 RGB, on any device.
            from_camids: (B,) int64 cameras that took the images, on the CPU.
            to_camids: (B,) int64 cameras whose styles are wanted, on the CPU.
        """
        ...


class TransferViews(ViewsOfSource):
    """Camera views that a colour transfer makes of a source's images; see :class:`~reid_da.styles.CameraViews`."""

    def __init__(
        self,
        source: ImageSource,
        camids: Tensor,
        transfer: ColourTransfer,
        *,
        num_cameras: int,
        block_size: int = _BLOCK_SIZE,
    ) -> None:
        """Put the parts together.

        Args:
            source: the N real images.
            camids: (N,) int64 camera of each.
            transfer: makes the views.
            num_cameras: number of cameras that ``transfer`` knows.
            block_size: images that ``transfer`` gets at a time, at most, on a CPU.

        Raises:
            ValueError: source and cameras differ in length.
        """
        if len(source) != len(camids):
            raise ValueError(f"{len(source)} images, but {len(camids)} cameras of images")
        super().__init__(source)
        self.num_cameras = num_cameras
        self._camids = camids
        self._transfer = transfer
        self._block_size = block_size

    def gather(self, index: Tensor, views: Tensor | None = None) -> Tensor:
        """(B, 3, H, W) uint8 RGB images on the CPU, channels last in memory.

        Args:
            index: (B,) int64 rows in 0..N-1; repeats are allowed.
            views: (B,) int64 cameras in 0..C-1; by default the real images.

        Raises:
            IndexError: ``index`` or ``views`` leaves its range.
            TypeError: one of them is no int64 vector.
        """
        images = self._source.gather(index)
        return images if views is None else self._in_styles(images, index, views)

    def gather_on(self, device: torch.device | str, index: Tensor, views: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 RGB images on a device; see :class:`reid_da.images.source.MakesViews`."""
        return self._in_styles(self._source.gather(index).to(device), index, views)

    def _in_styles(self, images: Tensor, index: Tensor, views: Tensor) -> Tensor:
        """The real images of ``index`` where they lie, those that change overwritten."""
        check_index(views, self.num_cameras)
        own = self._camids[index]
        at_once = self._block_size if images.device.type == "cpu" else _BATCH_SIZE
        for changed in torch.split((views != own).nonzero().flatten(), at_once):
            places = changed.to(images.device)
            images[places] = self._transfer(images[places], own[changed], views[changed])
        return images


def there_and_back(transfer: ColourTransfer, images: Tensor, camids: Tensor, *, cameras: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 RGB images after the way to another camera, the next one, and back to their own.

    Args:
        transfer: goes the way.
        images: (B, 3, H, W) uint8 RGB.
        camids: (B,) int64 cameras that took the images.
        cameras: (C,) int64 cameras in increasing order, at least two; those of the images are among them, and after
            the last one comes the first.
    """
    others = cameras[(torch.searchsorted(cameras, camids) + 1) % len(cameras)]
    return transfer(transfer(images, camids, others), others, camids)


def camera_batches(source: ImageSource, camids: Tensor, description: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield all decodable images, (B, 3, H, W) uint8, with their (B,) cameras, a few at a time.

    Args:
        source: the N images.
        camids: (N,) int64 camera of each.
        description: what the progress bar says.
    """
    for start in track(range(0, len(source), _BATCH_SIZE), description):
        index = torch.arange(start, min(start + _BATCH_SIZE, len(source)))
        images = source.gather(index)
        # asked after the images: a source that decodes as it goes learns only then which ones it cannot decode
        usable = torch.isin(index, usable_rows(source))
        for rows in torch.split(usable.nonzero().flatten(), _BLOCK_SIZE):
            yield images[rows], camids[index[rows]]
