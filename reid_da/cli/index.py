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
Images = Annotated[list[str] | None, typer.Argument(metavar="[IMAGE...]", help="Ids, paths, or folders of images.")]
Model = Annotated[
    str | None,
    typer.Option(help="Run folder, checkpoint, file of weights, or backbone; the index remembers it."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def add(
    index: Annotated[Path, typer.Argument(metavar="INDEX", help="Folder of the index; made if there is none.")],
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
    backbone: Annotated[str, typer.Option(help="Network that a file of weights belongs to.")] = "resnet50",
    last_stride: Annotated[int, typer.Option(help="Stride of its last stage.")] = 2,
    weights: Annotated[str, typer.Option(help="Weights of a backbone: 'imagenet', or 'none' (random).")] = "imagenet",
    size: Size = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Add images that the index does not know yet; what is there stays as it is.

    Camera and time come from the table, from names of files and folders, or else, the time, from EXIF data; a time
    without an offset is UTC. The command may be stopped or killed at any time; the same command goes on.

    Example: reid-da index add crops.index crops/ --model runs/demo
    """
    from reid_da.gallery.index import add as add_images
    from reid_da.gallery.index import open_or_create

    show_log()
    with stoppable():
        gallery, embedder = open_or_create(
            index,
            model=model,
            device=device,
            backbone=backbone,
            last_stride=last_stride,
            weights=weights,
            image_size=parse_size(size),
            flip=flip,
        )
        with gallery:
            added = add_images(gallery, embedder, folders, pattern=pattern, layout=layout, table=table, fps=fps)
            total = len(gallery)
    for line in (*added.readings, *(f"left out: {broken}" for broken in added.broken)):
        say(line, error=True)
    if as_json:
        print_json({**vars(added), "images": total})
        return
    more = f", {added.described:,} described anew" if added.described else ""
    more += f", {added.forgotten:,} left out that were forgotten" if added.forgotten else ""
    more += f", {len(added.broken):,} cannot be decoded" if added.broken else ""
    say(f"{index}: {added.added:,} images added, {added.unchanged:,} were there{more}; {total:,} in all")
    if added.no_camera or added.no_time:
        say(f"camera unknown: {added.no_camera:,} images; time unknown: {added.no_time:,} images", error=True)


@app.command(name="list")
def list_index(
    index: Index,
    images: Annotated[bool, typer.Option("--images", help="Print every image as CSV.")] = False,
    as_json: AsJson = False,
) -> None:
    """What is in an index: cameras, times, identities, the model; or every image.

    Example: reid-da index list crops.index --images > images.csv
    """
    from reid_da.gallery.listing import summary, to_csv
    from reid_da.gallery.store import Gallery

    with Gallery(index) as gallery:
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
    index: Index,
    images: Images = None,
    missing: Annotated[bool, typer.Option("--missing", help="Images whose files do not exist any more.")] = False,
) -> None:
    """Take images out of an index; their files stay, and adding them again brings them back.

    Example: reid-da index remove crops.index crops/cam3

    Example: reid-da index remove crops.index --missing
    """
    from reid_da.gallery import care
    from reid_da.gallery.store import Gallery

    if bool(images) == missing:
        raise InputError("give images (ids, paths or folders), or --missing")
    with Gallery(index) as gallery, gallery.writing() as writer:
        ids = care.missing(gallery) if missing else care.select(gallery, images or ())
        writer.remove(ids)
        say(f"{index}: {len(ids):,} images removed, {len(gallery):,} left")


@app.command()
def forget(
    index: Index,
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
    from reid_da.gallery.store import Gallery

    if (bool(images), identity is not None, retain_days is not None).count(True) != 1:
        raise InputError("give one of: images (ids, paths or folders), --identity, --retain-days")
    with Gallery(index) as gallery, gallery.writing() as writer:
        if images:
            ids = care.select(gallery, images)
        elif identity is not None:
            ids = [number for (number,) in gallery.rows("SELECT id FROM images WHERE identity = ?", (identity,))]
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
    as_json: AsJson = False,
) -> None:
    """Which similarity means "the same person", without labels; `reid-da search --fpr` takes it from the index.

    Two images of one camera at the same time show two people. With --disjoint-views, so do images of two cameras. Of
    images of one track it is told how many pairs the threshold lets through. The interval is that of 95 % of
    resamplings of tracks, or of minutes where there are no tracks.

    Example: reid-da index threshold crops.index --fpr 1e-2 --fpr 1e-3 --window 0.2
    """
    from reid_da.gallery.listing import threshold_table
    from reid_da.gallery.store import Gallery
    from reid_da.gallery.threshold import FPRS, estimate, save

    with Gallery(index) as gallery:
        found = estimate(gallery, fprs=fpr or FPRS, window=window, disjoint_views=disjoint_views)
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
