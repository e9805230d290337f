"""``reid-da results``: a table from runs that are done."""

from pathlib import Path
from typing import Annotated

import typer

from reid_da.cli.output import check_output, print_json, say, show


def results(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Run folders for one table; or folders of runs, for a table each."),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write: .md, .html, .csv or .json.")
    ] = None,
    figure: Annotated[
        list[str] | None,
        typer.Option(
            help="Additional column: a value of the last 'train' record of metrics.jsonl, such as neighbors_precision."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Tables of accuracy and cost from run folders.

    Runs of one name are a row, with mean and standard deviation over their seeds. Where there are rows 'source' and
    'supervised', the share of the gap between them that each row closes is told. Minutes are those of the training
    itself. Folders of runs are those that ablate, sweep and compare leave.

    Example: reid-da results runs/rendered-a2b-ablation runs/rendered-b2a-ablation -o tables.md

    Example: reid-da results runs/arcface-seed0 runs/arcface-seed1 runs/softmax-seed0 --json
    """
    from reid_da.atomic import write_text
    from reid_da.reporting.tables import apart
    from reid_da.studies.collecting import check_format, collect, render

    check_output(output)
    if output is not None:
        check_format(output)
    tables = collect(runs, figures=figure or ())
    if output is not None:
        write_text(output, render(tables, output.suffix))
        say(f"tables: {output}", error=True)
    if as_json:
        print_json([table.to_json() for table in tables])
    elif output is None:
        show(apart([table.table() for table in tables]))
