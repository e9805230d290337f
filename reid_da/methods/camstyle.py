"""CamStyle: training on labelled images and on copies of them in the styles of cameras (Zhong et al., CVPR 2018).

With the styles of the data set's own cameras it makes a supervised model less sensitive to them. With those of another
data set's cameras it adapts to that set, and is the row ``CamStyle`` in the tables of ECN.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from reid_da.config import Count, ExperimentSettings, HeadSettings, Settings, SourceLossSettings, ViewSettings
from reid_da.images import Batch
from reid_da.methods._labelled import LabelledLosses
from reid_da.methods._streams import labelled_stream, styled_stream
from reid_da.methods.protocol import Context, EpochPlan, Method, Rows


class BatchSettings(Settings):
    """Sizes of the two batches of a step."""

    source: Count = Field(default=128, description="source images in a step")
    restyled: Count = Field(default=46, description="restyled source images in a step")
    instances: Count = Field(
        default=1, description="images of each source identity in a batch; 1: no grouping by identity"
    )


class CamStyleSettings(Settings):
    """Training on restyled copies of the source (Zhong et al., CVPR 2018)."""

    cameras: Literal["target", "source"] = Field(
        default="target", description="whose styles: the target's, to adapt; the source's own, to train better on it"
    )
    label_smoothing: float = Field(default=0.1, ge=0, lt=1, description="for the restyled images alone")


class CamStyleExperiment(ExperimentSettings):
    """Settings of CamStyle."""

    method: Literal["camstyle"] = Field(
        default="camstyle", description="train on the source and on restyled copies of it"
    )
    batch: BatchSettings = BatchSettings()
    head: HeadSettings = HeadSettings()
    source_loss: SourceLossSettings = SourceLossSettings()
    views: ViewSettings = ViewSettings()
    camstyle: CamStyleSettings = CamStyleSettings()


class CamStyle(Method):
    """One training step: real images, then restyled ones with smoothed labels, which the restyling may have spoilt.

    Args:
        settings: of the experiment.
        context: seeds and device of the run, and what it may ask for.
    """

    Settings = CamStyleExperiment
    rows: ClassVar[Rows] = {"camstyle": {"method": "camstyle"}}
    table = ("source", "camstyle", "supervised")
    classified = "source"

    def __init__(self, settings: CamStyleExperiment, context: Context) -> None:
        self.settings = settings
        self._seed = context.seed("centers")
        source = context.domain("source")
        self.trained = self.network = context.network(num_classes=source.num_classes, head=settings.head)
        self.labelled = LabelledLosses(self.network, settings=settings.source_loss, seed=self._seed)
        sizes, augment = settings.batch, settings.augment
        stream = labelled_stream(source, size=sizes.source, instances=sizes.instances, augment=augment)
        if settings.camstyle.cameras == "source":
            styled = replace(context.styled(source, settings.views), with_own=False)
        else:
            styled = context.restyled(source, settings.views, cameras=context.domain("target"))
        restyled = styled_stream(styled, size=sizes.restyled, views=1, augment=augment, setting="batch.restyled")
        self._plan = EpochPlan(
            streams={"source": stream, "restyled": replace(restyled, labels=source.labels)},
            steps=settings.steps_per_epoch or stream.num_batches(context.seed("source order", 0)),
        )

    def begin_epoch(self, epoch: int) -> EpochPlan:  # noqa: ARG002
        """One pass over the source."""
        return self._plan

    def step(self, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        """Weighted losses by name; two forward passes, each with batch statistics of its own.

        Args:
            batches: ``source``, and ``restyled`` images of it.
        """
        losses = self.labelled.losses(batches["source"])
        restyled = batches["restyled"]
        assert restyled.labels is not None
        embeddings = self.network.embed(self.network.pooled(restyled.images, restyled.cameras))
        losses["restyled"] = self.network.source_cross_entropy(
            embeddings,
            restyled.labels,
            label_smoothing=self.settings.camstyle.label_smoothing,
            seed=self._seed,
        )
        return losses

    def after_backward(self) -> None:
        """Move the class centres, where the losses have any."""
        self.labelled.after_backward()

    def state_dict(self) -> dict[str, Any]:
        """The class centres."""
        return {"labelled": self.labelled.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self.labelled.load_state_dict(state["labelled"])
