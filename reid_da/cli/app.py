"""The commands put together."""

import inspect
from typing import Annotated

import typer

from reid_da import __version__
from reid_da.cli import (
    cache,
    camstyle,
    center,
    cluster,
    data,
    evaluate,
    export,
    index,
    init,
    pictures,
    plan,
    rank,
    report,
    results,
    search,
    select,
    serve,
    train,
    weights,
)
from reid_da.errors import InputError
from reid_da.launch import started_size

app = typer.Typer(
    name="reid-da",
    help="Unsupervised domain adaptation for person re-identification.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
_COMMANDS = {
    "Start": (init.init, train.settings, weights.import_weights),
    "Train": (train.train, plan.plan, train.ablate, train.sweep, train.compare),
    "Results": (
        results.results,
        select.select,
        report.report,
        pictures.curves,
        pictures.ranked_lists,
        report.cmc,
        report.camera_matrix,
        report.feature_map,
    ),
    "Evaluate": (
        evaluate.evaluate,
        evaluate.evaluate_features,
        evaluate.verify,
        evaluate.calibrate,
        evaluate.angles,
        center.center,
    ),
    "Use a model": (evaluate.extract, rank.rank, search.search, cluster.cluster, serve.serve, export.export),
}
_GROUPS = {
    "Start": {"data": data.app},
    "Train": {"camstyle": camstyle.app},
    "Use a model": {"index": index.app},
    "Other": {"cache": cache.app},
}
for panel, commands in _COMMANDS.items():
    for command in commands:
        # "map" is a function of Python
        app.command("map" if command is report.feature_map else None, rich_help_panel=panel)(command)
for panel, groups in _GROUPS.items():
    for name, group in groups.items():
        app.add_typer(group, name=name, rich_help_panel=panel)


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
    context: typer.Context,
    version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Unsupervised domain adaptation for person re-identification."""
    if started_size() > 1 and context.invoked_subcommand != "train":
        raise InputError(f"{context.invoked_subcommand}: runs in one process; start it without torchrun")
