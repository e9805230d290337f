"""ECN++: a graph network, trained on the source, chooses the neighbours of ECN (Zhong et al., TPAMI 2021).

"Learning to Adapt Invariance in Memory for Person Re-identification", arXiv 1908.00485. Its authors published no code;
what could not be read in the paper is a setting, whose description says so.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from reid_da.config import Count, Positive, Settings, Share
from reid_da.errors import InputError
from reid_da.images import Batch
from reid_da.losses.invariance import NeighborShare
from reid_da.memory.exemplar import ExemplarMemory
from reid_da.memory.neighbors import ExactNeighbors
from reid_da.methods.ecn import ECN, ECNSettings, MemorySettings
from reid_da.methods.protocol import Context, Domain, EpochPlan, Held, Role, Rows
from reid_da.models.pair_graph import PositivePrediction, positive_loss
from reid_da.nearest import NO_NEIGHBOR


class CandidateSettings(MemorySettings):
    """Exemplar memories of both domains, and the losses on that of the target."""

    num_neighbors: Count = Field(
        default=100, description="nearest slots among which the graph network chooses (unverified in the paper)"
    )
    own_slot: Literal["overwrite", "exclude"] = Field(
        default="exclude", description="exclude: the own slot is no candidate; overwrite: it may be one"
    )
    neighbor_search: Literal["exact", "flat", "ivf", "ivf_pq", "hnsw"] = Field(
        default="exact",
        description="of the candidates in the target's memory; flat, ivf, hnsw: by FAISS, a slot of D values again in "
        "4 D bytes; ivf_pq: in D/8 + 8 bytes, and the memory ranks what it finds",
    )


class PositivesSettings(Settings):
    """The graph network."""

    threshold: Share = Field(
        default=0.9,
        description="mu of the paper: probability above which a candidate is a positive (value unverified)",
    )
    widths: tuple[Count, ...] = Field(
        default=(512, 512, 256, 256),
        min_length=1,
        description="outputs of the graph convolutions (unverified; those of Wang et al., CVPR 2019)",
    )
    scale_nodes: bool = Field(
        default=True,
        description="bring the values of its input from 1 / sqrt(D) to 1 (unverified); without it SGD needs far more "
        "steps",
    )
    lr: Positive | None = Field(
        default=None, description="learning rate of the graph network (unverified); by default that of the new layers"
    )
    train_from_epoch: int = Field(
        default=0, ge=0, description="epoch, from 0, with which its training begins (unverified)"
    )


class ECNGPPSettings(ECNSettings):
    """Settings of ECN++; beside the graph network the defaults are those of ECN."""

    method: Literal["ecn-gpp"] = Field(  # type: ignore[assignment]
        default="ecn-gpp", description="ECN whose neighbours a graph network chooses, trained on the source"
    )
    memory: CandidateSettings = CandidateSettings()
    positives: PositivesSettings = PositivesSettings()


class ECNGPP(ECN):
    """ECN, a memory of the source beside that of the target, and the graph network.

    The network learns on the source, where it is known which of the nearest slots are of the person of an image; its
    gradients stay in it. On the target the candidates that it is sure of are the positives of the neighbourhood term,
    with equal weights that sum to 1; where it is sure of none, the term is 0.

    Attributes:
        source_memory: one slot for each source image.
        prediction: the graph network.
    """

    Settings = ECNGPPSettings
    rows: ClassVar[Rows] = {"ecn-gpp": {"method": "ecn-gpp", "memory": {"num_neighbors": 100}}}
    table = ("source", "e+c+n", "ecn-gpp", "supervised")
    inference_part = "network."
    neighbor_share: ClassVar[NeighborShare] = "found"

    def __init__(self, settings: ECNGPPSettings, context: Context) -> None:
        if not settings.invariance.neighborhood:
            raise InputError("invariance.neighborhood: method ecn-gpp is about the neighbours; use method=ecn")
        super().__init__(settings, context)
        source = context.domain("source")
        for domain in (source, context.domain("target")):
            _check_candidates(domain, settings.memory)
        self.prediction = PositivePrediction(
            self.network.embedding_dim,
            settings.positives.widths,
            scale_nodes=settings.positives.scale_nodes,
            generator=Generator().manual_seed(context.seed("graph network")),
        ).to(context.device)
        self.trained = nn.ModuleDict({"network": self.network, "positives": self.prediction})
        self.source_memory = self._new_memory(source, context.device)
        self._target = context.domain("target")
        self._labels = source.labels.to(context.device)
        pids = self._target.pids
        self._pids = None if pids is None else pids.to(context.device)
        self._source_seen: tuple[Tensor, Tensor] | None = None
        self._predicted: list[Tensor] = []

    @property
    def inference(self) -> nn.Module:
        """The network, without the graph network."""
        return self.network

    @classmethod
    def holds(cls, settings: ECNSettings, sizes: Mapping[Role, int], dim: int) -> tuple[Held, ...]:
        """The exemplar memories of both domains."""
        source = Held.memory(sizes["source"], dim, dtype=settings.memory.dtype, name="exemplar memory of the source")
        return (*super().holds(settings, sizes, dim), source)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Those of the network, and ``positives`` of the graph network."""
        optimizer = self.settings.optimizer
        groups = self.network.parameter_groups(
            lr_new=optimizer.lr, lr_backbone=optimizer.lr * optimizer.backbone_lr_factor
        )
        lr = self.settings.positives.lr or optimizer.lr
        return [*groups, {"name": "positives", "params": list(self.prediction.parameters()), "lr": lr}]

    def begin_epoch(self, epoch: int) -> EpochPlan:
        """As ECN; positives are counted anew."""
        self._predicted = []
        return super().begin_epoch(epoch)

    def step(self, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        """Weighted losses by name: those of ECN, and ``positives`` of the graph network on the source."""
        losses = super().step(batches)
        source = batches["source"]
        assert self.labelled.embeddings is not None
        with torch.no_grad():
            features = self.network.target_features(self.labelled.embeddings)
        self._source_seen = source.rows, features
        if self.epoch >= self.settings.positives.train_from_epoch:
            losses["positives"] = self._prediction_loss(features, source.rows)
        return losses

    def after_backward(self) -> None:
        """Move the slots of both batches; the gradients have come from those before."""
        super().after_backward()
        if self._source_seen is not None:
            # grouped by identity, a batch may hold an image more than once
            repeats = 1 if self.settings.batch.instances == 1 else None
            self.source_memory.update(*self._source_seen, momentum=self.momentum, repeats=repeats)
            self._source_seen = None

    def end_epoch(self) -> dict[str, float]:
        """Diagnostics of the memory, and what the graph network said of the candidates on the target."""
        figures = super().end_epoch()
        if self._predicted:
            images, with_any, positives, correct = torch.stack(self._predicted).sum(dim=0).tolist()
            figures["positives_per_image"] = positives / images
            figures["positives_images"] = with_any / images
            if self._pids is not None and positives:
                figures["positives_precision"] = correct / positives
        return figures

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the networks."""
        return {**super().state_dict(), "source_memory": self.source_memory.saved_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        super().load_state_dict(state)
        self.source_memory.restore(state["source_memory"])

    def _prediction_loss(self, features: Tensor, rows: Tensor) -> Tensor:
        """() cross-entropy of the graph network on the nearest slots of source images."""
        candidates = self._nearest(features, rows, self.source_memory)
        present = candidates != NO_NEIGHBOR
        logits = self.prediction(features, *_nodes(candidates, self.source_memory, features))
        is_same = self._labels[candidates.clamp(min=0)] == self._labels[rows][:, None]
        return positive_loss(logits, is_same, present)

    def _indexed_neighbors(self, features: Tensor, index: Tensor) -> Tensor | None:
        """(B, K) slots of the target that the graph network takes for positives, -1 for all other candidates."""
        if self.memory is None or not self.num_neighbors:
            return None
        candidates = super()._indexed_neighbors(features, index)
        if candidates is None:
            candidates = self._nearest(features, index, self.memory)
        with torch.no_grad():
            logits = self.prediction(features, *_nodes(candidates, self.memory, features))
        probability = logits.float().softmax(dim=2)[:, :, 1]
        chosen = (probability > self.settings.positives.threshold) & (candidates != NO_NEIGHBOR)
        self._count(chosen & (candidates != index[:, None]), candidates, index)
        return candidates.masked_fill(~chosen, NO_NEIGHBOR)

    def _nearest(self, features: Tensor, rows: Tensor, memory: ExemplarMemory) -> Tensor:
        settings = self.settings.memory
        exclude = rows if settings.own_slot == "exclude" else None
        return ExactNeighbors(shard=memory.shard).search(
            features, memory.slots, settings.num_neighbors, exclude=exclude
        )

    def _count(self, chosen: Tensor, candidates: Tensor, index: Tensor) -> None:
        """Keep what a batch says for :meth:`end_epoch`, on its device."""
        pids = self._pids
        correct = chosen if pids is None else chosen & (pids[candidates.clamp(min=0)] == pids[index][:, None])
        self._predicted.append(
            torch.stack([torch.ones_like(index).sum(), chosen.any(dim=1).sum(), chosen.sum(), correct.sum()])
        )


def _nodes(candidates: Tensor, memory: ExemplarMemory, features: Tensor) -> tuple[Tensor, Tensor]:
    """(B, K, D) slots of the candidates in the precision of the features, and (B, K) bool which there are."""
    return memory.read(candidates.clamp(min=0)).to(features.dtype), candidates != NO_NEIGHBOR


def _check_candidates(domain: Domain, memory: CandidateSettings) -> None:
    """See to it that a memory has as many slots as an image has candidates.

    Raises:
        InputError: it has not.
    """
    available = len(domain) - (memory.own_slot == "exclude")
    if memory.num_neighbors > available:
        raise InputError(
            f"memory.num_neighbors is {memory.num_neighbors}, but a {domain.name} image has {available} others to "
            "choose from; lower it"
        )
