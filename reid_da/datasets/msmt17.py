"""MSMT17 (Wei et al., CVPR 2018) as its authors distribute it: folders of identities and list files."""

import re
from pathlib import Path
from typing import Literal

from reid_da.datasets.listing import describe_folder, list_images, match_names
from reid_da.datasets.market_layout import numbered_cameras
from reid_da.datasets.table import Dataset, SampleTable
from reid_da.errors import InputError, first_few
from reid_da.reading import UnsuitableFileError, read_list

TrainLists = Literal["train+val", "train"]
"""Lists that count as training images: both, as papers count, or ``train`` alone."""

LISTS = ("list_train.txt", "list_val.txt", "list_query.txt", "list_gallery.txt")
"""Files that list the images of the splits."""
FOLDERS = (("train", "test"), ("mask_train_v2", "mask_test_v2"))  # V1; V2, where faces are masked
"""Folders of training and test images, of V1 and of V2."""

# 0000_000_01_0303morning_0008_0.jpg: the third field is the camera
NAME = re.compile(r"[^_]+_[^_]+_(?P<camera>\d{1,4})_")


def has_layout(folder: Path) -> bool:
    """Whether the folder holds one of the two pairs of image folders of MSMT17, and list files; one may be missing."""
    return _image_folders(folder) is not None and sum((folder / name).is_file() for name in LISTS) > 1


def read_msmt17(root: Path, *, train_lists: TrainLists = "train+val") -> Dataset:
    """MSMT17 (V1 or V2) under ``root``.

    Training and test identities are both numbered from 0, independently: pid 3 of ``train`` and pid 3 of ``query``
    are two people. No pid marks distractors.

    Args:
        root: folder that holds the list files.
        train_lists: ``train+val`` takes both training lists, 32,621 images, which is what the papers count; ``train``
            takes ``list_train.txt`` only, 30,248 images.

    Raises:
        InputError: a list or folder is missing, a list is empty, malformed or names a missing image.
    """
    folders = _image_folders(root)
    if folders is None or not has_layout(root):
        raise InputError(
            f"{root}: looked for {', '.join(LISTS)} beside train/ and test/ (or mask_train_v2/ and mask_test_v2/), "
            f"found {describe_folder(root)}"
        )
    wanted = LISTS if train_lists == "train+val" else tuple(name for name in LISTS if name != "list_val.txt")
    missing = [name for name in wanted if not (root / name).is_file()]
    if missing:
        advice = f"; without list_val.txt read it as {root}#train_lists=train" if missing == ["list_val.txt"] else ""
        raise InputError(f"{root}: no {', '.join(missing)} beside {folders[0]}/; copy it from the archive{advice}")
    train_folder, test_folder = folders
    present = {folder: frozenset(list_images(root / folder, recursive=True)) for folder in folders}
    rows = {
        name: _read_list(root, name, folder, present[folder])
        for name, folder in zip(LISTS, (train_folder, train_folder, test_folder, test_folder), strict=True)
        if (root / name).is_file()
    }
    train_rows = rows["list_train.txt"] + (rows["list_val.txt"] if train_lists == "train+val" else [])
    tables = [
        SampleTable.from_rows(f"msmt17/{split}", root, split_rows)
        for split, split_rows in (
            ("train", train_rows),
            ("query", rows["list_query.txt"]),
            ("gallery", rows["list_gallery.txt"]),
        )
    ]
    left_out = f"{len(rows.get('list_val.txt', []))} images of list_val.txt left out"
    notes = () if train_lists == "train+val" else (left_out,)
    return Dataset(
        name="msmt17",
        format="msmt17",
        root=root,
        train=tables[0],
        query=tables[1],
        gallery=tables[2],
        camera_names=numbered_cameras(*tables),
        notes=notes,
        layout=f"{train_folder}/ and {test_folder}/ with lists, {train_lists} for training",
    )


def _image_folders(root: Path) -> tuple[str, str] | None:
    return next((pair for pair in FOLDERS if all((root / name).is_dir() for name in pair)), None)


def _read_list(root: Path, name: str, folder: str, present: frozenset[str]) -> list[tuple[str, int, int]]:
    """Rows (path below root, pid, camid) of a list file with lines ``0000/0000_000_01_..._0.jpg 0``."""
    file = root / name
    paths, pids = [], []
    try:
        text = read_list(file, errors="replace")
    except UnsuitableFileError as error:
        raise InputError(f"{file}: {error}") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        path, _, pid = line.strip().rpartition(" ")
        if not path or not pid.isdecimal() or len(pid) > 18:
            raise InputError(f"{file}: line {number} should be 'path pid', got {line.strip()!r}")
        paths.append(path)
        pids.append(int(pid))
    if not paths:
        raise InputError(f"{file}: the list is empty; the download may be incomplete")
    missing = [path for path in paths if path not in present]
    if missing:
        raise InputError(
            f"{file}: {len(missing)} of {len(paths)} listed images are not in {folder}/: {first_few(missing)}; "
            "the archive may have been unpacked in part"
        )
    repeated = len(paths) - len(set(paths))
    if repeated:
        raise InputError(f"{file}: {repeated} images are listed more than once")
    matches = match_names(NAME, [path.rpartition("/")[2] for path in paths], folder=root / folder)
    return [
        (f"{folder}/{path}", pid, int(match["camera"]) - 1)
        for path, pid, match in zip(paths, pids, matches, strict=True)
    ]
