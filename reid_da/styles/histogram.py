"""Camera views by histogram matching: in each channel, the levels of one camera take the ranks of another's.

Like colour statistics the histograms are those of cameras, not of single images, and for the same reason; see
:mod:`reid_da.styles.statistics`. The colours come closer to the other camera's than by statistics, but each channel
goes its own steep way, so that noise in overexposed clothes becomes coloured grain.
"""

import torch
from torch import Tensor

from reid_da.images import ImageSource
from reid_da.styles.transfer import camera_batches

NUM_LEVELS = 256
"""Grey levels of a channel."""


def camera_histograms(source: ImageSource, camids: Tensor, *, num_cameras: int) -> Tensor:
    """(C, 3, 256) int64 number of pixels of each camera, channel and level, counted in one pass over the images.

    Args:
        source: the N images; undecodable ones are left out.
        camids: (N,) int64 camera of each, in 0..C-1.
        num_cameras: number C of cameras.
    """
    counts = torch.zeros(num_cameras * 3 * NUM_LEVELS, dtype=torch.int64)
    for images, own in camera_batches(source, camids, "colour histograms of cameras"):
        rows = 3 * own.unsqueeze(1) + torch.arange(3)
        bins = NUM_LEVELS * rows.unsqueeze(2) + images.flatten(2)
        counts += torch.bincount(bins.flatten(), minlength=len(counts))
    return counts.view(num_cameras, 3, NUM_LEVELS)


def matching_tables(histograms: Tensor) -> Tensor:
    """(C, C, 3, 256) uint8 level that each level becomes; ``[a, b]`` leads from camera a to camera b.

    A level's rank is the share of pixels below it plus half of those in it. It becomes the lowest level of the other
    camera up to which at least that share of pixels lies. Half, so that a level that many pixels share, as white in an
    overexposed camera, becomes the middle of the range that it covers and not the top. Tables to and from a camera
    without images change nothing.

    Args:
        histograms: (C, 3, 256) int64 number of pixels of each camera, channel and level.
    """
    num_pixels = histograms.sum(2, keepdim=True)
    below_or_in = histograms.cumsum(2)
    ranks = (below_or_in - histograms / 2) / num_pixels
    shares = below_or_in / num_pixels
    shape = (len(histograms), *histograms.shape)
    levels = torch.searchsorted(shares.expand(shape).contiguous(), ranks.unsqueeze(1).expand(shape).contiguous())
    empty = num_pixels == 0
    unknown = (empty | empty.unsqueeze(1)).expand(shape)
    return torch.where(unknown, torch.arange(NUM_LEVELS), levels).to(torch.uint8)


def look_up(images: Tensor, tables: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 images, channels last in memory, whose levels are replaced by those of a table.

    Args:
        images: (B, 3, H, W) uint8.
        tables: (B, 3, 256) uint8, one table for each image and channel.
    """
    levels = tables.gather(2, images.flatten(2).long())
    return levels.view(images.shape).contiguous(memory_format=torch.channels_last)


class HistogramTransfer:
    """Matches images to the histograms of other cameras; see :class:`~reid_da.styles.transfer.ColourTransfer`."""

    def __init__(self, histograms: Tensor) -> None:
        """Prepare the tables between all cameras.

        Args:
            histograms: (C, 3, 256) int64 number of pixels of each camera, channel and level.
        """
        self._tables = matching_tables(histograms)

    def __call__(self, images: Tensor, from_camids: Tensor, to_camids: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 RGB images in the styles asked for."""
        return look_up(images, self._tables[from_camids, to_camids].to(images.device))
