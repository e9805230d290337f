"""Pictures of camera-style views."""

import os
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor
from torch.nn import functional

from reid_da.datasets import SampleTable
from reid_da.reporting.picture_files import save_figure
from reid_da.styles import CameraViews
from reid_da.text import picture_text

_GAP = 4
_ROW_INCHES = 1.6
_FRAME_COLOUR = "#e0902f"


def draw_views(
    views: CameraViews,
    table: SampleTable,
    rows: Sequence[int],
    path: str | os.PathLike[str],
    *,
    camera_names: Sequence[str] | None = None,
    cameras: Sequence[int] | None = None,
    back: Tensor | None = None,
) -> None:
    """Write :func:`views_figure` to a file, whose suffix decides the format."""
    figure = views_figure(views, table, rows, camera_names=camera_names, cameras=cameras, back=back)
    save_figure(figure, path)


def views_figure(
    views: CameraViews,
    table: SampleTable,
    rows: Sequence[int],
    *,
    camera_names: Sequence[str] | None = None,
    cameras: Sequence[int] | None = None,
    back: Tensor | None = None,
) -> Figure:
    """Figure of a grid of camera views: a row for each image, first the real one, then each camera's style.

    The view of the own camera, which is the real image, is framed.

    Args:
        views: where the images come from.
        table: what they are.
        rows: which of them to draw.
        camera_names: what the cameras are called; by default c1, c2, ...
        cameras: whose styles to draw, the own cameras of the images among them; by default those of all.
        back: (len(rows), 3, H, W) uint8, what came of the images on the way to another camera and back; they make a
            last column.
    """
    names = camera_names or [f"c{number}" for number in range(1, views.num_cameras + 1)]
    cameras = range(views.num_cameras) if cameras is None else cameras
    camids = table.camids[list(rows)].tolist()
    columns = ["real", *(names[camid] for camid in cameras), *([] if back is None else ["back"])]
    height, width = views.size
    inches = _ROW_INCHES * width / height * len(columns), _ROW_INCHES * len(rows)
    figure = Figure(figsize=(inches[0] + 0.7, inches[1] + 0.5), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.imshow(_mosaic(views, rows, cameras, back).numpy(), interpolation="nearest")
    _label(axes, [names[camid] for camid in camids], columns, size=views.size)
    for row, camid in enumerate(camids):
        corner = (cameras.index(camid) + 1) * (width + _GAP) - 1, row * (height + _GAP) - 1
        axes.add_patch(Rectangle(corner, width + 1, height + 1, fill=False, edgecolor=_FRAME_COLOUR, linewidth=2))
    return figure


def _mosaic(views: CameraViews, rows: Sequence[int], cameras: Sequence[int], back: Tensor | None) -> Tensor:
    """(height, width, 3) uint8 picture of real images and views, with a white gap right of and below each."""
    index = torch.tensor(rows, dtype=torch.int64)
    columns = [views.gather(index)]
    columns += [views.gather(index, torch.full_like(index, camid)) for camid in cameras]
    columns += [] if back is None else [back]
    padded = [functional.pad(images, (0, _GAP, 0, _GAP), value=255) for images in columns]
    return torch.cat(padded, dim=3).permute(0, 2, 3, 1).flatten(0, 1)


def _label(axes: Axes, row_names: Sequence[str], column_names: Sequence[str], *, size: tuple[int, int]) -> None:
    """Names left of the rows and above the columns."""
    height, width = size
    axes.set_yticks(
        np.arange(len(row_names)) * (height + _GAP) + height / 2, [picture_text(name) for name in row_names]
    )
    axes.set_xticks(
        np.arange(len(column_names)) * (width + _GAP) + width / 2, [picture_text(name) for name in column_names]
    )
    axes.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)
