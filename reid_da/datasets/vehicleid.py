"""VehicleID (PKU VehicleID; Liu et al., CVPR 2016): vehicles, with lists of training and test images."""

from pathlib import Path
from typing import Literal

from reid_da.datasets.listing import describe_folder, list_images
from reid_da.datasets.table import Dataset
from reid_da.datasets.trials import TrialSet, split_single_gallery, unknown_cameras
from reid_da.errors import InputError, first_few
from reid_da.reading import UnsuitableFileError, read_error, read_list

TestList = Literal["800", "1600", "2400", "3200", "6000", "13164"]
"""Vehicles in a test list of VehicleID."""

IMAGES, LISTS = "image", "train_test_split"
TRAIN_LIST = "train_list.txt"
"""File that lists the training images."""


def has_layout(folder: Path) -> bool:
    """Whether a folder holds the images and the training list of VehicleID."""
    return (folder / IMAGES).is_dir() and (folder / LISTS / TRAIN_LIST).is_file()


def read_vehicleid(root: Path, *, test_list: TestList = "800", trial: str = "0") -> Dataset:
    """VehicleID: ``image/0000001.jpg``, lists with lines ``0000001 42`` of image and vehicle; cameras not told.

    Of each test vehicle one image is the gallery, and the rest are queries. The paper draws it at random ten times;
    trial ``t`` here is the same for everybody, see :mod:`reid_da.datasets.trials`.

    Args:
        root: folder that holds ``image`` and ``train_test_split``.
        test_list: number of vehicles in the test list: 800, 1600 and 2400 are the small, medium and large one.
        trial: which images are the gallery.

    Raises:
        InputError: a folder or list is missing, or a list is empty, malformed or names a missing image.
    """
    if not has_layout(root):
        raise InputError(f"{root}: looked for {IMAGES}/ and {LISTS}/{TRAIN_LIST}, found {describe_folder(root)}")
    present = frozenset(list_images(root / IMAGES))
    train = _read_list(root, TRAIN_LIST, present)
    test = _read_list(root, f"test_list_{test_list}.txt", present)
    rows = split_single_gallery("vehicleid", trial, [*train, *test], {row[1] for row in train})
    shared = {row[1] for row in train} & {row[1] for row in test}
    if shared:
        raise InputError(
            f"{root / LISTS}: vehicles in {TRAIN_LIST} and in test_list_{test_list}.txt: {first_few(sorted(shared))}"
        )
    return TrialSet(
        name="vehicleid",
        rows=rows,
        camera_names=unknown_cameras(),
        layout=f"{TRAIN_LIST} and test_list_{test_list}.txt",
        notes=(
            f"trial {trial} of 10: one image of each test vehicle, drawn by this program, is the gallery; papers "
            "average over ten draws",
            "cameras are not told: gallery images of the query's own camera count too",
        ),
    ).dataset(root)


def _read_list(root: Path, name: str, present: frozenset[str]) -> list[tuple[str, int, int]]:
    file = root / LISTS / name
    if not file.is_file():
        raise InputError(f"{file}: no such file; found {describe_folder(root / LISTS)}; choose another with test_list")
    try:
        text = read_list(file, errors="replace")
    except (OSError, UnsuitableFileError) as error:
        raise InputError(read_error(file, error)) from error
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 2 or not fields[1].isdecimal() or len(fields[1]) > 18:
            raise InputError(f"{file}: line {number} should be 'image vehicle', got {line.strip()[:60]!r}")
        rows.append((f"{fields[0]}.jpg", int(fields[1]), 0))
    if not rows:
        raise InputError(f"{file}: the list is empty; the download may be incomplete")
    missing = [row[0] for row in rows if row[0] not in present]
    if missing:
        raise InputError(
            f"{file}: {len(missing)} of {len(rows)} listed images are not in {IMAGES}/: {first_few(missing)}"
        )
    if len({row[0] for row in rows}) < len(rows):
        raise InputError(f"{file}: {len(rows) - len({row[0] for row in rows})} images are listed more than once")
    return [(f"{IMAGES}/{path}", pid, camid) for path, pid, camid in rows]
