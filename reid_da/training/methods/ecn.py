"""ECN: exemplar memory with exemplar, camera and neighbourhood invariance (Zhong et al., CVPR 2019).

The three invariances are switches. With none of them this is training on the source alone, and with the target's own
images and labels as the source it is supervised training.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from reid_da.config import ExperimentSettings
from reid_da.errors import InputError
from reid_da.images import Batch
from reid_da.losses.invariance import fused_invariance_loss
from reid_da.memory.diagnostics import (
    camera_entropy,
    cross_camera_share,
    neighbor_agreement,
    neighbor_precision,
    summarize_slots,
)
from reid_da.memory.exemplar import ExemplarMemory, momentum_schedule
from reid_da.memory.neighbors import ExactNeighbors, FaissNeighbors, NeighborIndex, check_neighbors
from reid_da.models.reid_net import ReIDNetwork
from reid_da.training.methods.labelled import LabelledLosses

CHECKED_SLOTS = 256
"""Slots that a FAISS index is checked with before it is used."""
MOST_ANCHORS = 2048
"""Slots whose neighbours the diagnostics look at; more would cost more than they tell."""


class ECN:
    """One training step of ECN, and what it keeps between steps.

    Args:
        network: the shared network, on its device.
        memory: one slot for each target image, on the same device; None without any invariance.
        settings: of the experiment.
        source_labels: (N,) int64 class of each source image.
        target_camids: (M,) int64 camera of each slot.
        target_pids: (M,) int64 identity of each slot, for the diagnostics alone, or None if not known.
    """

    def __init__(
        self,
        network: ReIDNetwork,
        memory: ExemplarMemory | None,
        *,
        settings: ExperimentSettings,
        source_labels: Tensor,
        target_camids: Tensor | None = None,
        target_pids: Tensor | None = None,
    ) -> None:
        switches = settings.invariance
        if (switches.camera or switches.neighborhood) and not switches.exemplar:
            raise InputError("invariance.exemplar: camera and neighborhood build on it; switch it on, or all three off")
        self.network = network
        self.memory = memory
        self.settings = settings
        self.labelled = LabelledLosses(network, source_labels, settings=settings.source_loss)
        self.target_camids = target_camids
        self.target_pids = target_pids
        self.epoch = 0
        self._seen: tuple[Tensor, Tensor] | None = None
        self._anchor_neighbors: Tensor | None = None
        self._index: NeighborIndex | None = None

    def begin_epoch(self, epoch: int) -> None:
        """Take note of the epoch, from 0, which sets the momentum and the begin of the neighbourhood term."""
        self.epoch = epoch
        settings = self.settings.memory
        if self.memory is None or not self.num_neighbors or settings.neighbor_search == "exact":
            return
        if self._index is None:
            index = FaissNeighbors(kind=settings.neighbor_search, refresh=settings.neighbor_refresh)
            written = self.memory.slots[self.memory.ages() >= 0]
            self._index = check_neighbors(index, written[:CHECKED_SLOTS].float(), self.memory.slots, self.num_neighbors)
        else:
            self._index.rebuild(self.memory.slots)

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
            batches: ``source`` and, unless all invariances are off, ``target``, whose index is that of the slots.
        """
        weight = self.settings.loss_weight if self.memory is not None else 0.0
        losses = {name: (1 - weight) * loss for name, loss in self.labelled.losses(batches["source"]).items()}
        if self.memory is None:
            return losses
        target = batches["target"]
        features = self.network(target.images, "target")
        settings = self.settings.memory
        neighbors = self._indexed_neighbors(features.detach(), target.index)
        loss = fused_invariance_loss(
            features,
            self.memory.slots,
            target.index,
            temperature=settings.temperature,
            num_neighbors=0 if neighbors is not None else self.num_neighbors,
            neighbors=neighbors,
            own_slot=settings.own_slot,
            normalize=settings.normalize_weights,
        )
        losses["exemplar"] = weight * loss.exemplar.mean()
        if self.num_neighbors:
            losses["neighborhood"] = weight * loss.neighborhood.mean()
        self._seen = target.index, features.detach()
        return losses

    def after_backward(self) -> None:
        """Move class centres and the memory slots of the target batch; the gradients have come from those before."""
        self.labelled.after_backward()
        if self.memory is not None and self._seen is not None:
            index, features = self._seen
            self.memory.update(index, features, momentum=self.momentum)
            self._seen = None

    def end_epoch(self) -> dict[str, float]:
        """Diagnostics of the memory; all but ``neighbor_precision`` need no labels."""
        if self.memory is None or self.target_camids is None or not len(self.memory.slots):
            return {}
        summary = summarize_slots(self.memory.ages(), self.memory.norms())
        figures = {f"slots_{name}": value for name, value in asdict(summary).items()}
        step = max(len(self.memory.slots) // MOST_ANCHORS, 1)
        anchors = torch.arange(0, len(self.memory.slots), step, device=self.memory.slots.device)
        count = min(max(self.settings.memory.num_neighbors, 1), len(self.memory.slots) - 1)
        slots = self.memory.slots
        neighbors = ExactNeighbors().search(slots[anchors], slots, count, exclude=anchors)
        num_cameras = int(self.target_camids.max()) + 1
        figures["neighbors_cross_camera"] = cross_camera_share(neighbors, anchors, self.target_camids)
        figures["neighbors_camera_entropy"] = camera_entropy(
            neighbors, anchors, self.target_camids, num_cameras=num_cameras
        )
        if self._anchor_neighbors is not None:
            figures["neighbors_agreement"] = neighbor_agreement(self._anchor_neighbors, neighbors)
        if self.target_pids is not None:
            figures["neighbors_precision"] = neighbor_precision(neighbors, anchors, self.target_pids)
        self._anchor_neighbors = neighbors
        return figures

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the network."""
        state: dict[str, Any] = {"labelled": self.labelled.state_dict()}
        if self.memory is not None:
            state["memory"] = self.memory.state_dict()
        if self._anchor_neighbors is not None:
            state["anchor_neighbors"] = self._anchor_neighbors
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self.labelled.load_state_dict(state["labelled"])
        if self.memory is not None:
            self.memory.load_state_dict(state["memory"])
            neighbors = state.get("anchor_neighbors")
            self._anchor_neighbors = None if neighbors is None else neighbors.to(self.memory.slots.device)

    def _indexed_neighbors(self, features: Tensor, index: Tensor) -> Tensor | None:
        """(B, K) slots that a FAISS index finds, or None where the loss finds them itself."""
        if self._index is None or self.memory is None or not self.num_neighbors:
            return None
        exclude = index if self.settings.memory.own_slot == "exclude" else None
        return self._index.search(features.float(), self.memory.slots, self.num_neighbors, exclude=exclude)
