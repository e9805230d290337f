"""``reid-da select``: the run and epoch to take, where nothing is labelled."""

from pathlib import Path
from typing import Annotated

import typer

from reid_da.cli.output import print_json, say, show


def select(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, or folders of runs.")],
    by: Annotated[
        str | None,
        typer.Option(
            metavar="FIGURE",
            help="The label-free figure to choose by. By default clusters_stable; among clusters that are about as "
            "stable as the most stable ones, neighbors_cross_camera.",
        ),
    ] = None,
    last: Annotated[bool, typer.Option("--last", help="Compare runs by their last evaluated epoch only.")] = False,
    top: Annotated[int, typer.Option(min=1, help="Lines of the table.")] = 20,
    study: Annotated[
        bool,
        typer.Option("--study", help="Measure how well each figure ranks the epochs by mAP."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Rank runs and epochs by figures that need no labels.

    The figures are measured at each evaluation (evaluate_every) on the training images of the target. Where the target
    has labels its mAP is shown beside them, as what the choice did not see.

    Example: reid-da select runs/ecn runs/cluster-contrast

    Example: reid-da select runs/sweep --last --by neighbors_stable
    """
    from reid_da.studies import selection

    found = selection.candidates(runs)
    if last:
        found = selection.last_of_each(found)
    order = selection.ranked(found, by=by)
    taus = selection.rank_correlations(found) if study else {}
    if as_json:
        print_json(selection.to_json(order, by=by, taus=taus))
        return
    show(selection.selection_table(order, by=by, top=top))
    if study:
        show(selection.correlation_table(found))
    if order[0].is_kept and order[0] in selection.last_of_each(found):
        say(f"next: reid-da evaluate {order[0].run}")
