"""CamStyle: training on labelled images and on copies of them in the styles of cameras (Zhong et al., CVPR 2018).

With the styles of the data set's own cameras it makes a supervised model less sensitive to them. With those of another
data set's cameras it adapts to that set, and is the row ``CamStyle`` in the tables of ECN.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional

from reid_da.config import ExperimentSettings
from reid_da.images import Batch
from reid_da.models.reid_net import ReIDNetwork
from reid_da.training.methods.labelled import LabelledLosses


class CamStyle:
    """One training step: real images, then restyled ones with smoothed labels, which the restyling may have spoilt.

    Args:
        network: the shared network, on its device.
        settings: of the experiment.
        labels: (N,) int64 class of each image, real or restyled, on the same device.
    """

    def __init__(self, network: ReIDNetwork, *, settings: ExperimentSettings, labels: Tensor) -> None:
        self.network = network
        self.settings = settings.camstyle
        self.labelled = LabelledLosses(network, labels, settings=settings.source_loss)

    def begin_epoch(self, epoch: int) -> None:
        """Nothing depends on the epoch."""

    def step(self, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        """Weighted losses by name; two forward passes, each with batch statistics of its own.

        Args:
            batches: ``source``, and ``restyled`` images of it.
        """
        losses = self.labelled.losses(batches["source"])
        restyled = batches["restyled"]
        label = self.labelled.labels[restyled.index]
        embeddings = self.network.embed(self.network.backbone(restyled.images))
        logits = self.network.source_logits(embeddings, label).float()
        losses["restyled"] = functional.cross_entropy(logits, label, label_smoothing=self.settings.label_smoothing)
        return losses

    def after_backward(self) -> None:
        """Move the class centres, where the losses have any."""
        self.labelled.after_backward()

    def end_epoch(self) -> dict[str, float]:
        """No figures beyond the losses."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the network."""
        return {"labelled": self.labelled.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self.labelled.load_state_dict(state["labelled"])
