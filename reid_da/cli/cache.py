"""``reid-da cache``: what the image cache takes on the disk."""

from pathlib import Path
from typing import Annotated

import typer

from reid_da.cli.output import print_json, say, show
from reid_da.errors import InputError

app = typer.Typer(help="List and clear the cache of decoded images.", no_args_is_help=True)

Folders = Annotated[
    list[Path] | None,
    typer.Argument(metavar="[FOLDER]...", help="Folder to search, to a depth of 8. Default: the current one."),
]


@app.command("list")
def list_(
    folders: Folders = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the image caches of data sets, with their sizes.

    The cache of a data set is .reid-da-cache in its folder, or below REID_DA_CACHE, or in the user's cache folder where
    the data set is not writable. It may be removed at any time and is built again when it is needed. Packed camera
    styles are in it too.

    Example: reid-da cache list data/
    """
    from reid_da.images.cache_folders import find_caches
    from reid_da.reporting.tables import Column, Row, Table
    from reid_da.text import size_text

    caches = find_caches(_checked(folders))
    if as_json:
        print_json([{"path": str(cache.path), "files": len(cache.files), "bytes": cache.size} for cache in caches])
        return
    rows = [Row(cells=[str(cache.path), len(cache.files), size_text(cache.size)]) for cache in caches]
    columns = [Column(heading="cache", align="left"), Column(heading="files"), Column(heading="size")]
    show(Table(columns=columns, rows=rows, notes=[f"total: {size_text(sum(cache.size for cache in caches))}"]))


@app.command()
def clear(folders: Folders = None) -> None:
    """Remove the image caches of data sets. They are made again when they are needed; do not run it beside a training.

    Example: reid-da cache clear data/rendered
    """
    from reid_da.images.cache_folders import clear_cache, find_caches
    from reid_da.text import size_text

    for cache in find_caches(_checked(folders)):
        clear_cache(cache)
        say(f"removed: {cache.path} ({size_text(cache.size)})")


def _checked(folders: list[Path] | None) -> list[Path]:
    missing = [folder for folder in folders or () if not folder.is_dir()]
    if missing:
        raise InputError(f"{missing[0]}: no such folder")
    return folders or [Path()]
