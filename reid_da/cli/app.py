"""The commands put together."""

from typing import Annotated

import typer

from reid_da import __version__
from reid_da.cli import camstyle, data, evaluate, export, pictures, rank, results, select, train

app = typer.Typer(
    name="reid-da",
    help="Unsupervised domain adaptation for person re-identification.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(data.app, name="data")
app.add_typer(camstyle.app, name="camstyle")
for command in (
    train.train,
    train.ablate,
    train.sweep,
    train.compare,
    results.results,
    select.select,
    train.settings,
    evaluate.evaluate,
    evaluate.evaluate_features,
    evaluate.extract,
    evaluate.angles,
    evaluate.verify,
    evaluate.calibrate,
    evaluate.center,
    export.export,
    rank.rank,
    pictures.curves,
    pictures.ranked_lists,
):
    app.command()(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"reid-da {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Unsupervised domain adaptation for person re-identification."""
