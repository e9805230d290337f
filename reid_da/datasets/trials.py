"""Small data sets whose protocol is a random split, drawn here so that everybody draws the same.

Papers average over ten random halves of the identities and do not publish them (GRID does). Trial ``t`` here sorts the
identities by the SHA-256 of ``NAME/t/PID``: no library's random numbers are in it, so that it is the same for ever.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from reid_da.datasets.listing import describe_folder, list_images, match_names
from reid_da.datasets.table import UNKNOWN_CAMERA, Dataset, SampleTable
from reid_da.errors import InputError

TRIALS = tuple(str(number) for number in range(10))
"""Names of the random splits."""

Row = tuple[str, int, int]
"""Relative path, pid and camid of an image."""
Splits = dict[str, list[Row]]
"""Rows of each split by its name."""


@dataclass(frozen=True, kw_only=True)
class TrialSet:
    """A data set of one of these protocols, before it is a table.

    Attributes:
        name: name of the data set and of its format.
        rows: (path, pid, camid) of every split.
        camera_names: name of every camera.
        layout: how the paths were read, in words.
        distractor_pid: pid of nobody in the gallery, or None.
        notes: what the reader took for granted.
    """

    name: str
    rows: Splits
    camera_names: tuple[str, ...]
    layout: str
    distractor_pid: int | None = None
    notes: tuple[str, ...] = field(default=())

    def dataset(self, root: Path) -> Dataset:
        """The data set in the folder ``root``."""
        train, query, gallery = (
            SampleTable.from_rows(f"{self.name}/{split}", root, self.rows[split])
            for split in ("train", "query", "gallery")
        )
        return Dataset(
            name=self.name,
            format=self.name,
            root=root,
            train=train,
            query=query,
            gallery=gallery,
            camera_names=self.camera_names,
            distractor_pid=self.distractor_pid,
            notes=self.notes,
            layout=self.layout,
        )


def drawn(name: str, trial: str, values: Iterable[object]) -> list[str]:
    """The values as text in the order of a trial; the first half of the identities is for training."""
    texts = [str(value) for value in values]
    return sorted(texts, key=lambda text: hashlib.sha256(f"{name}/{trial}/{text}".encode()).digest())


def training_half(name: str, trial: str, pids: Iterable[int]) -> set[int]:
    """Half of the identities, rounded down, for training."""
    order = drawn(name, trial, sorted(set(pids)))
    return {int(pid) for pid in order[: len(order) // 2]}


def split_two_views(query_rows: Sequence[Row], gallery_rows: Sequence[Row], train_pids: set[int]) -> Splits:
    """Both views of the training identities; of the others one view is the query and the other the gallery."""
    return {
        "train": [row for row in (*query_rows, *gallery_rows) if row[1] in train_pids],
        "query": [row for row in query_rows if row[1] not in train_pids],
        "gallery": [row for row in gallery_rows if row[1] not in train_pids],
    }


def split_single_gallery(name: str, trial: str, rows: Sequence[Row], train_pids: set[int]) -> Splits:
    """One drawn image of each test identity is the gallery, and all its others are queries."""
    images: Mapping[int, list[Row]] = defaultdict(list)
    for row in rows:
        images[row[1]].append(row)
    splits: Splits = {"train": [row for row in rows if row[1] in train_pids], "query": [], "gallery": []}
    for pid in sorted(set(images) - train_pids):
        chosen = drawn(name, trial, [row[0] for row in images[pid]])[0]
        for row in images[pid]:
            splits["gallery" if row[0] == chosen else "query"].append(row)
    return splits


def rows_of(root: Path, folder: str, name: re.Pattern[str], *, camid: int | None, recursive: bool = False) -> list[Row]:
    """(path below root, pid, camid) of the images in a folder whose names are matched by ``name``.

    Args:
        root: the data set.
        folder: folder below it, or an empty text.
        name: with the group ``pid``, and ``camera``, counted from 1, if ``camid`` is None.
        camid: camera of all of them.
        recursive: look into sub-folders too; then ``name`` matches the path below ``folder``.

    Raises:
        InputError: no images, or names that do not match.
    """
    place = root / folder
    if not place.is_dir():
        raise InputError(f"{root}: looked for {folder}/, found {describe_folder(root)}")
    names = list_images(place, recursive=recursive)
    if not names:
        raise InputError(f"{place}: no images, found {describe_folder(place)}")
    prefix = f"{folder}/" if folder else ""
    return [
        (prefix + match.string, int(match["pid"]), int(match["camera"]) - 1 if camid is None else camid)
        for match in match_names(name, names, folder=place)
    ]


def unknown_cameras() -> tuple[str, ...]:
    """Names of the cameras of a set that does not tell them."""
    return (UNKNOWN_CAMERA,)
