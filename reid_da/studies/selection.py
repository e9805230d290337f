"""Choosing among runs and epochs by figures that need no labels, and how far these follow accuracy."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import weightedtau

from reid_da.errors import InputError, unknown_name
from reid_da.reporting.tables import Column, Row, Table
from reid_da.studies.collecting import runs_in
from reid_da.training.run_folder import RunFolder

FIGURES = {
    "clusters_stable": ("stable clusters", "{:.3f}"),
    "neighbors_stable": ("stable neighbours", "{:.3f}"),
    "density": ("density", "{:.2f}"),
    "effective_rank": ("eff. rank", "{:.1f}"),
    "neighbors_cross_camera": ("x-camera", "{:.3f}"),
    "clusters_camera_entropy": ("camera entropy", "{:.2f}"),
    "clusters_outliers": ("outliers", "{:.3f}"),
    "clusters": ("clusters", "{:.0f}"),
}
"""Headings and formats of label-free figures by their name."""
LOWER_IS_BETTER = frozenset({"clusters_outliers"})
"""Figures of which the smallest is chosen."""
SHOWN = ("clusters_stable", "effective_rank", "neighbors_cross_camera", "clusters_outliers", "clusters")
"""Columns of the table beside the figure to choose by; there is no room for all."""
FIRST, THEN = "clusters_stable", "neighbors_cross_camera"
"""The figures to choose by unless told otherwise; for the reasons see experiments/RESULTS.md."""
ABOUT_EQUAL = 0.02
"""By how much clusters may be less stable than the most stable ones and still be about as good."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A run after one of its epochs.

    Attributes:
        run: folder.
        epoch: number of epochs done.
        figures: label-free figures.
        mean_ap: mAP where the target has labels, 0 to 1; it takes no part in the choice.
        is_kept: whether there is a checkpoint of the epoch.
    """

    run: Path
    epoch: int
    figures: dict[str, float]
    mean_ap: float | None
    is_kept: bool


def candidates(paths: Sequence[Path]) -> list[Candidate]:
    """The epochs of runs that have label-free figures.

    Args:
        paths: run folders, or folders of runs.

    Raises:
        InputError: a folder holds no run, or no run has such figures.
    """
    found = [
        candidate
        for path in paths
        for run in ([path] if (path / "config.yaml").is_file() else runs_in(path))
        for candidate in _of_run(RunFolder.open(run))
    ]
    if not found:
        raise InputError(
            f"{paths[0]}: no label-free figures in metrics.jsonl; train with label_free=true and a target, and "
            "evaluate_every=N to have them of several epochs"
        )
    return found


def ranked(found: Sequence[Candidate], *, by: str | None = None) -> list[Candidate]:
    """Candidates, best first; those without the figure are left out, equal ones keep their order.

    Args:
        found: the candidates.
        by: the figure. By default the most stable clusters, and those that are about as stable
            (:data:`ABOUT_EQUAL`) in the order of their neighbours of another camera. That share orders methods as their
            accuracy does, but features that have collapsed have the largest; their clusters are not stable.

    Raises:
        InputError: no candidate has the figure.
    """
    name = by or FIRST
    having = [candidate for candidate in found if name in candidate.figures]
    if not having:
        raise unknown_name("--by", name, sorted({name for candidate in found for name in candidate.figures}))
    sign = 1 if name in LOWER_IS_BETTER else -1
    order = sorted(having, key=lambda candidate: sign * candidate.figures[name])
    if by is not None:
        return order
    count = len(_about_equal(order))
    return sorted(order[:count], key=lambda candidate: -candidate.figures.get(THEN, 0.0)) + order[count:]


def _about_equal(order: Sequence[Candidate]) -> list[Candidate]:
    """Candidates whose clusters are about as stable as the most stable ones."""
    most = max(candidate.figures[FIRST] for candidate in order)
    return [candidate for candidate in order if candidate.figures[FIRST] >= most - ABOUT_EQUAL]


def last_of_each(found: Sequence[Candidate]) -> list[Candidate]:
    """The last epoch of each run."""
    return list({candidate.run: candidate for candidate in sorted(found, key=lambda entry: entry.epoch)}.values())


def to_json(order: Sequence[Candidate], *, by: str | None, taus: Mapping[str, float]) -> dict[str, Any]:
    """What was ranked, as values that JSON can hold."""
    rows = [
        {
            "run": str(candidate.run),
            "epoch": candidate.epoch,
            "checkpoint": candidate.is_kept,
            "figures": candidate.figures,
            "hidden_mAP": candidate.mean_ap,
        }
        for candidate in order
    ]
    study = {name: None if math.isnan(tau) else tau for name, tau in taus.items()}
    return {"by": by or f"{FIRST}, {THEN}", "candidates": rows, **({"weighted_tau": study} if study else {})}


def rank_correlations(found: Sequence[Candidate]) -> dict[str, float]:
    """Weighted Kendall's tau of each figure with mAP, -1 to 1, over the candidates that have both.

    Vigna, WWW 2015: a pair weighs the more, the higher its members rank. Figures of which the smallest is best count
    with the opposite sign. NaN where fewer than three candidates have both, or all have one value.
    """
    taus = {}
    for name in FIGURES:
        pairs = [(c.figures[name], c.mean_ap) for c in found if name in c.figures and c.mean_ap is not None]
        tau = math.nan
        if len(pairs) > 2:
            values, precisions = np.array(pairs).T
            tau = float(weightedtau(-values if name in LOWER_IS_BETTER else values, precisions).statistic)
        taus[name] = tau
    return taus


def selection_table(order: Sequence[Candidate], *, by: str | None = None, top: int | None = None) -> Table:
    """Candidates with some of their figures; mAP, where it is known, is marked as what the choice did not see.

    Args:
        order: all candidates as :func:`ranked` has them.
        by: the figure that they are ranked by.
        top: how many to show; None: all.
    """
    reason, order = _reason(order, by=by), order[:top]
    wanted = dict.fromkeys((by or FIRST, *SHOWN))
    names = [name for name in wanted if any(name in candidate.figures for candidate in order)]
    has_labels = any(candidate.mean_ap is not None for candidate in order)
    columns = [Column(heading="run", align="left"), Column(heading="epoch", form="{:.0f}")]
    columns += [Column(heading=FIGURES[name][0], form=FIGURES[name][1]) for name in names]
    columns += [Column(heading="mAP (hidden)", unit="percent")] * has_labels
    rows = []
    for place, candidate in enumerate(order):
        cells: list[Any] = [_short(candidate.run, order), f"{candidate.epoch}" + ("" if candidate.is_kept else " *")]
        cells += [candidate.figures.get(name) for name in names]
        if has_labels:
            cells.append(None if candidate.mean_ap is None else 100 * candidate.mean_ap)
        rows.append(Row(cells=cells, style="" if place else "bold"))
    return Table(columns=columns, rows=rows, notes=_notes(order, reason=reason, has_labels=has_labels))


def correlation_table(found: Sequence[Candidate]) -> Table:
    """How each figure ranks the candidates as mAP does; see :func:`rank_correlations`."""
    taus = rank_correlations(found)
    rows = [Row(cells=[FIGURES[name][0], None if math.isnan(tau) else tau]) for name, tau in taus.items()]
    count = sum(candidate.mean_ap is not None for candidate in found)
    return Table(
        title="agreement with the hidden mAP",
        columns=[Column(heading="figure", align="left"), Column(heading="weighted tau", form="{:.2f}")],
        rows=rows,
        notes=[f"weighted Kendall's tau over {count} evaluated epochs: 1 the same order, 0 unrelated, -1 the opposite"],
    )


def _short(run: Path, order: Sequence[Candidate]) -> str:
    """The name of a run without what all of them have in common."""
    folders = {candidate.run.resolve() for candidate in order}
    if len(folders) == 1:
        return run.name
    return str(run.resolve().relative_to(os.path.commonpath(folders)))


def _reason(order: Sequence[Candidate], *, by: str | None) -> str:
    """Why the first candidate is the first."""
    equal = [] if by else _about_equal(order)
    if len(equal) > 1 and THEN in order[0].figures:
        return f"of the {len(equal)} with about the most stable clusters it has the most neighbours of another camera"
    name = by or FIRST
    heading = FIGURES[name][0] if name in FIGURES else name
    return f"for the {'smallest' if name in LOWER_IS_BETTER else 'largest'} {heading}"


def _notes(order: Sequence[Candidate], *, reason: str, has_labels: bool) -> list[str]:
    best = order[0]
    notes = [f"chosen: {best.run}, epoch {best.epoch}: {reason}"]
    if any(not candidate.is_kept for candidate in order):
        notes.append("*: the checkpoint of this epoch is not kept (keep_checkpoints)")
    if has_labels:
        notes.append("mAP takes no part in the choice")
    return notes


def _of_run(run: RunFolder) -> list[Candidate]:
    precision = {record["epoch"]: float(record["mAP"]) for record in run.records("evaluation") if "mAP" in record}
    return [
        Candidate(
            run=run.path,
            epoch=record["epoch"],
            figures={name: float(value) for name, value in record.items() if name not in ("kind", "epoch")},
            mean_ap=precision.get(record["epoch"]),
            is_kept=run.has_checkpoint(record["epoch"]),
        )
        for record in run.records("label_free")
    ]
