"""``reid-da search``: who is on an image, among the images of an index."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from reid_da.cli.index import Device, Place
from reid_da.cli.output import check_output, print_json, say, show, show_log


def search(
    index: Place,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Images, or folders of images.")],
    top: Annotated[int, typer.Option(min=1, help="Images per query.")] = 20,
    fpr: Annotated[
        float | None, typer.Option(help="False positive rate of a pair: below its threshold a query is unknown.")
    ] = None,
    threshold: Annotated[float | None, typer.Option(help="Lowest similarity of a match, instead of --fpr.")] = None,
    threshold_from: Annotated[
        str, typer.Option(help="calibration (of the run, by labels), index (without labels), or auto.")
    ] = "auto",
    camera: Annotated[list[str] | None, typer.Option(help="Search this camera only; may be repeated.")] = None,
    after: Annotated[str | None, typer.Option(help="Search from this time, e.g. 2026-11-26T08:00.")] = None,
    before: Annotated[str | None, typer.Option(help="Search up to this time.")] = None,
    query_camera: Annotated[
        str | None, typer.Option(help="Camera of the queries, for an index that is centred or normalised by camera.")
    ] = None,
    method: Annotated[str, typer.Option("--search", help="exact, or ivf or hnsw (reid-da index build).")] = "exact",
    picture: Annotated[Path | None, typer.Option(help="PNG file to write: the ranked lists.")] = None,
    blur_faces: Annotated[bool, typer.Option("--blur-faces", help="Blur the upper part of crops in it.")] = False,
    model: Annotated[str | None, typer.Option(help="Where the model of the index is now, if it has moved.")] = None,
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """The images of an index that are most similar to each query, and whether they show the same person.

    With --fpr a query without a match is unknown. The rate is that of a pair: among 10,000 images, a rate of 1e-3 lets
    10 others through for each query, and the output says so. Filters act before the ranking: --top 20 --camera 3 gives
    the 20 most similar images of camera 3.

    Example: reid-da search crops.index query.jpg --top 20 --fpr 1e-3 --picture found.png
    """
    from reid_da.gallery.find import find_files
    from reid_da.gallery.listing import answers_table

    show_log()
    check_output(picture)
    found = find_files(
        index, images, top=top, fpr=fpr, threshold=threshold, threshold_from=threshold_from, cameras=camera or (),
        after=after, before=before, query_camera=query_camera, method=method, model=model, device=device,
    )  # fmt: skip
    if picture is not None:
        from reid_da.gallery.pictures import draw_answers

        draw_answers(found.answers, found.queries, picture, blur_faces=blur_faces)
        say(f"picture: {picture}", error=True)
    for note in found.notes:
        say(note, error=True)
    if as_json:
        print_json(found.answers.to_json())
    elif as_csv:
        sys.stdout.write(found.answers.to_csv())
    else:
        show(answers_table(found.answers))
