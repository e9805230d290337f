"""Any network of the library timm as a backbone: ``timm:vit_small_patch16_224``."""

import importlib
import logging
import math
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from reid_da.errors import InputError
from reid_da.models.protocol import Backbone, Stage

logger = logging.getLogger(__name__)

PREFIX = "timm:"
"""What the names of these backbones start with."""


class TimmBackbone(Backbone):
    """A network of timm without its classifier, in evaluation equal to timm's own features.

    Its default pooling is its own, up to the classifier: the class token of most ViTs, an average with a layer behind
    it in others. The other poolings act on the last maps, or on the patch tokens laid out as maps.

    Stages are the groups into which timm orders the layers of a network: patch embedding and the blocks of a ViT, stem
    and stages of a convolutional one. ``official`` covers the first half of them.

    Args:
        name: name in timm, with or without the tag of its weights.
        image_size: height and width of the images; position embeddings are made for them.
        pretrained: load the weights that timm has for this name, resized to the images.
        generator: source of the random weights, torch's own if None.

    Raises:
        InputError: timm is not installed or knows no such network, or the weights cannot be downloaded.
    """

    def __init__(
        self,
        name: str,
        *,
        image_size: tuple[int, int],
        pretrained: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.name = PREFIX + name
        with torch.random.fork_rng(devices=[], enabled=generator is not None):
            if generator is not None:
                torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            self.network, is_sized = _create(name, image_size=image_size, pretrained=pretrained)
        self.image_size = image_size if is_sized else None
        self.pooling = nn.Identity()
        self.feature_dim = self.network.head_hidden_size
        stages = len(self.stages())
        self.official_depth = (stages + 1) // 2 if stages > 1 else 0

    def set_pooling(self, name: str) -> None:
        """Pool the last maps by ``avg``, ``max`` or ``gem`` instead of the network's own way."""
        super().set_pooling(name)
        self.feature_dim = self.network.num_features

    def feature_map(self, images: Tensor) -> Tensor:
        """(B, C, h, w) last maps, or patch tokens laid out as maps, for (B, 3, H, W) normalised images.

        Raises:
            InputError: the network is made for images of another size.
        """
        self._check_size(images)
        output: Tensor = self.network.forward_features(images)
        if output.ndim == 3:
            patches = output[:, self.network.num_prefix_tokens :]
            return patches.transpose(1, 2).reshape(len(patches), -1, *self.network.patch_embed.grid_size)
        is_last = getattr(self.network, "output_fmt", "NCHW") == "NHWC"
        return output.permute(0, 3, 1, 2) if is_last else output

    def forward(self, images: Tensor) -> Tensor:
        """(B, F) features of (B, 3, H, W) normalised images, float32 under autocast too.

        Raises:
            InputError: the network is made for images of another size.
        """
        if not isinstance(self.pooling, nn.Identity):
            return super().forward(images)
        self._check_size(images)
        features: Tensor = self.network(images)
        return features.to(torch.promote_types(features.dtype, torch.float32))

    def stages(self) -> tuple[Stage, ...]:
        """Parameters, and batch normalisation layers, by the groups of timm."""
        parameters = dict(self.network.named_parameters())
        norms = {name: module for name, module in self.network.named_modules() if isinstance(module, _BatchNorm)}
        groups: list[list[str]] = [list(parameters)]
        if hasattr(self.network, "group_matcher"):
            manipulate = importlib.import_module("timm.models")
            matcher = self.network.group_matcher(coarse=True)
            groups = list(manipulate.group_parameters(self.network, matcher).values())
        stages: list[Stage] = []
        for names in groups:
            owners = dict.fromkeys(name.rpartition(".")[0] for name in names)
            layers = [norms[owner] for owner in owners if owner in norms]
            stages.append((*(parameters[name] for name in names), *layers))
        return tuple(stages)

    def names_in(self, names: Collection[str], prefix: str) -> dict[str, str]:
        """Names of timm; of the two ends of a TransReID with jigsaw branches, the one that gives the global feature."""
        found = {}
        for name, inner in super().names_in(names, prefix).items():
            is_own = inner.startswith(("network.", "pooling."))
            found[name] = inner if is_own else "network." + inner
        jigsaw = [name for name in names if name.startswith("b1.")]
        if jigsaw:
            # its last block is trained in the copy b1 alone; that in the backbone stays as it was before training
            last = f"network.blocks.{len(self.network.blocks) - 1}."
            found = {name: inner for name, inner in found.items() if not inner.startswith((last, "network.norm."))}
            for name in jigsaw:
                found[name] = name.replace("b1.0.", last).replace("b1.1.", "network.norm.")
        return found

    def fitted(self, name: str, value: Tensor) -> Tensor:
        """Position embeddings interpolated from the grid of patches in the file to that of this network."""
        if name == "network.pos_embed" and value.ndim == 3:
            expected = self.network.pos_embed
            grid = tuple(self.network.patch_embed.grid_size)
            tokens = expected.shape[1] - math.prod(grid)
            if value.shape[1] != expected.shape[1] and value.shape[2] == expected.shape[2]:
                return _interpolated(value, tokens=tokens, grid=grid)
        return value

    def _check_size(self, images: Tensor) -> None:
        size = tuple(images.shape[2:])
        if self.image_size is not None and size != self.image_size:
            (height, width), (got_height, got_width) = self.image_size, size
            raise InputError(
                f"{self.name}: built for images of {height}x{width}, got {got_height}x{got_width}; "
                "set the image size when the network is created"
            )


def _create(name: str, *, image_size: tuple[int, int], pretrained: bool) -> tuple[Any, bool]:
    """The network of timm, and whether it is made for one size of images."""
    try:
        timm = importlib.import_module("timm")
    except ImportError as error:
        raise InputError(f"{PREFIX}{name}: timm is not installed; pip install 'reid-da[timm]'") from error
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.partition('.')[0]}*")[:1] or timm.list_models(f"{name[:8]}*")[:1]
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"{PREFIX}{name}: timm {timm.__version__} has no network of this name{hint}")
    try:
        try:
            return timm.create_model(name, pretrained=pretrained, num_classes=0, img_size=image_size), True
        except TypeError as error:
            if "img_size" not in str(error):
                raise
            return timm.create_model(name, pretrained=pretrained, num_classes=0), False
    # a download can fail in nearly any way, and a network in as many where it cannot take the image size
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if not pretrained:
            height, width = image_size
            raise InputError(f"{PREFIX}{name}: cannot be built for images of {height}x{width} ({reason})") from error
        raise InputError(
            f"{PREFIX}{name}: its pretrained weights cannot be downloaded ({reason}): give a local file, "
            "model.weights=PATH, or start from random weights, model.weights=none"
        ) from error


