"""Per-camera centring of features: what the images of a camera share (light, colours, angle) is taken out."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from reid_da.errors import InputError, first_few
from reid_da.features import Array, Labels, feature_tensor, label_array, pieces, row_squares, working_dtype

MIN_IMAGES = 2
"""Images that a camera needs for a mean of its own; the mean of a single image is that image."""
_VANISHING = 1e-6
"""Length, after a mean is subtracted from a unit vector, below which nothing but rounding is left."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CameraMeans:
    """Mean unit feature of each camera and of all images, to centre features with.

    Attributes:
        camids: (C,) int64 cameras with at least :data:`MIN_IMAGES` images, ascending.
        counts: (C,) int64 images of each.
        means: (C, D) float64 mean of their features, each scaled to unit length before.
        overall: (D,) float64 mean over all images, for cameras that are not in ``camids``.
    """

    camids: Labels
    counts: Labels
    means: Tensor
    overall: Tensor


def center_cameras(features: Array, camids: Array) -> Tensor:
    """(N, D) unit features from which the mean of their camera is subtracted, in float64 if they are, else float32.

    With unit vectors f and the mean m_c over the images of camera c, the result is (f - m_c) / ||f - m_c||. Features
    of one camera alone have something in common that has nothing to do with people; a network that has not been
    trained on these cameras tells cameras apart better than people. No label is needed, only the camera of each
    image. The means are those of the given images, so centre all images that are to be compared (query and gallery)
    together, or keep :func:`camera_means` and use :func:`center_with`.

    A camera with a single image gets the mean over all images. A feature that equals its mean, as in a set of one
    image, has no direction left and stays as it is.

    Args:
        features: (N, D) array or tensor of any lengths.
        camids: (N,) cameras.

    Raises:
        InputError: arrays that do not fit together, or features that are NaN, infinite or all zero.
    """
    return center_with(features, camids, camera_means(features, camids))


def camera_means(features: Array, camids: Array) -> CameraMeans:
    """The mean unit feature of each camera; summed in float64, a few thousand rows at a time.

    Args:
        features: (N, D) array or tensor of any lengths.
        camids: (N,) cameras.

    Raises:
        InputError: as :func:`center_cameras`.
    """
    tensor, labels, lengths = _checked(features, camids)
    cameras, group, counts = np.unique(labels, return_inverse=True, return_counts=True)
    groups = torch.from_numpy(group.reshape(-1)).to(tensor.device)
    sums = tensor.new_zeros((len(cameras), tensor.shape[1]), dtype=torch.float64)
    for rows in pieces(len(tensor)):
        sums.index_add_(0, groups[rows], tensor[rows].double() / lengths[rows].unsqueeze(1))
    is_enough = counts >= MIN_IMAGES
    kept = torch.from_numpy(is_enough).to(tensor.device)
    totals = torch.from_numpy(counts).to(tensor.device)
    return CameraMeans(
        camids=cameras[is_enough],
        counts=counts[is_enough].astype(np.int64),
        means=sums[kept] / totals[kept].unsqueeze(1),
        overall=sums.sum(dim=0) / len(tensor),
    )


def center_with(features: Array, camids: Array, means: CameraMeans, *, unknown: str = "overall") -> Tensor:
    """(N, D) unit features, centred with means that may come from other images of the same cameras.

    Args:
        features: (N, D) array or tensor of any lengths.
        camids: (N,) cameras.
        means: of the cameras, as long as the features.
        unknown: what to do with a camera without a mean: ``overall`` subtracts the mean over all images, ``raise``
            refuses it.

    Raises:
        InputError: as :func:`center_cameras`; features and means differ in length; a camera is to be refused.
    """
    tensor, labels, lengths = _checked(features, camids)
    if tensor.shape[1] != len(means.overall):
        raise InputError(
            f"features: have {tensor.shape[1]} dimensions, the camera means {len(means.overall)}: they are of another "
            "model"
        )
    missing = np.setdiff1d(labels, means.camids)
    if unknown == "raise" and len(missing):
        raise InputError(f"camids: no mean is known of the cameras {first_few(missing)}")
    table = torch.cat([means.means, means.overall.unsqueeze(0)]).to(tensor.device)
    # the last row of the table is for cameras without a mean
    positions = np.where(np.isin(labels, missing), len(means.camids), np.searchsorted(means.camids, labels))
    index = torch.from_numpy(positions).to(tensor.device)
    centered = torch.empty_like(tensor, dtype=working_dtype(tensor))
    for rows in pieces(len(tensor)):
        unit = tensor[rows].double() / lengths[rows].unsqueeze(1)
        shifted = unit - table[index[rows]]
        norms = torch.linalg.vector_norm(shifted, dim=1, keepdim=True)
        centered[rows] = torch.where(norms > _VANISHING, shifted / norms, unit).to(centered.dtype)
    return centered


def _checked(features: Array, camids: Array) -> tuple[Tensor, Labels, Tensor]:
    """Features (N, D), cameras (N,) and the float64 lengths (N,) of the features."""
    tensor = feature_tensor(features, "features")
    labels = label_array(camids, "camids", length=len(tensor))
    return tensor, labels, row_squares(tensor, "features", dtype=torch.float64).sqrt()
