"""ECN: exemplar memory with exemplar, camera and neighbourhood invariance (Zhong et al., CVPR 2019).

The three invariances are switches; with none of them this is training on the source alone.
"""

import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from reid_da.config import (
    Count,
    ExperimentSettings,
    HeadSettings,
    Positive,
    Settings,
    Share,
    SourceLossSettings,
    ViewSettings,
)
from reid_da.errors import InputError
from reid_da.images import Batch
from reid_da.losses.invariance import NeighborShare, fused_invariance_loss
from reid_da.memory.diagnostics import (
    camera_entropy,
    cross_camera_share,
    neighbor_agreement,
    neighbor_precision,
    summarize_slots,
)
from reid_da.memory.exemplar import ExemplarMemory, momentum_schedule
from reid_da.memory.neighbors import ExactNeighbors, FaissNeighbors, NeighborIndex, open_index
from reid_da.memory.quantized import index_bytes
from reid_da.methods._labelled import LabelledLosses
from reid_da.methods._streams import labelled_stream, styled_stream
from reid_da.methods.protocol import Context, Domain, EpochPlan, Held, Method, Role, Rows

logger = logging.getLogger(__name__)

CHECKED_SLOTS = 256
"""Slots that a FAISS index is checked with before it is used."""
MOST_ANCHORS = 2048
"""Slots whose neighbours the diagnostics look at; more would cost more than they tell."""


class BatchSettings(Settings):
    """Sizes of the two batches of a step."""

    source: Count = Field(default=128, description="source images in a step")
    target: Count = Field(default=128, description="target images in a step")
    instances: Count = Field(
        default=1, description="images of each source identity in a batch; 1: no grouping by identity"
    )


class MemorySettings(Settings):
    """Exemplar memory and the losses on it."""

    temperature: Positive = Field(default=0.05, description="beta of the paper")
    num_neighbors: int = Field(default=6, ge=0, description="k of the paper; 0: no neighbourhood term")
    neighbors_from_epoch: int = Field(
        default=5, ge=0, description="epoch, from 0, with which the neighbourhood term begins"
    )
    own_slot: Literal["overwrite", "exclude"] = Field(
        default="overwrite",
        description="overwrite: the own slot may be one of the k (authors' code); exclude: k others",
    )
    normalize_weights: bool = Field(default=False, description="let the weights of own slot and neighbours sum to 1")
    neighbor_search: Literal["exact", "flat", "ivf", "ivf_pq", "hnsw"] = Field(
        default="exact",
        description="exact: comes with the loss at no cost; flat, ivf, hnsw: by FAISS, a slot of D values again in 4 D "
        "bytes; ivf_pq: in D/8 + 8 bytes, and the memory ranks what it finds",
    )
    neighbor_refresh: Literal["step", "epoch"] = Field(
        default="epoch", description="how often a FAISS index takes over the memory"
    )
    momentum_rate: float = Field(default=0.01, ge=0, description="alpha grows by this much an epoch")
    momentum_stretch: bool = Field(
        default=False, description="stretch the growth, published for 60 epochs, to the number of epochs"
    )
    momentum_cap: Share = Field(default=1.0, description="largest alpha")
    dtype: Literal["float32", "bfloat16"] = Field(default="float32", description="of the stored features")


class InvarianceSettings(Settings):
    """The three terms of ECN, each a switch; none of them is training on the source alone."""

    exemplar: bool = Field(default=True, description="E: each target image is its own class")
    camera: bool = Field(default=True, description="C: camera-style views belong to the class of their image")
    neighborhood: bool = Field(default=True, description="N: so do the nearest slots of the memory")


class ECNSettings(ExperimentSettings):
    """Settings of ECN; the defaults are the authors'."""

    method: Literal["ecn"] = Field(default="ecn", description="adapt by exemplar, camera and neighbourhood invariance")
    loss_weight: Share = Field(default=0.3, description="lambda of the paper: weight of the target loss")
    batch: BatchSettings = BatchSettings()
    head: HeadSettings = HeadSettings()
    source_loss: SourceLossSettings = SourceLossSettings()
    memory: MemorySettings = MemorySettings()
    views: ViewSettings = ViewSettings()
    invariance: InvarianceSettings = InvarianceSettings()


def _row(*, exemplar: bool, camera: bool, neighborhood: bool) -> dict[str, Any]:
    switches = {"exemplar": exemplar, "camera": camera, "neighborhood": neighborhood}
    return {"method": "ecn", "invariance": switches}


