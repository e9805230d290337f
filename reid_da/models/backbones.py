"""Backbones by name, with the weights that they start from."""

import os
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models.resnet import BasicBlock, Bottleneck

from reid_da.errors import InputError, unknown_name
from reid_da.models.heads import Pooling
from reid_da.models.osnet import OSNet, Style
from reid_da.models.protocol import Backbone
from reid_da.models.resnet import ResNet
from reid_da.models.timm import PREFIX, TimmBackbone
from reid_da.models.torchvision_nets import EfficientNetB0, MobileNetV2
from reid_da.models.weight_files import cached_download, is_cached_or_reachable
from reid_da.models.weights import load_weights


class _Build(Protocol):
    def __call__(self, *, width: float, last_stride: int) -> Backbone: ...


def _osnet(style: Style, scale: float) -> _Build:
    def build(*, width: float, last_stride: int) -> Backbone:
        if last_stride != 2:
            raise InputError("last_stride: OSNet does not halve the maps in its last stage; leave last_stride at 2")
        return OSNet(style=style, width=scale * width)

    return build


_BUILDERS: dict[str, _Build] = {
    "resnet18": partial(ResNet, BasicBlock, (2, 2, 2, 2)),
    "resnet34": partial(ResNet, BasicBlock, (3, 4, 6, 3)),
    "resnet50": partial(ResNet, Bottleneck, (3, 4, 6, 3)),
    "resnet101": partial(ResNet, Bottleneck, (3, 4, 23, 3)),
    "resnet50_ibn_a": partial(ResNet, Bottleneck, (3, 4, 6, 3), has_ibn=True),
    "mobilenet_v2": MobileNetV2,
    "efficientnet_b0": EfficientNetB0,
    "osnet_x1_0": _osnet("plain", 1.0),
    "osnet_x0_75": _osnet("plain", 0.75),
    "osnet_x0_5": _osnet("plain", 0.5),
    "osnet_x0_25": _osnet("plain", 0.25),
    "osnet_ibn_x1_0": _osnet("ibn", 1.0),
    "osnet_ain_x1_0": _osnet("ain", 1.0),
}

_TORCHVISION = "https://download.pytorch.org/models/"
_IBN_NET = "https://github.com/XingangPan/IBN-Net/releases/download/v1.0/"
_IMAGENET = {
    "resnet18": _TORCHVISION + "resnet18-f37072fd.pth",
    "resnet34": _TORCHVISION + "resnet34-b627a593.pth",
    "resnet50": _TORCHVISION + "resnet50-0676ba61.pth",
    "resnet101": _TORCHVISION + "resnet101-63fe2227.pth",
    "resnet50_ibn_a": _IBN_NET + "resnet50_ibn_a-d9d0bb7b.pth",
    "mobilenet_v2": _TORCHVISION + "mobilenet_v2-b0353104.pth",
    "efficientnet_b0": _TORCHVISION + "efficientnet_b0_rwightman-7f5810bc.pth",
}

BACKBONE_NAMES = tuple(_BUILDERS)
"""Names that :func:`create_backbone` knows, beside those of timm."""


def is_backbone_name(name: str) -> bool:
    """Whether :func:`create_backbone` takes ``name`` for a backbone; a network of timm is not looked up."""
    return name in _BUILDERS or name.startswith(PREFIX)


