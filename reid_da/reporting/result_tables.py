"""Results of training runs as tables: before and after, ablations in the layout of ECN's Table 2, sweeps.

Figures are fractions in the results and percent in the tables.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from reid_da.reporting.published_results import PublishedRow
from reid_da.reporting.tables import Cell, Column, Row, Spread, Table

Figures: TypeAlias = Mapping[str, float]
"""One evaluation under the names of :meth:`reid_da.evaluation.retrieval.RetrievalResult.to_json`.

Beside it, or instead of it where the target has no labels, there may be ``neighbors_agreement``; beside both, the cost:
``minutes`` and ``peak_memory_mb``.
"""

SOURCE_ROW = "source"
"""Name of the row that closes nothing of the gap: training on the source alone."""
SUPERVISED_ROW = "supervised"
"""Name of the row that closes the whole gap: training on the labels of the target."""

_EVALUATION = {
    "rank1": "R-1",
    "rank5": "R-5",
    "rank10": "R-10",
    "rank20": "R-20",
    "mAP": "mAP",
    "mAP_trapezoid": "mAP trap.",
    "mINP": "mINP",
}
_AGREEMENT = "neighbors_agreement"
_PERCENT = {**_EVALUATION, _AGREEMENT: "kept"}
_COST = {
    "minutes": Column(heading="minutes", unit="min"),
    "peak_memory_mb": Column(heading="memory", form="{:,.0f}", unit="MB"),
}
_DEFINITIONS = (
    "mAP: mean of the precisions at the true matches",
    "mAP trap.: the same by the trapezoidal rule, as ECN's paper has it",
    "mINP: number of true matches over the rank of the last",
)
_NOTES = {
    _AGREEMENT: "kept: share of the nearest memory slots that were among them an epoch before; takes no labels",
    "minutes": "minutes: training of the row alone, without pretraining and evaluation",
    "peak_memory_mb": "memory: peak in MB, of the GPU where one was used, else of the process",
}
_GAP = Column(heading="gap closed", form="{:.0%}")
_QUOTED = "†"
"""Marks rows that a paper quotes from others."""


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """What one line of a table was measured from.

    Attributes:
        name: of the line, e.g. ``e+c``.
        results: the evaluation after the last epoch of each seed, at least one.
        seeds: the seeds, in the order of the results; by default they are counted from 0. What is compared seed by
            seed, such as the gap closed, goes by them.
    """

    name: str
    results: tuple[Figures, ...]
    seeds: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.results:
            raise ValueError(f"row {self.name!r} has no results")
        if self.seeds and len(self.seeds) != len(self.results):
            raise ValueError(f"row {self.name!r} has {len(self.results)} results of {len(self.seeds)} seeds")

    def by_seed(self, key: str) -> dict[int, float]:
        """A figure by seed, of those seeds that have it."""
        seeds = self.seeds or range(len(self.results))
        return {seed: result[key] for seed, result in zip(seeds, self.results, strict=True) if key in result}


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Figures over several seeds.

    Attributes:
        mean: mean of each figure.
        std: sample standard deviation of each figure; None with one seed.
    """

    mean: dict[str, float]
    std: dict[str, float | None]


def summarize(results: Sequence[Figures]) -> Summary:
    """Mean and sample standard deviation of each figure over the results of several seeds.

    Raises:
        ValueError: there are no results, or they have different figures.
    """
    if not results or any(result.keys() != results[0].keys() for result in results):
        raise ValueError("expected one result or several with the same figures")
    columns = {key: [result[key] for result in results] for key in results[0]}
    return Summary(
        mean={key: statistics.fmean(values) for key, values in columns.items()},
        std={key: statistics.stdev(values) if len(values) > 1 else None for key, values in columns.items()},
    )


def gap_closed(row: float, source: float, supervised: float) -> float | None:
    """Share of the way from ``source`` to ``supervised`` that ``row`` is, None where supervised is not the better.

    Below 0 where ``row`` is worse than ``source``.
    """
    return (row - source) / (supervised - source) if supervised > source else None


