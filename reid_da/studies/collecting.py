"""Tables of results from run folders, whatever command trained them."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reid_da.config import ExperimentSettings
from reid_da.errors import InputError, unknown_name
from reid_da.experiments.runs import final_figures
from reid_da.reporting.published_results import (
    PublishedRow,
    published_pair,
    published_rows,
    published_sweep,
    quoted_rows,
)
from reid_da.reporting.result_tables import SOURCE_ROW, SUPERVISED_ROW, ResultRow, ablation_table, to_json
from reid_da.reporting.tables import Table, to_csv, to_html, to_markdown
from reid_da.studies.ablation import ROWS, row_of
from reid_da.training.run_folder import RunFolder

FORMATS = (".md", ".html", ".csv", ".json")
"""Suffixes of the files that tables are written to."""
_COST = ("minutes", "peak_memory_mb")
_PAGE = '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>Results</title>\n'


@dataclass(frozen=True, kw_only=True)
class Collected:
    """Results of runs on one test set, which make one table.

    Attributes:
        title: name of the folder that holds the runs; empty for runs that were named one by one.
        heading: what the rows are: ``row``, or the setting that was swept.
        rows: one for each experiment, with all of its seeds.
        settings: of the first run.
        figures: names of further figures.
    """

    title: str
    heading: str
    rows: tuple[ResultRow, ...]
    settings: ExperimentSettings
    figures: tuple[str, ...] = ()

    def table(self) -> Table:
        """The table, with published rows where source and target are published data sets."""
        pair = published_pair(self.settings.data)
        names = [row.name for row in self.rows]
        is_sweep = self.heading != "row"
        return ablation_table(
            self.rows,
            published=published_sweep(*pair, self.heading) if is_sweep else published_rows(*pair),
            quoted=() if is_sweep else quoted_rows(*pair, beside=names),
            heading=self.heading,
            title=self.title,
            figures=self.figures,
        )

    def to_json(self) -> dict[str, Any]:
        """Title and rows as values that JSON can hold."""
        return {"table": self.title, "rows": to_json(self.rows)}


def collect(paths: Sequence[Path], *, figures: Sequence[str] = ()) -> list[Collected]:
    """Results of run folders after their last epoch, with minutes and peak memory where the records have them.

    Runs of the same name are one row; their seeds make its mean and deviation.

    Args:
        paths: run folders, which make one table together; or folders of runs, as ``ablate``, ``sweep`` and ``compare``
            leave them, each of which makes a table of its own.
        figures: names of further figures of the last ``train`` record, e.g. ``neighbors_precision``.

    Raises:
        InputError: a folder holds no run, a run is not complete or lacks a figure, two runs have one name and seed, or
            the runs of a table have different targets.
    """
    named = [path for path in paths if (path / "config.yaml").is_file()]
    tables = [_collected("", named, figures)] if named else []
    for path in paths:
        if path not in named:
            tables.append(_collected(path.resolve().name, runs_in(path), figures))
    return tables


def check_format(path: Path) -> None:
    """Raise InputError unless the suffix of a file is one of :data:`FORMATS`."""
    if path.suffix not in FORMATS:
        raise InputError(f"{path}: the suffix decides the format; give one of {', '.join(FORMATS)}")


def render(tables: Sequence[Collected], suffix: str) -> str:
    """The tables as text of a file with a suffix of :data:`FORMATS`.

    Raises:
        InputError: several tables for CSV, which holds one.
    """
    if suffix == ".json":
        return json.dumps([table.to_json() for table in tables], indent=2, allow_nan=False) + "\n"
    if suffix == ".md":
        return "\n".join(to_markdown(table.table()) for table in tables)
    if suffix == ".html":
        return _PAGE + "".join(to_html(table.table()) for table in tables) + "</html>\n"
    if len(tables) > 1:
        raise InputError(
            f"a CSV file holds one table, and there are {len(tables)}; name one folder, or write .md or .json"
        )
    return to_csv(tables[0].table())


def runs_in(folder: Path) -> list[Path]:
    """The runs in a folder of runs, but for those that only begin others.

    Raises:
        InputError: there are none.
    """
    found = [file.parent for pattern in ("*/config.yaml", "*/*/config.yaml") for file in folder.glob(pattern)]
    runs = [run for run in found if not run.name.startswith("pretrain") and not (run.parent / "config.yaml").is_file()]
    if not runs:
        raise InputError(f"{folder}: not a run folder: it has no config.yaml, and there is none in the folders inside")
    return sorted(runs, key=lambda run: _order(run.name))


def _collected(title: str, runs: Sequence[Path], figures: Sequence[str]) -> Collected:
    """One table.

    Raises:
        InputError: see :func:`collect`.
    """
    settings = {run: RunFolder.open(run).settings() for run in runs}
    first = next(iter(settings.values()))
    by_name: dict[str, dict[int, Path]] = {}
    for run, of_run in settings.items():
        if _target(of_run) != _target(first):
            raise InputError(
                f"{run}: its target is {_target(of_run)}, that of {runs[0]} is {_target(first)}; figures on different "
                "test sets belong in different tables"
            )
        seeds = by_name.setdefault(of_run.name, {})
        if of_run.seed in seeds:
            raise InputError(
                f"{run}: is called {of_run.name!r} with seed {of_run.seed}, and so is {seeds[of_run.seed]}; "
                "leave one out"
            )
        seeds[of_run.seed] = run
    names = sorted(by_name, key=_order) if title else list(by_name)
    key, values = _swept(names)
    rows = [_row(values[name], by_name[name], figures) for name in names]
    return Collected(title=title, heading=key, rows=tuple(rows), settings=first, figures=tuple(figures))


def _row(name: str, runs: Mapping[int, Path], figures: Sequence[str]) -> ResultRow:
    """The row of one experiment, its runs by seed.

    Raises:
        InputError: a run is not complete or lacks a figure, or two of them were evaluated on different things.
    """
    results = {seed: _figures_of(RunFolder.open(runs[seed]), figures) for seed in sorted(runs)}
    for key in _COST:
        if not all(key in result for result in results.values()):
            for result in results.values():
                result.pop(key, None)
    first, *others = results
    for seed in others:
        if different := sorted(results[first].keys() ^ results[seed].keys()):
            raise InputError(
                f"{runs[first]} and {runs[seed]}: only one of them has {different[0]}; evaluate both alike"
            )
    if not results[first].keys() - set(_COST):
        raise InputError(f"{runs[first]}: nothing was measured: its target has no query and gallery with identities")
    return ResultRow(name=name, results=tuple(results.values()), seeds=tuple(results))


def _figures_of(run: RunFolder, figures: Sequence[str]) -> dict[str, float]:
    result = final_figures(run)
    records = run.records("train")
    for name in figures:
        value = records[-1].get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise unknown_name(f"{run.path}: figure", name, sorted(records[-1].keys() - {"kind", "epoch"}))
        result[name] = value
    if all("seconds" in record for record in records):
        seconds = sum(record["seconds"] + record.get("seconds_prepared", 0) for record in records)
        result["minutes"] = seconds / 60
    # a resumed run had several processes
    if peaks := [record["peak_memory_mb"] for record in records if "peak_memory_mb" in record]:
        result["peak_memory_mb"] = max(peaks)
    return result


def _target(settings: ExperimentSettings) -> str:
    """Names of the folders of the target, which may have been moved since."""
    target = settings.data.target
    return ", ".join(path.name for path in ((target,) if isinstance(target, Path) else target or ()))


def _swept(names: Sequence[str]) -> tuple[str, dict[str, str]]:
    """The setting that rows named ``key=value`` vary, and the rows' values; else ``row`` and the names."""
    keys = {name.partition("=")[0] for name in names if "=" in name}
    if len(keys) == 1 and all("=" in name for name in names):
        return keys.pop(), {name: name.partition("=")[2] for name in names}
    return "row", {name: name for name in names}


def _order(name: str) -> tuple[int, int, list[tuple[str, float]]]:
    """Sorts the source model first, training with labels last, and numbers by their value."""
    ends = {SOURCE_ROW: -1, SUPERVISED_ROW: 1}
    known = list(ROWS)
    parts = re.findall(r"([^0-9]*)(\d+(?:\.\d+)?(?:e[-+]?\d+)?)?", name)
    natural = [(text, float(number or 0)) for text, number in parts]
    return ends.get(name, 0), known.index(name) if name in known else len(known), natural


def published_beside(
    experiments: Sequence[ExperimentSettings],
) -> tuple[dict[str, PublishedRow], tuple[PublishedRow, ...]]:
    """Published rows of experiments by their names, and of other methods; none unless all have one pair of sets."""
    pairs = {published_pair(settings.data) for settings in experiments}
    # figures of one pair mean nothing beside those of another
    pair = pairs.pop() if len(pairs) == 1 else (None, None)
    rows = {settings.name: row_of(settings) for settings in experiments}
    printed = published_rows(*pair)
    published = {name: replace(printed[row], name=name) for name, row in rows.items() if row in printed}
    return published, quoted_rows(*pair, beside=[row for row in rows.values() if row])
