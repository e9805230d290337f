"""Cluster-Contrast: one vector of a memory for each cluster of target images (Dai et al., ACCV 2022).

With a source it is the domain-adaptive variant: classes of the source have vectors of their own beside the clusters.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from reid_da.clustering import cluster_means
from reid_da.config import (
    AugmentSettings,
    Count,
    ModelSettings,
    OptimizerSettings,
    Positive,
    Settings,
    Share,
)
from reid_da.features import Labels
from reid_da.images import Batch
from reid_da.losses.invariance import fused_invariance_loss
from reid_da.memory.exemplar import ExemplarMemory
from reid_da.methods._pseudo_labels import (
    PseudoLabelMethod,
    PseudoLabels,
    PseudoLabelSettings,
    check_instances,
    require_embedding,
)
from reid_da.methods._streams import labelled_stream
from reid_da.methods.protocol import Context, EpochPlan, Rows
from reid_da.shards import Shard
from reid_da.world import ALONE, World


class BatchSettings(Settings):
    """Sizes of the batches of a step."""

    target: Count = Field(default=256, description="target images in a step")
    instances: Count = Field(default=16, description="images of each cluster, and of each source identity, in a batch")
    source: Count = Field(default=256, description="source images in a step, where there is a source")


class ClusterMemorySettings(Settings):
    """The vectors of the clusters."""

    temperature: Positive = Field(default=0.05, description="divides the cosines")
    momentum: Share = Field(default=0.1, description="share of its old value that a vector keeps")
    update: Literal["all", "hard", "mean"] = Field(
        default="all",
        description="what moves a vector: all images of the batch in turn, the one least like it, or their mean",
    )


STRONG_MODEL = ModelSettings(
    last_stride=1,
    pooling="gem",
    embedding="none",
    dropout=0.0,
    target_dropout="none",
    test_feature="embedding",
    freeze="none",
    bn_mode="train",
)
"""The network of the clustering methods: a neck with batch normalisation, compared behind it."""
STRONG_AUGMENT = AugmentSettings(crop="pad", crop_pad=10, erase=0.5, erase_area=(0.02, 0.4), erase_fill="mean")
"""Their random changes of the images."""
STRONG_OPTIMIZER = OptimizerSettings(kind="adam", lr=3.5e-4, backbone_lr_factor=1.0, milestones=(20, 40))
"""Their optimiser."""


class ClusterContrastSettings(PseudoLabelSettings):
    """Settings of Cluster-Contrast; the defaults are the authors'."""

    method: Literal["cluster-contrast"] = Field(
        default="cluster-contrast",
        description="train on clusters of the target, made anew each epoch; a source is optional",
    )
    epochs: Count = 50
    source_weight: float = Field(default=1.0, ge=0, description="weight of the source's loss; 0: no source")
    batch: BatchSettings = BatchSettings()
    clusters: ClusterMemorySettings = ClusterMemorySettings()
    model: ModelSettings = STRONG_MODEL
    augment: AugmentSettings = STRONG_AUGMENT
    optimizer: OptimizerSettings = STRONG_OPTIMIZER


