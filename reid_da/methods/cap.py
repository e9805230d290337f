"""CAP: a vector of a memory for the part of a cluster that each camera saw (Wang et al., AAAI 2021).

Read beside the authors' code, Terminator8758/CAP-master@4a04fef. The online association is that of O2CAP (Wang et al.,
TIP 2022), read beside Terminator8758/O2CAP@a893b7a.
"""

import logging
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from reid_da.clustering import ClusteringSettings, Proxies, camera_proxies
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
from reid_da.images import Batch
from reid_da.losses.proxies import (
    inter_camera_loss,
    intra_camera_loss,
    online_loss,
    online_positives,
    online_similarity,
    proxy_logits,
)
from reid_da.memory.exemplar import ExemplarMemory
from reid_da.methods._pseudo_labels import (
    PseudoLabelMethod,
    PseudoLabels,
    PseudoLabelSettings,
    check_instances,
    require_cameras,
    require_embedding,
)
from reid_da.methods.cluster_contrast import STRONG_MODEL, STRONG_OPTIMIZER, memory_of_means
from reid_da.methods.protocol import NO_LABEL, Context, EpochPlan, Held, Role, Rows

logger = logging.getLogger(__name__)


class BatchSettings(Settings):
    """Sizes of the batches of a step."""

    target: Count = Field(default=32, description="target images in a step")
    instances: Count = Field(default=4, description="images of each proxy in a batch")


class ProxySettings(Settings):
    """The vectors of the proxies, and the losses on them."""

    temperature: Positive = Field(default=0.07, description="divides the cosines; tau of the paper")
    momentum: Share = Field(default=0.2, description="share of its old value that a vector keeps; mu of the paper")
    intra_weight: float = Field(default=1.0, ge=0, description="weight of the loss within cameras; 0 in O2CAP")
    inter_weight: float = Field(default=0.5, ge=0, description="weight of the loss across cameras; lambda of the paper")
    inter_from_epoch: int = Field(default=5, ge=0, description="epoch, from 0, with which that loss begins")
    num_negatives: Count = Field(default=50, description="hardest proxies of other clusters that it has an image avoid")


class OnlineSettings(Settings):
    """The online association of O2CAP: positives of an image across cameras, found anew in each step."""

    weight: float = Field(default=0.0, ge=0, description="weight of its loss, 1 in O2CAP; 0: CAP")
    from_epoch: int = Field(default=0, ge=0, description="epoch, from 0, with which it begins")
    num_positives: Count = Field(default=3, description="proxies that are positives, at most one of each camera")
    num_negatives: Count = Field(default=50, description="most similar of all other proxies, which an image avoids")
    balance: Share = Field(
        default=0.15, description="share of the image's own similarity; that of the vector of its proxy has the rest"
    )


class CAPSettings(PseudoLabelSettings):
    """Settings of CAP; the defaults are those of the authors' code."""

    method: Literal["cap"] = Field(
        default="cap", description="train on clusters of the target, divided by camera; needs no source"
    )
    epochs: Count = 50
    batch: BatchSettings = BatchSettings()
    proxies: ProxySettings = ProxySettings()
    online: OnlineSettings = OnlineSettings()
    clustering: ClusteringSettings = ClusteringSettings(eps=0.5, k1=20)
    model: ModelSettings = STRONG_MODEL.model_copy(update={"pooling": "avg"})
    augment: AugmentSettings = AugmentSettings(crop="pad", crop_pad=10)
    optimizer: OptimizerSettings = STRONG_OPTIMIZER.model_copy(update={"warmup_epochs": 10.0})