class ECN(Method):
    """One training step of ECN, and what it keeps between steps.

    Args:
        settings: of the experiment.
        context: seeds and device of the run, and what it may ask for.

    Attributes:
        network: that both domains share.
        memory: one slot for each target image; None without any invariance.
        neighbor_share: what the weight of a neighbour is a share of.
    """

    neighbor_share: ClassVar[NeighborShare] = "asked"

    Settings: ClassVar[type[ECNSettings]] = ECNSettings
    rows: ClassVar[Rows] = {
        "e": _row(exemplar=True, camera=False, neighborhood=False),
        "e+c": _row(exemplar=True, camera=True, neighborhood=False),
        "e+n": _row(exemplar=True, camera=False, neighborhood=True),
        "e+c+n": _row(exemplar=True, camera=True, neighborhood=True),
    }
    table: ClassVar[tuple[str, ...]] = ("source", "e", "e+c", "e+n", "e+c+n")
    classified = "source"

    @classmethod
    def holds(cls, settings: ECNSettings, sizes: Mapping[Role, int], dim: int) -> tuple[Held, ...]:
        """The exemplar memory, and the index of its neighbours."""
        if not settings.invariance.exemplar:
            return ()
        memory, kind = Held.memory(sizes["target"], dim, dtype=settings.memory.dtype), settings.memory.neighbor_search
        if kind == "exact" or not settings.invariance.neighborhood or not settings.memory.num_neighbors:
            return (memory,)
        size = index_bytes(kind, dim)
        remedy = "more processes" if kind == "ivf_pq" else "memory.neighbor_search=ivf_pq, more processes"
        return (memory, Held(name="index", rows=sizes["target"], row_bytes=size, remedy=remedy, is_sharded=True))

    def __init__(self, settings: ECNSettings, context: Context) -> None:
        switches = settings.invariance
        if (switches.camera or switches.neighborhood) and not switches.exemplar:
            raise InputError("invariance.exemplar: camera and neighborhood build on it; switch it on, or all three off")
        self.settings = settings
        self._world = context.world
        if switches.neighborhood and settings.memory.neighbors_from_epoch >= settings.epochs:
            logger.warning(
                "the neighbourhood term never starts: memory.neighbors_from_epoch is %d, and there are %d epochs",
                settings.memory.neighbors_from_epoch,
                settings.epochs,
            )
        source = context.domain("source")
        self.trained = self.network = context.network(num_classes=source.num_classes, head=settings.head)
        self.labelled = LabelledLosses(self.network, settings=settings.source_loss, seed=context.seed("centers"))
        sizes, augment = settings.batch, settings.augment
        streams = {"source": labelled_stream(source, size=sizes.source, instances=sizes.instances, augment=augment)}
        steps = settings.steps_per_epoch or streams["source"].num_batches(context.seed("source order", 0))
        self.memory: ExemplarMemory | None = None
        if switches.exemplar:
            target = context.domain("target")
            if switches.camera:
                target = context.styled(target, settings.views)
            streams["target"] = styled_stream(
                target, size=sizes.target, views=settings.views.per_image, augment=augment
            )
            self.memory = self._new_memory(target, context.device)
        self._plan = EpochPlan(streams=streams, steps=steps)
        self.epoch = 0
        self._seen: tuple[Tensor, Tensor] | None = None
        self._anchor_neighbors: Tensor | None = None
        self._index: NeighborIndex | None = None

    def _new_memory(self, target: Domain, device: torch.device) -> ExemplarMemory:
        self._target = target
        dtype = getattr(torch, self.settings.memory.dtype)
        fingerprint = target.table.fingerprint
        memory = ExemplarMemory(
            len(target), self.network.embedding_dim, fingerprint=fingerprint, dtype=dtype, world=self._world
        )
        return memory.to(device)

    def begin_epoch(self, epoch: int) -> EpochPlan:
        """One pass over the source; the epoch sets the momentum and the start of the neighbourhood term."""
        self.epoch = epoch
        settings = self.settings.memory
        if self.memory is not None and self.num_neighbors and settings.neighbor_search != "exact":
            if self._index is None:
                index = FaissNeighbors(kind=settings.neighbor_search, refresh=settings.neighbor_refresh)
                slots = self.memory.slots
                written = slots[self.memory.last_update >= 0][:CHECKED_SLOTS].float()
                self._index = open_index(index, written, slots, self.num_neighbors, shard=self.memory.shard)
            else:
                self._index.rebuild(self.memory.slots)
        return self._plan

    @property
    def num_neighbors(self) -> int:
        """K of the current epoch: 0 before the neighbourhood term begins."""
        memory = self.settings.memory
        active = self.settings.invariance.neighborhood and self.epoch >= memory.neighbors_from_epoch
        return memory.num_neighbors if active else 0

    @property
    def momentum(self) -> float:
        """Share of its old value that a slot keeps in the current epoch."""
        memory = self.settings.memory
        stretch = self.settings.epochs if memory.momentum_stretch else None
        return momentum_schedule(self.epoch, rate=memory.momentum_rate, num_epochs=stretch, maximum=memory.momentum_cap)

    def step(self, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        """Weighted losses of one step by name; their sum is what is minimised.

        The source goes through the network first, the target second, each with the batch statistics of its domain.

        Args:
            batches: ``source`` and, unless all invariances are off, ``target``, whose rows are the slots.
        """
        weight = self.settings.loss_weight if self.memory is not None else 0.0
        losses = {name: (1 - weight) * loss for name, loss in self.labelled.losses(batches["source"]).items()}
        if self.memory is None:
            return losses
        target = batches["target"]
        features = self.network(target.images, "target", cameras=target.cameras)
        settings = self.settings.memory
        neighbors = self._indexed_neighbors(features.detach(), target.rows)
        loss = fused_invariance_loss(
            features,
            self.memory.slots,
            target.rows,
            temperature=settings.temperature,
            num_neighbors=0 if neighbors is not None else self.num_neighbors,
            neighbors=neighbors,
            own_slot=settings.own_slot,
            normalize=settings.normalize_weights,
            share=self.neighbor_share,
            shard=self.memory.shard,
        )
        losses["exemplar"] = weight * loss.exemplar.mean()
        if self.num_neighbors:
            losses["neighborhood"] = weight * loss.neighborhood.mean()
        self._seen = target.rows, features.detach()
        return losses

    def after_backward(self) -> None:
        """Move class centres and the memory slots of the target batch; the gradients have come from those before."""
        self.labelled.after_backward()
        if self.memory is not None and self._seen is not None:
            index, features = self._seen
            # a batch holds different images, each in as many views
            repeats = max(self._plan.streams["target"].views, 1)
            self.memory.update(index, features, momentum=self.momentum, repeats=repeats)
            self._seen = None

    def end_epoch(self) -> dict[str, float]:
        """Diagnostics of the memory; all but ``neighbor_precision`` need no labels."""
        if self.memory is None or not self.memory.shard.total:
            return {}
        summary = summarize_slots(self.memory.ages(), self.memory.norms())
        figures = {f"slots_{name}": value for name, value in asdict(summary).items()}
        slots, num_slots = self.memory.slots, self.memory.shard.total
        anchors = torch.arange(0, num_slots, max(num_slots // MOST_ANCHORS, 1), device=slots.device)
        count = min(max(self.settings.memory.num_neighbors, 1), num_slots - 1)
        search = ExactNeighbors(shard=self.memory.shard)
        neighbors = search.search(self.memory.read(anchors), slots, count, exclude=anchors)
        camids, pids = self._target.camids, self._target.pids
        num_cameras = int(camids.max()) + 1
        camids = camids.to(anchors.device)
        figures["neighbors_cross_camera"] = cross_camera_share(neighbors, anchors, camids)
        figures["neighbors_camera_entropy"] = camera_entropy(neighbors, anchors, camids, num_cameras=num_cameras)
        if self._anchor_neighbors is not None:
            figures["neighbors_agreement"] = neighbor_agreement(self._anchor_neighbors, neighbors)
        if pids is not None:
            figures["neighbors_precision"] = neighbor_precision(neighbors, anchors, pids.to(anchors.device))
        self._anchor_neighbors = neighbors
        return figures

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the network."""
        state: dict[str, Any] = {"labelled": self.labelled.state_dict()}
        if self.memory is not None:
            state["memory"] = self.memory.saved_state()
        if self._anchor_neighbors is not None:
            state["anchor_neighbors"] = self._anchor_neighbors
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self.labelled.load_state_dict(state["labelled"])
        if self.memory is not None:
            self.memory.restore(state["memory"])
            neighbors = state.get("anchor_neighbors")
            self._anchor_neighbors = None if neighbors is None else neighbors.to(self.memory.slots.device)

    def _indexed_neighbors(self, features: Tensor, index: Tensor) -> Tensor | None:
        """(B, K) slots that a FAISS index finds, or None where the loss finds them itself."""
        if self._index is None or self.memory is None or not self.num_neighbors:
            return None
        exclude = index if self.settings.memory.own_slot == "exclude" else None
        return self._index.search(features.float(), self.memory.slots, self.num_neighbors, exclude=exclude)
