"""``reid-da index``: images of cameras with their vectors, kept on disk."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import typer

from reid_da.cli.arguments import Size, parse_size
from reid_da.cli.output import print_json, say, show, show_log, stoppable
from reid_da.errors import InputError

app = typer.Typer(help="A gallery on disk: add images, look after them, forget them.", no_args_is_help=True)

Index = Annotated[Path, typer.Argument(metavar="INDEX", help="Folder of the index.")]
Place = Annotated[str, typer.Argument(metavar="INDEX", help="Folder of the index, or qdrant://HOST:PORT/COLLECTION.")]
Images = Annotated[list[str] | None, typer.Argument(metavar="[IMAGE...]", help="Ids, paths, or folders of images.")]
Model = Annotated[
    str | None,
    typer.Option(help="Run folder, checkpoint, file of weights, or backbone; the index remembers it."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def add(
    index: Place,
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="Folders of crops, or single images.")],
    model: Model = None,
    layout: Annotated[
        str | None, typer.Option(help="camera-folders, person-folders or flat, where the names do not tell.")
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option(help=r"How names tell camera, time and track: '(?P<camera>\d+)_(?P<time>\d+)_(?P<track>\d+)'."),
    ] = None,
    table: Annotated[Path | None, typer.Option(help="CSV with the columns path,camera,time,track.")] = None,
    fps: Annotated[float, typer.Option(help="Times that are numbers are divided by this: frames per second.")] = 1.0,
    flip: Annotated[bool, typer.Option("--flip", help="Average features with those of the mirrored images.")] = False,
    center_cameras: Annotated[
        bool, typer.Option("--center-cameras", help="Take out the camera means that `reid-da center RUN` stored.")
    ] = False,
    backbone: Annotated[str, typer.Option(help="Network that a file of weights belongs to.")] = "resnet50",
    last_stride: Annotated[int, typer.Option(help="Stride of its last stage.")] = 2,
    weights: Annotated[str, typer.Option(help="Weights of a backbone: 'imagenet', or 'none' (random).")] = "imagenet",
    size: Size = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Add images that the index does not know yet; what is there stays as it is.

    Camera and time come from the table, from names of files and folders, or else, the time, from EXIF data; a time
    without an offset is UTC. The index is made if there is none. The command may be stopped or killed at any time; the
    same command goes on.

    Example: reid-da index add crops.index crops/ --model runs/demo
    """
    from reid_da.gallery.places import add_folders

    show_log()
    options = {
        "backbone": backbone, "last_stride": last_stride, "weights": weights, "image_size": parse_size(size),
        "flip": flip, "center_cameras": center_cameras,
    }  # fmt: skip
    with stoppable():
        added = add_folders(
            index, folders, model=model, device=device, model_options=options,
            pattern=pattern, layout=layout, table=table, fps=fps,
        )  # fmt: skip
    for line in (*added.readings, *(f"left out: {broken}" for broken in added.broken)):
        say(line, error=True)
    if as_json:
        print_json(vars(added))
        return
    for line in added.lines():
        say(f"{index}: {line}")


@app.command(name="list")
def list_index(
    index: Place,
    images: Annotated[bool, typer.Option("--images", help="Print every image as CSV.")] = False,
    as_json: AsJson = False,
) -> None:
    """What is in an index: cameras, times, identities, the model; or every image.

    Example: reid-da index list crops.index --images > images.csv
    """
    from reid_da.gallery.listing import summary, to_csv
    from reid_da.gallery.places import open_index

    with open_index(index) as gallery:
        if images:
            records = gallery.all_records()
            if as_json:
                print_json([record._asdict() for record in records])
            else:
                sys.stdout.write(to_csv(records))
        elif as_json:
            print_json(summary(gallery).to_json())
        else:
            show(summary(gallery).table())


@app.command()
def remove(
    index: Place,
    images: Images = None,
    missing: Annotated[bool, typer.Option("--missing", help="Images whose files do not exist any more.")] = False,
) -> None:
    """Take images out of an index; their files stay, and adding them again brings them back.

    Example: reid-da index remove crops.index crops/cam3

    Example: reid-da index remove crops.index --missing
    """
    from reid_da.gallery import care
    from reid_da.gallery.places import open_index

    if bool(images) == missing:
        raise InputError("give images (ids, paths or folders), or --missing")
    with open_index(index) as gallery, gallery.writing() as writer:
        ids = care.missing(gallery) if missing else care.select(gallery, images or ())
        writer.remove(ids)
        say(f"{index}: {len(ids):,} images removed, {len(gallery):,} left")


