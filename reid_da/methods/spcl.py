"""SpCL: self-paced clusters in a memory of source classes and target images (Ge et al., NeurIPS 2020).

Every target image has a slot. Reliable clusters are classes, and so is every image outside of them, so that no image is
left out; the loss compares an image with the means of all classes. Without a source it trains on the target alone.
"""

import copy
import logging
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from reid_da.clustering import (
    ClusterResult,
    independence_threshold,
    outliers_as_clusters,
    reliable_images,
)
from reid_da.clustering.labels import without_small_clusters
from reid_da.config import (
    AugmentSettings,
    Count,
    ModelSettings,
    OptimizerSettings,
    Positive,
    Settings,
    Share,
)
from reid_da.errors import InputError
from reid_da.images import Batch, GroupSampler
from reid_da.memory.exemplar import ExemplarMemory
from reid_da.methods._pseudo_labels import (
    LEAST_CLUSTERS,
    PseudoLabelMethod,
    PseudoLabels,
    PseudoLabelSettings,
    check_instances,
    require_embedding,
)
from reid_da.methods._streams import check_batch, labelled_stream
from reid_da.methods.cluster_contrast import STRONG_AUGMENT, STRONG_MODEL, STRONG_OPTIMIZER, cluster_loss
from reid_da.methods.protocol import NO_LABEL, Context, Domain, EpochPlan, Held, Role, Rows, StreamPlan
from reid_da.shards import Shard

logger = logging.getLogger(__name__)


class BatchSettings(Settings):
    """Sizes of the batches of a step."""

    target: Count = Field(default=64, description="target images in a step")
    instances: Count = Field(default=4, description="images of each cluster, and of each source identity, in a batch")
    source: Count = Field(default=64, description="source images in a step, where there is a source")


class HybridMemorySettings(Settings):
    """The memory, and the rule by which clusters are trusted."""

    temperature: Positive = Field(default=0.05, description="divides the cosines")
    momentum: Share = Field(default=0.2, description="share of its old value that a slot keeps")
    eps_gap: Positive = Field(
        default=0.02, description="clusters are compared with those at clustering.eps less and more this"
    )
    independent_share: Share = Field(
        default=0.9, description="share of the first epoch's clusters that are independent enough; sets the threshold"
    )


class SpCLSettings(PseudoLabelSettings):
    """Settings of SpCL; the defaults are those of the authors' code (yxgeee/SpCL@01a486e)."""

    method: Literal["spcl"] = Field(
        default="spcl",
        description="self-paced: reliable clusters and single images of the target as classes; a source is optional",
    )
    epochs: Count = 50
    steps_per_epoch: int = Field(default=400, ge=0, description="0: one pass over a group of images of each class")
    source_weight: float = Field(default=1.0, ge=0, description="weight of the source's loss; 0: no source")
    domain_norm: bool = Field(
        default=True,
        description="give the source batch norms of its own, with their weights; those of the target are tested",
    )
    batch: BatchSettings = BatchSettings()
    hybrid: HybridMemorySettings = HybridMemorySettings()
    model: ModelSettings = STRONG_MODEL.model_copy(update={"pooling": "default"})
    augment: AugmentSettings = STRONG_AUGMENT
    optimizer: OptimizerSettings = STRONG_OPTIMIZER