class CAP(PseudoLabelMethod):
    """Each epoch: features, clusters, their parts by camera and the means of these as a memory.

    Each step: a softmax over the proxies of the own camera and, from an epoch on, one over the proxies of the own
    cluster and the hardest of other clusters. With the online association one more, over proxies that are alike.

    Args:
        settings: of the experiment.
        context: seeds and device of the run, and what it may ask for.
    """

    Settings = CAPSettings
    rows: ClassVar[Rows] = {
        "cap": {"method": "cap"},
        "o2cap": {
            "method": "cap",
            "proxies": {"intra_weight": 0.0, "inter_weight": 1.0, "inter_from_epoch": 0},
            "online": {"weight": 1.0},
        },
    }
    table = ("cap", "o2cap", "supervised")

    @classmethod
    def holds(cls, settings: PseudoLabelSettings, sizes: Mapping[Role, int], dim: int) -> tuple[Held, ...]:
        """The vectors of the proxies, of which there are as many as images at most, and features in clustering."""
        return (Held.memory(sizes["target"], dim, name="proxies (at most)"), *super().holds(settings, sizes, dim))

    def __init__(self, settings: CAPSettings, context: Context) -> None:
        check_instances(size=settings.batch.target, instances=settings.batch.instances)
        require_embedding(settings.model)
        _check_weights(settings)
        if settings.proxies.inter_weight and settings.proxies.inter_from_epoch >= settings.epochs:
            logger.warning(
                "the loss across cameras never starts: proxies.inter_from_epoch is %d, and there are %d epochs",
                settings.proxies.inter_from_epoch,
                settings.epochs,
            )
        self.settings = settings
        self.context = context
        domain = context.domain("target")
        require_cameras(domain, what="method cap", instead="method=cluster-contrast")
        self.target = PseudoLabels(domain, settings.clustering, context, settings.shown_views)
        self.trained = self.network = context.network(num_classes=0)
        self.memory: ExemplarMemory | None = None
        self.epoch = 0
        self._seen: tuple[Tensor, Tensor] | None = None

    def begin_epoch(self, epoch: int) -> EpochPlan:
        """Cluster the target; as many images as have a cluster, every proxy equally often."""
        self.epoch = epoch
        batch, domain = self.settings.batch, self.target.domain
        features = self.target.extract(self.network)
        figures = self.target.assign(features, epoch=epoch)
        assert self.target.labels is not None
        proxies = camera_proxies(self.target.labels[domain.rows].numpy(), domain.camids[domain.rows].numpy())
        self.memory = memory_of_means(
            (features, proxies.labels, len(proxies.clusters)), device=self.context.device, world=self.context.world
        )
        self._clusters, self._camids = _columns(proxies, device=self.context.device)
        self._num_cameras = len(np.unique(proxies.camids))
        labels = torch.full((len(domain),), NO_LABEL)
        labels[domain.rows] = torch.from_numpy(proxies.labels)
        stream = self.target.stream(
            size=batch.target, instances=batch.instances, augment=self.settings.augment, labels=labels, once=True
        )
        num_labelled = int((labels != NO_LABEL).sum())
        steps = self.settings.steps_per_epoch or max(num_labelled // stream.sampler.batch_size, 1)
        return EpochPlan(
            streams={"target": stream}, steps=steps, figures={**figures, "proxies": float(len(proxies.clusters))}
        )

    def step(self, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        """Weighted losses by name: ``intra`` and, from its epoch on, ``inter``; equations 5 and 6 of the paper.

        ``online`` is that of O2CAP.
        """
        assert self.memory is not None
        batch, settings = batches["target"], self.settings.proxies
        assert batch.labels is not None
        features = self.network(batch.images, "target", cameras=batch.cameras)
        self._seen = batch.labels, features.detach()
        logits = proxy_logits(features, self.memory.slots, temperature=settings.temperature)
        losses, shard = {}, self.memory.shard
        if settings.intra_weight:
            loss = intra_camera_loss(logits, batch.labels, self._camids, shard=shard)
            losses["intra"] = settings.intra_weight * loss
        if self.epoch >= settings.inter_from_epoch and settings.inter_weight:
            loss = inter_camera_loss(
                logits, batch.labels, self._camids, self._clusters, num_negatives=settings.num_negatives, shard=shard
            )
            losses["inter"] = settings.inter_weight * loss
        online = self.settings.online
        if self.epoch >= online.from_epoch and online.weight:
            similarity = online_similarity(
                logits.detach() * settings.temperature,
                self.memory.slots,
                batch.labels,
                balance=online.balance,
                shard=shard,
            )
            positives = online_positives(
                similarity,
                self._camids,
                num_cameras=self._num_cameras,
                num_positives=online.num_positives,
                shard=shard,
            )
            loss = online_loss(
                logits,
                similarity,
                positives,
                self._camids[batch.labels],
                num_negatives=online.num_negatives,
                shard=shard,
            )
            losses["online"] = online.weight * loss
        return losses

    def after_backward(self) -> None:
        """Move the vectors; the gradients have come from those before."""
        assert self.memory is not None
        assert self._seen is not None
        self.memory.update(*self._seen, momentum=self.settings.proxies.momentum)
        self._seen = None

    def state_dict(self) -> dict[str, Any]:
        """The labels; the vectors are made anew with each epoch."""
        return {"target": self.target.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self.target.load_state_dict(state["target"])


def _columns(proxies: Proxies, *, device: torch.device) -> tuple[Tensor, Tensor]:
    """(P,) clusters of the proxies, and their (P,) cameras, numbered from 0 without gaps."""
    camids = np.unique(proxies.camids, return_inverse=True)[1]
    return torch.from_numpy(proxies.clusters).to(device), torch.from_numpy(camids).to(device)


def _check_weights(settings: CAPSettings) -> None:
    """See to it that there is a loss from the first epoch on.

    Raises:
        InputError: there is none.
    """
    proxies, online = settings.proxies, settings.online
    begins = [
        epoch
        for weight, epoch in (
            (proxies.intra_weight, 0),
            (proxies.inter_weight, proxies.inter_from_epoch),
            (online.weight, online.from_epoch),
        )
        if weight
    ]
    if min(begins, default=1):
        raise InputError(
            "nothing is trained in the first epoch: set proxies.intra_weight above 0, or proxies.inter_weight or "
            "online.weight with inter_from_epoch or from_epoch 0"
        )
