"""What a network must offer to be a backbone: its features, its depth, and how other toolkits name its weights."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import TypeAlias

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from reid_da.models.heads import MeanPooling, create_pooling

Stage: TypeAlias = Sequence[nn.Module | nn.Parameter]
"""Modules, or parameters of their own, that are frozen together."""


class Backbone(nn.Module, ABC):
    """A network from images to one feature vector each, (B, 3, H, W) to (B, F).

    A subclass gives :meth:`feature_map` and :meth:`stages`; the rest has defaults. Freezing, held batch normalisation
    and learning-rate groups follow from these, so no code elsewhere knows the names of a network's layers. Modules
    are named as in the public weight files of the network.

    Attributes:
        feature_dim: number of features F.
        image_size: the only height and width of images that the network takes; None where any size will do.
        official_depth: number of stages that ``freeze: official`` covers: those up to maps of an eighth of the
            image's height and width, as ECN (Zhong et al., CVPR 2019) freezes ResNet-50 up to layer2.
        pooling: (B, C, h, w) maps to (B, C) vectors. Its parameters are new: no weight file need have them, and they
            learn at the rate of new layers.
    """

    feature_dim: int
    image_size: tuple[int, int] | None = None
    official_depth: int = 3

    def __init__(self) -> None:
        super().__init__()
        self.pooling: nn.Module = MeanPooling()

    @abstractmethod
    def feature_map(self, images: Tensor) -> Tensor:
        """(B, C, h, w) last maps for (B, 3, H, W) normalised images."""

    @abstractmethod
    def stages(self) -> Sequence[Stage]:
        """Everything with parameters except the pooling, in the order that images pass it."""

    def forward(self, images: Tensor) -> Tensor:
        """(B, F) features of (B, 3, H, W) normalised images, float32 under autocast too."""
        pooled: Tensor = self.pooling(self.feature_map(images))
        return pooled

    def freeze(self, depth: int) -> None:
        """Keep the parameters of the first ``depth`` stages from being trained."""
        for stage in self.stages()[:depth]:
            for part in stage:
                part.requires_grad_(False)

    def batch_norms(self, depth: int) -> list[nn.Module]:
        """Batch normalisation layers of the first ``depth`` stages."""
        parts = [part for stage in self.stages()[:depth] for part in stage]
        modules = [module for part in parts if isinstance(part, nn.Module) for module in part.modules()]
        return [module for module in modules if isinstance(module, _BatchNorm)]

    def official_batch_norms(self) -> list[nn.Module]:
        """Batch normalisation layers that ``bn_mode: official`` holds; all of the official depth unless overridden."""
        return self.batch_norms(self.official_depth)

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Trainable parameters by learning rate: ``backbone`` for the pretrained ones, ``new`` for the others."""
        new = list(self.pooling.parameters())
        known = {id(parameter) for parameter in new}
        pretrained = [parameter for parameter in self.parameters() if id(parameter) not in known]
        return {"backbone": [parameter for parameter in pretrained if parameter.requires_grad], "new": new}

    def set_pooling(self, name: str) -> None:
        """Pool by ``avg``, ``max`` or ``gem``.

        Raises:
            InputError: unknown name.
        """
        self.pooling = create_pooling(name)

    def names_in(self, names: Collection[str], prefix: str) -> dict[str, str]:
        """Names in this network of those weights of a file that belong to its backbone.

        Args:
            names: all names of the file.
            prefix: what the names of the file's backbone start with; may be empty.
        """
        return {name: name[len(prefix) :] for name in names if name.startswith(prefix)}

    def fitted(self, name: str, value: Tensor) -> Tensor:
        """``value`` in the shape of the weight ``name``, where a change of the image size explains the difference."""
        del name
        return value
