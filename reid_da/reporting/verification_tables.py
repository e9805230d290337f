"""Verification of pairs of images as a table and as a ROC curve."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from rich.table import Table

from reid_da.atomic import atomic_path
from reid_da.evaluation.verification import FoldAccuracy, VerificationResult


def verification_table(result: VerificationResult, identification: Mapping[int, float] | None = None) -> Table:
    """Table of accuracies, true accept rates and, if given, rank-1 rates by the number of distractors."""
    pairs = f"{result.num_same:,} pairs of one person, {result.num_different:,} of two, {result.num_folds} folds"
    table = Table(title=pairs, title_justify="left", box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    table.add_column("%", justify="right")
    table.add_column("threshold", justify="right")
    for name, accuracy in (
        ("accuracy, squared distance", result.by_distance),
        ("accuracy, centred cosine", result.by_centred_cosine),
    ):
        table.add_row(name, _accuracy(accuracy), f"{accuracy.threshold:.4f}")
    for rate in result.accept_rates:
        name = f"true accepts at {rate.far:.0e} false ones"
        if rate.tar is None:
            table.add_row(name, "-", f"needs {1 / rate.far:,.0f} pairs of two")
        else:
            table.add_row(name, f"{100 * rate.tar:.2f}", f"{rate.threshold:.4f}")
    rate_by_folds = result.fold_accept_rate
    name = f"true accepts at {rate_by_folds.far:.0e}, by folds"
    if rate_by_folds.mean is None or rate_by_folds.std is None:
        table.add_row(name, "-", "too few pairs of two")
    else:
        cell = f"{100 * rate_by_folds.mean:.2f} ± {100 * rate_by_folds.std:.2f}"
        table.add_row(name, cell, f"{rate_by_folds.threshold:.4f}")
    for count, share in (identification or {}).items():
        table.add_row(f"rank-1 among {count:,} distractors", f"{100 * share:.2f}", "")
    table.caption = (
        "accuracy: mean and standard deviation over the folds, the threshold of each from the others\n"
        "by folds: true accepts in each fold at the threshold that gives that share of false ones in the others\n"
        "squared distance and by folds: thresholds on the squared distance of unit vectors; else on the cosine"
    )
    table.caption_justify = "left"
    return table


def draw_roc(result: VerificationResult, path: Path) -> None:
    """Picture of the share of true accepts against that of false ones, whose axis is logarithmic.

    Args:
        result: of the pairs.
        path: PNG file to write.
    """
    from matplotlib.figure import Figure

    positives, negatives = (np.sort(result.similarity[kind])[::-1] for kind in (result.same, ~result.same))
    thresholds = np.unique(np.concatenate([positives, negatives]))[::-1]
    true_accepts, false_accepts = (
        np.searchsorted(-values, -thresholds, side="right") / len(values) for values in (positives, negatives)
    )
    figure = Figure(figsize=(4.7, 3.8), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.step(np.maximum(false_accepts, 0.5 / len(negatives)), true_accepts, where="post")
    axes.set_xscale("log")
    axes.set(xlabel="false accept rate", ylabel="true accept rate", ylim=(0, 1), xlim=(0.5 / len(negatives), 1))
    axes.axvline(1 / len(negatives), color="grey", linestyle=":", label="one pair of two persons")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="lower right")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")


def _accuracy(accuracy: FoldAccuracy) -> str:
    return f"{100 * accuracy.mean:.2f} ± {100 * accuracy.std:.2f}"
