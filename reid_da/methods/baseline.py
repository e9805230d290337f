"""Training on labelled images alone: the source, the start of every adaptation, or the target, its upper bound."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from reid_da.config import Count, ExperimentSettings, HeadSettings, Settings, SourceLossSettings
from reid_da.images import Batch, Grouping
from reid_da.methods._labelled import LabelledLosses
from reid_da.methods._streams import labelled_stream
from reid_da.methods.protocol import Context, EpochPlan, Method, Role, Rows


class BatchSettings(Settings):
    """Size of a batch."""

    source: Count = Field(default=128, description="labelled images in a step")
    instances: Count = Field(default=1, description="images of each identity in a batch; 1: no grouping by identity")
    grouping: Grouping = Field(
        default="all",
        description="all: an identity with fewer images than instances comes with all of them, and repeats; drawn: "
        "they are drawn with replacement, as in the strong baseline's code; once: so, and each identity comes once "
        "an epoch, as in SphereReID's",
    )


class BaselineSettings(ExperimentSettings):
    """Settings of training on labels."""

    batch: BatchSettings = BatchSettings()
    head: HeadSettings = HeadSettings()
    source_loss: SourceLossSettings = SourceLossSettings()


class SourceSettings(BaselineSettings):
    """Settings of training on the source alone."""

    method: Literal["source"] = Field(default="source", description="train on the source alone")


class SupervisedSettings(BaselineSettings):
    """Settings of training on the target's labels."""

    method: Literal["supervised"] = Field(
        default="supervised", description="train on the target's labels (an upper bound)"
    )


class Source(Method):
    """Training on the labels of the source.

    Args:
        settings: of the experiment.
        context: seeds and device of the run, and what it may ask for.
    """

    Settings: ClassVar[type[BaselineSettings]] = SourceSettings
    rows: ClassVar[Rows] = {"source": {"method": "source"}}
    table = ("source", "supervised")
    role: ClassVar[Role] = "source"
    classified: ClassVar[Role | None] = "source"

    def __init__(self, settings: BaselineSettings, context: Context) -> None:
        self.settings = settings
        domain = context.domain(self.role)
        self.trained = self.network = context.network(num_classes=domain.num_classes, head=settings.head)
        self.labelled = LabelledLosses(self.network, settings=settings.source_loss, seed=context.seed("centers"))
        batch = settings.batch
        stream = labelled_stream(
            domain,
            size=batch.source,
            instances=batch.instances,
            augment=settings.augment,
            grouping=batch.grouping,
        )
        steps = settings.steps_per_epoch or stream.num_batches(context.seed("source order", 0))
        self._plan = EpochPlan(streams={"source": stream}, steps=steps)

    def begin_epoch(self, epoch: int) -> EpochPlan:  # noqa: ARG002
        """One pass over the labelled images."""
        return self._plan

    def step(self, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        """Weighted losses by name."""
        return self.labelled.losses(batches["source"])

    def after_backward(self) -> None:
        """Move the class centres, where the losses have any."""
        self.labelled.after_backward()

    def state_dict(self) -> dict[str, Any]:
        """The class centres."""
        return {"labelled": self.labelled.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self.labelled.load_state_dict(state["labelled"])


class Supervised(Source):
    """Training on the labels of the target."""

    Settings = SupervisedSettings
    rows: ClassVar[Rows] = {"supervised": {"method": "supervised"}}
    role = classified = "target"
