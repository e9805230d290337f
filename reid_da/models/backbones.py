"""ResNet backbones: from a batch of images to pooled features."""

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet, resnet18, resnet34, resnet50, resnet101

from reid_da.errors import InputError, unknown_name
from reid_da.models.weights import cached_download, load_weights


@dataclass(frozen=True, kw_only=True)
class _Architecture:
    build: Callable[[], ResNet]
    imagenet_url: str
    has_ibn: bool = False


_TORCHVISION = "https://download.pytorch.org/models/"
_IBN_NET = "https://github.com/XingangPan/IBN-Net/releases/download/v1.0/"
_ARCHITECTURES = {
    "resnet18": _Architecture(build=resnet18, imagenet_url=_TORCHVISION + "resnet18-f37072fd.pth"),
    "resnet34": _Architecture(build=resnet34, imagenet_url=_TORCHVISION + "resnet34-b627a593.pth"),
    "resnet50": _Architecture(build=resnet50, imagenet_url=_TORCHVISION + "resnet50-0676ba61.pth"),
    "resnet101": _Architecture(build=resnet101, imagenet_url=_TORCHVISION + "resnet101-63fe2227.pth"),
    "resnet50_ibn_a": _Architecture(
        build=resnet50, imagenet_url=_IBN_NET + "resnet50_ibn_a-d9d0bb7b.pth", has_ibn=True
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
    """A ResNet without its classifier: images to global average pooled features.

    The sub-modules keep torchvision's names (``conv1``, ``bn1``, ``layer1`` ... ``layer4``): weight files and the rules
    for freezing go by them.

    Attributes:
        feature_dim: number of features F.
    """

    def __init__(self, network: ResNet) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu, self.maxpool = network.conv1, network.bn1, network.relu, network.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            network.layer1,
            network.layer2,
            network.layer3,
            network.layer4,
        )
        self.feature_dim: int = network.fc.in_features

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


def create_backbone(
    name: str,
    *,
    last_stride: int = 2,
    weights: str | os.PathLike[str] = "imagenet",
    generator: torch.Generator | None = None,
) -> Backbone:
    """A backbone with the weights asked for, on the CPU.

    Args:
        name: one of :data:`BACKBONE_NAMES`.
        last_stride: stride of ``layer4``: 2 as in ImageNet classification, 1 for maps of twice the height and width.
        weights: ``imagenet`` for the weights that torchvision calls ``IMAGENET1K_V1`` (IBN-Net's own for
            ``resnet50_ibn_a``), ``none`` for random ones, or the path of a file; see
            :func:`reid_da.models.read_state_dict` and :func:`reid_da.models.match_state_dict`.
        generator: source of the random weights, torch's own if None.

    Raises:
        InputError: unknown name or stride; weights that cannot be had, read or fitted to the network.
    """
    if name not in _ARCHITECTURES:
        raise unknown_name("model", name, BACKBONE_NAMES)
    if last_stride not in (1, 2):
        raise InputError(f"last_stride: expected 1 or 2, got {last_stride}")
    architecture = _ARCHITECTURES[name]
    backbone = _build(architecture, last_stride)
    if weights == "none":
        _initialise(backbone, generator)
    elif weights == "imagenet":
        load_weights(backbone, cached_download(architecture.imagenet_url))
    else:
        load_weights(backbone, weights)
    return backbone


def _build(architecture: _Architecture, last_stride: int) -> Backbone:
    """Backbone with identity normalisation and unset convolutions."""
    # on the meta device torchvision's own random weights, drawn from the global generator, cost nothing
    with torch.device("meta"):
        backbone = Backbone(architecture.build())
        if architecture.has_ibn:
            _insert_ibn(backbone)
    _set_last_stride(backbone, last_stride)
    backbone.to_empty(device="cpu")
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d | nn.InstanceNorm2d):
            module.reset_parameters()
    return backbone


def _insert_ibn(backbone: Backbone) -> None:
    """Make the first normalisation of every block of layer1 to layer3 an :class:`InstanceBatchNorm`."""
    for layer in (backbone.layer1, backbone.layer2, backbone.layer3):
        for block in layer:
            block.bn1 = InstanceBatchNorm(block.bn1.num_features)


def _set_last_stride(backbone: Backbone, stride: int) -> None:
    """Set the stride of ``layer4``, which its first block applies in one convolution and in the shortcut."""
    block = backbone.layer4[0]
    strided = block.conv1 if isinstance(block, BasicBlock) else block.conv2
    for convolution in (strided, block.downsample[0]):
        convolution.stride = (stride, stride)


def _initialise(backbone: Backbone, generator: torch.Generator | None) -> None:
    """Draw random convolutions as torchvision does: Kaiming normal over the outputs."""
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
