"""``reid-da center``: the mean feature of each camera, stored with a run."""

from pathlib import Path
from typing import Annotated

import typer

from reid_da.cli.arguments import Device
from reid_da.cli.evaluate import AsJson
from reid_da.cli.output import check_output, print_json, say, show_log


def center(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")],
    data: Annotated[Path | None, typer.Option(help="Images, labelled or not. Default: the run's target.")] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Store the mean feature of each camera with a run, so that single new images can be centred.

    The means are those of the training images, or of query and gallery where there are none; no label is read. Writes
    RUN/camera_means.safetensors. With a run that normalises by camera (model.camera_norm), the batch-norm statistics of
    each camera are stored too, in RUN/camera_norms.safetensors; a training has done so for its target.

    Example: reid-da center runs/demo
    """
    from reid_da.evaluation.camera_norms import FILE_NAME as NORMS_FILE
    from reid_da.evaluation.camera_norms import save_norms
    from reid_da.evaluation.centered import FILE_NAME, save_means
    from reid_da.training.run_folder import RunFolder
    from reid_da.training.trained import load_trained

    show_log()
    folder, trained = RunFolder.open(run).path, load_trained(run, device=device)
    file = folder / FILE_NAME
    check_output(file)
    norms = trained.camera_norms(data) if trained.is_by_camera else None
    if norms is not None:
        save_norms(folder / NORMS_FILE, norms)
    named = trained.camera_means(data)
    save_means(file, named)
    counts = dict(zip(named.names, named.means.counts.tolist(), strict=True))
    if as_json:
        of_norms = {} if norms is None else {"cameras": list(norms.names)}
        print_json({"data": named.data, "epoch": named.epoch, "images": counts, **of_norms})
        return
    if norms is not None:
        say(f"{folder / NORMS_FILE}: batch-norm statistics of {len(norms.names)} cameras of {norms.data}")
    say(f"{file}: {len(counts)} cameras of {named.data} ({sum(counts.values()):,} images)")
