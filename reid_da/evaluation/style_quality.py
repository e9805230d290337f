"""How good camera-style views are: does a classifier take them for the camera wanted, and is the person still there?

Three measures that need neither labels nor a training of re-ID: the camera that a classifier sees in a fake, the rank
of the image that it was made of, and the distance of its features' distribution from that of real images.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from reid_da.errors import InputError
from reid_da.evaluation._streaming import whole_rows
from reid_da.features import Array, feature_tensor
from reid_da.finite import check_finite, check_rows
from reid_da.nearest import FeatureBlocks


@dataclass(frozen=True, kw_only=True)
class CameraScores:
    """Which cameras a classifier sees in fakes, as shares from 0 to 1 and as counts.

    Attributes:
        wanted: share of the fakes that are taken for the camera wanted; higher is better.
        own: share of the fakes that are taken for the camera of the real image; lower is better.
        by_wanted: (C,) ``wanted`` among the fakes for each camera, None where there are none.
        by_own: (C,) ``own`` among the fakes made of each camera's images, None where there are none.
        predicted_by_wanted: (C, C) counts, camera wanted by camera seen; the diagonal is right.
        predicted_by_own: (C, C) counts, camera of the real image by camera seen; the diagonal is wrong.
    """

    wanted: float
    own: float
    by_wanted: tuple[float | None, ...] = field(repr=False)
    by_own: tuple[float | None, ...] = field(repr=False)
    predicted_by_wanted: tuple[tuple[int, ...], ...] = field(repr=False)
    predicted_by_own: tuple[tuple[int, ...], ...] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class ContentScores:
    """How well fakes find the images that they were made of; both grow harder with the number of images searched.

    Attributes:
        rank1: share of the fakes whose original is the nearest image.
        mean_reciprocal_rank: mean of 1 / rank of the original.
    """

    rank1: float
    mean_reciprocal_rank: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Gaussian:
    """Normal distribution of features, in float64.

    Attributes:
        mean: (D,).
        root: (R, D) root of the covariance, which is ``root.T @ root``; R is the number of images where that is below
            D, so that a D x D matrix is never needed.
    """

    mean: Tensor = field(repr=False)
    root: Tensor = field(repr=False)

    @property
    def covariance(self) -> Tensor:
        """(D, D) covariance."""
        return self.root.T @ self.root


def camera_scores(logits: Tensor, own_camids: Tensor, wanted_camids: Tensor) -> CameraScores:
    """Shares of fakes that a camera classifier takes for the camera wanted and for that of the real image.

    Args:
        logits: (N, C) of the fakes.
        own_camids: (N,) int64 cameras of the real images, in 0..C-1.
        wanted_camids: (N,) int64 cameras that the fakes are to look like.

    Raises:
        InputError: there are no fakes, or logits are not finite.
    """
    if not len(logits):
        raise InputError("there are no camera-style images to look at")
    check_finite(logits, "logits")
    by_wanted, by_own = camera_confusion(logits, wanted_camids), camera_confusion(logits, own_camids)
    return CameraScores(
        wanted=float(by_wanted.trace() / len(logits)),
        own=float(by_own.trace() / len(logits)),
        by_wanted=_diagonal_shares(by_wanted),
        by_own=_diagonal_shares(by_own),
        predicted_by_wanted=tuple(map(tuple, by_wanted.tolist())),
        predicted_by_own=tuple(map(tuple, by_own.tolist())),
    )


def camera_confusion(logits: Tensor, camids: Tensor) -> Tensor:
    """(C, C) int64 counts of images by their ``camids`` (rows) and by the camera of the largest logit (columns).

    Args:
        logits: (N, C).
        camids: (N,) int64, in 0..C-1.
    """
    num_cameras = logits.shape[1]
    cells = camids * num_cameras + logits.argmax(dim=1)
    return torch.bincount(cells, minlength=num_cameras**2).view(num_cameras, num_cameras)


def content_ranks(features: Array, original_features: Array, originals: Tensor) -> Tensor:
    """(Q,) int64 rank of the image that each fake was made of, among all N originals by cosine similarity; 1 is best.

    An original at the same distance as another image ranks behind it: a style that makes all images alike earns
    nothing by ties. Features are compared as in :func:`reid_da.evaluation.evaluate_retrieval`, a block at a time.

    Args:
        features: (Q, D) of the fakes, of any length.
        original_features: (N, D) of the real images, on the same device.
        originals: (Q,) int64, row of each fake's real image among the N.

    Raises:
        InputError: arrays that do not fit together, or features that are NaN, infinite or all zero.
    """
    blocks = FeatureBlocks(features, original_features, distance="cosine")
    ranks = []
    for rows, values in whole_rows(blocks, "finding the originals"):
        own = values.gather(1, originals[rows].to(values.device).unsqueeze(1))
        # the original itself is one of those that are counted
        ranks.append((values <= own).sum(dim=1))
    return torch.cat(ranks)


def content_scores(ranks: Tensor) -> ContentScores:
    """Rank-1 share and mean reciprocal rank of (Q,) int64 ``ranks``."""
    return ContentScores(
        rank1=float((ranks == 1).double().mean()), mean_reciprocal_rank=float(ranks.double().reciprocal().mean())
    )


def fit_gaussian(features: Array) -> Gaussian:
    """Mean and unbiased covariance (divided by N - 1) of (N, D) features.

    Raises:
        InputError: fewer than two images, or features that are not finite.
    """
    values = feature_tensor(features, "features").double()
    if len(values) < 2:
        raise InputError(f"features: a covariance needs at least two images, got {len(values)}")
    check_rows(values, "features", may_be_zero=True)
    mean = values.mean(dim=0)
    root = (values - mean) / (len(values) - 1) ** 0.5
    if root.shape[0] > root.shape[1]:
        root = torch.linalg.qr(root, mode="r").R
    return Gaussian(mean=mean, root=root)


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """Squared Frechet distance of two normal distributions: Heusel et al., NeurIPS 2017 (arXiv 1706.08500v6), eq. 6.

    ``|m1 - m2|^2 + Tr(C1 + C2 - 2 (C1 C2)^(1/2))``. It is biased upwards with few images, the more the fewer, and
    depends on the network whose features they are: compare only distances at equal numbers of images, of one network.
    With far fewer images than dimensions the bias rewards images that are all alike.

    Departure: the authors take the root of a product of covariances, which are singular with fewer images than
    dimensions, and add a constant to their diagonals where that fails. With ``C = R^T R`` the trace of the root is the
    sum of the singular values of ``R1 R2^T``: it is real, takes no constant, and is cheap with few images.
    """
    spread = first.root.square().sum() + second.root.square().sum()
    shared = torch.linalg.svdvals(first.root @ second.root.T).sum()
    squared = (first.mean - second.mean).square().sum() + spread - 2 * shared
    # rounding may leave a distance of zero slightly below it
    return float(squared.clamp(min=0))


def _diagonal_shares(confusion: Tensor) -> tuple[float | None, ...]:
    pairs = zip(confusion.diagonal().tolist(), confusion.sum(dim=1).tolist(), strict=True)
    return tuple(right / total if total else None for right, total in pairs)
