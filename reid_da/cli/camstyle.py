"""``reid-da camstyle``: camera styles learned from the images themselves."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from reid_da.cli.output import show_log
from reid_da.config import load_style_settings
from reid_da.errors import InputError

app = typer.Typer(
    name="camstyle", help="Camera styles: how another camera would have taken a picture.", no_args_is_help=True
)


@app.command()
def train(
    data: Annotated[Path | None, typer.Argument(metavar="DATA", help="Data set; not with --resume.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings that differ, e.g. epochs=50.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with settings.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder of the run; runs/NAME.")] = None,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Go on with a run that was stopped.")] = None,
    skip_damaged: Annotated[
        bool, typer.Option("--skip-damaged", help="Resume from the newest checkpoint that is whole.")
    ] = False,
) -> None:
    """Train a StarGAN on the training images of a data set: one generator for all of its cameras.

    Pictures of samples go to the folder samples of the run, every evaluate_every epochs. The losses are in
    metrics.jsonl, and as curves with tensorboard=true.

    Example: reid-da camstyle train data/rendered/site-b data.image_size=[64,32] epochs=50 -o runs/styles-b
    """
    from reid_da.reporting.style_pictures import draw_views
    from reid_da.training.camera_styles import resume_styles, train_styles

    show_log()
    if (data is None) == (resume is None):
        raise InputError("give either DATA or --resume RUN")
    if resume is not None:
        run = resume_styles(resume, skip_damaged=skip_damaged, draw=draw_views)
    else:
        settings = load_style_settings(config, [f"data.dataset={data}", *(overrides or ())])
        run = train_styles(settings, output or Path("runs") / settings.name, draw=draw_views)
    Console().print(f"run: {run.path}", soft_wrap=True)
