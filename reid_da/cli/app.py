"""The commands put together."""

import inspect
from typing import Annotated

import typer

from reid_da import __version__
from reid_da.cli import (
    cache,
    camstyle,
    cluster,
    data,
    evaluate,
    export,
    index,
    init,
    pictures,
    rank,
    report,
    results,
    search,
    select,
    serve,
    train,
)

app = typer.Typer(
    name="reid-da",
    help="Unsupervised domain adaptation for person re-identification.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(data.app, name="data")
app.add_typer(camstyle.app, name="camstyle")
app.add_typer(cache.app, name="cache")
app.add_typer(index.app, name="index")
for command in (
    init.init,
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
    search.search,
    cluster.cluster,
    serve.serve,
    pictures.curves,
    pictures.ranked_lists,
    report.report,
    report.cmc,
    report.camera_matrix,
):
    app.command()(command)
app.command("map")(report.feature_map)


def _reflow(commands: typer.Typer) -> None:
    """Join the lines of each paragraph of the help texts, which typer would break where the source does."""
    for command in commands.registered_commands:
        text = command.help or inspect.getdoc(command.callback) or ""
        command.help = "\n\n".join(" ".join(block.split()) for block in text.split("\n\n"))
    for group in commands.registered_groups:
        if group.typer_instance is not None:
            _reflow(group.typer_instance)


_reflow(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"reid-da {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Unsupervised domain adaptation for person re-identification."""
