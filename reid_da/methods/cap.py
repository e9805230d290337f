"""CAP: a vector of a memory for the part of a cluster that each camera saw (Wang et al., AAAI 2021).

Read beside the authors' code, Terminator8758/CAP-master@4a04fef. The online association is that of O2CAP (Wang et al.,
TIP 2022), read beside Terminator8758/O2CAP@a893b7a.
"""

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
from reid_da.losses.shared_logits import columns_of, largest_columns, largest_here, log_sum_exp
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
from reid_da.nearest import best_columns, merged_lists
from reid_da.shards import Shard


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
        features = self.network(batch.images, "target")
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
                logits.detach() * settings.temperature, self.memory.slots, batch.labels, online, shard=shard
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


def proxy_logits(features: Tensor, vectors: Tensor, *, temperature: float) -> Tensor:
    """(B, P) cosines divided by the temperature, in float32 at least; of (p, D) own vectors the (B, p) own columns.

    Several processes may hold the vectors together. The functions below take the own columns of all of them, exchange
    B x K numbers, and give the same in each; ``camids`` and ``clusters`` are those of all P proxies.

    Args:
        features: (B, D) of unit length.
        vectors: (P, D) of unit length, which get no gradient, or the own ones.
        temperature: tau of the paper.
    """
    wide = torch.promote_types(features.dtype, torch.float32)
    with torch.autocast(features.device.type, enabled=False):
        return features.to(wide) @ vectors.detach().to(wide).T / temperature


def intra_camera_loss(logits: Tensor, proxies: Tensor, camids: Tensor, *, shard: Shard | None = None) -> Tensor:
    """() the cross-entropy of the own proxy among those of the own camera: a mean by camera, summed over cameras.

    Args:
        logits: (B, P), or the (B, p) of the own proxies.
        proxies: (B,) int64 own proxy of each image.
        camids: (P,) int64 camera of each proxy.
        shard: the own proxies, where several processes hold them; None for all.
    """
    shard = Shard(len(camids)) if shard is None else shard
    own = camids[proxies]
    others = logits.masked_fill(own[:, None] != camids[shard.rows], -torch.inf)
    losses = log_sum_exp(others, shard) - columns_of(logits, proxies[:, None], shard).squeeze(1)
    return _sum_of_camera_means(losses, own)


def inter_camera_loss(
    logits: Tensor,
    proxies: Tensor,
    camids: Tensor,
    clusters: Tensor,
    *,
    num_negatives: int,
    shard: Shard | None = None,
) -> Tensor:
    """() mean of ``-log softmax`` at the proxies of the own cluster, by camera and summed over cameras.

    The softmax is over the proxies of the own cluster, of all cameras, and the hardest proxies of other clusters, of
    all cameras too. Departure: with fewer of these than asked for, the authors' code fills up with those of the own
    cluster once more.

    Args:
        logits: (B, P), or the (B, p) of the own proxies.
        proxies: (B,) int64 own proxy of each image.
        camids: (P,) int64 camera of each proxy.
        clusters: (P,) int64 cluster of each proxy.
        num_negatives: k of the paper.
        shard: the own proxies, where several processes hold them; None for all.
    """
    shard = Shard(len(camids)) if shard is None else shard
    is_own = clusters[proxies][:, None] == clusters[shard.rows]
    hardest = largest_here(logits.masked_fill(is_own, -torch.inf), num_negatives, shard)
    rivals = torch.cat([logits.masked_fill(~is_own, -torch.inf), hardest], dim=1)
    total, count = shard.world.sum(torch.stack([(logits * is_own).sum(dim=1), is_own.sum(dim=1).to(logits)]))
    return _sum_of_camera_means(log_sum_exp(rivals, shard) - total / count, camids[proxies])


def online_similarity(
    cosines: Tensor, vectors: Tensor, proxies: Tensor, settings: OnlineSettings, *, shard: Shard | None = None
) -> Tensor:
    """(B, P) how alike images and proxies are: a mixture of what the image says and the vector of its proxy.

    Args:
        cosines: (B, P) of the images with the vectors, without gradients, or the (B, p) of the own ones.
        vectors: (P, D) of unit length, or the (p, D) own ones.
        proxies: (B,) int64 own proxy of each image.
        settings: the share of the image.
        shard: the own proxies, where several processes hold them; None for all.
    """
    shard = Shard(len(vectors)) if shard is None else shard
    wide = vectors.to(cosines.dtype)
    of_images = shard.collect(wide, proxies)
    with torch.autocast(cosines.device.type, enabled=False):
        return settings.balance * cosines + (1 - settings.balance) * (of_images @ wide.T)


def online_positives(
    similarity: Tensor, camids: Tensor, *, num_cameras: int, num_positives: int, shard: Shard | None = None
) -> Tensor:
    """(B, K) the most similar proxies among the best one of each camera; with fewer cameras than K, all of them.

    Departure: with fewer cameras the authors' code lets negatives be positives.

    Args:
        similarity: (B, P), or the (B, p) of the own proxies.
        camids: (P,) int64 camera of each proxy, from 0 without gaps.
        num_cameras: number of these.
        num_positives: K.
        shard: the own proxies, where several processes hold them; None for all.
    """
    shard = Shard(len(camids)) if shard is None else shard
    of_camera = [similarity.masked_fill(camids[shard.rows] != camid, -torch.inf) for camid in range(num_cameras)]
    # the first of equal ones, as argmax has it
    if shard.is_whole:
        best = torch.stack([values.argmax(dim=1) for values in of_camera], dim=1)
        values = similarity.gather(1, best)
    else:
        lists = [best_columns(values, 1, largest=True) for values in of_camera]
        values, best = (torch.cat(parts) for parts in zip(*lists, strict=True))
        values, best = merged_lists(values, best, 1, shard=shard)
        values, best = (part.view(num_cameras, -1).T for part in (values, best))
    chosen = values.topk(min(num_positives, num_cameras), dim=1).indices
    return best.gather(1, chosen)


def online_loss(
    logits: Tensor,
    similarity: Tensor,
    positives: Tensor,
    camids: Tensor,
    *,
    num_negatives: int,
    shard: Shard | None = None,
) -> Tensor:
    """() mean of ``-log softmax`` at the positives, by camera and summed over cameras.

    The softmax is over the positives and the most similar of all other proxies, whatever their cluster.

    Args:
        logits: (B, P), or the (B, p) of the own proxies.
        similarity: (B, P) or (B, p), by which negatives are chosen.
        positives: (B, K) int64.
        camids: (B,) int64 camera of each image.
        num_negatives: number of these, or all there are.
        shard: the own proxies, where several processes hold them; None for all.
    """
    shard = Shard(logits.shape[1]) if shard is None else shard
    count = positives.shape[1]
    if shard.is_whole:
        others = similarity.scatter(1, positives, -torch.inf)
    else:
        place, is_own = shard.find(positives)
        rows, columns = is_own.nonzero(as_tuple=True)
        others = similarity.clone()
        others[rows, place[rows, columns]] = -torch.inf
    negatives = largest_columns(others, min(num_negatives, shard.total - count), shard)
    chosen = columns_of(logits, torch.cat([positives, negatives], dim=1), shard)
    return _sum_of_camera_means(chosen.logsumexp(dim=1) - chosen[:, :count].mean(dim=1), camids)


def _sum_of_camera_means(losses: Tensor, camids: Tensor) -> Tensor:
    counts = (camids[:, None] == camids).sum(dim=1)
    return (losses / counts).sum()


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