@app.command()
def forget(
    index: Place,
    images: Images = None,
    identity: Annotated[int | None, typer.Option(help="All images of this identity.")] = None,
    retain_days: Annotated[
        float | None, typer.Option(help="All images taken, or if that is unknown added, more days ago than this.")
    ] = None,
) -> None:
    """Remove images and every trace of them from an index: vectors, paths, times, history.

    The blocks that held their vectors are written anew at once. Of each image a checksum of its file stays, so that
    `index add` does not take it up again. The image files themselves are not touched.

    Example: reid-da index forget crops.index 1042 crops/cam3/0007.jpg

    Example: reid-da index forget crops.index --retain-days 30
    """
    from reid_da.gallery import care
    from reid_da.gallery.places import open_index

    if (bool(images), identity is not None, retain_days is not None).count(True) != 1:
        raise InputError("give one of: images (ids, paths or folders), --identity, --retain-days")
    with open_index(index) as gallery, gallery.writing() as writer:
        if images:
            ids = care.select(gallery, images)
        elif identity is not None:
            ids = [record.id for record in gallery.all_records() if record.identity == identity]
            if not ids:
                raise InputError(f"{index}: no identity {identity}")
        else:
            ids = care.older_than(gallery, retain_days or 0)
        if ids:
            writer.remove(ids, forget=True)
        say(f"{index}: {len(ids):,} images forgotten, {len(gallery):,} left; their files were not touched")


@app.command()
def verify(
    index: Index,
    files: Annotated[bool, typer.Option("--files", help="Also look for the files of the images.")] = False,
    as_json: AsJson = False,
) -> None:
    """Look for damage: database, checksums of vectors, and with --files, images. Exit status 1 if there is some.

    Example: reid-da index verify crops.index --files
    """
    from reid_da.gallery.care import verify as look
    from reid_da.gallery.store import Gallery

    with Gallery(index) as gallery:
        problems, count = look(gallery, files=files), len(gallery)
    if as_json:
        print_json({"images": count, "problems": problems})
    else:
        for problem in problems:
            say(problem)
        say(f"{index}: {count:,} images, {f'{len(problems):,} problems' if problems else 'sound'}")
    if problems:
        raise typer.Exit(1)


@app.command()
def compact(index: Index) -> None:
    """Drop the vectors of removed images from the disk.

    Example: reid-da index compact crops.index
    """
    from reid_da.gallery.store import Gallery

    with Gallery(index) as gallery, gallery.writing() as writer:
        say(f"{index}: vectors of {writer.compact():,} removed images dropped")


@app.command()
def threshold(
    index: Index,
    fpr: Annotated[list[float] | None, typer.Option(help="False positive rate of a pair; may be repeated.")] = None,
    window: Annotated[float, typer.Option(help="Seconds that count as the same time.")] = 0.0,
    disjoint_views: Annotated[
        bool,
        typer.Option("--disjoint-views", help="No place is seen by two cameras, and their clocks agree."),
    ] = False,
    styles: Annotated[
        str | None,
        typer.Option(help="Also the share of images that pass in the style of another camera: statistics, or a path."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="For --styles: where the model is now, if it has moved.")] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Which similarity means "the same person", without labels; `reid-da search --fpr` takes it from the index.

    Two images of one camera at the same time show two people. With --disjoint-views, so do images of two cameras. Of
    images of one track, and with --styles of images in other colours, it is told how many pairs pass. The interval is
    that of 95 % of resamplings of tracks, or of minutes where there are no tracks.

    Example: reid-da index threshold crops.index --fpr 1e-2 --fpr 1e-3 --window 0.2
    """
    from reid_da.gallery.listing import threshold_table
    from reid_da.gallery.store import Gallery
    from reid_da.gallery.threshold import FPRS, estimate, save

    with Gallery(index) as gallery:
        styled = None
        if styles is not None:
            from reid_da.gallery.embedder import embedder_of
            from reid_da.gallery.styled import styled_similarities

            styled = styled_similarities(gallery, embedder_of(gallery, model=model, device=device), style=styles)
        found = estimate(gallery, fprs=fpr or FPRS, window=window, disjoint_views=disjoint_views, styled=styled)
        save(gallery, found)
    if as_json:
        print_json(dataclasses.asdict(found))
    else:
        show(threshold_table(found))


@app.command()
def build(
    index: Index,
    kind: Annotated[str, typer.Option(help="ivf (lists around centres) or hnsw (a graph of neighbours).")] = "ivf",
    effort: Annotated[
        int | None, typer.Option(help="Lists, or candidates of the graph, that a search looks at.")
    ] = None,
) -> None:
    """Build an approximate index with FAISS for `reid-da search --search KIND`, and measure what it misses.

    Exact search is fast enough up to about a million images. After images have come or gone it has to be built anew.

    Example: reid-da index build crops.index --kind hnsw
    """
    from reid_da.gallery.approximate import build as build_index
    from reid_da.gallery.store import Gallery

    with Gallery(index) as gallery:
        built = build_index(gallery, kind, effort=effort)
    say(f"{index}: {kind} finds {100 * built.recall:.1f} % of the 20 nearest images (effort {built.effort})")


@app.command()
def copy(
    source: Annotated[str, typer.Argument(metavar="FROM", help="qdrant://HOST:PORT/COLLECTION, or a folder.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="The other of the two.")],
) -> None:
    """Copy a collection of a server into an index on disk, or what is new in an index on disk to a server.

    What a server does not do is done in a copy: cluster, threshold, serve. Copy it back to publish identities, names
    and thresholds. The same command again copies what has changed.

    Example: reid-da index copy qdrant://server:6333/crops crops.index

    Example: reid-da index copy crops.index qdrant://server:6333/crops
    """
    from reid_da.gallery.places import copy as copy_index

    with stoppable():
        done = copy_index(source, target)
    say(f"{target}: {done.added:,} images added, {done.described:,} described anew, {done.removed:,} removed")
