"""Pictures of data sets."""

import os
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from reid_da.datasets import SampleTable
from reid_da.datasets.statistics import DatasetStatistics
from reid_da.images.decode import decode_row
from reid_da.images.source import FailedImage
from reid_da.reporting.picture_files import save_figure
from reid_da.text import picture_text

_COLOURS = {"train": "#30638e", "test": "#e0902f"}
_MOST_BINS = 30
_MOST_TICKS = 40
_HEIGHT, _WIDTH, _GAP = 128, 64, 6
"""Pixels of a sample, and between two of them."""
_SAMPLES, _MOST_SAMPLED = 10, 8
"""Samples of a camera, and cameras that have some."""


def draw_statistics(
    statistics: DatasetStatistics,
    path: str | os.PathLike[str],
    *,
    table: SampleTable | None = None,
    title: str | None = None,
    slide: bool = False,
) -> None:
    """Write :func:`statistics_figure` to a file; see :func:`reid_da.reporting.picture_files.save_figure`."""
    save_figure(statistics_figure(statistics, table=table), path, title=title, slide=slide)


def statistics_figure(statistics: DatasetStatistics, *, table: SampleTable | None = None) -> Figure:
    """Figure of the statistics: images and ids by camera, ids by number of cameras, ids by number of images.

    The first two are the views of Figure 3 (a) and (c) in Wei et al., CVPR 2018. Where no identity is known, it
    shows images by camera, and some images of each.

    Args:
        statistics: the counts.
        table: training images, to show some where identities are not known; None: counts alone.
    """
    if not any(camera.train_ids or camera.test_ids for camera in statistics.cameras):
        return _unlabelled_figure(statistics, table)
    figure = Figure(figsize=(14, 5), dpi=110, layout="constrained")
    figure.suptitle(picture_text(_title(statistics)), fontsize=13)
    left, middle, right = figure.subfigures(1, 3, squeeze=False, width_ratios=(1.35, 1, 1))[0]
    images, ids = left.subplots(2, 1, sharex=True)
    _draw_cameras(images, ids, statistics)
    _draw_camera_spread(middle.subplots(), statistics)
    _draw_images_per_id(right.subplots(), statistics)
    return figure


def _unlabelled_figure(statistics: DatasetStatistics, table: SampleTable | None) -> Figure:
    """Images by camera, and samples of the cameras."""
    if table is None or not len(table):
        figure = Figure(figsize=(8, 4.5), dpi=110, layout="constrained")
        axes = figure.subplots()
    else:
        figure = Figure(figsize=(13, 6.5), dpi=110, layout="constrained")
        left, right = figure.subfigures(1, 2, squeeze=False)[0]
        axes = left.subplots()
        _draw_samples(right.subplots(), statistics, table)
    figure.suptitle(picture_text(f"{_title(statistics)}, identities unknown"), fontsize=13)
    position = np.arange(len(statistics.cameras), dtype=np.float64)
    _draw_images(axes, position, statistics)
    axes.set(title="Images by camera", xlabel="camera", ylabel="images")
    _name_cameras(axes, position, statistics)
    return figure


def _draw_samples(axes: Axes, statistics: DatasetStatistics, table: SampleTable) -> None:
    """A row of images for each camera, spread evenly over its images; grey where one cannot be read."""
    cameras = table.cameras.tolist()
    shown = cameras[:_MOST_SAMPLED]
    canvas = np.full((len(shown) * (_HEIGHT + _GAP) - _GAP, _SAMPLES * (_WIDTH + _GAP) - _GAP, 3), 255, dtype=np.uint8)
    for number, camid in enumerate(shown):
        rows = np.flatnonzero(table.camids == camid)
        spread = rows[np.unique(np.linspace(0, len(rows) - 1, _SAMPLES).astype(np.int64))]
        for column, row in enumerate(spread.tolist()):
            pixels = decode_row(table, row, size=(_HEIGHT, _WIDTH), interpolation="bilinear")
            top, left = number * (_HEIGHT + _GAP), column * (_WIDTH + _GAP)
            canvas[top : top + _HEIGHT, left : left + _WIDTH] = 200 if isinstance(pixels, FailedImage) else pixels
    axes.imshow(canvas, interpolation="nearest")
    middles = np.arange(len(shown)) * (_HEIGHT + _GAP) + _HEIGHT / 2
    axes.set_yticks(middles, [picture_text(statistics.cameras[camid].name) for camid in shown])
    more = "" if len(shown) == len(cameras) else f" (the first {len(shown)} of {len(cameras)})"
    axes.set(title=f"Samples by camera{more}", xticks=[])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _draw_images(axes: Axes, position: NDArray[np.float64], statistics: DatasetStatistics) -> None:
    cameras = statistics.cameras
    test_images = [camera.query_images + camera.gallery_images for camera in cameras]
    _draw_pairs(axes, position, [camera.train_images for camera in cameras], test_images)


