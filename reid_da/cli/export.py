"""``reid-da export``: a model that runs elsewhere."""

from pathlib import Path
from typing import Annotated

import typer

from reid_da.cli.arguments import Size, parse_size
from reid_da.cli.output import check_output, print_json, say, show, show_log
from reid_da.errors import InputError


def export(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Run folder, checkpoint, file of weights, or backbone.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write; FILE.md beside it is the model card.")],
    kind: Annotated[str, typer.Option("--format", help="onnx, torchscript, or safetensors (weights and settings).")] = (
        "onnx"
    ),
    pixels: Annotated[
        str | None,
        typer.Option(
            help="What the exported model takes: 'uint8' RGB, normalised inside (the default), or 'normalized' outside."
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Test set. Default: test data of the run."),
    ] = None,
    evaluate: Annotated[bool, typer.Option(help="Evaluate the exported file on the test set.")] = True,
    camera: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Of a model that normalises by camera: whose statistics the file has, or 'any' for those of all.",
        ),
    ] = None,
    backbone: Annotated[str, typer.Option(help="Network that a file of weights belongs to.")] = "resnet50",
    weights: Annotated[str, typer.Option(help="Weights of a backbone: 'imagenet', or 'none' (random).")] = "imagenet",
    last_stride: Annotated[int, typer.Option(help="Stride of layer4, for a file of weights or a backbone.")] = 2,
    size: Size = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Write a model as ONNX, TorchScript or safetensors, compare it with the original and evaluate it.

    The file takes batches of any number of images of one size and gives features of unit length. It is run again at
    several batch sizes; unless it gives the features of the PyTorch model, nothing is written. A model card with data,
    method, settings, figures and notes on licences lies beside it. ONNX needs the extra 'onnx'.

    Example: reid-da export runs/demo --format onnx -o demo.onnx
    """
    from typing import cast

    from reid_da.exporting import export_model
    from reid_da.exporting.formats import Format, Pixels
    from reid_da.reporting.evaluation_tables import export_table
    from reid_da.training.trained import load_trained

    show_log()
    check_output(output)
    check_output(output.with_name(f"{output.name}.md"))
    if not output.parent.is_dir():
        raise InputError(f"{output.parent}: no such folder")
    trained = load_trained(
        model, backbone=backbone, last_stride=last_stride, weights=weights, image_size=parse_size(size), device="cpu"
    )
    own = None if trained.settings is None else trained.settings.data
    has_data = data is not None or (own is not None and (own.test or own.target) is not None)
    dataset = trained.test_data(data) if evaluate and has_data else None
    if dataset is not None and data is None and not (len(dataset.query) and len(dataset.gallery)):
        dataset = None
    found = export_model(
        trained,
        output,
        kind=cast("Format", kind),
        pixels=cast("Pixels | None", pixels),
        dataset=dataset,
        camera=camera,
    )
    if as_json:
        print_json(found.to_json())
        return
    show(export_table(found.to_json()))
    say(f"model: {found.file}", error=True)
    say(f"card: {found.card}", error=True)
