"""``reid-da import-weights``: a weight file of another toolkit under this package's names."""

from pathlib import Path
from typing import Annotated

import typer

from reid_da.cli.arguments import Size, parse_size
from reid_da.cli.output import check_output, print_json, say, show_log


def import_weights(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Weight file of another toolkit: .pth, .safetensors, ...")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File to write, .safetensors; FILE.md beside it says what it holds.")
    ],
    backbone: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Network that the file belongs to. Default: the one that it fits."),
    ] = None,
    last_stride: Annotated[
        int | None, typer.Option(help="Stride of the last stage, 1 or 2. Default: as the toolkit trains its ResNets.")
    ] = None,
    size: Size = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Convert a published weight file to safetensors under this package's names.

    Reads files of torchvision, torchreid (OSNet), timm, FastReID, the strong baseline (BoT), MMT, SpCL,
    Cluster-Contrast, layumi's baseline, mmtracking, TransReID, LUPerson, DINO and ECN. The backbone is kept,
    classifiers are left out. The file says which network it is of, so that commands need no --backbone for it. Where
    files are published, and their licences: docs/models.md. --size is for ViTs, whose position embeddings are
    interpolated to it (256x128).

    Example: reid-da import-weights osnet_x1_0_msmt17.pth -o osnet.safetensors
    """
    from dataclasses import asdict

    from reid_da.models import importing

    show_log()
    check_output(output)
    check_output(output.with_name(f"{output.name}.md"))
    note = importing.import_weights(
        file, output, backbone=backbone, last_stride=last_stride, image_size=parse_size(size) or (256, 128)
    )
    if as_json:
        print_json({"file": str(output), **asdict(note), "settings": note.settings()})
        return
    say(f"{output}: {note.backbone}, {note.taken} tensors, {note.parameters:,} values (layout: {note.layout})")
    say(f"left out: {', '.join(note.ignored[:8]) or 'nothing'}{', ...' if len(note.ignored) > 8 else ''}")
    for remark in note.remarks:
        say(f"note: {remark}")
    say("in a settings file:")
    say(f"  {note.yaml(output)}")
    say(f"measure it: reid-da evaluate {output} --data DATA")
