"""Pictures of evaluations: CMC curves, matrices of cameras, similarities by pairs of cameras, maps of features."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from reid_da.errors import InputError
from reid_da.evaluation.by_camera import NUM_COARSE_BINS, CameraMatrix, PairHistogram
from reid_da.evaluation.retrieval import RetrievalResult
from reid_da.text import picture_text

LINES: tuple[dict[str, Any], ...] = (
    {"color": "#30638e", "linestyle": "-"},
    {"color": "#e0902f", "linestyle": "--"},
    {"color": "#3d8b5f", "linestyle": "-."},
    {"color": "#b04a5a", "linestyle": ":"},
    {"color": "#7b5ea7", "linestyle": (0, (6, 1, 1, 1, 1, 1))},
    {"color": "#6b6b6b", "linestyle": (0, (1, 2))},
)
"""Curves differ in dashes too: not everybody sees the colours."""
_MARKS = "os^DvP*X"
_SAME, _DIFFERENT = "#30638e", "#e0902f"
_MOST_COLOURS = 20
_OTHERS = "#c8c8c8"
MOST_PAIRS = 12
"""Pairs of cameras in a picture of histograms."""


def cmc_figure(results: Mapping[str, RetrievalResult], *, title: str = "") -> Figure:
    """Figure of the CMC curves of several models on the same queries, up to rank 20."""
    figure = Figure(figsize=(5.6, 3.8), dpi=110, layout="constrained")
    axes = figure.subplots()
    for style, (name, result) in zip(cycle(LINES), results.items(), strict=False):
        shown = 100 * result.cmc[:20]
        label = f"{name}: rank-1 {shown[0]:.1f}, mAP {100 * result.mean_ap:.1f}"
        axes.plot(np.arange(1, len(shown) + 1), shown, label=picture_text(label), **style)
    axes.set(xlabel="rank", ylabel="queries with a true match (%)", title=picture_text(title))
    axes.set_ylim(0, 101)
    axes.set_xlim(1, max(2, *(min(20, len(result.cmc)) for result in results.values())))
    axes.set_xticks([1, 5, 10, 15, 20])
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    return figure


def camera_matrix_figure(matrix: CameraMatrix, *, camera_names: Sequence[str], title: str = "") -> Figure:
    """Figure of rank-1 and mAP by the camera of the query (rows) and of the gallery (columns), in percent."""
    names = [picture_text(camera_names[camera]) for camera in matrix.camids.tolist()]
    side = 1.2 + 0.5 * len(names)
    figure = Figure(figsize=(max(2 * side, 6.4), max(side, 2.8)), dpi=110, layout="constrained")
    figure.suptitle(picture_text(title))
    panels = figure.subplots(1, 2)
    for axes, values, heading in zip(panels, (matrix.rank1, matrix.mean_ap), ("rank-1 (%)", "mAP (%)"), strict=True):
        axes.imshow(100 * values, vmin=0, vmax=100, cmap="Blues")
        for row, column in np.ndindex(values.shape):
            value = values[row, column]
            text, colour = (
                ("-", "#888888") if np.isnan(value) else (f"{100 * value:.0f}", "white" if value > 0.55 else "black")
            )
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9)
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(names)), names)
        axes.set(xlabel="camera of the gallery", ylabel="camera of the query", title=heading)
    return figure


def pair_histogram_figure(
    pairs: Sequence[PairHistogram], *, camera_names: Sequence[str], threshold: float | None, title: str = ""
) -> Figure:
    """Figure of the similarities of one person and of two, a panel for each pair of cameras.

    Of many pairs those are shown that the threshold separates worst.

    Raises:
        InputError: there are no pairs.
    """
    if not pairs:
        raise InputError("no two cameras have a person in common")
    shown = hardest_pairs(pairs, threshold)
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(2.9 * columns, 1.75 * rows + 0.6), dpi=110, layout="constrained")
    figure.suptitle(picture_text(title))
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
    edges = np.linspace(-1, 1, NUM_COARSE_BINS + 1)
    counts = np.sum([pair.positives + pair.negatives for pair in shown], axis=0)
    low = edges[max(int(np.argmax(counts > 0)) - 1, 0)]
    for axes, pair in zip(grid.flat, shown, strict=False):
        for values, colour, label in (
            (pair.positives, _SAME, "same person"),
            (pair.negatives, _DIFFERENT, "different"),
        ):
            axes.stairs(values / max(values.sum(), 1), edges, color=colour, fill=True, alpha=0.55, label=label)
        if threshold is not None:
            axes.axvline(threshold, color="#202020", linewidth=1, linestyle="--")
        axes.set_title(picture_text(" / ".join(camera_names[camera] for camera in pair.cameras)), fontsize=9)
        axes.set_yticks([])
        axes.set_xlim(low, 1)
        axes.spines[["top", "right", "left"]].set_visible(False)
    for axes in list(grid.flat)[len(shown) :]:
        axes.set_visible(False)
    grid.flat[0].legend(frameon=False, fontsize=7, loc="upper left")
    figure.supxlabel("cosine similarity", fontsize=9)
    return figure


def hardest_pairs(pairs: Sequence[PairHistogram], threshold: float | None) -> list[PairHistogram]:
    """At most :data:`MOST_PAIRS` pairs in their order, those with the smallest margin of true over false positives."""
    at = 0.5 if threshold is None else threshold

    def margin(number: int) -> float:
        true, false = pairs[number].rates(at)
        return true - false

    worst = sorted(range(len(pairs)), key=margin)[:MOST_PAIRS]
    return [pairs[number] for number in sorted(worst)]


def map_figure(
    points: NDArray[np.float64],
    groups: Mapping[str, tuple[NDArray[np.int64], Sequence[str]]],
    *,
    title: str = "",
) -> Figure:
    """Figure of a map of features, once for each way to colour it.

    Args:
        points: (N, 2).
        groups: by title of the panel: (N,) group of each point, -1 for none, and the names of the groups, empty where
            they need none. Of more than 20 groups the largest are coloured.
        title: above the figure.
    """
    figure = Figure(figsize=(4.6 * len(groups), 4.4), dpi=110, layout="constrained")
    figure.suptitle(picture_text(title))
    colours = [f"C{number}" for number in range(10)]
    panels = figure.subplots(1, len(groups), squeeze=False)[0]
    for axes, (heading, (labels, names)) in zip(panels, groups.items(), strict=True):
        found, counts = np.unique(labels[labels >= 0], return_counts=True)
        kept = found[np.argsort(-counts, kind="stable")][:_MOST_COLOURS]
        rest = ~np.isin(labels, kept)
        axes.scatter(*points[rest].T, s=5, color=_OTHERS, linewidths=0)
        for number, group in enumerate(np.sort(kept)):
            label = picture_text(names[group]) if len(names) else None
            mark = _MARKS[(number // len(colours) + number) % len(_MARKS)]
            axes.scatter(
                *points[labels == group].T,
                s=13,
                color=colours[number % len(colours)],
                marker=mark,
                linewidths=0,
                label=label,
            )
        more = f" (the {len(kept)} largest of {len(found)})" if len(found) > len(kept) else ""
        axes.set_title(picture_text(heading + more), fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
        if len(names) and len(kept) <= 10:
            axes.legend(fontsize=7, markerscale=1.4, loc="best", framealpha=0.7)
    return figure
