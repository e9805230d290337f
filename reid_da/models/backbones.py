"""ResNet backbones: from a batch of images to pooled features."""

import os
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from reid_da.errors import InputError, unknown_name
from reid_da.models.weights import cached_download, load_weights

Block: TypeAlias = type[BasicBlock] | type[Bottleneck]


@dataclass(frozen=True, kw_only=True)
class _Architecture:
    block: Block
    depths: tuple[int, int, int, int]
    imagenet_url: str
    has_ibn: bool = False


_TORCHVISION = "https://download.pytorch.org/models/"
_IBN_NET = "https://github.com/XingangPan/IBN-Net/releases/download/v1.0/"
_ARCHITECTURES = {
    "resnet18": _Architecture(
        block=BasicBlock, depths=(2, 2, 2, 2), imagenet_url=_TORCHVISION + "resnet18-f37072fd.pth"
    ),
    "resnet34": _Architecture(
        block=BasicBlock, depths=(3, 4, 6, 3), imagenet_url=_TORCHVISION + "resnet34-b627a593.pth"
    ),
    "resnet50": _Architecture(
        block=Bottleneck, depths=(3, 4, 6, 3), imagenet_url=_TORCHVISION + "resnet50-0676ba61.pth"
    ),
    "resnet101": _Architecture(
        block=Bottleneck, depths=(3, 4, 23, 3), imagenet_url=_TORCHVISION + "resnet101-63fe2227.pth"
    ),
    "resnet50_ibn_a": _Architecture(
        block=Bottleneck, depths=(3, 4, 6, 3), imagenet_url=_IBN_NET + "resnet50_ibn_a-d9d0bb7b.pth", has_ibn=True
    ),
}

BACKBONE_NAMES = tuple(_ARCHITECTURES)
"""Names that :func:`create_backbone` knows."""


class InstanceBatchNorm(nn.Module):
    """Instance normalisation of the first half of the channels, batch normalisation of the second.

    The IBN block of IBN-Net (Pan et al., ECCV 2018); sub-modules are named as in the authors' weight files.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.sizes = [channels // 2, channels - channels // 2]
        self.IN = nn.InstanceNorm2d(self.sizes[0], affine=True)
        self.BN = nn.BatchNorm2d(self.sizes[1])

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, C, H, W) normalised maps."""
        first, second = torch.split(inputs, self.sizes, dim=1)
        return torch.cat([self.IN(first), self.BN(second)], dim=1)


class Backbone(nn.Module):
    """A ResNet without its classifier (He et al., CVPR 2016): images to global average pooled features.

    The sub-modules keep torchvision's names (``conv1``, ``bn1``, ``layer1`` ... ``layer4``): weight files and the rules
    for freezing go by them.

    Attributes:
        feature_dim: number of features F.

    Args:
        block: kind of the residual blocks.
        depths: number of blocks in each of the four layers.
        channels: C, number of channels after the stem; 64 in the published networks.
        last_stride: stride of ``layer4``.
    """

    def __init__(self, block: Block, depths: tuple[int, int, int, int], *, channels: int, last_stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        widths = [channels, 2 * channels, 4 * channels, 8 * channels]
        inputs = [channels, *(width * block.expansion for width in widths)]
        self.layer1 = _layer(block, inputs[0], widths[0], depth=depths[0], stride=1)
        self.layer2 = _layer(block, inputs[1], widths[1], depth=depths[1], stride=2)
        self.layer3 = _layer(block, inputs[2], widths[2], depth=depths[2], stride=2)
        self.layer4 = _layer(block, inputs[3], widths[3], depth=depths[3], stride=last_stride)
        self.feature_dim = inputs[4]

    def feature_map(self, images: Tensor) -> Tensor:
        """(B, F, h, w) output of ``layer4`` for (B, 3, H, W) normalised images."""
        maps: Tensor = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            maps = layer(maps)
        return maps

    def forward(self, images: Tensor) -> Tensor:
        """(B, F) pooled features of (B, 3, H, W) normalised images, float32 under autocast too."""
        maps = self.feature_map(images)
        return maps.mean(dim=(2, 3), dtype=torch.promote_types(maps.dtype, torch.float32))


def _layer(block: Block, inputs: int, width: int, *, depth: int, stride: int) -> nn.Sequential:
    """``depth`` blocks of which the first changes channels and stride, and has a shortcut that does so too."""
    outputs = width * block.expansion
    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))
    return nn.Sequential(block(inputs, width, stride, shortcut), *(block(outputs, width) for _ in range(depth - 1)))


def create_backbone(
    name: str,
    *,
    width: float = 1.0,
    last_stride: int = 2,
    weights: str | os.PathLike[str] = "imagenet",
    generator: torch.Generator | None = None,
) -> Backbone:
    """A backbone with the weights asked for, on the CPU.

    Args:
        name: one of :data:`BACKBONE_NAMES`.
        width: number of channels as a multiple of the published one, for small networks; 0.5 takes about a quarter of
            the time. ImageNet weights have a width of 1.
        last_stride: stride of ``layer4``: 2 as in ImageNet classification, 1 for maps of twice the height and width.
        weights: ``imagenet`` for the weights that torchvision calls ``IMAGENET1K_V1`` (IBN-Net's own for
            ``resnet50_ibn_a``), ``none`` for random ones, or the path of a file; see
            :func:`reid_da.models.read_state_dict` and :func:`reid_da.models.match_state_dict`.
        generator: source of the random weights, torch's own if None.

    Raises:
        InputError: unknown name, stride or width; weights that cannot be had, read or fitted to the network.
    """
    if name not in _ARCHITECTURES:
        raise unknown_name("model", name, BACKBONE_NAMES)
    if last_stride not in (1, 2):
        raise InputError(f"last_stride: expected 1 or 2, got {last_stride}")
    if width <= 0:
        raise InputError(f"width: expected a number above 0, got {width}")
    if weights == "imagenet" and width != 1:
        raise InputError(f"width: there are no ImageNet weights for a width of {width}; use 1, or other weights")
    architecture = _ARCHITECTURES[name]
    backbone = _build(architecture, channels=max(round(64 * width), 1), last_stride=last_stride)
    if weights == "none":
        _initialise(backbone, generator)
    elif weights == "imagenet":
        load_weights(backbone, cached_download(architecture.imagenet_url))
    else:
        load_weights(backbone, weights)
    return backbone


def _build(architecture: _Architecture, *, channels: int, last_stride: int) -> Backbone:
    """Backbone with identity normalisation and unset convolutions."""
    # on the meta device torch's own random weights, drawn from the global generator, cost nothing
    with torch.device("meta"):
        backbone = Backbone(architecture.block, architecture.depths, channels=channels, last_stride=last_stride)
        if architecture.has_ibn:
            _insert_ibn(backbone)
    backbone.to_empty(device="cpu")
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d | nn.InstanceNorm2d):
            module.reset_parameters()
    return backbone


def _insert_ibn(backbone: Backbone) -> None:
    """Make the first normalisation of every block of layer1 to layer3 an :class:`InstanceBatchNorm`."""
    for layer in (backbone.layer1, backbone.layer2, backbone.layer3):
        for block in layer:
            assert isinstance(block, BasicBlock | Bottleneck)
            # torchvision annotates the attribute with the normalisation that it puts there itself
            block.bn1 = InstanceBatchNorm(block.conv1.out_channels)


def _initialise(backbone: Backbone, generator: torch.Generator | None) -> None:
    """Draw random convolutions as torchvision does: Kaiming normal over the outputs."""
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
