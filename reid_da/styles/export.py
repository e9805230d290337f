"""Camera views as image files with the published names, for other software."""

from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image

from reid_da.atomic import atomic_folder, remove_leftovers
from reid_da.datasets import SampleTable
from reid_da.errors import InputError
from reid_da.images import usable_rows
from reid_da.images.ahead import available_cores, map_ahead
from reid_da.locks import lock_file
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
        InputError: the folder exists, another process writes it, it cannot be made, or two images have one name.
    """
    stems = unique_stems(table)
    rows = usable_rows(views).tolist()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            is_held = stack.enter_context(lock_file(folder.with_name(f".{folder.name}.lock")))
            check_export(table, folder)  # only now nobody else can make it
            if is_held:
                remove_leftovers(folder.parent, of=folder.name)
            temporary = stack.enter_context(atomic_folder(folder))
            write = partial(_write_views, views, table, stems=stems, folder=temporary, template=NAMES[naming])
            workers = available_cores()
            # an early end waits for the threads: what they write after the folder was removed would stay
            with closing(map_ahead(write, rows, workers=workers, ahead=2 * workers, wait=True)) as written:
                return sum(track(written, f"writing {folder.name}", total=len(rows)))
    except BlockingIOError:
        raise InputError(f"{folder}: is being written by another process") from None
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
