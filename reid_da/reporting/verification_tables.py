"""Verification of pairs of images as a table and as a ROC curve."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from reid_da.evaluation.verification import VerificationResult
from reid_da.reporting.picture_files import save_figure
from reid_da.reporting.tables import Column, Row, Spread, Table


def verification_table(
    result: VerificationResult, identification: Mapping[int, float] | None = None, *, feature: str = ""
) -> Table:
    """Table of accuracies, true accept rates and, if given, rank-1 rates by the number of distractors."""
    rows = [
        Row(cells=[name, Spread(100 * accuracy.mean, 100 * accuracy.std), accuracy.threshold])
        for name, accuracy in (
            ("accuracy, squared distance", result.by_distance),
            ("accuracy, centred cosine", result.by_centred_cosine),
        )
    ]
    for rate in result.accept_rates:
        name = f"TAR at FAR {rate.far:g}"
        if rate.tar is None:
            rows.append(Row(cells=[name, None, f"needs {1 / rate.far:,.0f} pairs"]))
        else:
            rows.append(Row(cells=[name, 100 * rate.tar, rate.threshold]))
    by_folds = result.fold_accept_rate
    name = f"TAR at FAR {by_folds.far:g}, by folds"
    if by_folds.mean is None or by_folds.std is None:
        rows.append(Row(cells=[name, None, "too few different-person pairs"]))
    else:
        rows.append(Row(cells=[name, Spread(100 * by_folds.mean, 100 * by_folds.std), by_folds.threshold]))
    for count, share in (identification or {}).items():
        rows.append(Row(cells=[f"rank-1 among {count:,} distractors", 100 * share, ""]))
    return Table(
        title=f"{result.num_same:,} same-person pairs, {result.num_different:,} different-person pairs, "
        f"{result.num_folds} folds" + (f"; {feature} features" if feature else ""),
        columns=[
            Column(heading="", align="left"),
            Column(heading="%", form="{:.2f}"),
            Column(heading="threshold", form="{:.4f}"),
        ],
        rows=rows,
        notes=[
            "accuracy: mean and standard deviation over the folds, the threshold of each from the others",
            "by folds: true accepts in each fold at the threshold that gives that share of false ones in the others",
            "squared distance and by folds: thresholds on the squared distance of unit vectors; else on the cosine",
        ],
    )


def draw_roc(result: VerificationResult, path: Path) -> None:
    """Picture of the share of true accepts against that of false ones, whose axis is logarithmic.

    Args:
        result: of the pairs.
        path: file to write.
    """
    from matplotlib.figure import Figure

    positives, negatives = (np.sort(result.similarity[kind])[::-1] for kind in (result.same, ~result.same))
    thresholds = np.unique(np.concatenate([positives, negatives]))[::-1]
    true_accepts, false_accepts = (
        np.searchsorted(-values, -thresholds, side="right") / len(values) for values in (positives, negatives)
    )
    figure = Figure(figsize=(4.7, 3.8), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.step(np.maximum(false_accepts, 0.5 / len(negatives)), true_accepts, where="post", color="#30638e")
    axes.set_xscale("log")
    axes.set(xlabel="false accept rate", ylabel="true accept rate", ylim=(0, 1), xlim=(0.5 / len(negatives), 1))
    axes.axvline(1 / len(negatives), color="grey", linestyle=":", label="a single false accept")
    axes.set_title(f"pairs of images: {len(positives):,} of one person, {len(negatives):,} of two", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="upper left")
    save_figure(figure, path)