def _name_cameras(axes: Axes, position: NDArray[np.float64], statistics: DatasetStatistics) -> None:
    step = -(-len(statistics.cameras) // _MOST_TICKS) or 1
    names = [picture_text(camera.name) for camera in statistics.cameras[::step]]
    is_crowded = sum(len(name) + 2 for name in names) > 75
    axes.set_xticks(position[::step], names, rotation=90 if is_crowded else 0)


def _title(statistics: DatasetStatistics) -> str:
    images = sum(split.images for split in statistics.splits)
    return f"{statistics.name}: {images:,} images, {len(statistics.cameras)} cameras"


def _draw_cameras(images: Axes, ids: Axes, statistics: DatasetStatistics) -> None:
    """Images above, identities below, one pair of bars for each camera."""
    cameras = statistics.cameras
    position = np.arange(len(cameras), dtype=np.float64)
    _draw_images(images, position, statistics)
    _draw_pairs(ids, position, [camera.train_ids for camera in cameras], [camera.test_ids for camera in cameras])
    images.set(title="Images and identities by camera", ylabel="images")
    ids.set(xlabel="camera", ylabel="identities")
    _name_cameras(ids, position, statistics)


def _draw_camera_spread(axes: Axes, statistics: DatasetStatistics) -> None:
    train, test = statistics.train.ids_by_num_cameras, statistics.test.ids_by_num_cameras
    longest = max(len(train), len(test))
    train, test = ((*counts, *(0,) * (longest - len(counts))) for counts in (train, test))
    _draw_pairs(axes, np.arange(1.0, longest + 1), train, test)
    axes.set(title="Identities by number of cameras", xlabel="cameras that see the identity", ylabel="identities")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=16))


def _draw_images_per_id(axes: Axes, statistics: DatasetStatistics) -> None:
    halves = (statistics.train.images_per_id, statistics.test.images_per_id)
    most = max((images for half in halves for images in half), default=1)
    bin_width = -(-most // _MOST_BINS)
    edges = np.arange(0.5, most + bin_width + 0.5, bin_width)
    train, test = (np.histogram(half, edges)[0].tolist() for half in halves)
    _draw_pairs(axes, edges[:-1] + bin_width / 2, train, test, width=bin_width)
    axes.set(title="Images per identity", xlabel="images of the identity", ylabel="identities")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _draw_pairs(
    axes: Axes, position: NDArray[np.float64], train: Sequence[int], test: Sequence[int], *, width: float = 1
) -> None:
    """Bars of train and test side by side around each position; only those of the half that has any."""
    halves = [(name, values) for name, values in (("train", train), ("test", test)) if any(values)]
    bar_width = 0.8 * width / max(len(halves), 1)
    for number, (name, values) in enumerate(halves):
        shift = (number - (len(halves) - 1) / 2) * bar_width
        axes.bar(position + shift, values, width=bar_width, color=_COLOURS[name], label=name)
    axes.spines[["top", "right"]].set_visible(False)
    if not halves:
        axes.text(0.5, 0.5, "none known", transform=axes.transAxes, ha="center", va="center", color="grey")
        axes.tick_params(left=False, labelleft=False)
        return
    axes.margins(y=0.18)  # room for the legend
    axes.legend(frameon=False, ncols=2, loc="upper right", borderaxespad=0)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, steps=[1, 2, 5, 10]))
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
