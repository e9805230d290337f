"""The commands put together."""

from typing import Annotated

import typer

from reid_da import __version__
from reid_da.cli import camstyle, cluster, data, evaluate, index, pictures, rank, results, search, serve, train

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
app.add_typer(index.app, name="index")
for command in (
    train.train,
    train.ablate,
    train.sweep,
    train.compare,
    results.results,
    train.settings,
    evaluate.evaluate,
    evaluate.evaluate_features,
    evaluate.extract,
    evaluate.angles,
    evaluate.verify,
    evaluate.calibrate,
    rank.rank,
    search.search,
    cluster.cluster,
    serve.serve,
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
