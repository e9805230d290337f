"""Thresholds of a model as a table, and the similarities that they were taken from as a picture."""

from pathlib import Path

import numpy as np

from reid_da.evaluation.calibration import Calibration
from reid_da.reporting.picture_files import save_figure
from reid_da.reporting.tables import Column, Row, Table
from reid_da.text import picture_text


def calibration_table(calibration: Calibration, *, title: str) -> Table:
    """Table of thresholds and what they let through."""
    rows = []
    for point in calibration.points:
        is_few = point.fpr * calibration.num_negative_pairs < 1
        unknown = f"too {'few' if is_few else 'similar'} pairs to tell"
        measured = unknown if point.measured_fpr is None else point.measured_fpr
        rows.append(Row(cells=[point.fpr, point.threshold, point.tpr, measured]))
    return Table(
        title=title,
        columns=[
            Column(heading="false positive rate", form="{:g}"),
            Column(heading="threshold", form="{:.5f}"),
            Column(heading="true positive rate", form="{:.1%}"),
            Column(heading="measured FPR", form="{:.2g}"),
        ],
        rows=rows,
        notes=[
            f"cosine similarity of {calibration.feature or 'unknown'} features across cameras; "
            f"{calibration.num_positive_pairs:,} same-person pairs, {calibration.num_negative_pairs:,} "
            "different-person pairs"
        ],
    )


def draw_calibration(calibration: Calibration, path: Path, *, title: str) -> None:
    """Picture of the similarities of pairs of one person and of two, with the thresholds.

    Args:
        calibration: what to draw.
        path: file to write.
        title: above the picture.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), dpi=110, layout="constrained")
    axes = figure.subplots()
    edges = np.array(calibration.edges)
    # as many bars as the pairs fill: many bars for a few hundred pairs are a comb
    joined = max(1, -(-(len(edges) - 1) // max(8, int(calibration.num_positive_pairs**0.5))))
    starts = np.arange(0, len(edges) - 1, joined)
    places = np.append(starts, len(edges) - 1) / (len(edges) - 1)
    for counts, name, colour in (
        (calibration.negatives, "different persons", "tab:orange"),
        (calibration.positives, "same person", "tab:blue"),
    ):
        shares = 100 * np.add.reduceat(np.array(counts), starts) / max(sum(counts), 1)
        axes.stairs(shares, places, fill=True, alpha=0.5, color=colour, label=name)
    for number, point in enumerate(calibration.resolved_points):
        assert point.threshold is not None
        place = float(np.interp(point.threshold, edges, np.linspace(0, 1, len(edges))))
        axes.axvline(place, color="black", linewidth=0.8)
        axes.annotate(
            f" FPR {point.fpr:g} ",
            (place, 0.98 - 0.07 * number),
            xycoords=("data", "axes fraction"),
            va="top",
            ha="right" if place > 0.85 else "left",
        )
    ticks = np.linspace(0, 1, 9)
    digits = int(np.clip(np.ceil(1.5 - np.log10(max(float(edges[-1] - edges[0]), 1e-6))), 2, 5))
    axes.set_xticks(ticks, [f"{np.interp(tick, np.linspace(0, 1, len(edges)), edges):.{digits}f}" for tick in ticks])
    axes.tick_params(axis="x", labelsize=8)
    axes.set_title(picture_text(title))
    axes.set(xlabel="cosine similarity across cameras, on a scale of quantiles", ylabel="share of the pairs (%)")
    axes.set_xlim(0, 1)
    axes.set_ylim(top=1.3 * axes.get_ylim()[1])  # room for legend and rates
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left")
    save_figure(figure, path, kind="png")
