"""OSNet (Zhou et al., ICCV 2019; OSNet-AIN: TPAMI 2021): omni-scale features in a fifth of a million weights and up.

A block looks at its input through streams of one to four light 3x3 convolutions, which see 3 to 9 cells, and weighs the
channels of each stream by a gate that all streams share. Sub-modules are named so that torchreid's files fit.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reid_da.models.heads import Projection
from reid_da.models.protocol import Backbone, Stage

Style = Literal["plain", "ibn", "ain"]
"""Where instance normalisation stands: nowhere, in the stem and after the blocks of conv2, or within chosen blocks."""
Norm = type[nn.BatchNorm2d] | type[nn.InstanceNorm2d]
"""Classes of normalisation layers."""

_CHANNELS = (64, 256, 384, 512)
_FEATURES = 512
_STREAMS = 4
_REDUCTION = 4
_GATE_REDUCTION = 16
_AIN_BLOCKS = ((True, True), (False, True), (True, False))
"""Blocks of conv2, conv3 and conv4 that normalise by instance in OSNet-AIN, as its architecture search found them."""


class _Conv(nn.Module):
    """Convolution without bias, normalisation and ReLU, each of the latter two only if asked for."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        norm: Norm | None = nn.BatchNorm2d,
        relu: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.bn = _affine(norm, outputs) if norm is not None else nn.Identity()
        self.relu = nn.ReLU() if relu else nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        activated: Tensor = self.relu(self.bn(self.conv(maps)))
        return activated


class _LightConv(nn.Module):
    """A 3x3 convolution in two parts: across channels, then within each of them (figure 4 of the paper)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, maps: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv2(self.conv1(maps))))


class _Gate(nn.Module):
    """Maps with each channel weighed by a number from 0 to 1, which a small network makes of all channels' means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // _GATE_REDUCTION, 1)
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, maps: Tensor) -> Tensor:
        means = maps.mean(dim=(2, 3), keepdim=True)
        return maps * torch.sigmoid(self.fc2(F.relu(self.fc1(means))))


class _Stream(nn.Module):
    """Light convolutions one after the other, under the name that OSNet-AIN's files have for them."""

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        self.layers = _light(channels, depth)

    def forward(self, maps: Tensor) -> Tensor:
        scaled: Tensor = self.layers(maps)
        return scaled


class _Block(nn.Module):
    """Residual block of four streams of growing depth (equation 3 of the paper).

    Args:
        inputs: number of channels that come in.
        outputs: number of channels that go out.
        by_instance: ``inside`` normalises the residual by instance instead of by batch, ``outside`` also the sum.
        named_as_ain: name the streams as OSNet-AIN's files do.
    """

    def __init__(
        self, inputs: int, outputs: int, *, by_instance: Literal["no", "inside", "outside"], named_as_ain: bool
    ) -> None:
        super().__init__()
        middle = outputs // _REDUCTION
        self.conv1 = _Conv(inputs, middle)
        depths = range(1, _STREAMS + 1)
        if named_as_ain:
            self.conv2 = nn.ModuleList(_Stream(middle, depth) for depth in depths)
        else:
            self.conv2a = _LightConv(middle)
            self.conv2b, self.conv2c, self.conv2d = (_light(middle, depth) for depth in depths[1:])
        self.gate = _Gate(middle)
        self.conv3 = _Conv(middle, outputs, norm=None if by_instance == "inside" else nn.BatchNorm2d, relu=False)
        self.downsample = _Conv(inputs, outputs, relu=False) if inputs != outputs else nn.Identity()
        if by_instance != "no":
            self.IN = _affine(nn.InstanceNorm2d, outputs)
        self._by_instance = by_instance

    def forward(self, maps: Tensor) -> Tensor:
        reduced = self.conv1(maps)
        scales = [self.gate(stream(reduced)) for stream in self._streams()]
        residual: Tensor = self.conv3(scales[0] + scales[1] + scales[2] + scales[3])
        if self._by_instance == "inside":
            residual = self.IN(residual)
        total = residual + self.downsample(maps)
        return F.relu(self.IN(total) if self._by_instance == "outside" else total)

    def _streams(self) -> list[nn.Module]:
        return list(self.conv2) if hasattr(self, "conv2") else [self.conv2a, self.conv2b, self.conv2c, self.conv2d]


class OSNet(Backbone):
    """OSNet without its classifier: 512 features behind a linear layer, batch normalisation and ReLU.

    The maps are a sixteenth of the image's height and width, so there is no last stride to leave out.

    Args:
        style: which of its normalisations are by instance.
        width: number of channels as a multiple of the published one; the number of features stays.
    """

    def __init__(self, *, style: Style = "plain", width: float = 1.0) -> None:
        super().__init__()
        channels = [max(round(width * count / _REDUCTION), 1) * _REDUCTION for count in _CHANNELS]
        stem_norm = nn.BatchNorm2d if style == "plain" else nn.InstanceNorm2d
        self.conv1 = _Conv(3, channels[0], kernel=7, stride=2, norm=stem_norm)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.conv2, self.conv3, self.conv4 = (
            self._blocks(style, number, channels[number], channels[number + 1]) for number in range(3)
        )
        halvings = [nn.Sequential(_Conv(count, count), nn.AvgPool2d(2)) for count in channels[1:3]]
        if style == "ain":
            self.pool2, self.pool3 = halvings
        else:
            self.conv2.append(halvings[0])
            self.conv3.append(halvings[1])
        self.conv5 = _Conv(channels[3], channels[3])
        self.fc = Projection(channels[3], _FEATURES)
        self.feature_dim = _FEATURES
        self._style = style

    @staticmethod
    def _blocks(style: Style, number: int, inputs: int, outputs: int) -> nn.Sequential:
        """The two blocks of a stage."""
        by_instance: list[Literal["no", "inside", "outside"]] = ["no", "no"]
        if style == "ain":
            by_instance = ["inside" if is_chosen else "no" for is_chosen in _AIN_BLOCKS[number]]
        elif style == "ibn" and number == 0:
            by_instance = ["outside", "outside"]
        first, second = by_instance
        named_as_ain = style == "ain"
        return nn.Sequential(
            _Block(inputs, outputs, by_instance=first, named_as_ain=named_as_ain),
            _Block(outputs, outputs, by_instance=second, named_as_ain=named_as_ain),
        )

    def feature_map(self, images: Tensor) -> Tensor:
        """(B, C, h, w) output of ``conv5``, C = 512 in the full width, for (B, 3, H, W) normalised images."""
        maps: Tensor = self.maxpool(self.conv1(images))
        for stage in self.stages()[1:4]:
            for part in stage:
                assert isinstance(part, nn.Module)
                maps = part(maps)
        maps = self.conv5(maps)
        return maps

    def forward(self, images: Tensor) -> Tensor:
        """(B, 512) features of (B, 3, H, W) normalised images, float32 under autocast too."""
        features: Tensor = self.fc(super().forward(images))
        return features

    def stages(self) -> tuple[Stage, ...]:
        """The stem, the three stages of blocks with the halving behind each, and the end."""
        halving2, halving3 = ((self.pool2,), (self.pool3,)) if self._style == "ain" else ((), ())
        middle = ((self.conv2, *halving2), (self.conv3, *halving3), (self.conv4,))
        return (self.conv1,), *middle, (self.conv5, self.fc)


def _light(channels: int, depth: int) -> nn.Sequential:
    return nn.Sequential(*(_LightConv(channels) for _ in range(depth)))


def _affine(norm: Norm, channels: int) -> nn.Module:
    return norm(channels, affine=True)
