"""Camera views from ready-made images, such as the published ones of CamStyle and HHL (Zhong et al., 2018).

They lie beside the training images, in a folder ``bounding_box_train_camstyle``, as ``NAME_fake_1to2.jpg`` (own camera
and wanted camera, from a CycleGAN) or as ``NAME_fake_2.jpg`` (wanted camera, from a StarGAN), with cameras counted from
1. A StarGAN also makes an image for the own camera, which is not used: that view is the real image.
"""

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reid_da.datasets import SampleTable
from reid_da.datasets.listing import STYLED_SUFFIX, describe_folder, list_images
from reid_da.errors import InputError, first_few
from reid_da.images import ImageSource
from reid_da.images.pack import digest_of_files
from reid_da.images.source import CutsFiles, check_index, sizes_of_files
from reid_da.styles.views import ViewsOfSource

OnMissing = Literal["raise", "real"]
"""What to do about ready-made images that are missing: stop, or let the real images stand in."""

_STYLED_STEM = re.compile(r".+_fake_(?P<own>\d+to)?\d+")
_CYCLEGAN, _STARGAN = "{stem}_fake_{own}to{wanted}", "{stem}_fake_{wanted}"
NAMES = {"cyclegan": _CYCLEGAN, "stargan": _STARGAN}
"""Published names of ready-made views, without suffix, cameras counted from 1."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class StyledImages:
    """Ready-made views of N images for C cameras.

    Attributes:
        table: the M files, with the pid of the image and the camera whose style they have.
        rows: (N, C) int64 row of ``table`` for each image and camera, -1 where the real image is the view.
        missing: names, without suffix, of the files that should be there and are not.
    """

    table: SampleTable
    rows: NDArray[np.int64] = field(repr=False)
    missing: tuple[str, ...] = field(repr=False)

    def path(self, index: int, camera: int) -> Path | None:
        """File of an image in the style of a camera, None where the real image is the view."""
        row = int(self.rows[index, camera])
        return None if row < 0 else self.table.path(row)


class FileViews(ViewsOfSource):
    """Camera views that are files, and the real images where there is none; see :class:`~reid_da.styles.CameraViews`.

    The real image also stands in for a file that cannot be decoded, where such files are not errors.

    Attributes:
        table: the files.
    """

    def __init__(self, source: ImageSource, styled: StyledImages, files: ImageSource) -> None:
        """Put the parts together.

        Args:
            source: the N real images.
            styled: which file is which view.
            files: the images of ``styled.table``, as large as the real ones.

        Raises:
            ValueError: the parts differ in length or in the size of the images.
        """
        if (len(source), len(files)) != (len(styled.rows), len(styled.table)):
            raise ValueError(
                f"{len(source)} real images and {len(files)} files do not fit"
                f" views of {len(styled.rows)} images in {len(styled.table)} files"
            )
        if source.size != files.size:
            raise ValueError(f"real images of {source.size} pixels and files of {files.size}")
        super().__init__(source)
        self._files = files
        self.table = styled.table
        self._rows = torch.from_numpy(styled.rows)

    @property
    def fingerprint(self) -> str:
        """Hash of the names of the files, their sizes and times of modification."""
        return f"{self.table.fingerprint} {digest_of_files(self.table)}"

    @property
    def num_cameras(self) -> int:
        """Number C of views of each image."""
        return self._rows.shape[1]

    def gather(self, index: Tensor, views: Tensor | None = None) -> Tensor:
        """(B, 3, H, W) uint8 RGB images on the CPU, channels last in memory.

        Args:
            index: (B,) int64 rows in 0..N-1; repeats are allowed.
            views: (B,) int64 cameras in 0..C-1; by default the real images.

        Raises:
            IndexError: ``index`` or ``views`` leaves its range.
            TypeError: one of them is no int64 vector.
        """
        if views is None:
            return self._source.gather(index)
        return self._collect(index, views, lambda source, rows, _: source.gather(rows))

    @property
    def cuts_files(self) -> bool:
        """Whether both the real images and the ready-made ones are decoded whenever they are wanted."""
        return all(isinstance(source, CutsFiles) and source.cuts_files for source in (self._source, self._files))

    def gather_crops(self, index: Tensor, boxes: Tensor, views: Tensor | None = None) -> Tensor:
        """(B, 3, H, W) uint8 RGB contents of boxes in the files; see :class:`reid_da.images.source.CutsFiles`."""

        def gather(source: ImageSource, rows: Tensor, places: Tensor) -> Tensor:
            assert isinstance(source, CutsFiles)
            wanted, sizes = boxes[places], sizes_of_files(source, rows)
            # a real image that stands in for a file may be smaller than it
            fits = (wanted[:, :2] + wanted[:, 2:] <= sizes).all(dim=1, keepdim=True)
            return source.gather_crops(
                rows, torch.where(fits, wanted, torch.cat((torch.zeros_like(sizes), sizes), dim=1))
            )

        if views is None:
            return gather(self._source, index, torch.arange(len(index)))
        return self._collect(index, views, gather)

    def original_sizes(self, index: Tensor, views: Tensor | None = None) -> Tensor:
        """(B, 2) int64 heights and widths of the files, which may be squares where the real images are none."""
        sizes = sizes_of_files(self._source, index)
        if views is None:
            return sizes
        rows = self._rows[index, views]
        is_file = rows >= 0
        sizes[is_file] = sizes_of_files(self._files, rows[is_file])
        return sizes

    def _collect(self, index: Tensor, views: Tensor, gather: Callable[[ImageSource, Tensor, Tensor], Tensor]) -> Tensor:
        """(B, 3, H, W) views by ``gather(source, rows, places in the batch)``."""
        check_index(index, len(self))
        check_index(views, self.num_cameras)
        rows = self._rows[index, views]
        images = torch.empty((len(index), 3, *self.size), dtype=torch.uint8, memory_format=torch.channels_last)
        places = torch.arange(len(index))
        is_file = rows >= 0
        images[is_file] = gather(self._files, rows[is_file], places[is_file])
        # asked after the images: a source that decodes as it goes learns only then which files it cannot decode
        undecodable = torch.tensor([failure.index for failure in self._files.failed], dtype=torch.int64)
        is_real = ~is_file | torch.isin(rows, undecodable)
        images[is_real] = gather(self._source, index[is_real], places[is_real])
        return images


def default_folder(table: SampleTable) -> Path:
    """Folder where the ready-made views of a table's images are expected.

    It lies beside the folder of the images, or the one that holds all their folders, and has its name with
    ``_camstyle`` at the end. Where that would be outside the data set, because the folders of cameras or persons lie
    directly in it, it is ``train_camstyle`` in the data set. Readers of folders pass over folders of such names.
    """
    folders = {table.path(row).parent.absolute() for row in range(len(table))}
    images, root = Path(os.path.commonpath(folders)), table.root.absolute()
    if len(folders) > 1 and root.is_relative_to(images):
        return table.root / f"train{STYLED_SUFFIX}"
    return images.with_name(f"{images.name}{STYLED_SUFFIX}")


def find_styled_images(
    table: SampleTable, folder: Path | None = None, *, num_cameras: int, on_missing: OnMissing = "raise"
) -> StyledImages:
    """The ready-made views of a table's images.

    An image should have one for every camera that took any image of the table, but its own. A camera without training
    images could not be learned: files for it are used if they are there, and not missed.

    Args:
        table: the N real images.
        folder: where the views are; by default :func:`default_folder`.
        num_cameras: number C of cameras.
        on_missing: what to do about missing files: ``raise``, or ``real``: log how many, and let the real images stand
            in, unless all are missing.

    Raises:
        InputError: the folder is not there, or holds no such files or both patterns of names; files are missing (how
            many, the first three); real images in different folders have one name; ``on_missing`` is unknown.
    """
    if on_missing not in ("raise", "real"):
        raise InputError(f"on_missing must be raise or real, got {on_missing!r}")
    folder = default_folder(table) if folder is None else folder
    stems = unique_stems(table)
    names = _list_by_stem(folder)
    template = _find_template(names, folder=folder)
    seen = set(table.cameras.tolist())
    found, missing = [], []
    for index, own in enumerate(table.camids.tolist()):
        for wanted in range(num_cameras):
            styled = template.format(stem=stems[index], own=own + 1, wanted=wanted + 1)
            if wanted != own and styled in names:
                found.append((names[styled], index, wanted))
            elif wanted != own and wanted in seen:
                missing.append(styled)
    if missing:
        _report_missing(missing, num_found=len(found), folder=folder, on_missing=on_missing)
    return _styled_images(table, found, tuple(missing), folder=folder, num_cameras=num_cameras)


def unique_stems(table: SampleTable) -> list[str]:
    """Names of the images without suffix, from which those of their views are made.

    They are without folders too, as in published sets, unless two folders have images of one name (``cam1/0001.jpg``
    and ``cam2/0001.jpg``): then the folders are part of all names, ``cam1_0001``.

    Raises:
        InputError: two images have one name even so.
    """
    stems = [PurePosixPath(path).stem for path in table.paths]
    if len(set(stems)) < len(stems):
        stems = [PurePosixPath(path).with_suffix("").as_posix().replace("/", "_") for path in table.paths]
    repeated = [stem for stem, count in Counter(stems).items() if count > 1]
    if repeated:
        raise InputError(
            f"{table.name}: {len(repeated)} names are those of several images, whose camera-style images cannot be told"
            f" apart: {first_few(repeated)}; rename the images"
        )
    return stems


def _list_by_stem(folder: Path) -> dict[str, str]:
    """Names of the image files in the folder by their stems."""
    if not folder.is_dir():
        raise InputError(
            f"{folder}: this folder of camera-style images does not exist; name the right one, or choose a style that"
            " needs none (statistics, histogram)"
        )
    return {PurePosixPath(name).stem: name for name in list_images(folder)}


def _find_template(names: dict[str, str], *, folder: Path) -> str:
    """How the stems of the views are made in this folder."""
    matches = [match for stem in names if (match := _STYLED_STEM.fullmatch(stem))]
    examples = {_CYCLEGAN if match["own"] else _STARGAN: names[match.string] for match in matches}
    if not examples:
        raise InputError(
            f"{folder}: looked for camera-style images named like NAME_fake_1to2.jpg or NAME_fake_2.jpg, found"
            f" {describe_folder(folder)}"
        )
    if len(examples) > 1:
        both = " and ".join(sorted(examples.values()))
        raise InputError(f"{folder}: camera-style images are named in two ways, {both}; keep those of one way")
    return next(iter(examples))


def _report_missing(missing: Sequence[str], *, num_found: int, folder: Path, on_missing: OnMissing) -> None:
    counts = f"{len(missing):,} of {num_found + len(missing):,} camera-style images are missing: {first_few(missing)}"
    if not num_found:
        raise InputError(f"{folder}: {counts}; name the folder of the camera-style images of these very images")
    if on_missing == "raise":
        raise InputError(
            f"{folder}: {counts}; complete them, or let real images stand in (import --allow-missing, or"
            " views.on_missing=real where a training reads them)"
        )
    logger.warning("%s: %s; real images stand in", folder, counts)


def _styled_images(
    table: SampleTable,
    found: Sequence[tuple[str, int, int]],
    missing: tuple[str, ...],
    *,
    folder: Path,
    num_cameras: int,
) -> StyledImages:
    """The record of the files found, given as (name, row of the real image, camera)."""
    index = np.array([cell[1] for cell in found], dtype=np.int64)
    cameras = np.array([cell[2] for cell in found], dtype=np.int64)
    rows = np.full((len(table), num_cameras), -1, dtype=np.int64)
    rows[index, cameras] = np.arange(len(found))
    files = SampleTable(
        name=f"{table.name}/camstyle",
        root=folder,
        paths=tuple(cell[0] for cell in found),
        pids=table.pids[index],
        camids=cameras,
    )
    return StyledImages(table=files, rows=rows, missing=missing)
