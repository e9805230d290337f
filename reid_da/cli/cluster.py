"""``reid-da cluster`` and the commands of ``reid-da index`` that correct identities by hand."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from reid_da.cli.index import AsJson, Device, Index, app
from reid_da.cli.output import check_output, print_json, say, show, show_log, stoppable

Sheets = Annotated[Path | None, typer.Option(help="Folder for a contact sheet (PNG) of each identity.")]
Blur = Annotated[bool, typer.Option("--blur-faces", help="Blur the upper part of crops in the sheets.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Manifest (.csv) to write: path,pid,camid,split.")]
Split = Annotated[
    float | None, typer.Option(help="Share of the identities that becomes query and gallery in the manifest.")
]


def cluster(
    index: Annotated[Path, typer.Argument(metavar="INDEX|FOLDER", help="Folder of an index, or of images.")],
    output: Output = None,
    sheets: Sheets = None,
    blur_faces: Blur = False,
    split: Split = None,
    with_unknown: Annotated[bool, typer.Option("--with-unknown", help="Images without identity, too.")] = False,
    afresh: Annotated[
        bool, typer.Option("--afresh", help="Cluster anew what has an identity, too; `index undo` takes it back.")
    ] = False,
    eps: Annotated[float, typer.Option(help="Largest distance of neighbours; lower: fewer and surer.")] = 0.5,
    min_samples: Annotated[int, typer.Option(min=1, help="Neighbours of a core image, itself included.")] = 4,
    k1: Annotated[int, typer.Option(min=1, help="Neighbours that are looked at.")] = 15,
    metric: Annotated[str, typer.Option(help="jaccard, camera_jaccard or cosine.")] = "jaccard",
    same_time: Annotated[
        str,
        typer.Option(
            help="Images of one camera at the same time are apart (two people), ignore (may not be), or auto."
        ),
    ] = "auto",
    model: Annotated[str | None, typer.Option(help="For a folder of images: the model.")] = None,
    layout: Annotated[str | None, typer.Option(help="For a folder: camera-folders, person-folders or flat.")] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """One identity across cameras: images that have none get one, those that have one keep it.

    Images that were added since join the identity of their nearest image in a cluster. Outliers stay without identity.
    Two images of one camera at the same time are not put together (auto: unless times are whole seconds of a day). For
    a folder of images an index is made in it (.gallery). The manifest has the number of the identity as pid.

    Example: reid-da cluster crops.index -o identities.csv --sheets sheets/
    """
    from reid_da.gallery.identities import assign_identities, export_manifest
    from reid_da.gallery.jobs import clustering_settings, index_of
    from reid_da.gallery.pictures import draw_sheets
    from reid_da.gallery.store import Gallery

    show_log()
    check_output(output)
    settings = clustering_settings(eps=eps, min_samples=min_samples, k1=k1, metric=metric)
    with stoppable():
        place = index_of(index, model=model, layout=layout, device=device)
        with Gallery(place) as gallery:
            done = assign_identities(gallery, settings=settings, afresh=afresh, same_time=same_time)
            if output is not None:
                rows = export_manifest(gallery, output, test_share=split, with_unknown=with_unknown)
                say(f"{output}: {rows:,} images", error=True)
            if sheets is not None:
                say(f"{sheets}: {draw_sheets(gallery, sheets, blur_faces=blur_faces):,} sheets", error=True)
    if as_json:
        print_json(asdict(done))
        return
    say(
        f"{place}: {done.identities:,} identities, {done.new:,} of them new with {done.founded:,} images; "
        f"{done.joined:,} images joined others, {done.unassigned:,} have none"
    )
    if done.apart:
        say(f"{place}: {done.apart:,} pairs of one camera at the same time were kept apart")


@app.command()
def identities(
    index: Index,
    output: Output = None,
    sheets: Sheets = None,
    blur_faces: Blur = False,
    split: Split = None,
    as_json: AsJson = False,
) -> None:
    """The identities of an index; as a manifest or contact sheets, without clustering.

    Example: reid-da index identities crops.index --sheets sheets/
    """
    from reid_da.gallery.identities import export_manifest
    from reid_da.gallery.identities import identities as listed
    from reid_da.gallery.listing import identities_table
    from reid_da.gallery.pictures import draw_sheets
    from reid_da.gallery.store import Gallery

    check_output(output)
    with Gallery(index) as gallery:
        found = listed(gallery)
        if output is not None:
            say(f"{output}: {export_manifest(gallery, output, test_share=split):,} images", error=True)
        if sheets is not None:
            say(f"{sheets}: {draw_sheets(gallery, sheets, blur_faces=blur_faces):,} sheets", error=True)
    if as_json:
        print_json([identity._asdict() for identity in found])
    elif output is None and sheets is None:
        show(identities_table(found))


@app.command()
def merge(
    index: Index, numbers: Annotated[list[int], typer.Argument(metavar="IDENTITY...", help="Two or more.")]
) -> None:
    """Make several identities one: the first.

    Example: reid-da index merge crops.index 17 42
    """
    from reid_da.gallery.identities import merge as merge_identities
    from reid_da.gallery.store import Gallery

    with Gallery(index) as gallery:
        say(f"{index}: identity {merge_identities(gallery, numbers)} has the images of all {len(numbers)}")


@app.command()
def split(
    index: Index, images: Annotated[list[int], typer.Argument(metavar="IMAGE...", help="Ids of images.")]
) -> None:
    """Give images an identity of their own.

    Example: reid-da index split crops.index 1042 1043
    """
    from reid_da.gallery.identities import split as split_images
    from reid_da.gallery.store import Gallery

    with Gallery(index) as gallery:
        say(f"{index}: identity {split_images(gallery, images)} has {len(set(images))} images")


@app.command()
def name(
    index: Index,
    identity: Annotated[int, typer.Argument(metavar="IDENTITY")],
    text: Annotated[str, typer.Argument(metavar="NAME", help="Empty to take the name away.")],
) -> None:
    """Name an identity.

    Example: reid-da index name crops.index 17 "red coat"
    """
    from reid_da.gallery.identities import name as name_identity
    from reid_da.gallery.store import Gallery

    with Gallery(index) as gallery:
        name_identity(gallery, identity, text)
    say(
        f"{index}: identity {identity} is called {text!r}"
        if text.strip()
        else f"{index}: identity {identity} has no name"
    )


@app.command()
def undo(index: Index) -> None:
    """Take back the last cluster, merge, split or name that was not taken back yet.

    Example: reid-da index undo crops.index
    """
    from reid_da.gallery.identities import undo as take_back
    from reid_da.gallery.store import Gallery

    with Gallery(index) as gallery:
        action = take_back(gallery)
    say(f"{index}: {f'{action} taken back' if action else 'nothing to take back'}")
