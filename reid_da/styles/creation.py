"""From the name of a style to camera views."""

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from reid_da.datasets import SampleTable
from reid_da.errors import InputError, first_few, unknown_name
from reid_da.images import FailedImage, ImageSource, open_images
from reid_da.styles.files import FileViews, OnMissing, find_styled_images
from reid_da.styles.histogram import HistogramTransfer, camera_histograms
from reid_da.styles.statistics import StatisticsTransfer, camera_statistics
from reid_da.styles.transfer import ColourTransfer, TransferViews
from reid_da.styles.views import CameraViews

Style = Literal["statistics", "histogram", "files"]
"""How camera views come about: by colour statistics, by histogram matching, or as ready-made files."""

logger = logging.getLogger(__name__)


def create_views(
    style: Style,
    source: ImageSource,
    table: SampleTable,
    *,
    num_cameras: int,
    folder: Path | None = None,
    on_missing: OnMissing = "raise",
    open_files: Callable[[SampleTable], ImageSource] | None = None,
) -> CameraViews:
    """Camera views of the images of a target training set.

    Where no image of the table is of a camera, the views for it are the real images (with ``files``: unless there are
    files for it).

    Args:
        style: ``statistics`` and ``histogram`` make the views on the fly after one pass over the images; ``files`` are
            ready-made, see :mod:`reid_da.styles.files`.
        source: the N real images.
        table: what they are.
        num_cameras: number of cameras of the data set.
        folder: ``files``: where they are; by default beside the folder of the training images.
        on_missing: ``files``: what to do if some are missing, ``raise`` or let the ``real`` images stand in.
        open_files: ``files``: opens their table with the size of the real images; by default
            :func:`~reid_da.images.open_images`.

    Raises:
        InputError: the style is unknown, all images are of one camera, or files are missing or cannot be decoded.
        ValueError: source and table differ in length, or there are more cameras in the table than ``num_cameras``.
    """
    if style not in get_args(Style):
        raise unknown_name("camera style", style, get_args(Style))
    _check_table(source, table, num_cameras=num_cameras)
    if style == "files":
        styled = find_styled_images(table, folder, num_cameras=num_cameras, on_missing=on_missing)
        open_files = open_files or partial(open_images, size=source.size)
        return FileViews(source, styled, open_files(styled.table))
    unseen = sorted(set(range(num_cameras)) - set(table.cameras.tolist()))
    if unseen:
        names = first_few(f"c{camid + 1}" for camid in unseen)
        logger.warning("%s: no images of camera %s: views for it are the real images", table.name, names)
    camids = torch.tensor(table.camids)
    transfer = _colour_transfer(style, source, camids, num_cameras=num_cameras)
    return TransferViews(source, camids, transfer, num_cameras=num_cameras)


def create_foreign_views(
    style: Literal["statistics", "histogram"],
    source: ImageSource,
    camids: Tensor,
    *,
    target: ImageSource,
    target_camids: Tensor,
    num_target_cameras: int,
) -> CameraViews:
    """Views of images of one data set in the styles of the cameras of another, as CamStyle adapts a model with.

    Args:
        style: how the views are made.
        source: the N images.
        camids: (N,) int64 cameras that took them.
        target: images of the other data set, of the same size.
        target_camids: (M,) int64 cameras that took those.
        num_target_cameras: number C of cameras of the other data set, of which there are views.
    """
    # the cameras of both data sets, those of the target first, so that view c is in the style of its camera c
    own = camids + num_target_cameras
    num_cameras = int(own.max()) + 1
    both = _Joined(target, source)
    transfer = _colour_transfer(style, both, torch.cat([target_camids, own]), num_cameras=num_cameras)
    return TransferViews(source, own, transfer, num_cameras=num_target_cameras)


def _colour_transfer(style: str, source: ImageSource, camids: Tensor, *, num_cameras: int) -> ColourTransfer:
    if style == "statistics":
        return StatisticsTransfer(camera_statistics(source, camids, num_cameras=num_cameras))
    return HistogramTransfer(camera_histograms(source, camids, num_cameras=num_cameras))


class _Joined:
    """The images of one source after those of another."""

    def __init__(self, first: ImageSource, second: ImageSource) -> None:
        self._first = first
        self._second = second
        self.size = first.size

    @property
    def failed(self) -> tuple[FailedImage, ...]:
        """Images known to be undecodable."""
        moved = (replace(failure, index=failure.index + len(self._first)) for failure in self._second.failed)
        return (*self._first.failed, *moved)

    def __len__(self) -> int:
        return len(self._first) + len(self._second)

    def gather(self, index: Tensor, views: Tensor | None = None) -> Tensor:
        """(B, 3, H, W) uint8 images; those of the second source come after the first's."""
        assert views is None
        is_first = index < len(self._first)
        images = torch.empty((len(index), 3, *self.size), dtype=torch.uint8, memory_format=torch.channels_last)
        images[is_first] = self._first.gather(index[is_first])
        images[~is_first] = self._second.gather(index[~is_first] - len(self._first))
        return images


def _check_table(source: ImageSource, table: SampleTable, *, num_cameras: int) -> None:
    if len(source) != len(table):
        raise ValueError(f"{table.name}: {len(source)} images, but {len(table)} rows")
    if len(table.cameras) < 2:
        raise InputError(
            f"{table.name}: camera invariance needs images of at least two cameras, and there are images of"
            f" {len(table.cameras)}; switch it off (invariance.camera=false)"
        )
    if int(table.camids.max()) >= num_cameras:
        raise ValueError(f"{table.name}: camid {table.camids.max()} does not fit {num_cameras} cameras")