def gaps_closed(mean_aps: Mapping[str, float]) -> dict[str, float]:
    """Share of the gap between :data:`SOURCE_ROW` and :data:`SUPERVISED_ROW` that each row closes; empty without them.

    Args:
        mean_aps: mAP of each row by name.
    """
    source, supervised = mean_aps.get(SOURCE_ROW), mean_aps.get(SUPERVISED_ROW)
    if source is None or supervised is None:
        return {}
    gaps = {name: gap_closed(mean_ap, source, supervised) for name, mean_ap in mean_aps.items()}
    return {name: gap for name, gap in gaps.items() if gap is not None}


def setting_text(value: float | str) -> str:
    """A value of a setting as the name of its row: 1 and 1.0 are the same."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return f"{value:.12g}" if is_number else str(value)


def sweep_rows(values: Sequence[float | str], results: Sequence[Sequence[Figures]]) -> tuple[ResultRow, ...]:
    """Rows of a sweep, named for the values of the setting.

    Args:
        values: the values.
        results: for each of them, the evaluations of its seeds.
    """
    return tuple(
        ResultRow(name=setting_text(value), results=tuple(seeds)) for value, seeds in zip(values, results, strict=True)
    )


def ablation_table(
    rows: Sequence[ResultRow],
    *,
    published: Mapping[str, PublishedRow] | None = None,
    quoted: Sequence[PublishedRow] = (),
    heading: str = "row",
    title: str = "",
    figures: Sequence[str] = (),
) -> Table:
    """Table of the rows in the layout of Table 2 of Zhong et al., CVPR 2019, with mINP and the gap closed.

    Args:
        rows: lines in their order.
        published: printed rows by name; each stands below the measured row of that name.
        quoted: printed rows of other methods, below all measured ones.
        heading: what the rows are.
        title: above the table, e.g. what is adapted to what.
        figures: names of further figures, each a column, as they are.
    """
    published = published or {}
    keys = [key for key in (*_PERCENT, *_COST, *figures) if any(row.by_seed(key) for row in rows)]
    gaps = _measured_gaps(rows)
    printed = {name: row.to_json() for name, row in published.items()}
    printed_gaps = gaps_closed({name: row["mAP_trapezoid"] for name, row in printed.items() if "mAP_trapezoid" in row})
    lines = []
    for row in rows:
        lines.append(Row(cells=[row.name, *_cells(row.results, keys), gaps.get(row.name)]))
        if row.name in printed:
            cells = ["  paper", *_cells([printed[row.name]], keys), printed_gaps.get(row.name)]
            lines.append(Row(cells=cells, style="dim"))
    for other in quoted:
        lines.append(Row(cells=[f"{other.name} {_QUOTED}", *_cells([other.to_json()], keys), None], style="dim"))
    columns = [Column(heading=heading, align="left"), *map(_column, keys), _GAP]
    has_gap = bool(gaps or printed_gaps)
    if not has_gap:
        lines = [Row(cells=line.cells[:-1], style=line.style) for line in lines]
        columns = columns[:-1]
    notes = [*_notes(rows, keys), *_gap_notes(gaps, is_shown=has_gap)]
    origins = sorted(
        {(published[row.name].origin, "mAP_trapezoid" in printed[row.name]) for row in rows if row.name in printed}
    )
    for origin, by_trapezoids in origins:
        rule = "; its gap in mAP trap." * has_gap if by_trapezoids else "; the rule of its mAP is not stated"
        notes.append(f"paper: {origin}{rule}")
    if quoted:
        places = " and ".join(sorted({other.origin for other in quoted}))
        notes.append(f"{_QUOTED}: not measured here but printed in {places}; the rule of others' mAP is not stated")
    return Table(columns=columns, rows=lines, title=title, notes=notes)


def sweep_table(
    key: str,
    values: Sequence[float | str],
    results: Sequence[Sequence[Figures]],
    *,
    published: Mapping[str, PublishedRow] | None = None,
    title: str = "",
) -> Table:
    """Table of the results by the value of a setting; see :func:`ablation_table` and :func:`sweep_rows`.

    Args:
        key: the setting.
        values: its values.
        results: for each of them, the evaluations of its seeds.
        published: printed rows by value.
        title: above the table.
    """
    return ablation_table(sweep_rows(values, results), published=published, heading=key, title=title)


def to_json(rows: Sequence[ResultRow]) -> list[dict[str, Any]]:
    """The rows as values that JSON can hold.

    Each has ``row``, ``seeds`` (how many), ``mean`` and ``std`` of the figures, ``gap_closed`` and ``gap_closed_std``.
    """
    gaps = _measured_gaps(rows)
    return [
        {
            "row": row.name,
            "seeds": len(row.results),
            **asdict(summarize(row.results)),
            "gap_closed": gap.mean if isinstance(gap := gaps.get(row.name), Spread) else gap,
            "gap_closed_std": gap.std if isinstance(gap, Spread) else None,
        }
        for row in rows
    ]


def before_after_table(
    before: Figures, after: Figures, *, names: tuple[str, str] = ("before", "after"), title: str = ""
) -> Table:
    """Table of two evaluations on the same queries, and the change from one to the other in points of percent.

    Args:
        before: the first evaluation.
        after: the second.
        names: what to call them.
        title: above the table.
    """
    counted = f"{before['num_valid_queries']:,.0f} of {before['num_queries']:,.0f} queries have a true match and count"
    lines = zip(names, (before, after), strict=True)
    change = [f"{100 * (after[key] - before[key]):+.1f}" for key in _EVALUATION]
    return Table(
        columns=[Column(heading="", align="left"), *map(_column, _EVALUATION)],
        rows=[
            *(Row(cells=[name, *_cells([figures], list(_EVALUATION))]) for name, figures in lines),
            Row(cells=["change", *change], style="bold"),
        ],
        title=title,
        notes=[f"percent; {counted}", *_DEFINITIONS],
    )


def _column(key: str) -> Column:
    if key in _PERCENT:
        return Column(heading=_PERCENT[key], unit="%")
    return _COST.get(key) or Column(heading=key, form="{:.4g}")


def _cells(results: Sequence[Figures], keys: Sequence[str]) -> list[Cell]:
    summary = summarize(results)
    return [_figure(summary, key, scale=100 if key in _PERCENT else 1) for key in keys]


def _figure(summary: Summary, key: str, *, scale: float) -> Cell:
    if key not in summary.mean:
        return None
    mean, std = float(scale * summary.mean[key]), summary.std[key]
    return mean if std is None else Spread(mean, scale * std)


def _measured_gaps(rows: Sequence[ResultRow]) -> dict[str, float | Spread]:
    """Gap closed of each row, the mean over the seeds that it has in common with both ends.

    The ends have no spread: their gap is 0 and 1 by definition. A row has none where supervised is not the better with
    one of the seeds.
    """
    mean_aps = {row.name: row.by_seed("mAP") for row in rows}
    gaps: dict[str, list[float]] = {}
    for name, of_row in mean_aps.items():
        ends = (mean_aps.get(SOURCE_ROW, {}), mean_aps.get(SUPERVISED_ROW, {}))
        seeds = [seed for seed in of_row if all(seed in end for end in ends)]
        found = [gap_closed(of_row[seed], *(end[seed] for end in ends)) for seed in seeds]
        gaps[name] = [] if None in found else [gap for gap in found if gap is not None]
    return {
        name: statistics.fmean(values)
        if len(values) == 1 or name in (SOURCE_ROW, SUPERVISED_ROW)
        else Spread(statistics.fmean(values), statistics.stdev(values))
        for name, values in gaps.items()
        if values
    }


def _notes(rows: Sequence[ResultRow], keys: Sequence[str]) -> list[str]:
    """What was averaged over what, of which epoch, and what the columns are."""
    counts = {len(row.results) for row in rows}
    seeds = " to ".join(str(count) for count in sorted({min(counts), max(counts)}))
    averaged = "one seed" if counts == {1} else f"mean and sample standard deviation of {seeds} seeds"
    definitions = _DEFINITIONS if "mAP" in keys else ()
    return [f"percent; {averaged}, last epoch", *definitions, *(_NOTES[key] for key in keys if key in _NOTES)]


def _gap_notes(gaps: Mapping[str, float | Spread], *, is_shown: bool) -> list[str]:
    if not is_shown:
        return []
    by_seed = ", of each seed" if any(isinstance(gap, Spread) for gap in gaps.values()) else ""
    return [f"{_GAP.heading}: (row - {SOURCE_ROW}) / ({SUPERVISED_ROW} - {SOURCE_ROW}) in mAP{by_seed}"]
