"""The network that source and target training share in ECN (Zhong et al., CVPR 2019)."""

from collections.abc import Iterator
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from reid_da.errors import InputError, unknown_name
from reid_da.losses.margin import Margin, MarginHead
from reid_da.models.backbones import Backbone

Branch = Literal["test", "source", "target"]
"""What a forward pass is for: test features, source logits or target features."""
Embedding = Literal["linear", "none"]
"""What stands between pooled features and the two branches: FC and BN as in ECN, or BN alone."""
TargetDropout = Literal["after_norm", "before_norm", "none"]
"""Where dropout acts in the target branch, seen from the L2 normalisation."""
TestFeature = Literal["pooled", "embedding"]
"""What is compared at test time: the pooled features, or the embedding behind its batch normalisation."""
Freeze = Literal["official", "none"]
"""Which parameters stay as they are: those of conv1 to layer2, or none."""
BatchNormMode = Literal["official", "frozen", "train"]
"""Which batch normalisation layers keep their running statistics in training."""


class ReIDNetwork(nn.Module):
    """Backbone, embedding and classifier of ECN, with the branches of source, target and test.

    The embedding of pooled features p is ``h = BN(FC(p))``. The source branch gives
    ``logits = FC(dropout(ReLU(h)))``, the target branch ``f = dropout(h / ||h||)``, and the test feature is
    ``p / ||p||``. With the official dropout after the normalisation f is not a unit vector: at a rate of 0.5 its
    squared norm is about 2.

    Source and target images go through in two passes, never as one batch: in training each pass normalises with the
    statistics of its own domain.

    Attributes:
        backbone: images to pooled features.
        embedding: the linear layer to ``embedding_dim`` values, Kaiming normal over the outputs, bias 0; or nothing.
        embedding_dim: length D of the target features.
        embedding_norm: its batch normalisation, weight 1, bias 0.
        classifier: the linear layer to the source classes, normal with standard deviation 0.001, bias 0; or a head
            of the margin-softmax family.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        num_classes: int,
        embedding: Embedding = "linear",
        embedding_dim: int = 4096,
        dropout: float = 0.5,
        target_dropout: TargetDropout = "after_norm",
        test_feature: TestFeature = "pooled",
        margin: Margin | None = None,
        freeze: Freeze = "official",
        bn_mode: BatchNormMode = "official",
        generator: torch.Generator | None = None,
    ) -> None:
        """Put an embedding and a classifier with random weights on ``backbone``, which is taken over, not copied.

        Args:
            backbone: the backbone; ``freeze`` is applied to its parameters.
            num_classes: number of source classes C.
            embedding: ``linear`` as in ECN; ``none`` for batch normalisation on the pooled features themselves, without
                ReLU, and a classifier without bias: the BNNeck of Luo et al. (CVPR workshops 2019).
            embedding_dim: length D of a linear embedding; 4096 in the paper.
            dropout: rate of both dropouts; 0.5 in the paper.
            target_dropout: ``after_norm`` as the authors do, ``before_norm`` (f has unit length) or ``none``.
            test_feature: ``pooled`` as the authors do, or ``embedding``.
            margin: of a head of the margin-softmax family, which takes the embedding without ReLU; None for a linear
                classifier.
            freeze: ``official`` keeps conv1, bn1, layer1 and layer2 from being trained; ``none`` freezes nothing.
            bn_mode: batch normalisation in training. ``official`` holds the running statistics of the layers that
                have "bn" in their name and come before layer3: 22 in ResNet-50, without those in the shortcuts, which
                go on adapting. ``frozen`` holds the shortcuts of layer1 and layer2 too; ``train`` holds none.
            generator: source of the initial weights, torch's own if None.

        Raises:
            InputError: an option has a value that is not among the valid ones.
        """
        super().__init__()
        _check_choice("embedding", embedding, Embedding)
        _check_choice("target_dropout", target_dropout, TargetDropout)
        _check_choice("test_feature", test_feature, TestFeature)
        _check_choice("freeze", freeze, Freeze)
        _check_choice("bn_mode", bn_mode, BatchNormMode)
        if not 0 <= dropout < 1:
            raise InputError(f"dropout: expected a rate of at least 0 and below 1, got {dropout}")
        self.backbone = backbone
        is_linear = embedding == "linear"
        self.embedding_dim = embedding_dim if is_linear else backbone.feature_dim
        self.embedding = nn.Linear(backbone.feature_dim, embedding_dim) if is_linear else nn.Identity()
        self.embedding_norm = nn.BatchNorm1d(self.embedding_dim)
        self.dropout = dropout
        self.target_dropout = target_dropout
        self.test_feature = test_feature
        self.bn_mode = bn_mode
        if isinstance(self.embedding, nn.Linear):
            nn.init.kaiming_normal_(self.embedding.weight, mode="fan_out", generator=generator)
            nn.init.zeros_(self.embedding.bias)
        self.classifier: nn.Linear | MarginHead
        if margin is None:
            self.classifier = nn.Linear(self.embedding_dim, num_classes, bias=is_linear)
            nn.init.normal_(self.classifier.weight, std=0.001, generator=generator)
            if is_linear:
                nn.init.zeros_(self.classifier.bias)
        else:
            self.classifier = MarginHead(self.embedding_dim, num_classes, margin=margin, generator=generator)
        if freeze == "official":
            for layer in self._early_layers():
                layer.requires_grad_(False)

    def forward(self, images: Tensor, branch: Branch = "test", *, generator: torch.Generator | None = None) -> Tensor:
        """Output of one branch for (B, 3, H, W) normalised images.

        Args:
            images: (B, 3, H, W) images of one domain.
            branch: ``test`` for (B, F) or (B, D) unit vectors, ``source`` for (B, C) logits without a margin,
                ``target`` for (B, D) features.
            generator: source of the dropout masks on the device of ``images``, torch's own if None.

        Raises:
            ValueError: ``branch`` is none of the three.
        """
        pooled: Tensor = self.backbone(images)
        if branch == "test":
            return F.normalize(self._test_features(pooled))
        if branch == "source":
            return self.source_logits(self.embed(pooled), generator=generator)
        if branch == "target":
            return self.target_features(self.embed(pooled), generator=generator)
        raise ValueError(f"branch: expected test, source or target, got {branch!r}")

    def unscaled_test_features(self, images: Tensor) -> Tensor:
        """(B, F) or (B, D) features of the ``test`` branch before they are scaled to unit length."""
        return self._test_features(self.backbone(images))

    def embed(self, pooled: Tensor) -> Tensor:
        """(B, D) embeddings h of (B, F) pooled features, float32 under autocast too."""
        hidden: Tensor = self.embedding(pooled)
        embeddings: Tensor = self.embedding_norm(hidden.to(pooled.dtype))
        return embeddings

    def source_logits(
        self, embeddings: Tensor, label: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """(B, C) logits of the source classes from (B, D) embeddings h.

        Args:
            embeddings: h.
            label: (B,) int64 classes, for the margin of a head that has one; None for logits without it.
            generator: source of the dropout masks, torch's own if None.
        """
        if isinstance(self.classifier, MarginHead):
            margined: Tensor = self.classifier(self._drop(embeddings, generator), label)
            return margined
        hidden = F.relu(embeddings) if isinstance(self.embedding, nn.Linear) else embeddings
        logits: Tensor = self.classifier(self._drop(hidden, generator))
        return logits

    def target_features(self, embeddings: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """(B, D) features f of the target branch from (B, D) embeddings h."""
        if self.target_dropout == "before_norm":
            return F.normalize(self._drop(embeddings, generator))
        features = F.normalize(embeddings)
        return self._drop(features, generator) if self.target_dropout == "after_norm" else features

    def train(self, mode: bool = True) -> "ReIDNetwork":
        """Switch to training with the batch normalisation of ``bn_mode``, or to evaluation."""
        super().train(mode)
        if mode:
            for module in self._held_batch_norms():
                module.eval()
        return self

    def parameter_groups(self, *, lr_new: float, lr_backbone: float) -> list[dict[str, Any]]:
        """Groups of trainable parameters for an optimiser: ``backbone`` and ``new`` (embedding and classifier).

        Args:
            lr_new: learning rate of the embedding and the classifier; 0.1 in the paper.
            lr_backbone: learning rate of the backbone; 0.01 in the paper.
        """
        backbone = [parameter for parameter in self.backbone.parameters() if parameter.requires_grad]
        new = [
            parameter
            for module in (self.embedding, self.embedding_norm, self.classifier)
            for parameter in module.parameters()
        ]
        return [
            {"name": "backbone", "params": backbone, "lr": lr_backbone},
            {"name": "new", "params": new, "lr": lr_new},
        ]

    def _test_features(self, pooled: Tensor) -> Tensor:
        return pooled if self.test_feature == "pooled" else self.embed(pooled)

    def _drop(self, values: Tensor, generator: torch.Generator | None) -> Tensor:
        """Dropout in training, like ``F.dropout`` but with a generator of its own."""
        if not self.training or self.dropout == 0:
            return values
        kept = torch.empty_like(values).bernoulli_(1 - self.dropout, generator=generator)
        return values * kept / (1 - self.dropout)

    def _early_layers(self) -> tuple[nn.Module, ...]:
        return self.backbone.conv1, self.backbone.bn1, self.backbone.layer1, self.backbone.layer2

    def _held_batch_norms(self) -> Iterator[nn.Module]:
        """Layers that keep their running statistics in training."""
        if self.bn_mode == "official":
            for name, module in self.backbone.named_modules():
                if "layer3" in name:
                    return
                if "bn" in name:
                    yield module
        elif self.bn_mode == "frozen":
            for layer in self._early_layers():
                yield from (module for module in layer.modules() if isinstance(module, _BatchNorm))


class Unscaled(nn.Module):
    """A network whose test features keep the length that they have before any scaling to unit length.

    That of a bare backbone, or of any other model, is what it gives.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """(B, D) features of (B, 3, H, W) normalised images."""
        network = self.network
        features: Tensor = (
            network.unscaled_test_features(images) if isinstance(network, ReIDNetwork) else network(images)
        )
        return features


def _check_choice(option: str, value: str, choices: Any) -> None:
    if value not in get_args(choices):
        raise unknown_name(option, value, get_args(choices))
