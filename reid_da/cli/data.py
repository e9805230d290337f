"""``reid-da data``: check data sets, count what is in them, make manifests."""

from pathlib import Path
from typing import Annotated

import typer

from reid_da.cli.arguments import Slide, Title
from reid_da.cli.output import check_picture, print_json, say, show
from reid_da.datasets import import_folder, load_dataset
from reid_da.datasets.importing import persons_file
from reid_da.errors import InputError

app = typer.Typer(help="Check data sets, count what is in them, make manifests.", no_args_is_help=True)

DataPath = Annotated[Path, typer.Argument(metavar="PATH", help="Folder of a data set, or a manifest (.csv, .parquet).")]
Format = Annotated[str | None, typer.Option(help="Layout on disk. Default: detected.")]
Boxes = Annotated[str | None, typer.Option(help="CUHK03-NP: 'detected' (default) or 'labelled' boxes.")]
TrainLists = Annotated[str | None, typer.Option(help="MSMT17: 'train+val' (default, as papers count) or 'train'.")]
TestList = Annotated[str | None, typer.Option(help="VehicleID: vehicles in the test list, e.g. '800' (default).")]
Trial = Annotated[
    str | None, typer.Option(help="VIPeR, PRID2011, CUHK01, GRID, i-LIDS, CAVIAR, VehicleID: random split '0' to '9'.")
]
Layout = Annotated[
    str | None,
    typer.Option(
        help="Own folders: their meaning, if names do not show it: 'camera-folders', 'person-folders' or 'flat'."
    ),
]
Pattern = Annotated[
    str | None,
    typer.Option(
        help=r"Own folders: regular expression such as '(?P<pid>\d+)_c(?P<camera>\d+)'; with a slash, of paths."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


@app.command()
def check(
    path: DataPath,
    format: Format = None,
    boxes: Boxes = None,
    train_lists: TrainLists = None,
    test_list: TestList = None,
    trial: Trial = None,
    layout: Layout = None,
    pattern: Pattern = None,
    as_json: AsJson = False,
) -> None:
    """Check a data set: broken files, duplicates, leaks between train and test, queries without a match.

    Exit status: 0 valid, 1 problems found, 2 it cannot be read at all.

    Example: reid-da data check data/rendered/site-b
    """
    from reid_da.datasets.check import check_dataset
    from reid_da.reporting.dataset_tables import format_report

    dataset = load_dataset(
        path,
        format=format,
        boxes=boxes,
        train_lists=train_lists,
        test_list=test_list,
        trial=trial,
        layout=layout,
        pattern=pattern,
    )
    report = check_dataset(dataset)
    if as_json:
        print_json(report.to_json())
    else:
        show(format_report(report))
    raise typer.Exit(0 if report.is_sound else 1)


@app.command()
def stats(
    path: DataPath,
    format: Format = None,
    boxes: Boxes = None,
    train_lists: TrainLists = None,
    test_list: TestList = None,
    trial: Trial = None,
    layout: Layout = None,
    pattern: Pattern = None,
    picture: Annotated[
        Path | None,
        typer.Option(help="Also draw the counts, and images of unlabelled cameras: .png, .svg, .pdf or .jpg."),
    ] = None,
    title: Title = None,
    slide: Slide = False,
    as_json: AsJson = False,
) -> None:
    """Count images and identities by split and camera, and identities by number of cameras.

    Example: reid-da data stats data/rendered/site-b --picture stats.png
    """
    from reid_da.datasets.statistics import dataset_statistics
    from reid_da.reporting.dataset_pictures import draw_statistics
    from reid_da.reporting.dataset_tables import format_statistics

    check_picture(picture)
    dataset = load_dataset(
        path,
        format=format,
        boxes=boxes,
        train_lists=train_lists,
        test_list=test_list,
        trial=trial,
        layout=layout,
        pattern=pattern,
    )
    statistics = dataset_statistics(dataset)
    if as_json:
        print_json(statistics.to_json())
    else:
        show(format_statistics(statistics))
    if picture is not None:
        draw_statistics(statistics, picture, table=dataset.train, title=title, slide=slide)
        say(f"picture: {picture}", error=True)


@app.command("import")
def import_(
    path: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of person crops, or a table (.csv).")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Manifest. Default: FOLDER/manifest.csv.")
    ] = None,
    layout: Layout = None,
    pattern: Pattern = None,
    split: Annotated[
        float | None, typer.Option(help="Share of the identities that goes to query and gallery, e.g. 0.5.")
    ] = None,
    test_only: Annotated[
        bool,
        typer.Option("--test-only", help="All labelled people go to query and gallery: a test set for data.test."),
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the split.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing manifest.")] = False,
) -> None:
    """Write a manifest for crops, with an identity-disjoint train/query/gallery split if asked.

    Where the names do not tell what the folders are, --layout or --pattern does; the manifest keeps the answer. In a
    partly labelled folder (cam1/image.jpg beside cam1/anna/image.jpg) images without an identity go to train.

    Folders named *_camstyle in it are left out: their images are made of the others, in the styles of other cameras.

    Example: reid-da data import crops/ --split 0.5 && reid-da data check crops/

    Example: reid-da data import people/ --test-only   # then train with data.test=people

    Example: reid-da data import labels.csv --test-only -o test.csv   # labels.csv by `reid-da data template`
    """
    if test_only and split is not None:
        raise InputError("give either --split or --test-only")
    manifest = import_folder(
        path,
        output=output,
        layout=layout,
        pattern=pattern,
        test_share=1.0 if test_only else split,
        seed=seed,
        overwrite=overwrite,
    )
    dataset = load_dataset(manifest)
    counts = ", ".join(f"{name} {len(table)}" for name, table in dataset.splits.items() if len(table))
    say(f"{manifest}: {counts}; cameras {', '.join(dataset.camera_names)}")
    if persons_file(manifest).exists():
        say(f"{persons_file(manifest)}: which person has which pid")
    if dataset.same_camera == "include" and len(dataset.query):
        say(
            "there is one camera, or none is known: evaluations count matches by the same camera, and their figures "
            "cannot be compared with those of papers"
        )


@app.command()
def template(
    path: DataPath,
    output: Annotated[Path, typer.Option("--output", "-o", help="The table to write.")] = Path("labels.csv"),
    page: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write an HTML page that shows the images of the table.")
    ] = None,
    per_camera: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of images per camera. Default: all.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
) -> None:
    """Write a table of unlabelled images, to label a few people in it by hand.

    Fill in the column pid (a name or a number) for some twenty people that at least two cameras saw, and leave it empty
    for the others. Then make a test set of the table: reid-da data import labels.csv --test-only -o test.csv

    Example: reid-da data template crops/ -o labels.csv --page labels.html
    """
    from reid_da.datasets.labelling import write_template

    count = write_template(path, output, page=page, per_camera=per_camera, overwrite=overwrite)
    say(f"{output}: {count:,} images; name some people in the column pid")
    if page is not None:
        say(f"{page}: the images, with the number of their line")
    say(f"next: reid-da data import {output} --test-only -o test.csv, then train with data.test=test.csv")
