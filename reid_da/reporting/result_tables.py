"""Results of training runs as tables: before and after, ablations in the layout of ECN's Table 2, sweeps.

Figures are fractions in the results and percent in the tables.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeAlias

from rich.table import Table

from reid_da.reporting.published_results import PublishedRow
from reid_da.text import markup

Figures: TypeAlias = Mapping[str, float]
"""One evaluation under the names of :meth:`reid_da.evaluation.retrieval.RetrievalResult.to_json`.

Beside it, or instead of it where the target has no labels, there may be ``neighbors_agreement``.
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
_COLUMNS = {**_EVALUATION, _AGREEMENT: "kept"}
_NOTHING = "-"
_DEFINITIONS = (
    "mAP: mean of the precisions at the true matches",
    "mAP trap.: the same by the trapezoidal rule, as ECN's paper has it",
    "mINP: number of true matches over the rank of the last",
)
_AGREEMENT_DEFINITION = "kept: share of the nearest memory slots that were among them an epoch before; takes no labels"
_GAP = "gap closed"


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """What one line of a table was measured from.

    Attributes:
        name: of the line, e.g. ``e+c``.
        results: the evaluation after the last epoch of each seed, at least one.
    """

    name: str
    results: tuple[Figures, ...]

    def __post_init__(self) -> None:
        if not self.results:
            raise ValueError(f"row {self.name!r} has no results")


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
    heading: str = "row",
    title: str | None = None,
) -> Table:
    """Table of the rows in the layout of Table 2 of Zhong et al., CVPR 2019, with mINP and the gap closed.

    Args:
        rows: lines in their order.
        published: printed rows by name; each stands below the measured row of that name.
        heading: what the rows are.
        title: above the table, e.g. what is adapted to what.
    """
    published = published or {}
    header, *lines = _lines(rows, published, heading=heading, plus_minus="\n±")
    table = _table(header.cells, title=title, notes=_notes(header, rows, published))
    for line in lines:
        table.add_row(
            *(markup(cell, keep_lines=True) for cell in line.cells), style="dim" if line.is_published else None
        )
    return table


