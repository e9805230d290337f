"""``reid-da report``, and the single pictures of evaluations: ``cmc``, ``camera-matrix``, ``map``."""

from pathlib import Path
from typing import Annotated

import typer

from reid_da.cli.arguments import PICTURE, Slide, Title
from reid_da.cli.output import check_output, check_picture, say, show_log
from reid_da.errors import InputError

Data = Annotated[Path | None, typer.Option(help="Data set to look at. Default: the target of the (last) run.")]
Picture = Annotated[Path, typer.Option("--output", "-o", help=PICTURE)]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
Method = Annotated[
    str, typer.Option("--map", help="Projection of the features: pca, tsne (needs scikit-learn), or auto.")
]


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders of one target, such as methods.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML file to write.")] = Path("report.html"),
    data: Data = None,
    map_method: Method = "auto",
    blur_faces: Annotated[
        bool, typer.Option("--blur-faces", help="Make the upper part of each crop unrecognisable.")
    ] = False,
    device: Device = "auto",
) -> None:
    """Write a report of runs: one HTML file with its pictures inside, for a browser, a phone or a printer.

    Result table and CMC curves, settings that differ, the same queries before and after, training and label-free
    curves, camera by camera accuracy and similarities, a map of the features, clusters, camera styles, data, cost. A
    run's pretraining stage is the model before. The file needs no network. It shows crops of people: pass it on to
    those only who may see them.

    Example: reid-da report runs/demo -o report.html
    """
    from reid_da.studies.report import write_report

    show_log()
    check_output(output)
    write_report(runs, output, data=data, map_method=map_method, blur_faces=blur_faces, device=device)
    say(f"report: {output} ({output.stat().st_size / 1e6:.1f} MB)")


def cmc(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.")],
    output: Picture = Path("cmc.png"),
    title: Title = None,
    slide: Slide = False,
    data: Data = None,
    device: Device = "auto",
) -> None:
    """Draw CMC curves of runs on the same queries.

    Example: reid-da cmc runs/demo/pretrain runs/demo -o cmc.png
    """
    from reid_da.reporting.evaluation_pictures import cmc_figure
    from reid_da.reporting.picture_files import save_figure
    from reid_da.studies.looking import labelled_look

    show_log()
    check_picture(output)
    figure = cmc_figure(labelled_look(runs, data=data, device=device).results)
    save_figure(figure, output, title=title, slide=slide)
    say(f"picture: {output}")


def camera_matrix(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")],
    output: Picture = Path("camera-matrix.png"),
    title: Title = None,
    slide: Slide = False,
    data: Data = None,
    device: Device = "auto",
) -> None:
    """Draw rank-1 and mAP by the camera of the query and of the gallery.

    Example: reid-da camera-matrix runs/demo -o cameras.png
    """
    from reid_da.evaluation.by_camera import camera_matrix as matrix_of
    from reid_da.reporting.evaluation_pictures import camera_matrix_figure
    from reid_da.reporting.picture_files import save_figure
    from reid_da.studies.looking import labelled_look

    show_log()
    check_picture(output)
    look = labelled_look([run], data=data, device=device)
    if look.dataset.same_camera == "include":
        raise InputError(f"{look.dataset.root}: has one camera or unknown ones; there is nothing to compare")
    found = matrix_of(next(iter(look.features.values())))
    figure = camera_matrix_figure(found, camera_names=look.dataset.camera_names, title=run.name)
    save_figure(figure, output, title=title, slide=slide)
    say(f"picture: {output}")


def feature_map(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")],
    output: Picture = Path("map.png"),
    title: Title = None,
    slide: Slide = False,
    data: Data = None,
    map_method: Annotated[str, typer.Option("--method", help="pca, tsne (needs scikit-learn), or auto.")] = "auto",
    device: Device = "auto",
) -> None:
    """Draw a map of a run's features, coloured by camera beside by identity, or by cluster without labels.

    Example: reid-da map runs/demo -o map.png
    """
    from reid_da.reporting.evaluation_pictures import map_figure
    from reid_da.reporting.picture_files import save_figure
    from reid_da.studies.looking import look_at, map_of

    show_log()
    check_picture(output)
    points, groups, how = map_of(look_at([run], data=data, device=device, with_stages=False), map_method)
    save_figure(map_figure(points, groups, title=f"{run.name}, {how}"), output, title=title, slide=slide)
    say(f"picture: {output}")
