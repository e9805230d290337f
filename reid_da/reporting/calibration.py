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
            f"cosine similarity across cameras; {calibration.num_positive_pairs:,} same-person pairs, "
            f"{calibration.num_negative_pairs:,} different-person pairs"
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

    figure = Figure(figsize=(6, 3.6), dpi=110, layout="constrained")
    axes = figure.subplots()
    count = len(calibration.positives)
    # as many bars as the pairs fill: hundreds of bars for a few hundred pairs are a comb
    joined = -(-count // max(16, min(count, int(2 * calibration.num_positive_pairs**0.5))))
    starts = np.arange(0, count, joined)
    edges = np.append(starts, count) / count * (calibration.high - calibration.low) + calibration.low
    for counts, name, colour in (
        (calibration.negatives, "different persons", "tab:orange"),
        (calibration.positives, "same person", "tab:blue"),
    ):
        shares = np.add.reduceat(np.array(counts), starts) / max(sum(counts), 1)
        axes.stairs(shares, edges, fill=True, alpha=0.5, color=colour, label=name)
    for point in calibration.points:
        if point.threshold is not None:
            axes.axvline(point.threshold, color="black", linewidth=0.8)
            axes.annotate(f" FPR {point.fpr:g}", (point.threshold, 0.98), xycoords=("data", "axes fraction"), va="top")
    axes.set_title(picture_text(title))
    axes.set(
        xlabel="cosine similarity across cameras", ylabel="share of the pairs", xlim=(calibration.low, calibration.high)
    )
    axes.legend(frameon=False, loc="upper left")
    save_figure(figure, path, kind="png")