def create_backbone(
    name: str,
    *,
    width: float = 1.0,
    last_stride: int = 2,
    stem_relu: bool = True,
    weights: str | os.PathLike[str] = "imagenet",
    pooling: Pooling = "default",
    image_size: tuple[int, int] = (256, 128),
    generator: torch.Generator | None = None,
) -> Backbone:
    """A backbone with the weights asked for, on the CPU.

    Args:
        name: one of :data:`BACKBONE_NAMES`, or ``timm:`` and the name of a network of timm, which need be installed.
        width: number of channels as a multiple of the published one, for small networks; 0.5 takes about a quarter of
            the time. ImageNet weights have a width of 1.
        last_stride: stride of the last stage: 2 as in ImageNet classification, 1 for maps of twice the height and
            width. OSNet and networks of timm have no such choice.
        stem_relu: whether a ResNet has the ReLU after its first convolution. The code of the strong baseline (Luo et
            al., CVPR workshops 2019) leaves it out, so the weights that it trained do not fit a network with it.
        weights: ``imagenet`` for the weights that torchvision calls ``IMAGENET1K_V1`` (IBN-Net's own for
            ``resnet50_ibn_a``, timm's for its networks), ``none`` for random ones, or the path of a file; see
            :func:`reid_da.models.read_state_dict` and :func:`reid_da.models.match_state_dict`.
        pooling: how maps become a vector; ``default``: the backbone's own way.
        image_size: height and width of the images, which the networks of timm that have position embeddings are
            built for. The others take any size.
        generator: source of the random weights, torch's own if None.

    Raises:
        InputError: unknown name, stride, width or pooling; weights that cannot be obtained, read or fitted to the
            network.
    """
    is_foreign = name.startswith(PREFIX)
    if not is_foreign and name not in _BUILDERS:
        raise unknown_name("model", name, [*BACKBONE_NAMES, f"{PREFIX}NAME"])
    _check_shape(name, width=width, last_stride=last_stride, weights=weights)
    if is_foreign:
        backbone: Backbone = TimmBackbone(
            name.removeprefix(PREFIX), image_size=image_size, pretrained=weights == "imagenet", generator=generator
        )
    else:
        backbone = _build(_BUILDERS[name], width=width, last_stride=last_stride)
    if not stem_relu:
        if not isinstance(backbone, ResNet):
            raise InputError(f"stem_relu: {name} is not a ResNet; leave stem_relu=true")
        backbone.relu = nn.Identity()
    if pooling != "default":
        backbone.set_pooling(pooling)
    if weights == "none" and not is_foreign:
        _initialise(backbone, generator)
    elif weights == "imagenet" and not is_foreign:
        load_weights(backbone, cached_download(_imagenet_url(name)))
    elif weights not in ("none", "imagenet"):
        if not Path(weights).is_file():
            raise InputError(f"{weights}: no such weight file; model.weights is imagenet, none, or the path of a file")
        load_weights(backbone, weights)
    return backbone


def backbone_skeleton(name: str, *, pooling: Pooling = "default", image_size: tuple[int, int] = (256, 128)) -> Backbone:
    """A backbone in its published width, for the names, shapes and types of its weights.

    Those of :data:`BACKBONE_NAMES` are on the meta device, where weights take neither time nor memory.

    Raises:
        InputError: unknown name or pooling.
    """
    if name not in _BUILDERS:
        return create_backbone(name, weights="none", pooling=pooling, image_size=image_size)
    with torch.device("meta"):
        backbone = _BUILDERS[name](width=1.0, last_stride=2)
        if pooling != "default":
            backbone.set_pooling(pooling)
    return backbone


def _check_shape(name: str, *, width: float, last_stride: int, weights: str | os.PathLike[str]) -> None:
    if last_stride not in (1, 2):
        raise InputError(f"last_stride: expected 1 or 2, got {last_stride}")
    if width <= 0:
        raise InputError(f"width: expected a number above 0, got {width}")
    if name.startswith(PREFIX):
        if (width, last_stride) != (1, 2):
            raise InputError(f"{name}: leave width at 1 and last_stride at 2, networks of timm have no others")
    elif weights == "imagenet" and width != 1:
        raise InputError(f"width: there are no ImageNet weights for a width of {width}; use 1, or other weights")


def imagenet_weights_available(name: str) -> bool:
    """Whether ImageNet weights of a backbone are in the cache, or their server answers."""
    return name in _IMAGENET and is_cached_or_reachable(_IMAGENET[name])


def _imagenet_url(name: str) -> str:
    if name not in _IMAGENET:
        raise InputError(
            f"{name}: no address is known from which its ImageNet weights can be downloaded; get the file from "
            "torchreid's model zoo and give model.weights=PATH, or start from random weights, model.weights=none"
        )
    return _IMAGENET[name]


def _build(build: _Build, *, width: float, last_stride: int) -> Backbone:
    """Backbone with identity normalisation and unset weights."""
    # on the meta device torch's own random weights, drawn from the global generator, cost nothing
    with torch.device("meta"):
        backbone = build(width=width, last_stride=last_stride)
    backbone.to_empty(device="cpu")
    for module in backbone.modules():
        if isinstance(module, _BatchNorm | nn.InstanceNorm2d):
            module.reset_parameters()
    return backbone


def _initialise(backbone: Backbone, generator: torch.Generator | None) -> None:
    """Draw random weights as torchvision and torchreid do: convolutions Kaiming normal over the outputs, biases 0."""
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01, generator=generator)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
