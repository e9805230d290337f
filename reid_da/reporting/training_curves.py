"""Plots of training runs: how one went, and how results depend on a setting."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from reid_da.reporting.picture_files import save_figure
from reid_da.reporting.result_tables import Figures, Summary, setting_text, summarize
from reid_da.text import picture_text

Record: TypeAlias = Mapping[str, Any]
"""A line of ``metrics.jsonl``."""

_LINES: tuple[dict[str, Any], ...] = (
    {"color": "#30638e", "linestyle": "-", "marker": "o"},
    {"color": "#e0902f", "linestyle": "--", "marker": "s"},
    {"color": "#3d8b5f", "linestyle": "-.", "marker": "^"},
    {"color": "#b04a5a", "linestyle": ":", "marker": "D"},
    {"color": "#7b5ea7", "linestyle": (0, (6, 1, 1, 1, 1, 1)), "marker": "v"},
    {"color": "#6b6b6b", "linestyle": (0, (1, 2)), "marker": "P"},
)
"""Lines of a panel differ in dashes and markers too: not everybody sees the colours."""
_MOST_MARKERS = 12
_LABEL_SHARE = 0.08
"""Share of an axis that a label of a tick takes."""

_SWEPT = {"rank1": "rank-1 (%)", "mAP": "mAP (%)", "neighbors_agreement": "neighbours kept (%)"}
_SCORES = {"mAP": "mAP", "rank1": "rank-1"}
_NEIGHBOURS = {
    "neighbors_precision": "of the same person",
    "neighbors_cross_camera": "from another camera",
    "neighbors_camera_entropy": "camera entropy",
    "neighbors_agreement": "agreement with the epoch before",
}
_LABEL_FREE = {
    "clusters_stable": "stable clusters",
    "neighbors_stable": "stable neighbours",
    "neighbors_cross_camera": "neighbours of another camera",
    "clusters_outliers": "outliers",
}
_CLUSTERS = {
    "clusters_agreement": "agreement with the epoch before",
    "clusters_outliers": "outliers",
    "clusters_largest": "largest cluster",
    "clusters_camera_entropy": "camera entropy, nats",
    "clusters_ami_pids": "AMI with the identities (labels)",
}
_COUNTS = {"clusters": "clusters", "proxies": "proxies"}


@dataclass(frozen=True, kw_only=True)
class _Panel:
    """One panel: title, its lines as records and what to call each of their keys."""

    title: str
    records: Sequence[Record]
    names: Mapping[str, str]
    scale: float = 1
    has_baseline: bool = False
    """Whether a dotted line continues the value of epoch 0, before the first step."""


def draw_run(records: Sequence[Record], path: str | os.PathLike[str], *, title: str = "", slide: bool = False) -> None:
    """Write :func:`run_figure` to a file, whose suffix decides the format; 16 to 9 for a slide."""
    save_figure(run_figure(records, title=title), path, slide=slide)


def run_figure(records: Sequence[Record], *, title: str = "") -> Figure:
    """Figure of a run by epoch: losses, evaluations, and diagnostics of clusters or of neighbours in the memory.

    Panels and lines without a figure in the records are left out. A value that was not finite, null in the records,
    is a gap.

    Args:
        records: of :meth:`reid_da.training.run_folder.RunFolder.records`.
        title: above the figure.
    """
    train = [record for record in records if record["kind"] == "train"]
    evaluations = [record for record in records if record["kind"] == "evaluation"]
    losses = {key: key.removeprefix("loss_") for record in train for key in record if key.startswith("loss_")}
    panels = (
        _Panel(title="losses, as weighted in their sum", records=train, names=losses),
        _Panel(title="evaluation on the target, %", records=evaluations, names=_SCORES, scale=100, has_baseline=True),
        _Panel(title="neighbours in the memory, shares", records=train, names=_NEIGHBOURS),
        _Panel(title="clusters of the target, shares", records=train, names=_CLUSTERS),
        _Panel(title="clusters of the target, number", records=train, names=_COUNTS),
    )
    last = _last_epoch(train, evaluations)
    shown = [panel for panel in panels if any(_has_values(panel.records, key) for key in panel.names)] or panels[:1]
    figure = _figure(len(shown), title)
    for axes, panel in zip(figure.axes, shown, strict=True):
        _draw_panel(axes, panel, last)
    return figure


def label_free_figure(records: Sequence[Record], *, chosen: int | None = None, title: str = "") -> Figure:
    """Figure of the figures that need no labels, by epoch, beside the mAP that they do not see.

    Args:
        records: of a run; those of the kinds ``label_free`` and ``evaluation`` count.
        chosen: epoch that the figures choose, marked by a line.
        title: above the figure.
    """
    found = [record for record in records if record["kind"] == "label_free"]
    evaluations = [record for record in records if record["kind"] == "evaluation"]
    panels = [_Panel(title="shares and agreements", records=found, names=_LABEL_FREE)]
    if any(_has_values(evaluations, key) for key in _SCORES):
        panels.append(
            _Panel(title="evaluation on the target (hidden), %", records=evaluations, names=_SCORES, scale=100)
        )
    last = _last_epoch(found, evaluations)
    figure = _figure(len(panels), title)
    for axes, panel in zip(figure.axes, panels, strict=True):
        _draw_panel(axes, panel, last)
        if chosen is not None:
            axes.axvline(chosen, color="#202020", linewidth=1, linestyle=":")
    return figure


def draw_sweep(
    values: Sequence[float | str],
    results: Mapping[str, Sequence[Sequence[Figures]]],
    path: str | os.PathLike[str],
    *,
    xlabel: str,
    log: bool | None = None,
    title: str = "",
) -> None:
    """Write :func:`sweep_figure` to a file, whose suffix decides the format."""
    save_figure(sweep_figure(values, results, xlabel=xlabel, log=log, title=title), path)


def sweep_figure(
    values: Sequence[float | str],
    results: Mapping[str, Sequence[Sequence[Figures]]],
    *,
    xlabel: str,
    log: bool | None = None,
    title: str = "",
) -> Figure:
    """Figure of rank-1 and mAP against a setting, as Figures 3 and 4 of Zhong et al., CVPR 2019.

    A third panel, the only one where the target has no labels, is the agreement of neighbours between epochs. Bars are
    sample standard deviations over the seeds. Unless all values are numbers, they stand at equal distances.

    Args:
        values: of the setting.
        results: by name of the line, e.g. the direction of the adaptation: for each value the evaluations of its seeds.
        xlabel: the setting.
        log: make its axis logarithmic, if all values are above 0; by default if one is 30 times another.
        title: above the figure.
    """
    measured = {key for of_values in results.values() for seeds in of_values for seed in seeds for key in seed}
    shown = [key for key in _SWEPT if key in measured] or list(_SCORES)
    figure = _figure(len(shown), title)
    are_numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    positions = np.array(values if are_numbers else range(len(values)), dtype=np.float64)
    for axes, key in zip(figure.axes, shown, strict=True):
        for line, (label, of_values) in zip(cycle(_LINES), results.items(), strict=False):
            # a line between names would mean nothing
            style = line if are_numbers else {**line, "linestyle": "none"}
            _draw_line(
                axes,
                positions,
                [summarize(seeds) for seeds in of_values],
                key=key,
                label=picture_text(label),
                style=style,
            )
        if are_numbers and positions.min() > 0 and (log or (log is None and positions.max() >= 30 * positions.min())):
            axes.set_xscale("log")
        axes.set_xticks(positions, [picture_text(setting_text(value)) for value in values])
        if are_numbers:
            _thin_labels(axes)
        else:
            # the end of a name, not its middle, belongs below its tick
            for text in axes.get_xticklabels():
                text.set(rotation=40, ha="right", rotation_mode="anchor")
        axes.minorticks_off()
        axes.margins(x=0.08)
        axes.set(xlabel=picture_text(xlabel), ylabel=_SWEPT[key])
        _finish(axes)
    return figure


def _draw_line(
    axes: Axes,
    positions: NDArray[np.float64],
    summaries: Sequence[Summary],
    *,
    key: str,
    label: str,
    style: Mapping[str, Any],
) -> None:
    """Means and spreads of a figure, in percent, from left to right."""
    order = np.argsort(positions)
    means = 100 * np.array([summary.mean.get(key, math.nan) for summary in summaries])
    spreads = 100 * np.array([summary.std.get(key) or 0 for summary in summaries])
    axes.errorbar(positions[order], means[order], spreads[order], label=label, capsize=3, **style)


def _thin_labels(axes: Axes) -> None:
    """Blank the labels of ticks that would lie on the label to their left."""
    ticks = axes.get_xticks()
    places = np.log(ticks) if axes.get_xscale() == "log" else ticks
    room = _LABEL_SHARE * float(np.ptp(places))
    labels, last = [label.get_text() for label in axes.get_xticklabels()], -math.inf
    for index in np.argsort(places):
        if places[index] - last < room:
            labels[index] = ""
        else:
            last = places[index]
    axes.set_xticks(ticks, labels)


def _figure(num_panels: int, title: str) -> Figure:
    # more than three side by side would be a strip that no page or slide has room for
    rows = 1 if num_panels <= 3 else 2
    columns = -(-num_panels // rows)
    figure = Figure(figsize=(4.7 * columns, 3.8 * rows), dpi=110, layout="constrained")
    figure.suptitle(picture_text(title), fontsize=12, fontweight="bold")
    for number in range(num_panels):
        figure.add_subplot(rows, columns, number + 1)
    return figure


def _name_point(axes: Axes, epoch: int, value: float, *, last: int, colour: Any) -> None:
    """Write a value beside its point, on the side where there is room."""
    is_right = epoch > last / 2
    axes.annotate(
        f"{value:.3g}",
        (epoch, value),
        xytext=(-8 if is_right else 8, 0),
        textcoords="offset points",
        ha="right" if is_right else "left",
        va="center",
        fontsize=9,
        color=colour,
    )


def _draw_panel(axes: Axes, panel: _Panel, last: int) -> None:
    keys = [key for key in panel.names if _has_values(panel.records, key)]
    before, shown = "", [np.zeros(1)]
    for style, key in zip(cycle(_LINES), keys, strict=False):
        epochs = [record["epoch"] for record in panel.records if key in record]
        values = [_number(record[key]) * panel.scale for record in panel.records if key in record]
        every = -(-len(epochs) // _MOST_MARKERS)
        # a marker on the left axis, of the evaluation before the first epoch, is not cut in half
        line = {"markersize": 4, "markevery": every, "clip_on": False, **style}
        shown += [np.array(values)] if np.isfinite(values).any() else []
        axes.plot(epochs, values, label=picture_text(panel.names[key]), **line)
        if len(values) == 1 and math.isfinite(values[0]):
            # a point alone tells little without its figure
            _name_point(axes, epochs[0], values[0], last=last, colour=line["color"])
        if panel.has_baseline and epochs[0] == 0 and len(epochs) > 1:
            axes.axhline(values[0], color=line["color"], linewidth=1, linestyle=":", alpha=0.7)
            before = "before adaptation"
    if before:
        axes.plot([], [], color="#6b6b6b", linewidth=1, linestyle=":", label=before)
    axes.set(title=panel.title, xlabel="epoch")
    axes.margins(y=0.08)
    # an agreement adjusted for chance may be below 0
    axes.set_ylim(bottom=min(0.0, *(float(np.nanmin(drawn)) for drawn in shown)))
    axes.set_xlim(0, 1.02 * last)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    if not keys:
        axes.text(0.5, 0.5, "no epoch yet", transform=axes.transAxes, ha="center", va="center", color="grey")
    _finish(axes)


def _last_epoch(*records: Sequence[Record]) -> int:
    """Where the axes of all panels end."""
    return max([1, *(int(record["epoch"]) for of_kind in records for record in of_kind)])


def _has_values(records: Sequence[Record], key: str) -> bool:
    return any(record.get(key) is not None for record in records)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _finish(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9)
