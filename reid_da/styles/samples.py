"""Pictures of samples on the way of a training of camera styles."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from reid_da.datasets import SampleTable
from reid_da.styles import CameraViews, ColourTransfer, TransferViews, there_and_back
from reid_da.styles.training_images import StyleImages
from reid_da.training.run_folder import RunFolder

NUM_SAMPLES = 6
"""Images in a picture of samples, or one of each camera."""
_MOST_CAMERAS = 12

logger = logging.getLogger(__name__)


class DrawViews(Protocol):
    """Draws some images in the styles of cameras; see :func:`reid_da.reporting.style_pictures.draw_views`."""

    def __call__(
        self,
        views: CameraViews,
        table: SampleTable,
        rows: Sequence[int],
        path: Path,
        *,
        camera_names: Sequence[str],
        cameras: Sequence[int],
        back: Tensor,
    ) -> None:
        """Write the picture."""
        ...


@dataclass(frozen=True, kw_only=True)
class StyleSamples:
    """Draws the same few images in the styles of cameras, a picture for each call, and notes it in the metrics.

    Attributes:
        images: to choose from.
        groups: rows of each camera, (M,) int64, of which the picture shows equal numbers.
        cameras: whose styles to draw.
        transfer: gives the styles as they are now.
        run: its folder ``samples`` takes the pictures.
        draw: draws them.
    """

    images: StyleImages
    groups: Sequence[Tensor]
    cameras: Sequence[int]
    transfer: Callable[[], ColourTransfer]
    run: RunFolder
    draw: DrawViews

    def __call__(self) -> Mapping[str, float]:
        """Draw one picture; no figures."""
        dataset, source, camids = self.images.dataset, self.images.source, self.images.camids
        # with many cameras one image of each, so that no camera is seen twice before all are seen once
        groups = [group for group in self.groups if len(group)][:_MOST_CAMERAS]
        count = max(1, NUM_SAMPLES // len(groups))
        rows = torch.cat([group[torch.linspace(0, len(group) - 1, count).long()] for group in groups])
        epoch = len(self.run.records("train"))
        picture = Path("samples") / f"epoch_{epoch:04d}.png"
        path = self.run.path / picture
        path.parent.mkdir(exist_ok=True)
        transfer = self.transfer()
        self.draw(
            TransferViews(source, camids, transfer, num_cameras=dataset.num_cameras),
            dataset.train,
            rows.tolist(),
            path,
            camera_names=dataset.camera_names,
            cameras=self.cameras,
            back=there_and_back(transfer, source.gather(rows), camids[rows], cameras=torch.tensor(self.cameras)),
        )
        self.run.log({"kind": "samples", "epoch": epoch, "picture": picture.as_posix()})
        logger.info("samples: %s", path)
        return {}