class ClusterContrast(PseudoLabelMethod):
    """Each epoch: features, clusters, their means as a memory; each step: a softmax over the vectors of the memory.

    Args:
        settings: of the experiment.
        context: seeds and device of the run, and what it may ask for.
    """

    Settings = ClusterContrastSettings
    rows: ClassVar[Rows] = {"cluster-contrast": {"method": "cluster-contrast"}}
    table = ("source", "cluster-contrast", "supervised")

    def __init__(self, settings: ClusterContrastSettings, context: Context) -> None:
        check_instances(size=settings.batch.target, instances=settings.batch.instances)
        require_embedding(settings.model)
        self.settings = settings
        self.context = context
        self.target = PseudoLabels(context.domain("target"), settings.clustering, context, settings.shown_views)
        self.trained = self.network = context.network(num_classes=0)
        self.memory: ExemplarMemory | None = None
        self._seen: list[tuple[Tensor, Tensor]] = []
        self._source = None
        if settings.data.source is not None and settings.source_weight:
            self._source = context.domain("source")
            self._source_stream = labelled_stream(
                self._source,
                size=settings.batch.source,
                instances=settings.batch.instances,
                augment=settings.augment,
            )
            # raises where there are fewer identities than a batch wants
            self._source_stream.num_batches(context.seed("source order", 0))

    def begin_epoch(self, epoch: int) -> EpochPlan:
        """Cluster the target; one pass over the images that have a cluster."""
        settings, batch = self.settings, self.settings.batch
        features = self.target.extract(self.network)
        figures = self.target.assign(features, epoch=epoch)
        means = [self.target.classes(features)]
        streams = {"target": self.target.stream(size=batch.target, instances=batch.instances, augment=settings.augment)}
        if self._source is not None:
            streams["source"] = self._source_stream
            means.append(self._source_classes())
        self.memory = memory_of_means(*means, device=self.context.device, world=self.context.world)
        steps = settings.steps_per_epoch or streams["target"].num_batches(self.context.seed("target order", epoch))
        return EpochPlan(streams=streams, steps=steps, figures=figures)

    def step(self, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        """Weighted losses by name: equation 2 of the paper, the cross-entropy of the own cluster among all."""
        losses = {}
        if self._source is not None:
            # first, so that the running statistics take over the target last
            source = batches["source"]
            assert source.labels is not None
            losses["source"] = self.settings.source_weight * self._loss(
                source, source.labels + self.target.num_clusters
            )
        target = batches["target"]
        assert target.labels is not None
        losses["cluster"] = self._loss(target, target.labels)
        return losses

    def after_backward(self) -> None:
        """Move the vectors; the gradients have come from those before."""
        assert self.memory is not None
        for labels, features in self._seen:
            update_clusters(self.memory, labels, features, settings=self.settings.clusters)
        self._seen = []

    def state_dict(self) -> dict[str, Any]:
        """The labels; the vectors are made anew with each epoch."""
        return {"target": self.target.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self.target.load_state_dict(state["target"])

    def _loss(self, batch: Batch, labels: Tensor) -> Tensor:
        assert self.memory is not None
        features = self.network(batch.images, "target", cameras=batch.cameras)
        self._seen.append((labels, features.detach()))
        temperature, shard = self.settings.clusters.temperature, self.memory.shard
        return cluster_loss(features, self.memory.slots, labels, temperature=temperature, shard=shard)

    def _source_classes(self) -> tuple[Tensor, Labels, int]:
        assert self._source is not None
        rows = self._source.rows
        features = self.context.extract(self.network, self._source)[rows]
        return features, self._source.labels[rows].numpy(), self._source.num_classes


def cluster_loss(
    features: Tensor, vectors: Tensor, labels: Tensor, *, temperature: float, shard: Shard | None = None
) -> Tensor:
    """() mean of ``-log softmax(f . c / temperature)`` at the own vector, in float32 at least.

    Args:
        features: (B, D).
        vectors: (C, D), which get no gradient.
        labels: (B,) int64 own vector of each feature.
        temperature: tau of the paper.
        shard: which vectors these are, where several processes hold them; None for all.
    """
    loss = fused_invariance_loss(features, vectors.detach(), labels, temperature=temperature, shard=shard)
    return loss.exemplar.mean()


def memory_of_means(
    *parts: tuple[Tensor, Labels, int], device: torch.device | None = None, world: World = ALONE
) -> ExemplarMemory:
    """A memory of the mean features of classes, of unit length; where several processes share it, of the own ones.

    Args:
        parts: (N, D) float features, their (N,) int64 classes from 0 to C - 1 without gaps, -1 left out, and C; slots
            of a part lie behind those of the part before.
        device: where the memory is to be; that of the features by default.
        world: the processes, which have the same features.
    """
    first = parts[0][0]
    total = sum(count for *_, count in parts)
    memory = ExemplarMemory(total, first.shape[1], dtype=first.dtype, world=world).to(device or first.device)
    own, start = memory.shard.rows, 0
    for features, labels, count in parts:
        begin, end = max(own.start - start, 0), min(own.stop - start, count)
        if begin < end:
            chosen = np.where((labels >= begin) & (labels < end), labels - begin, -1)
            place = start - own.start
            memory.slots[place + begin : place + end] = cluster_means(features, chosen).to(memory.slots)
        start += count
    return memory


def update_clusters(
    memory: ExemplarMemory, labels: Tensor, features: Tensor, *, settings: ClusterMemorySettings
) -> None:
    """Move the vectors of a batch's clusters: ``c <- m c + (1 - m) f``, then to unit length.

    Args:
        memory: of the vectors.
        labels: (B,) int64 vector of each feature.
        features: (B, D) of unit length.
        settings: momentum, and which features of a cluster move its vector.
    """
    if settings.update == "all":
        memory.update(labels, features, momentum=settings.momentum)
        return
    present, inverse = torch.unique(labels, return_inverse=True)
    wide = features.to(memory.slots.dtype)
    if settings.update == "mean":
        sums = wide.new_zeros(len(present), wide.shape[1]).index_add_(0, inverse, wide)
        memory.update(present, sums / torch.bincount(inverse)[:, None], momentum=settings.momentum)
        return
    similarity = (wide * memory.read(labels).to(wide)).sum(dim=1)
    # by cluster, and within a cluster the least similar first
    order = similarity.argsort(stable=True)
    order = order[inverse[order].argsort(stable=True)]
    first = torch.searchsorted(inverse[order].contiguous(), torch.arange(len(present), device=labels.device))
    memory.update(present, wide[order[first]], momentum=settings.momentum)