def _interpolated(value: Tensor, *, tokens: int, grid: tuple[int, ...]) -> Tensor:
    """(1, T + h w, C) position embeddings for a grid of h x w patches, unchanged where the old grid is not known.

    Args:
        value: (1, T + N, C) embeddings of a file.
        tokens: number T of those that belong to no patch; they come first and stay as they are.
        grid: h and w.
    """
    old = _old_grid(value.shape[1] - tokens, ratio=grid[0] / grid[1])
    if old is None:
        return value
    head, patches = value[:, :tokens], value[:, tokens:].float()
    maps = patches.transpose(1, 2).reshape(1, -1, *old)
    resized = F.interpolate(maps, size=grid, mode="bicubic", antialias=True, align_corners=False)
    logger.info("position embeddings interpolated from %dx%d to %dx%d patches", *old, *grid)
    return torch.cat([head, resized.flatten(2).transpose(1, 2).to(value.dtype)], dim=1)


def _old_grid(count: int, *, ratio: float) -> tuple[int, int] | None:
    """Height and width of a grid of ``count`` patches: square where that is possible, else as near ``ratio`` as can be.

    ImageNet weights have square grids; those of re-ID are about as tall as the grid that they go into.
    """
    if count < 1:
        return None
    root = math.isqrt(count)
    if root * root == count:
        return root, root
    pairs = [(count // width, width) for width in range(1, count + 1) if count % width == 0]
    height, width = min(pairs, key=lambda pair: abs(math.log(pair[0] / pair[1] / ratio)))
    return (height, width) if 1 / 4 <= height / width <= 4 else None
