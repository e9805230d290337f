"""ResNet backbones (He et al., CVPR 2016), with the IBN-a variant (Pan et al., ECCV 2018)."""

from collections.abc import Collection
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from reid_da.models.protocol import Backbone, Stage

Block: TypeAlias = type[BasicBlock] | type[Bottleneck]
"""Residual blocks: of two convolutions, or of three."""
Depths: TypeAlias = tuple[int, int, int, int]
"""Numbers of blocks in layer1 to layer4."""

_PARTS = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")


class InstanceBatchNorm(nn.Module):
    """Instance normalisation of the first half of the channels, batch normalisation of the second.

    The IBN block of IBN-Net (Pan et al., ECCV 2018); sub-modules are named as in the authors' weight files.

    Args:
        channels: number of channels; the first half is normalised by instance.
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


class ResNet(Backbone):
    """A ResNet without its classifier; the sub-modules keep torchvision's names.

    Args:
        block: kind of the residual blocks.
        depths: number of blocks in each of the four layers.
        width: number of channels as a multiple of the published one, which is 64 after the stem.
        last_stride: stride of ``layer4``.
        has_ibn: make the first normalisation of every block of layer1 to layer3 an :class:`InstanceBatchNorm`.
    """

    def __init__(
        self, block: Block, depths: Depths, *, width: float = 1.0, last_stride: int = 2, has_ibn: bool = False
    ) -> None:
        super().__init__()
        channels = max(round(64 * width), 1)
        self.conv1 = nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu: nn.Module = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        widths = [channels, 2 * channels, 4 * channels, 8 * channels]
        inputs = [channels, *(width * block.expansion for width in widths)]
        self.layer1 = _layer(block, inputs[0], widths[0], depth=depths[0], stride=1)
        self.layer2 = _layer(block, inputs[1], widths[1], depth=depths[1], stride=2)
        self.layer3 = _layer(block, inputs[2], widths[2], depth=depths[2], stride=2)
        self.layer4 = _layer(block, inputs[3], widths[3], depth=depths[3], stride=last_stride)
        self.feature_dim = inputs[4]
        if has_ibn:
            for residual in (*self.layer1, *self.layer2, *self.layer3):
                residual.bn1 = InstanceBatchNorm(residual.conv1.out_channels)

    def feature_map(self, images: Tensor) -> Tensor:
        """(B, F, h, w) output of ``layer4`` for (B, 3, H, W) normalised images."""
        maps: Tensor = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            maps = layer(maps)
        return maps

    def stages(self) -> tuple[Stage, ...]:
        """The stem and the four layers."""
        return (self.conv1, self.bn1), (self.layer1,), (self.layer2,), (self.layer3,), (self.layer4,)

    def official_batch_norms(self) -> list[nn.Module]:
        """Those that have "bn" in their name and come before layer3: 22 in ResNet-50.

        So the authors of ECN select them; the shortcuts of layer1 and layer2, which are called otherwise, go on
        adapting.
        """
        shortcuts = [block.downsample for block in (*self.layer1, *self.layer2) if block.downsample is not None]
        adapting = {id(module) for shortcut in shortcuts for module in shortcut.modules()}
        return [module for module in super().official_batch_norms() if id(module) not in adapting]

    def names_in(self, names: Collection[str], prefix: str) -> dict[str, str]:
        """Names of torchvision, or numbers: MMT, SpCL and cluster-contrast put the parts into a sequence.

        Of the two batch normalisations that SpCL trains for source and target, the target's is taken.
        """
        inner = super().names_in([name for name in names if ".BN_S." not in name], prefix)
        numbers = {name.partition(".")[0] for name in inner.values()}
        # the parts without weights count too; MMT has no ReLU among them
        order = "014567" if "7" in numbers else "013456" if "6" in numbers else None
        parts = dict(zip(order, _PARTS, strict=True)) if order else {}
        found = {}
        for name, stripped in inner.items():
            head, dot, rest = stripped.replace(".BN_T.", ".").partition(".")
            found[name] = parts.get(head, head) + dot + rest
        return found


def _layer(block: Block, inputs: int, width: int, *, depth: int, stride: int) -> nn.Sequential:
    """``depth`` blocks of which the first changes channels and stride, and has a shortcut that does so too."""
    outputs = width * block.expansion
    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))
    return nn.Sequential(block(inputs, width, stride, shortcut), *(block(outputs, width) for _ in range(depth - 1)))
