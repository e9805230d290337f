"""Camera views as image files with the published names, for other software."""

import fcntl
import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image

from reid_da.atomic import atomic_folder
from reid_da.datasets import SampleTable
from reid_da.errors import InputError
from reid_da.images import usable_rows
from reid_da.images.ahead import available_cores, map_ahead
from reid_da.progress import track
from reid_da.styles.files import NAMES, unique_stems
from reid_da.styles.views import CameraViews

Naming = Literal["cyclegan", "stargan"]
"""``NAME_fake_1to2.jpg``, or ``NAME_fake_2.jpg``."""

_QUALITY = 95


def write_styled_images(views: CameraViews, table: SampleTable, folder: Path, *, naming: Naming) -> int:
    """Write every view but that of the own camera as a JPEG file, all of them or none; how many.

    Views for cameras without any image in the table are left out: there is nothing that they could look like.

    Args:
        views: of the N images for C cameras.
        table: what the images are.
        folder: to make; usually :func:`~reid_da.styles.files.default_folder`.
        naming: how the files are called.

    Raises:
        InputError: the folder exists, it cannot be made, or two images have one name.
    """
    check_export(table, folder)
    stems = unique_stems(table)
    rows = usable_rows(views).tolist()
    try:
        _remove_leftovers(folder)
        with atomic_folder(folder) as temporary, _in_use(temporary):
            write = partial(_write_views, views, table, stems=stems, folder=temporary, template=NAMES[naming])
            workers = available_cores()
            # an early end waits for the threads: what they write after the folder was removed would stay
            with closing(map_ahead(write, rows, workers=workers, ahead=2 * workers, wait=True)) as written:
                return sum(track(written, f"writing {folder.name}", total=len(rows)))
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror or error}") from error


def check_export(table: SampleTable, folder: Path) -> None:
    """See to it that files for the images of a table can go to a folder, before their views are made.

    Raises:
        InputError: the folder exists, or two images have one name.
    """
    if folder.exists():
        raise InputError(f"{folder}: exists already; remove it, or name another folder")
    unique_stems(table)


@contextmanager
def _in_use(folder: Path) -> Iterator[bool]:
    """Hold a lock on a folder, which tells other processes that its writer lives.

    Yields:
        Whether it is held: not if another process holds it, nor where folders cannot be locked, as on NFS.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed processes have left of their work on a folder."""
    for leftover in folder.parent.glob(f".{glob.escape(folder.name)}.*.tmp"):
        # one that another process is just writing is locked, and one that cannot be locked may be
        with suppress(OSError), _in_use(leftover) as is_free:
            if is_free:
                shutil.rmtree(leftover, ignore_errors=True)


def _write_views(
    views: CameraViews, table: SampleTable, row: int, *, stems: list[str], folder: Path, template: str
) -> int:
    own = int(table.camids[row])
    wanted = [camid for camid in table.cameras.tolist() if camid != own]
    pixels = views.gather(torch.full((len(wanted),), row), torch.tensor(wanted, dtype=torch.int64))
    for camid, image in zip(wanted, pixels.permute(0, 2, 3, 1).numpy(), strict=True):
        name = template.format(stem=stems[row], own=own + 1, wanted=camid + 1)
        Image.fromarray(np.ascontiguousarray(image)).save(folder / f"{name}.jpg", quality=_QUALITY)
    return len(wanted)
