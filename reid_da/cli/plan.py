"""``reid-da plan``: the memory that a training takes."""

import re
from typing import TYPE_CHECKING, Annotated

import typer

from reid_da.cli.output import print_json, say, show
from reid_da.cli.train import Config
from reid_da.errors import InputError

if TYPE_CHECKING:
    from reid_da.experiments.plan import StagePlan
    from reid_da.reporting.tables import Table

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def plan(
    config: Config,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Settings that differ, e.g. batch.target=64."),
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="Number of processes that train together.")] = 1,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="What a process may take, e.g. 80GB: does it fit?")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Bytes that a training will hold in memory, by purpose and stage, without training.

    With --memory the exit status is 1 if a stage does not fit.

    Example: reid-da plan experiments/duke2market/e_c_n.yaml --processes 8 --memory 80GB
    """
    from reid_da.experiments import plan as planning
    from reid_da.methods import load_settings

    limit = None if memory is None else parse_bytes(memory)
    stages = planning.plan(load_settings(config, overrides or ()), processes=processes)
    if as_json:
        print_json(planning.to_json(stages))
    else:
        for number, stage in enumerate(stages, start=1):
            show(_table(stage, f"stage {number} of {len(stages)}: {stage.title}"))
    if limit is None:
        return
    large = [stage for stage in stages if stage.total > limit]
    for stage in large:
        advice = "; ".join(planning.advice(stage, limit))
        say(f"{stage.title}: {stage.total / 1e9:.2f} GB do not fit into {memory}; {advice}", error=as_json)
    if large:
        raise typer.Exit(1)
    say(f"fits into {memory}", error=as_json)


def parse_bytes(text: str) -> int:
    """Number of bytes of ``80GB``.

    Raises:
        InputError: it is not of this form.
    """
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?) ?([KMGT]B|)", text.upper(), re.ASCII)
    if found is None:
        raise InputError(f"--memory: expected a size such as 80GB or 512MB, got {text!r}")
    return int(float(found[1]) * _UNITS[found[2]])


def _table(stage: "StagePlan", title: str) -> "Table":
    from reid_da.reporting.tables import Column, Row, Table

    rows = [
        Row(cells=(part.name, part.count / 1e6, part.why), style="dim" if part.on_disk else "") for part in stage.parts
    ]
    rows.append(Row(cells=("total, without files", stage.total / 1e6, "of the process that holds most"), style="bold"))
    columns = (
        Column(heading="what", align="left"),
        Column(heading="MB", form="{:,.1f}"),
        Column(heading="how it comes about", align="left"),
    )
    return Table(title=title, columns=columns, rows=rows)