class SpCL(PseudoLabelMethod):
    """Each epoch: three clusterings of the memory, reliable clusters; each step: a softmax over the means of classes.

    Args:
        settings: of the experiment.
        context: seeds and device of the run, and what it may ask for.

    Attributes:
        network: that is tested, with the batch norms of the target.
        memory: S slots for the means of the source classes, then one slot for each target image.
        means: (c, D) mean slots of classes, the own ones of S + C: the source's, clusters, and images outside of
            clusters. A process has slots and classes of its own, and seldom those of each other.
        classes: which of the S + C classes the own ones are.
    """

    Settings = SpCLSettings
    rows: ClassVar[Rows] = {"spcl": {"method": "spcl"}}
    table = ("source", "spcl", "supervised")
    inference_part = "network."

    @classmethod
    def holds(cls, settings: PseudoLabelSettings, sizes: Mapping[Role, int], dim: int) -> tuple[Held, ...]:
        """The hybrid memory, and features in clustering."""
        hybrid = Held.memory(2 * sizes["target"], dim, name="hybrid memory, means")
        return (hybrid, *super().holds(settings, sizes, dim))

    def __init__(self, settings: SpCLSettings, context: Context) -> None:
        _check(settings)
        self.settings = settings
        self.context = context
        self.network = context.network(num_classes=0)
        self.trained = nn.ModuleDict({"network": self.network})
        target = context.domain("target")
        check_batch(target, size=settings.batch.target, setting="batch.target")
        self.target = PseudoLabels(target, settings.clustering, context, settings.shown_views)
        self._source: Domain | None = None
        self._source_norms: SourceNorms | None = None
        self._num_source = 0
        if settings.data.source is not None and settings.source_weight:
            self._source = context.domain("source")
            self._num_source = self._source.num_classes
            sizes = settings.batch
            self._source_stream = labelled_stream(
                self._source, size=sizes.source, instances=sizes.instances, augment=settings.augment
            )
            # raises where there are fewer identities than a batch wants
            self._source_stream.num_batches(context.seed("source order", 0))
            if settings.domain_norm:
                self._source_norms = SourceNorms(self.network)
                self.trained["source_norms"] = self._source_norms
        memory = ExemplarMemory(
            self._num_source + len(target),
            self.network.embedding_dim,
            fingerprint=target.table.fingerprint,
            world=context.world,
        )
        self.memory = memory.to(context.device)
        self.threshold: float | None = None
        self._seen: list[tuple[Tensor, Tensor]] = []

    @property
    def inference(self) -> nn.Module:
        """The network with the batch norms of the target."""
        return self.network

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Those of the network; batch norms of the source learn as the backbone does."""
        optimizer = self.settings.optimizer
        groups = self.network.parameter_groups(
            lr_new=optimizer.lr, lr_backbone=optimizer.lr * optimizer.backbone_lr_factor
        )
        if self._source_norms is not None:
            groups[0]["params"] = [*groups[0]["params"], *self._source_norms.trainable()]
        return groups

    def begin_epoch(self, epoch: int) -> EpochPlan:
        """Cluster the slots of the target, and let the reliable clusters be classes."""
        if self.threshold is None:
            self._fill()
        figures = self._cluster(epoch)
        self._classify()
        streams = {"target": self._stream()}
        if self._source is not None:
            streams["source"] = self._source_stream
        steps = self.settings.steps_per_epoch or streams["target"].num_batches(self.context.seed("target order", epoch))
        return EpochPlan(streams=streams, steps=steps, figures=figures)

    def step(self, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        """Weighted losses by name: equation 1 of the paper, for a batch of each domain."""
        losses = {}
        if self._source is not None:
            # first, so that running statistics that the domains share take over the target last
            source = batches["source"]
            assert source.labels is not None
            features = self._source_features(source)
            losses["source"] = self.settings.source_weight * self._loss(features, source.labels, source.labels)
        target = batches["target"]
        assert target.labels is not None
        slots, classes = target.rows + self._num_source, target.labels + self._num_source
        losses["target"] = self._loss(self.network(target.images, "target", cameras=target.cameras), slots, classes)
        return losses

    def after_backward(self) -> None:
        """Move the slots, and with them the means of their classes; the gradients have come from those before."""
        for slots, features in self._seen:
            moved = torch.unique(slots)
            before = self.memory.read(moved)
            self.memory.update(slots, features, momentum=self.settings.hybrid.momentum)
            owner = self._owner[moved]
            change = (self.memory.read(moved) - before) / self._counts[owner][:, None]
            if not self.classes.is_whole:
                place, is_own = self.classes.find(owner)
                owner, change = place[is_own], change[is_own]
            self.means.index_add_(0, owner, change)
        self._seen = []

    def state_dict(self) -> dict[str, Any]:
        """Memory, labels and the threshold of the first epoch; the means are made anew with each epoch."""
        return {"memory": self.memory.saved_state(), "target": self.target.state_dict(), "threshold": self.threshold}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self.memory.restore(state["memory"])
        self.target.load_state_dict(state["target"])
        self.threshold = state["threshold"]

    def _fill(self) -> None:
        """Let the memory hold the means of the source classes and the features of the target images."""
        slots, shard = self.memory.slots, self.memory.shard
        if self._source is not None:
            rows = self._source.rows
            features = self.context.extract(self.network, self._source)[rows]
            place, is_own = shard.find(self._source.labels[rows])
            sums = torch.zeros(max(min(shard.rows.stop, self._num_source) - shard.rows.start, 0), features.shape[1])
            sums.index_add_(0, place[is_own], features[is_own])
            slots[: len(sums)] = functional.normalize(sums).to(slots)
        features = self.target.extract(self.network)
        place, is_own = shard.find(self.target.domain.rows + self._num_source)
        slots[place[is_own].to(slots.device)] = features[is_own].to(slots)

    def _cluster(self, epoch: int) -> dict[str, float]:
        """Clusters of the reliable images as labels of the target; figures about them."""
        settings, gap = self.settings.hybrid, self.settings.hybrid.eps_gap
        eps = self.settings.clustering.eps
        # all of them for once: every process looks up a part of the neighbours among all
        rows = self.target.domain.rows + self._num_source
        slots = self.memory.read(rows.to(self.memory.slots.device))
        found, tighter, looser = self.target.find(slots, epoch=epoch, eps=(eps, eps - gap, eps + gap))
        if self.threshold is None:
            found.require_clusters(LEAST_CLUSTERS)
            self.threshold = independence_threshold(found.labels, looser.labels, share=settings.independent_share)
        reliable = reliable_images(found.labels, tighter=tighter.labels, looser=looser.labels, threshold=self.threshold)
        kept = without_small_clusters(np.where(reliable, found.labels, NO_LABEL), 2)
        figures = self.target.accept(ClusterResult(labels=kept, eps=found.eps), epoch=epoch)
        return {**figures, "clusters_reliable": float(reliable.sum() / max(len(reliable) - found.num_outliers, 1))}

    def _classify(self) -> None:
        """Classes of the slots, and their means."""
        assert self.target.labels is not None
        rows = self.target.domain.rows
        self._labels = torch.full_like(self.target.labels, NO_LABEL)
        self._labels[rows] = torch.from_numpy(outliers_as_clusters(self.target.labels[rows].numpy()))
        memory, num_source = self.memory, self._num_source
        owner = torch.cat([torch.arange(num_source), self._labels + num_source])
        slots = torch.cat([torch.arange(num_source), rows + num_source])
        counts = torch.bincount(owner[slots])
        place, is_own = memory.shard.find(slots)
        place, owner_of = (values.to(memory.slots.device) for values in (place[is_own], owner[slots[is_own]]))
        self.classes = Shard(len(counts), self.context.world)
        self._owner, self._counts = owner.to(place.device), counts.to(place.device)
        sums = self.classes.add_up(owner_of, memory.slots, place)
        self.means = sums / self._counts[self.classes.rows, None]

    def _stream(self) -> StreamPlan:
        domain, batch = self.target.domain, self.settings.batch
        sampler = GroupSampler(batch_size=batch.target, num_images=batch.instances, camids=domain.camids)
        length = sampler.length(self._labels[domain.rows])
        if length < batch.target:
            logger.warning("batch.target is %d, and the classes give %d images: smaller batches", batch.target, length)
            sampler = GroupSampler(batch_size=length, num_images=batch.instances, camids=domain.camids)
        shown = self.target.shown
        views = 1 if shown.num_views else 0
        return StreamPlan(
            domain=shown, sampler=sampler, augment=self.settings.augment, labels=self._labels, views=views
        )

    def _source_features(self, batch: Batch) -> Tensor:
        norms = {} if self._source_norms is None else self._source_norms.named()
        features: Tensor = functional_call(self.network, norms, (batch.images, "target"), {"cameras": batch.cameras})
        return features

    def _loss(self, features: Tensor, slots: Tensor, classes: Tensor) -> Tensor:
        self._seen.append((slots, features.detach()))
        temperature, shard = self.settings.hybrid.temperature, self.classes
        return cluster_loss(features, self.means, classes, temperature=temperature, shard=shard)


class SourceNorms(nn.Module):
    """Batch norms for a second domain: copies of those of a network, with weights and statistics of their own.

    Domain-specific batch normalisation, as in yxgeee/SpCL@01a486e; the network itself stays as it is.

    Args:
        network: on its device, with the weights that it starts from.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        norms = {name: module for name, module in network.named_modules() if isinstance(module, _BatchNorm)}
        self._names = list(norms)
        self.norms = nn.ModuleList(copy.deepcopy(module) for module in norms.values())

    def named(self) -> dict[str, Tensor]:
        """Parameters and buffers by their names in the network, for ``torch.func.functional_call``."""
        return {
            f"{name}.{key}": value
            for name, norm in zip(self._names, self.norms, strict=True)
            for key, value in norm.state_dict(keep_vars=True).items()
        }

    def trainable(self) -> list[nn.Parameter]:
        """Parameters that are trained."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]


def _check(settings: SpCLSettings) -> None:
    """See to it that clusterings at three values of eps can be compared, and batches be filled.

    Raises:
        InputError: they cannot.
    """
    check_instances(size=settings.batch.target, instances=settings.batch.instances)
    require_embedding(settings.model)
    clustering, gap = settings.clustering, settings.hybrid.eps_gap
    if clustering.algorithm == "kmeans" or clustering.num_clusters is not None or clustering.eps_share is not None:
        raise InputError(
            "clustering: spcl compares clusters at three values of eps; choose dbscan, agglomerative or infomap, and "
            "leave num_clusters and eps_share at null"
        )
    limit = 2.0 if clustering.metric == "cosine" else 1.0
    if not gap < clustering.eps < limit - gap:
        raise InputError(
            f"clustering.eps is {clustering.eps:g}: with hybrid.eps_gap={gap:g} it must be above {gap:g} and below "
            f"{limit - gap:g}"
        )