def sweep_table(
    key: str,
    values: Sequence[float | str],
    results: Sequence[Sequence[Figures]],
    *,
    published: Mapping[str, PublishedRow] | None = None,
    title: str | None = None,
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


def to_markdown(
    rows: Sequence[ResultRow], *, published: Mapping[str, PublishedRow] | None = None, heading: str = "row"
) -> str:
    """The table of :func:`ablation_table` as Markdown, with what its columns mean below it."""
    published = published or {}
    header, *lines = _lines(rows, published, heading=heading, plus_minus=" ± ")
    rule = ["---", *["---:"] * (len(header.cells) - 1)]
    texts = ["| " + " | ".join(cells) + " |" for cells in (header.cells, rule, *(line.cells for line in lines))]
    return "\n".join([*texts, "", "; ".join(_notes(header, rows, published)), ""])


def to_json(rows: Sequence[ResultRow]) -> list[dict[str, Any]]:
    """The rows as values that JSON can hold: ``row``, ``seeds`` (how many), ``mean``, ``std``, ``gap_closed``."""
    gaps = _measured_gaps(rows)
    return [
        {"row": row.name, "seeds": len(row.results), **asdict(summarize(row.results)), "gap_closed": gaps.get(row.name)}
        for row in rows
    ]


def before_after_table(
    before: Figures, after: Figures, *, names: tuple[str, str] = ("before", "after"), title: str | None = None
) -> Table:
    """Table of two evaluations on the same queries, and the change from one to the other in points of percent.

    Args:
        before: the first evaluation.
        after: the second.
        names: what to call them.
        title: above the table.
    """
    counted = f"{before['num_valid_queries']:,.0f} of {before['num_queries']:,.0f} queries have a true match and count"
    table = _table(["", *_EVALUATION.values()], title=title, notes=[f"percent; {counted}", *_DEFINITIONS])
    for name, figures in zip(names, (before, after), strict=True):
        table.add_row(markup(name), *(_percent(figures[key]) for key in _EVALUATION))
    table.add_row("change", *(f"{100 * (after[key] - before[key]):+.1f}" for key in _EVALUATION), style="bold")
    return table


@dataclass(frozen=True, kw_only=True)
class _Line:
    """Texts of one line of a table, and whether they come from the paper."""

    cells: list[str]
    is_published: bool = False


def _lines(
    rows: Sequence[ResultRow], published: Mapping[str, PublishedRow], *, heading: str, plus_minus: str
) -> list[_Line]:
    """Header, and the rows, each with the published one below it; without columns that no row has a figure for."""
    keys = _measured_columns(rows)
    gaps = _measured_gaps(rows)
    printed = {name: row.to_json() for name, row in published.items()}
    printed_gaps = gaps_closed({name: row["mAP_trapezoid"] for name, row in printed.items() if "mAP_trapezoid" in row})
    lines = [_Line(cells=[heading, *(_COLUMNS[key] for key in keys), _GAP])]
    for row in rows:
        lines.append(_Line(cells=_cells(row.name, row.results, keys, gaps.get(row.name), plus_minus)))
        if row.name in printed:
            cells = _cells("  paper", [printed[row.name]], keys, printed_gaps.get(row.name), plus_minus)
            lines.append(_Line(cells=cells, is_published=True))
    if gaps or printed_gaps:
        return lines
    return [replace(line, cells=line.cells[:-1]) for line in lines]


def _measured_columns(rows: Sequence[ResultRow]) -> list[str]:
    return [key for key in _COLUMNS if any(key in result for row in rows for result in row.results)]


def _measured_gaps(rows: Sequence[ResultRow]) -> dict[str, float]:
    means = {row.name: summarize(row.results).mean for row in rows}
    return gaps_closed({name: mean["mAP"] for name, mean in means.items() if "mAP" in mean})


def _cells(name: str, results: Sequence[Figures], keys: Sequence[str], gap: float | None, plus_minus: str) -> list[str]:
    summary = summarize(results)
    figures = [_mean_and_std(summary, key, plus_minus) for key in keys]
    return [name, *figures, _NOTHING if gap is None else f"{gap:.0%}"]


def _mean_and_std(summary: Summary, key: str, plus_minus: str) -> str:
    if key not in summary.mean:
        return _NOTHING
    std = summary.std[key]
    return _percent(summary.mean[key]) + ("" if std is None else f"{plus_minus}{_percent(std)}")


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


def _notes(header: _Line, rows: Sequence[ResultRow], published: Mapping[str, PublishedRow]) -> list[str]:
    """What was averaged over what, of which epoch, what the columns are, and where the published rows stand."""
    counts = {len(row.results) for row in rows}
    seeds = " to ".join(str(count) for count in sorted({min(counts), max(counts)}))
    averaged = "one seed" if counts == {1} else f"mean and sample standard deviation of {seeds} seeds"
    keys = _measured_columns(rows)
    notes = [f"percent; {averaged}, last epoch", *(_DEFINITIONS if "mAP" in keys else ())]
    if _AGREEMENT in keys:
        notes.append(_AGREEMENT_DEFINITION)
    has_gap = header.cells[-1] == _GAP
    if has_gap:
        notes.append(f"gap closed: (row - {SOURCE_ROW}) / ({SUPERVISED_ROW} - {SOURCE_ROW}) in mAP")
    origins = sorted({published[row.name].origin for row in rows if row.name in published})
    return [*notes, *(f"paper: {origin}" + "; its gap in mAP trap." * has_gap for origin in origins)]


def _table(header: Sequence[str], *, title: str | None, notes: Sequence[str]) -> Table:
    table = Table(
        title=None if title is None else markup(title),
        caption=markup("\n".join(notes), keep_lines=True),
        title_justify="left",
        caption_justify="left",
        show_edge=False,
        pad_edge=False,
        box=None,
        header_style="bold",
        padding=(0, 2, 0, 0),
    )
    for number, name in enumerate(header):
        # the default for a narrow terminal cuts digits off
        table.add_column(markup(name), justify="right" if number else "left", overflow="fold")
    return table
