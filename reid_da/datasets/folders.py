"""Own data: folders of person crops whose paths tell the camera and, if known, the person."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reid_da.datasets.listing import describe_folder, list_images, match_names, natural_key
from reid_da.datasets.table import JUNK_PID, UNLABELLED_PID, Dataset, SampleTable
from reid_da.errors import InputError

_CAMERA_WORD = r"c(?:am(?:era)?)?[-_ ]?"

LAYOUTS: dict[str, str] = {
    "0007_c3_....jpg": r"(?:.*/)?(?P<pid>-?\d+)_c(?P<camera>\d+)[^/]*$",
    "cam01/person07/image.jpg": rf"(?i:(?P<camera>{_CAMERA_WORD}\d+))/(?P<pid>[^/]+)/[^/]+$",
    "cam01/image.jpg": rf"(?i:(?P<camera>{_CAMERA_WORD}\d+))/[^/]+$",
    "person07/..._cam3_....jpg": rf"(?P<pid>[^/]+)/(?:[^/]*?[-_ ])?(?i:{_CAMERA_WORD})(?P<camera>\d+)(?!\d)[^/]*$",
    "person07/cam01/image.jpg": rf"(?P<pid>[^/]+)/(?i:(?P<camera>{_CAMERA_WORD}\d+))/[^/]+$",
    "entrance/image.jpg (a folder for each camera)": r"(?P<camera>[^/]+)/[^/]+$",
}
"""Layouts that are tried in this order where no pattern is given; the first that fits every image is taken."""

GROUPS = frozenset({"pid", "camera", "split"})
SPLITS = ("train", "query", "gallery")


@dataclass(frozen=True, kw_only=True)
class Crop:
    """One image as its path, or a manifest, describes it.

    Attributes:
        path: path relative to the folder, with forward slashes.
        person: the person as text, or None if not known.
        camera: the camera as text.
        split: ``train``, ``query`` or ``gallery``.
    """

    path: str
    person: str | None
    camera: str
    split: str = "train"


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Compiled pattern of image paths.

    Args:
        pattern: regular expression with the group ``(?P<camera>...)`` and, if known, ``(?P<pid>...)`` and
            ``(?P<split>...)``.

    Raises:
        InputError: it is no regular expression, has no group for the camera or has groups of other names.
    """
    try:
        compiled = re.compile(pattern)
    except (re.error, OverflowError, RecursionError, MemoryError) as error:
        raise InputError(f"pattern {pattern!r} is not a regular expression: {error}") from error
    groups = set(compiled.groupindex)
    if "camera" not in groups or groups - GROUPS:
        raise InputError(
            f"pattern {pattern!r} has the groups {sorted(groups) or 'none'}; it needs (?P<camera>...) and may have "
            r"(?P<pid>...) and (?P<split>...), for example '(?P<pid>\d+)_c(?P<camera>\d+)_'"
        )
    return compiled


def list_crops(root: Path, pattern: str | None = None) -> tuple[list[Crop], str]:
    """All images below ``root`` with what their paths tell, and the pattern that told it.

    Args:
        root: folder with images at any depth; those in sub-folders named ``*_camstyle`` are left out, as copies of the
            others in the styles of other cameras.
        pattern: see :func:`compile_pattern`. With a slash in it, it is matched with the path below
            ``root``, else with the file name alone. Without a pattern, the layouts of :data:`LAYOUTS` are tried.

    Raises:
        InputError: no images, or their names do not match.
    """
    paths = list_images(root, recursive=True)
    if not paths:
        raise InputError(f"{root}: no images in it or below it, found {describe_folder(root)}")
    if pattern is None:
        pattern = _fitting_layout(root, paths)
    compiled = compile_pattern(pattern)
    names = paths if "/" in pattern else [path.rpartition("/")[2] for path in paths]
    crops = []
    for path, match in zip(paths, match_names(compiled, names, folder=root), strict=True):
        groups = match.groupdict()
        crops.append(
            Crop(path=path, person=groups.get("pid"), camera=groups["camera"], split=groups.get("split", "train"))
        )
    return crops, pattern


