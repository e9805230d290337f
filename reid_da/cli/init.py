"""``reid-da init``: a settings file that fits the machine and the data."""

from pathlib import Path
from typing import Annotated

import typer

from reid_da.cli.output import say, show_log


def init(
    output: Annotated[
        Path, typer.Argument(metavar="FILE", help="Settings file to write, for example my_cameras.yaml.")
    ],
    target: Annotated[
        str | None, typer.Option(metavar="PATH", help="Your crops, or any data set; identities are not needed.")
    ] = None,
    source: Annotated[
        str | None, typer.Option(metavar="PATH", help="Labelled data set to learn from first. Default: none.")
    ] = None,
    test: Annotated[
        str | None,
        typer.Option(
            metavar="PATH", help="Labelled data set to measure accuracy on. Default: the target's test split."
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Pretrained weights to start from: a file, 'imagenet' or 'none'. Default: ImageNet weights if "
            "they are cached or can be downloaded.",
        ),
    ] = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="Write settings for a CPU even if there is a GPU.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
) -> None:
    """Write a commented settings file that fits this machine and your data.

    The method follows from the data: with a source, adaptation; without one, clusters of the target alone. On a CPU the
    network and the images are small.

    Example: reid-da init my_cameras.yaml --target crops/

    Example: reid-da init my_cameras.yaml --target crops/ --test people/

    Example: reid-da init my_cameras.yaml --target 'crops#layout=camera-folders' --source data/Market-1501-v15.09.15
    """
    from reid_da.experiments.starter import write_starter

    show_log()
    starter = write_starter(
        output, target=target, source=source, test=test, weights=weights, cpu=cpu, overwrite=overwrite
    )
    say(f"{output}: settings for {starter.machine}")
    for note in starter.notes:
        say(f"note: {note}")
    say(f"next: reid-da train {output}")
