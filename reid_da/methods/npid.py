"""NPID: every target image is a class of its own (Wu et al., CVPR 2018). No source, no labels, no camera styles."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Generator, Tensor

from reid_da.config import Count, ExperimentSettings, ModelSettings, Positive, Settings, Share
from reid_da.images import Batch
from reid_da.losses.invariance import fused_invariance_loss
from reid_da.memory.exemplar import ExemplarMemory
from reid_da.methods._streams import styled_stream
from reid_da.methods.protocol import Context, EpochPlan, Held, Method, Role, Rows


class BatchSettings(Settings):
    """Size of a batch."""

    target: Count = Field(default=128, description="target images in a step")


class NPIDSettings(ExperimentSettings):
    """Settings of NPID; the defaults are the authors'."""

    method: Literal["npid"] = Field(default="npid", description="train on the target alone, each image its own class")
    temperature: Positive = Field(default=0.07, description="tau of the paper")
    momentum: Share = Field(default=0.5, description="share of its old value that a slot keeps")
    batch: BatchSettings = BatchSettings()
    model: ModelSettings = ModelSettings(embedding_dim=128, target_dropout="none", freeze="none", bn_mode="train")


class NPID(Method):
    """One slot of a memory for each target image; the loss is the cross-entropy of its own slot.

    Args:
        settings: of the experiment.
        context: seeds and device of the run, and what it may ask for.
    """

    Settings = NPIDSettings
    rows: ClassVar[Rows] = {"npid": {"method": "npid"}}
    table = ("npid", "supervised")

    def __init__(self, settings: NPIDSettings, context: Context) -> None:
        self.settings = settings
        target = context.domain("target")
        self.trained = self.network = context.network(num_classes=0)
        stream = styled_stream(target, size=settings.batch.target, views=0, augment=settings.augment)
        steps = settings.steps_per_epoch or stream.num_batches(context.seed("target order", 0))
        self._plan = EpochPlan(streams={"target": stream}, steps=steps)
        memory = ExemplarMemory(
            len(target), self.network.embedding_dim, fingerprint=target.table.fingerprint, world=context.world
        )
        bound = (3 / self.network.embedding_dim) ** 0.5  # random slots are about as long as features
        generator = Generator().manual_seed(context.seed("memory"))
        memory.fill(lambda rows: rows.uniform_(-bound, bound, generator=generator))
        self.memory = memory.to(context.device)

    @classmethod
    def holds(cls, settings: NPIDSettings, sizes: Mapping[Role, int], dim: int) -> tuple[Held, ...]:  # noqa: ARG003
        """The memory."""
        return (Held.memory(sizes["target"], dim),)

    def begin_epoch(self, epoch: int) -> EpochPlan:  # noqa: ARG002
        """One pass over the target."""
        return self._plan

    def step(self, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        """``-log P(i|v)`` of equation 2, over all slots."""
        batch = batches["target"]
        features = self.network(batch.images, "target", cameras=batch.cameras)
        memory, temperature = self.memory, self.settings.temperature
        loss = fused_invariance_loss(features, memory.slots, batch.rows, temperature=temperature, shard=memory.shard)
        self._seen = batch.rows, features.detach()
        return {"exemplar": loss.exemplar.mean()}

    def after_backward(self) -> None:
        """Move the slots of the batch; its gradients have come from the slots before."""
        self.memory.update(*self._seen, momentum=self.settings.momentum)

    def state_dict(self) -> dict[str, Any]:
        """The memory."""
        return {"memory": self.memory.saved_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self.memory.restore(state["memory"])
