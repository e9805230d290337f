"""The network that source and target training share in ECN (Zhong et al., CVPR 2019)."""

import warnings
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reid_da.errors import InputError, unknown_name
from reid_da.losses.margin import Margin
from reid_da.losses.margin_head import CenterInit, MarginHead, Reduction
from reid_da.models.camera_norm import grouped_pass
from reid_da.models.grouped_norm import PassGroups
from reid_da.models.heads import Embedding, NormLinear, neck_of
from reid_da.models.protocol import Backbone
from reid_da.world import ALONE, World

Branch = Literal["test", "source", "target"]
"""What a forward pass is for: test features, source logits or target features."""
TargetDropout = Literal["after_norm", "before_norm", "none"]
"""Where dropout acts in the target branch, seen from the L2 normalisation."""
TestFeature = Literal["pooled", "embedding"]
"""What is compared at test time: the pooled features, or the embedding behind its batch normalisation."""
Freeze = str | int
"""Which parameters stay as they are: ``official``, those of the backbone's official part; ``none``; or those of so many
stages."""
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
        embedding_norm: its batch normalisation, weight 1, bias 0; or nothing.
        classifier: the linear layer to the source classes, normal with standard deviation 0.001, bias 0; or a head
            of the margin-softmax family.
        norm_groups: of a backbone that normalises by camera in training, else None.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        num_classes: int,
        embedding: Embedding = "linear",
        embedding_dim: int = 4096,
        neck_bias: bool = True,
        dropout: float = 0.5,
        target_dropout: TargetDropout = "after_norm",
        test_feature: TestFeature = "pooled",
        margin: Margin | None = None,
        center_init: CenterInit = "normal",
        sample_rate: float = 1.0,
        freeze: Freeze = "official",
        bn_mode: BatchNormMode = "official",
        generator: torch.Generator | None = None,
        world: World = ALONE,
    ) -> None:
        """Put an embedding and a classifier with random weights on ``backbone``, which is taken over, not copied.

        Args:
            backbone: the backbone; ``freeze`` is applied to its parameters.
            num_classes: number of source classes C; 0 for a method that classifies nothing.
            embedding: ``linear`` as in ECN; ``norm_linear`` for batch normalisation and dropout before the linear
                layer, and no other dropout, as the code of SphereReID (Fan et al., 2018) has it; ``none`` for batch
                normalisation on the pooled features themselves, without ReLU, and a classifier without bias: the
                BNNeck of Luo et al. (CVPR workshops 2019); ``identity`` for the pooled features as they are, and a
                classifier with bias.
            embedding_dim: length D of a linear embedding; 4096 in the paper.
            neck_bias: train the bias of the last batch normalisation; the code of Luo et al. keeps it at 0.
            dropout: rate of both dropouts; 0.5 in the paper.
            target_dropout: ``after_norm`` as the authors do, ``before_norm`` (f has unit length) or ``none``.
            test_feature: ``pooled`` as the authors do, or ``embedding``.
            margin: of a head of the margin-softmax family, which takes the embedding without ReLU; None for a linear
                classifier.
            center_init: how the centres of such a head begin.
            sample_rate: share of the other classes that a sample is compared with in a step, for such a head.
            freeze: ``official`` keeps the backbone's official part from being trained: in a ResNet conv1, bn1, layer1
                and layer2. ``none`` freezes nothing, a number so many stages of the backbone.
            bn_mode: batch normalisation in training. ``official`` holds the running statistics of the layers that
                :meth:`Backbone.official_batch_norms` names: in a ResNet those of the official part, without those in
                the shortcuts, which go on adapting. ``frozen`` holds all layers of the frozen stages, or of the
                official part where ``freeze`` is no number; ``train`` holds none.
            generator: source of the initial weights, torch's own if None.
            world: the processes that train it together, each with its part of a batch, and of the classes of a head
                with a margin.

        Raises:
            InputError: an option has a value that is not among the valid ones.
        """
        super().__init__()
        _check_choice("embedding", embedding, Embedding)
        _check_choice("target_dropout", target_dropout, TargetDropout)
        _check_choice("test_feature", test_feature, TestFeature)
        depth = _depth(freeze, backbone)
        _check_choice("bn_mode", bn_mode, BatchNormMode)
        if not 0 <= dropout < 1:
            raise InputError(f"dropout: expected a rate of at least 0 and below 1, got {dropout}")
        self.backbone = backbone
        self.world = world
        self.norm_groups: PassGroups | None = None
        self.embedding_dim = embedding_dim if embedding in ("linear", "norm_linear") else backbone.feature_dim
        self.embedding, self.embedding_norm = neck_of(
            embedding, feature_dim=backbone.feature_dim, embedding_dim=embedding_dim
        )
        self.dropout = dropout
        self.target_dropout = target_dropout
        self.test_feature = test_feature
        self.bn_mode = bn_mode
        if isinstance(self.embedding, nn.Linear):
            nn.init.kaiming_normal_(self.embedding.weight, mode="fan_out", generator=generator)
            nn.init.zeros_(self.embedding.bias)
        elif isinstance(self.embedding, NormLinear):
            nn.init.kaiming_normal_(self.embedding.linear.weight, a=1, generator=generator)
            nn.init.zeros_(self.embedding.linear.bias)
        if isinstance(self.embedding_norm, nn.BatchNorm1d):
            self.embedding_norm.bias.requires_grad_(neck_bias)
        self.classifier: nn.Linear | MarginHead
        if margin is None:
            self.classifier = _linear_classifier(
                self.embedding_dim, num_classes, has_bias=embedding != "none", generator=generator
            )
        else:
            self.classifier = MarginHead(
                self.embedding_dim,
                num_classes,
                margin=margin,
                init=center_init,
                sample_rate=sample_rate,
                generator=generator,
                world=world,
            )
        backbone.freeze(0 if freeze == "none" else depth)
        self._held_depth = depth

    def forward(
        self,
        images: Tensor,
        branch: Branch = "test",
        *,
        cameras: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Output of one branch for (B, 3, H, W) normalised images.

        Args:
            images: (B, 3, H, W) images of one domain.
            branch: ``test`` for (B, F) or (B, D) unit vectors, ``source`` for (B, C) logits without a margin,
                ``target`` for (B, D) features.
            cameras: of the images; see :meth:`pooled`.
            generator: source of the dropout masks on the device of ``images``, torch's own if None.

        Raises:
            ValueError: ``branch`` is none of the three.
        """
        pooled = self.pooled(images, cameras)
        if branch == "test":
            return F.normalize(self._test_features(pooled))
        if branch == "source":
            return self.source_logits(self.embed(pooled, generator=generator), generator=generator)
        if branch == "target":
            return self.target_features(self.embed(pooled, generator=generator), generator=generator)
        raise ValueError(f"branch: expected test, source or target, got {branch!r}")

    def pooled(self, images: Tensor, cameras: Tensor | None = None) -> Tensor:
        """(B, F) pooled features of (b, 3, H, W) normalised images.

        In training those of the global batch, of which each process gives its part: whatever comes behind the backbone
        is computed alike by all of them.

        Args:
            images: of one domain.
            cameras: (B,) int64 camera of each, on the CPU; a network that normalises by camera needs them in training.
        """
        pooled: Tensor
        if self.training and self.norm_groups is not None:
            if cameras is None:
                raise ValueError("a network that normalises by camera has to know the cameras in training")
            with grouped_pass(self.norm_groups, cameras, world=self.world, device=images.device) as order:
                pooled = self.backbone(images) if order is None else _in_order(self.backbone, images, *order)
        else:
            pooled = self.backbone(images)
        return self.world.gather(pooled) if self.training else pooled

    def unscaled_test_features(self, images: Tensor) -> Tensor:
        """(B, F) or (B, D) features of the ``test`` branch before they are scaled to unit length."""
        return self._test_features(self.backbone(images))

    def embed(self, pooled: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """(B, D) embeddings h of (B, F) pooled features, float32 under autocast too.

        Args:
            pooled: features.
            generator: source of the dropout mask of a neck that has one, torch's own if None.
        """
        hidden: Tensor
        if isinstance(self.embedding, NormLinear):
            hidden = self.embedding(pooled, lambda values: self._drop(values, generator))
        else:
            hidden = self.embedding(pooled)
        embeddings: Tensor = self.embedding_norm(hidden.to(pooled.dtype))
        return embeddings

    def source_logits(
        self, embeddings: Tensor, label: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """(B, C) logits of the source classes from (B, D) embeddings h; of a shared head those of the own classes.

        Args:
            embeddings: h.
            label: (B,) int64 classes, for the margin of a head that has one; None for logits without it.
            generator: source of the dropout masks, torch's own if None.
        """
        if isinstance(self.classifier, MarginHead):
            margined: Tensor = self.classifier(self._drop_late(embeddings, generator), label)
            return margined
        hidden = F.relu(embeddings) if isinstance(self.embedding, nn.Linear) else embeddings
        logits: Tensor = self.classifier(self._drop_late(hidden, generator))
        return logits

    def source_cross_entropy(
        self,
        embeddings: Tensor,
        label: Tensor,
        *,
        label_smoothing: float = 0.0,
        reduction: Reduction = "mean",
        seed: int = 0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Cross-entropy of the source classes from (B, D) embeddings h, with the margin of a head that has one.

        Args:
            embeddings: h of the global batch.
            label: (B,) int64 classes.
            label_smoothing: share of the target that is spread over the classes.
            reduction: ``mean`` over the samples, or ``none`` for (B,) losses.
            seed: of the classes that a head samples.
            generator: source of the dropout masks, torch's own if None.
        """
        if isinstance(self.classifier, MarginHead):
            hidden = self._drop_late(embeddings, generator)
            return self.classifier.cross_entropy(
                hidden, label, label_smoothing=label_smoothing, reduction=reduction, seed=seed
            )
        logits = self.source_logits(embeddings, generator=generator).float()
        return F.cross_entropy(logits, label, label_smoothing=label_smoothing, reduction=reduction)

    def target_features(self, embeddings: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """(B, D) features f of the target branch from (B, D) embeddings h."""
        if self.target_dropout == "before_norm":
            return F.normalize(self._drop_late(embeddings, generator))
        features = F.normalize(embeddings)
        return self._drop_late(features, generator) if self.target_dropout == "after_norm" else features

    def train(self, mode: bool = True) -> "ReIDNetwork":
        """Switch to training with the batch normalisation of ``bn_mode``, or to evaluation."""
        super().train(mode)
        if mode:
            for module in self._held_batch_norms():
                module.eval()
        return self

    def parameter_groups(self, *, lr_new: float, lr_backbone: float) -> list[dict[str, Any]]:
        """Groups of trainable parameters for an optimiser: ``backbone``, and ``new`` (pooling, embedding, classifier).

        Args:
            lr_new: learning rate of the embedding and the classifier; 0.1 in the paper.
            lr_backbone: learning rate of the backbone; 0.01 in the paper.
        """
        groups = self.backbone.groups()
        heads = (self.embedding, self.embedding_norm, self.classifier)
        of_heads = [parameter for module in heads for parameter in module.parameters() if parameter.requires_grad]
        groups["new"] = [*groups["new"], *of_heads]
        rates = {"backbone": lr_backbone, "new": lr_new}
        return [{"name": name, "params": parameters, "lr": rates[name]} for name, parameters in groups.items()]

    def _test_features(self, pooled: Tensor) -> Tensor:
        return pooled if self.test_feature == "pooled" else self.embed(pooled)

    def _drop(self, values: Tensor, generator: torch.Generator | None) -> Tensor:
        """Dropout in training, like ``F.dropout`` but with a generator of its own."""
        if not self.training or self.dropout == 0:
            return values
        kept = torch.empty_like(values).bernoulli_(1 - self.dropout, generator=generator)
        return values * kept / (1 - self.dropout)

    def _drop_late(self, values: Tensor, generator: torch.Generator | None) -> Tensor:
        """Dropout behind the embedding, unless the embedding has it inside."""
        return values if isinstance(self.embedding, NormLinear) else self._drop(values, generator)

    def _held_batch_norms(self) -> list[nn.Module]:
        """Layers that keep their running statistics in training."""
        if self.bn_mode == "official":
            return self.backbone.official_batch_norms()
        return self.backbone.batch_norms(self._held_depth) if self.bn_mode == "frozen" else []


class Unscaled(nn.Module):
    """A network whose test features keep the length that they have before any scaling to unit length.

    That of a bare backbone, or of any other model, is what it gives.

    Args:
        network: whose features; a :class:`ReIDNetwork`, or any other.
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


def _linear_classifier(dim: int, num_classes: int, *, has_bias: bool, generator: torch.Generator | None) -> nn.Linear:
    with warnings.catch_warnings():
        # torch warns of a layer without outputs, which is what a method without classes asks for
        warnings.filterwarnings("ignore", message="Initializing zero-element tensors")
        classifier = nn.Linear(dim, num_classes, bias=has_bias)
        nn.init.normal_(classifier.weight, std=0.001, generator=generator)
        if has_bias:
            nn.init.zeros_(classifier.bias)
    return classifier


def _in_order(backbone: nn.Module, images: Tensor, there: Tensor, back: Tensor) -> Tensor:
    """Pooled features of images that the backbone sees in another order."""
    sorted_images = images.index_select(0, there)
    if images.is_contiguous(memory_format=torch.channels_last):
        sorted_images = sorted_images.contiguous(memory_format=torch.channels_last)
    pooled: Tensor = backbone(sorted_images)
    return pooled.index_select(0, back)


def _check_choice(option: str, value: str, choices: Any) -> None:
    if value not in get_args(choices):
        raise unknown_name(option, value, get_args(choices))


def _depth(freeze: Freeze, backbone: Backbone) -> int:
    """Number of stages that ``freeze`` names; those of the official part where it freezes nothing.

    Raises:
        InputError: it is no number of stages and none of the two names.
    """
    if isinstance(freeze, str):
        if freeze not in ("official", "none"):
            raise unknown_name("freeze", freeze, ("official", "none", "a number of stages"))
        return backbone.official_depth
    stages = len(backbone.stages())
    if not 0 <= freeze <= stages:
        raise InputError(f"freeze: this backbone has {stages} stages, got {freeze}")
    return freeze
