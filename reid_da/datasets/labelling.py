"""Labelling a few people by hand: a table to fill in, and a page that shows its images."""

import html
import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np

from reid_da.atomic import atomic_paths
from reid_da.datasets.folders import Crop
from reid_da.datasets.listing import natural_key
from reid_da.datasets.loading import load_dataset
from reid_da.datasets.manifest import manifest_text
from reid_da.errors import InputError

_STYLE = (
    "body{font:14px sans-serif;margin:1em}figure{display:inline-block;margin:4px;text-align:center;width:96px}"
    "img{height:160px;max-width:96px;object-fit:contain}figcaption{font-size:10px;overflow-wrap:anywhere}"
)


def write_template(
    data: str | Path, output: Path, *, page: Path | None = None, per_camera: int | None = None, overwrite: bool = False
) -> int:
    """Write a table of unlabelled images whose column ``pid`` is to be filled in for a few people.

    ``reid-da data import TABLE --test-only`` makes a test set of it. Rows come by camera in the natural order of their
    paths, so that images of one person are near each other where names carry the time.

    Args:
        data: data set; its training images are listed.
        output: the table, ``.csv``.
        page: HTML file that shows the images with the numbers of their rows, ``.html``; None: none.
        per_camera: at most so many images of each camera, spread evenly; None: all.
        overwrite: replace existing files.

    Returns:
        The number of rows.

    Raises:
        InputError: a file exists or has another suffix, or the data set cannot be read or has no training images.
    """
    for file, suffix in ((output, ".csv"), (page, ".html")):
        if file is not None and file.suffix.lower() != suffix:
            raise InputError(f"{file}: is written as {suffix[1:].upper()}; name it {file.stem}{suffix}")
        if file is not None and file.exists() and not overwrite:
            raise InputError(f"{file}: exists, and may hold labels; name another file, or replace it with --overwrite")
    dataset = load_dataset(data)
    table = dataset.train
    if not len(table):
        raise InputError(f"{data}: has no training images to label")
    folder = output.resolve().parent
    crops = []
    for camid in table.cameras.tolist():
        rows = sorted(np.flatnonzero(table.camids == camid).tolist(), key=lambda row: natural_key(table.paths[row]))
        if per_camera is not None and len(rows) > per_camera:
            rows = [rows[number] for number in np.linspace(0, len(rows) - 1, per_camera).astype(int).tolist()]
        for row in rows:
            path = table.path(row).resolve()
            person = dataset.person_names.get(int(table.pids[row])) if table.pids[row] >= 0 else None
            crops.append(
                Crop(
                    path=path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.as_posix(),
                    person=person or (str(table.pids[row]) if table.pids[row] >= 0 else None),
                    camera=dataset.camera_names[camid] if dataset.has_cameras else None,
                )
            )
    files = [output] if page is None else [output, page]
    with atomic_paths(*files) as temporaries:
        temporaries[0].write_text(manifest_text(crops), encoding="utf-8")
        if page is not None:
            temporaries[1].write_text(_page(crops, folder, page.resolve().parent), encoding="utf-8")
    return len(crops)


def _page(crops: Sequence[Crop], folder: Path, home: Path) -> str:
    """HTML of the images in the order of the table, by camera, each with the number of its line in a spreadsheet."""
    parts, camera = [], ""
    for line, crop in enumerate(crops, start=2):
        if line == 2 or crop.camera != camera:
            camera = crop.camera or ""
            parts.append(f"<h2>{html.escape(camera or 'unknown camera')}</h2>")
        source = quote(Path(os.path.relpath(folder / crop.path, home)).as_posix())
        name = html.escape(crop.path.rpartition("/")[2])
        parts.append(
            f'<figure><img loading="lazy" src="{source}" alt=""><figcaption><b>{line}</b> {name}</figcaption></figure>'
        )
    body = "\n".join(parts)
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Images to label</title>'
        f"<style>{_STYLE}</style></head><body>\n<p>The number is the line in the table: write the person into its "
        f"column pid, and leave the others empty.</p>\n{body}\n</body></html>\n"
    )
