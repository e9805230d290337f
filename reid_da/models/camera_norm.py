"""Batch normalisation by camera: what a camera does to all of its images alike is taken out, in every layer.

CBN of Zhuang et al. (ECCV 2020). In training the images of each camera in a batch are normalised together. To give
features, the layers have statistics of their own for each camera, taken from unlabelled images of it: AdaBN (Li et al.,
2016), camera by camera. A network that was trained without it can have these statistics, too.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from reid_da.errors import InputError
from reid_da.models.adabn import with_batch_norms_of
from reid_da.models.grouped_norm import (
    GroupedBatchNorm1d,
    GroupedBatchNorm2d,
    NormKinds,
    PassGroups,
    replace_batch_norms,
)
from reid_da.world import World

LEAST_IN_BATCH = 4
"""Images of a camera in a batch of training; those of cameras with fewer are normalised together."""
LEAST_FOR_STATISTICS = 8
"""Images of a camera that statistics are taken from; with fewer it has those of all cameras."""
MOST_FOR_STATISTICS = 512
"""Images of a camera that statistics are taken from: more change them little."""
BATCH_FOR_STATISTICS = 64
"""Images in a batch whose statistics are taken."""
UNKNOWN_CAMERA = -1
"""Number of a camera without statistics."""


def normalize_by_camera(network: nn.Module) -> PassGroups:
    """Let the batch norms of a network normalise by groups in training; what holds the groups of the pass at hand.

    Args:
        network: changed in place; names, weights and evaluation stay as they are.

    Raises:
        InputError: the network has batch normalisation of another kind than torch's for features and maps, or none.
    """
    kinds: NormKinds = {nn.BatchNorm1d: GroupedBatchNorm1d, nn.BatchNorm2d: GroupedBatchNorm2d}
    groups = PassGroups()
    layers = replace_batch_norms(network, kinds, what="model.camera_norm", instead="set it to false or choose another")
    if not layers:
        raise InputError(
            "model.camera_norm: the backbone has no batch norms; set it to false or choose another backbone"
        )
    for layer in layers:
        layer.groups = groups
    return groups


def camera_groups(cameras: Tensor, *, least: int = LEAST_IN_BATCH) -> Tensor:
    """(B,) int64 group of each image, from 0 without gaps: those of a camera, and one of what is left.

    Cameras with fewer images than ``least`` share a group. Where that has fewer too, it joins the smallest other one.

    Args:
        cameras: (B,) int64 camera of each image.
        least: number of images.
    """
    _, groups, counts = torch.unique(cameras, return_inverse=True, return_counts=True)
    is_small = counts < least
    rest = int(counts[is_small].sum())
    if 0 < rest < least and not bool(is_small.all()):
        is_small[counts.masked_fill(is_small, len(cameras)).argmin()] = True
    merged = torch.where(is_small[groups], len(counts), groups)
    numbers: Tensor = torch.unique(merged, return_inverse=True)[1]
    return numbers


@contextmanager
def grouped_pass(
    groups: PassGroups, cameras: Tensor, *, world: World, device: torch.device
) -> Iterator[tuple[Tensor, Tensor] | None]:
    """Set the groups of one pass of training; the order that its images are to have and the way back, or None.

    Args:
        groups: of the layers.
        cameras: (B,) int64 camera of each image of the global batch, on the CPU.
        world: the processes that share the batch. With several, images stay in their order.
        device: of the network.
    """
    owner = camera_groups(cameras)
    sizes = owner.bincount()
    groups.sizes = tuple(sizes.tolist())
    groups.shares = (sizes.double() / len(owner)).to(device, non_blocking=True)
    order = None
    if world.size == 1:
        # one after another, so that a group is a slice
        there = owner.argsort(stable=True)
        there, back = torch.stack([there, there.argsort()]).to(device, non_blocking=True)
        order = there, back
    else:
        groups.owner = world.part(owner).to(device, non_blocking=True)
    try:
        yield order
    finally:
        groups.owner, groups.sizes, groups.shares = None, (), None


class CameraNormed(nn.Module):
    """A network with batch-norm statistics for each camera; one for all cameras at a time.

    Attributes:
        network: in evaluation mode.
        statistics: (M,) means and variances of the backbone's batch norms, one after another, by camera.
        common: (M,) the same for images of all other cameras.
    """

    def __init__(self, network: nn.Module, statistics: Mapping[int, Tensor], common: Tensor) -> None:
        """Take over a network, which is changed whenever another camera is looked at; see :meth:`of` for others.

        Args:
            network: not used by anyone else.
            statistics: by camera.
            common: for all other cameras.

        Raises:
            InputError: the statistics are not those of this network.
        """
        super().__init__()
        self.network = network.eval()
        self.statistics = dict(statistics)
        self.common = common
        length = len(_statistics(network))
        if any(len(values) != length for values in (*self.statistics.values(), common)):
            raise InputError("the batch-norm statistics of cameras are those of another network")

    @classmethod
    def of(cls, network: nn.Module, statistics: Mapping[int, Tensor], common: Tensor) -> "CameraNormed":
        """A copy of a network with statistics for each camera."""
        return cls(copy.deepcopy(network), statistics, common)

    def at(self, camera: int) -> nn.Module:
        """The network for images of one camera, until the next call; for those of any camera if it is unknown."""
        values = self.statistics.get(camera, self.common)
        start = 0
        for layer in _layers(self.network):
            for buffer in (layer.running_mean, layer.running_var):
                assert buffer is not None
                buffer.copy_(values[start : start + len(buffer)])
                start += len(buffer)
        return self.network

    def forward(self, images: Tensor) -> Tensor:
        """(B, D) features of images of unknown cameras."""
        features: Tensor = self.at(UNKNOWN_CAMERA)(images)
        return features


def camera_after_camera(cameras: Tensor, features_of: Callable[[int, Tensor], Tensor]) -> Tensor:
    """(N, D) features on the CPU of images of several cameras.

    Args:
        cameras: (N,) int64 camera of each.
        features_of: a camera and the (M,) int64 places of its images to their (M, D) features.
    """
    features = torch.empty(0, 0)
    for camera in torch.unique(cameras).tolist():
        places = (cameras == camera).nonzero()[:, 0]
        found = features_of(camera, places).cpu()
        if not features.numel():
            features = found.new_empty(len(cameras), found.shape[1])
        features[places] = found
    return features


def with_camera_norms(
    network: nn.Module, images: Mapping[int, Iterable[Tensor]], every: Iterable[Tensor], *, share: float = 1.0
) -> CameraNormed:
    """A copy of a network with batch-norm statistics of each camera; see :class:`CameraNormed`.

    Args:
        network: is left as it is.
        images: batches of (B, 3, H, W) normalised images by camera, B at least 2.
        every: batches of images of all cameras.
        share: of the new statistics; those of the network have the rest (Schneider et al., NeurIPS 2020).

    Raises:
        InputError: the backbone has no batch norms, or ``share`` is not in 0..1.
    """
    if not 0 <= share <= 1:
        raise InputError(f"share of the statistics of a camera: expected 0 to 1, got {share}")
    own = _statistics(network)

    def mixed(batches: Iterable[Tensor]) -> Tensor:
        return own.lerp(_statistics(with_batch_norms_of(network, batches)), share)

    statistics = {camera: mixed(batches) for camera, batches in images.items()}
    return CameraNormed.of(network, statistics, mixed(every))


def _layers(network: nn.Module) -> list[_BatchNorm]:
    # the neck stays as it was trained: with the statistics of all images
    body = getattr(network, "backbone", network)
    return [module for module in body.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]


def _statistics(network: nn.Module) -> Tensor:
    parts = [buffer for layer in _layers(network) for buffer in (layer.running_mean, layer.running_var)]
    return torch.cat([part for part in parts if part is not None])
