"""From maps to vectors: pooling. From vectors to embeddings: the neck."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reid_da.errors import unknown_name

Pooling = Literal["default", "avg", "max", "gem"]
"""How maps become a vector; ``default``: the backbone's own way, which is the class token of a ViT, else ``avg``."""
Embedding = Literal["linear", "norm_linear", "none", "identity"]
"""What stands between pooled features and the two branches: FC and BN as in ECN; BN, dropout, FC and BN as in
SphereReID; BN alone (BNNeck); or nothing."""


def _wide(maps: Tensor) -> torch.dtype:
    return torch.promote_types(maps.dtype, torch.float32)


class MeanPooling(nn.Module):
    """(B, C, h, w) maps to the (B, C) means of their cells, float32 under autocast too."""

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C) means."""
        return maps.mean(dim=(2, 3), dtype=_wide(maps))


class MaxPooling(nn.Module):
    """(B, C, h, w) maps to the (B, C) largest of their cells, float32 under autocast too."""

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C) maxima."""
        return maps.amax(dim=(2, 3)).to(_wide(maps))


class GeMPooling(nn.Module):
    """(B, C, h, w) maps to their (B, C) generalised means, ``mean(max(x, eps)^p)^(1/p)``.

    GeM pooling of Radenovic et al. (TPAMI 2019, equation 3), with one learned power for all channels. A power of 1 is
    the mean, a large one approaches the maximum.

    Args:
        power: at which learning starts.
        eps: least value of a map, so that powers are defined.

    Attributes:
        p: (1,) power, learned.
    """

    def __init__(self, power: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.full((1,), power))
        self.eps = eps

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C) generalised means."""
        # powers of bfloat16 lose what tells the cells apart
        with torch.autocast(maps.device.type, enabled=False):
            cells = maps.to(_wide(maps)).clamp(min=self.eps)
            return cells.pow(self.p).mean(dim=(2, 3)).pow(1 / self.p)


_POOLINGS: dict[str, type[nn.Module]] = {"avg": MeanPooling, "max": MaxPooling, "gem": GeMPooling}


def create_pooling(name: str) -> nn.Module:
    """The pooling layer ``avg``, ``max`` or ``gem``.

    Raises:
        InputError: unknown name.
    """
    if name not in _POOLINGS:
        raise unknown_name("pooling", name, ["default", *_POOLINGS])
    return _POOLINGS[name]()


class Projection(nn.Sequential):
    """Linear layer, batch normalisation and ReLU from (B, C) pooled maps to (B, F) features, as OSNet ends.

    Its parts are numbered as in torchreid's files.

    Args:
        inputs: length of the pooled features.
        outputs: length of the features.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU())

    def forward(self, pooled: Tensor) -> Tensor:
        """(B, F) features in the dtype of ``pooled``, under autocast too."""
        hidden: Tensor = self[0](pooled)
        normalised: Tensor = self[1](hidden.to(pooled.dtype))
        return F.relu(normalised)


class NormLinear(nn.Module):
    """Batch normalisation and a linear layer, with dropout between them: how the neck of SphereReID begins.

    Args:
        inputs: length of the pooled features.
        outputs: length of the embedding.

    Attributes:
        norm: of the (B, F) pooled features.
        linear: to (B, D) values, normal with a variance of 1/F, bias 0.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(inputs)
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, pooled: Tensor, drop: Callable[[Tensor], Tensor]) -> Tensor:
        """(B, D) values of (B, F) pooled features.

        Args:
            pooled: features.
            drop: the dropout.
        """
        values: Tensor = self.linear(drop(self.norm(pooled)))
        return values


def neck_of(embedding: Embedding, *, feature_dim: int, embedding_dim: int) -> tuple[nn.Module, nn.Module]:
    """Linear layer and batch normalisation of a neck, each of which may be an identity.

    Args:
        embedding: kind of the neck.
        feature_dim: number of pooled features F.
        embedding_dim: number of embedding values D, used by necks with a linear layer only.
    """
    if embedding == "linear":
        return nn.Linear(feature_dim, embedding_dim), nn.BatchNorm1d(embedding_dim)
    if embedding == "norm_linear":
        return NormLinear(feature_dim, embedding_dim), nn.BatchNorm1d(embedding_dim)
    return nn.Identity(), nn.Identity() if embedding == "identity" else nn.BatchNorm1d(feature_dim)
