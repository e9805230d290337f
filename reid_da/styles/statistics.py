"""Camera views by colour statistics: mean and deviation in the l-alpha-beta space of Reinhard et al. (2001).

The statistics are those of cameras, not of single images. So one fixed map leads from a camera to another, and people
dressed differently stay different. Giving each image by itself the mean and deviation of the wanted camera, as is done
for landscapes, would dress everybody in the mean colour of that camera, and clothes are what tells people apart.

Reinhard, Ashikhmin, Gooch, Shirley: Color Transfer between Images, IEEE Computer Graphics and Applications 21(5). Here
as there pixel values are taken as they are, without undoing their gamma. Departures: logarithms are of LMS + 1 grey
level, so that black is finite and rounding in the shadows does not rule the deviations; to the base 2, which changes no
image; and a deviation is stretched by :data:`MAX_STRETCH` at most.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from reid_da.images import ImageSource
from reid_da.styles.transfer import camera_batches

MAX_STRETCH = 8.0
"""Most that a deviation grows: a camera that sees almost no colour (infrared) has little but noise to stretch."""

_LMS = torch.tensor([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]], dtype=torch.float64)
# the inverse that the paper prints, to four digits, would not lead back to the same grey levels
_RGB = torch.linalg.inv(_LMS)
_OPPONENT = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, -2.0], [1.0, -1.0, 0.0]], dtype=torch.float64)
_OPPONENT /= torch.linalg.vector_norm(_OPPONENT, dim=1, keepdim=True)
_LEAST_STD = 1e-3  # a fifth of a grey level in white
_MOST_LOG = 16.0  # far beyond white, which is 8; without a bound, stretched logarithms could overflow


@dataclass(frozen=True, kw_only=True, eq=False)
class CameraStatistics:
    """Colours of C cameras, in l-alpha-beta coordinates with logarithms to the base 2.

    Attributes:
        mean: (C, 3) float64 mean of all pixels of all images, NaN where a camera has no images.
        std: (C, 3) float64 standard deviation of the same pixels.
    """

    mean: Tensor = field(repr=False)
    std: Tensor = field(repr=False)


def camera_statistics(source: ImageSource, camids: Tensor, *, num_cameras: int) -> CameraStatistics:
    """Colour statistics of every camera, computed in one pass over the images.

    Args:
        source: the N images; undecodable ones are left out.
        camids: (N,) int64 camera of each, in 0..C-1.
        num_cameras: number C of cameras.
    """
    count = torch.zeros(num_cameras, 1, dtype=torch.float64)
    total = torch.zeros(num_cameras, 3, dtype=torch.float64)
    total_squares = torch.zeros_like(total)
    for images, own in camera_batches(source, camids, "colour statistics of cameras"):
        values = _OPPONENT @ _log_lms(images, dtype=torch.float64)
        count.index_add_(0, own, torch.full((len(own), 1), values.shape[2], dtype=torch.float64))
        total.index_add_(0, own, values.sum(2))
        total_squares.index_add_(0, own, values.square_().sum(2))
    mean = total / count
    # rounding may leave a variance of zero slightly below it
    return CameraStatistics(mean=mean, std=(total_squares / count - mean.square()).clamp(min=0).sqrt())


def transfer_maps(statistics: CameraStatistics) -> tuple[Tensor, Tensor]:
    """Affine maps of logarithms of LMS from each of C cameras to each other.

    To and from a camera without images they change nothing.

    Args:
        statistics: of the cameras.

    Returns:
        (C, C, 3, 3) float64 matrices and (C, C, 3) float64 offsets; ``[a, b]`` leads from camera a to camera b.
    """
    std = statistics.std.clamp(min=_LEAST_STD)
    scale = (std / std.unsqueeze(1)).clamp(max=MAX_STRETCH)
    shift = statistics.mean - scale * statistics.mean.unsqueeze(1)
    unknown = scale.isnan()
    scale[unknown], shift[unknown] = 1.0, 0.0
    # the inverse of the opponent axes is their transpose
    return (_OPPONENT.T * scale.unsqueeze(2)) @ _OPPONENT, shift @ _OPPONENT


def transfer_statistics(images: Tensor, matrices: Tensor, offsets: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 RGB images after an affine map of the logarithms of their LMS.

    Args:
        images: (B, 3, H, W) uint8 RGB.
        matrices: (B, 3, 3) one matrix for each image, where the images are.
        offsets: (B, 3) one offset for each image, likewise.
    """
    logs = _log_lms(images, dtype=torch.float32)
    logs = torch.baddbmm(offsets.float().unsqueeze(2), matrices.float(), logs).clamp_(max=_MOST_LOG)
    to_rgb = _RGB.to(logs).expand(len(images), 3, 3)
    # -1 for the grey level added before the logarithm, +0.5 because the conversion to uint8 cuts off
    shift = _RGB.sum(1, keepdim=True).neg().add(0.5).to(logs)
    colours = torch.baddbmm(shift, to_rgb, logs.exp2_()).clamp_(0, 255)
    return colours.view(images.shape).to(torch.uint8, memory_format=torch.channels_last)


class StatisticsTransfer:
    """Gives images the colour statistics of other cameras; see :class:`~reid_da.styles.transfer.ColourTransfer`."""

    def __init__(self, statistics: CameraStatistics) -> None:
        """Prepare the maps between all cameras.

        Args:
            statistics: of the cameras.
        """
        self._matrices, self._offsets = (maps.float() for maps in transfer_maps(statistics))

    def __call__(self, images: Tensor, from_camids: Tensor, to_camids: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 RGB images in the styles asked for."""
        pair = from_camids, to_camids
        matrices, offsets = (maps[pair].to(images.device) for maps in (self._matrices, self._offsets))
        return transfer_statistics(images, matrices, offsets)


def _log_lms(images: Tensor, *, dtype: torch.dtype) -> Tensor:
    """(B, 3, H * W) logarithms to the base 2 of LMS + 1, of (B, 3, H, W) uint8 RGB images."""
    values = images.flatten(2).to(dtype)
    to_lms = _LMS.to(values).expand(len(images), 3, 3)
    return torch.baddbmm(values.new_ones(1, 1, 1), to_lms, values).log2_()