def _fitting_layout(root: Path, paths: Sequence[str]) -> str:
    mixed = next((path for path in paths if "bounding_box_train/" in path), None)
    if mixed:
        raise InputError(
            f"{root}: holds a data set deeper down ({mixed.partition('bounding_box_train/')[0]}), with training and "
            "test images apart; give its folder"
        )
    for layout in LAYOUTS.values():
        compiled = re.compile(layout)
        if all(compiled.match(path) for path in paths):
            return layout
    raise InputError(
        f"{root}: the {len(paths)} images, such as {paths[0]!r}, fit none of the layouts {', '.join(LAYOUTS)}; "
        "put those of each camera into a folder below it (one folder if nobody knows), or tell what the names mean: "
        rf"reid-da data import {root} --pattern '(?P<pid>\d+)_c(?P<camera>\d+)_'"
    )


def read_folder(root: Path, *, pattern: str | None = None) -> Dataset:
    """Data set of all images below a folder; all of them are training images unless the pattern tells the split.

    Raises:
        InputError: see :func:`list_crops`.
    """
    crops, used = list_crops(root, pattern)
    layout = next((name for name, known in LAYOUTS.items() if known == used), used)
    return dataset_of_crops(crops, root=root, name=root.resolve().name, format="folder", notes=(f"read as {layout}",))


def dataset_of_crops(
    crops: Sequence[Crop], *, root: Path, name: str, format: str, notes: tuple[str, ...] = ()
) -> Dataset:
    """Data set of the given crops, with persons and cameras numbered.

    Args:
        crops: one record for each image.
        root: folder that the paths are relative to.
        name: name of the data set.
        format: where the records come from.
        notes: what the reader took for granted.
    """
    pids, pid_note = number_persons([crop.person for crop in crops])
    cameras = sorted({camera_name(crop.camera) for crop in crops}, key=natural_key)
    camids = {camera: number for number, camera in enumerate(cameras)}
    rows: dict[str, list[tuple[str, int, int]]] = {split: [] for split in SPLITS}
    for crop, pid in zip(crops, pids, strict=True):
        if crop.split not in rows:
            raise InputError(f"{root / crop.path}: the split is {crop.split!r}, expected one of {', '.join(SPLITS)}")
        rows[crop.split].append((crop.path, int(pid), camids[camera_name(crop.camera)]))
    train, query, gallery = (SampleTable.from_rows(f"{name}/{split}", root, rows[split]) for split in SPLITS)
    return Dataset(
        name=name,
        format=format,
        root=root,
        train=train,
        query=query,
        gallery=gallery,
        camera_names=tuple(cameras),
        notes=notes + ((pid_note,) if pid_note else ()),
    )


def camera_name(text: str) -> str:
    """The camera's name; of a plain number only the value counts, so that ``01`` and ``1`` are one camera."""
    return str(int(text)) if text.isdecimal() else text


def number_persons(persons: Sequence[str | None]) -> tuple[NDArray[np.int64], str | None]:
    """Identity numbers for persons given as text, and a note where these are not the numbers in the text.

    Numbers stay as they are, also behind a common word (``person0007`` is 7); other names are numbered from 1 in
    sorted order. None or an empty text is :data:`UNLABELLED_PID`.

    Returns:
        (N,) int64, and a sentence or None.
    """
    known = sorted({person for person in persons if person})
    parts = [_word_and_number(person) for person in known]
    numbers = [number for _, number in parts]
    plain = None not in numbers and len({word for word, _ in parts}) <= 1 and len(set(numbers)) == len(numbers)
    pid_of = {
        person: number if plain else place
        for place, (person, number) in enumerate(zip(known, numbers, strict=True), start=1)
    }
    note = None if plain else f"persons are named, not numbered: pid 1 to {len(known)} in the order of their names"
    return np.array([pid_of[p] if p else UNLABELLED_PID for p in persons], dtype=np.int64), note


def _word_and_number(person: str) -> tuple[str, int | None]:
    """``person0007`` as ("person", 7), ``-1`` as ("", -1), a name without a final number as itself and None."""
    match = re.fullmatch(r"(?P<word>\D*)(?P<number>\d{1,18})", person)
    if person == str(JUNK_PID):
        return "", JUNK_PID
    return (match["word"], int(match["number"])) if match else (person, None)
