"""Own data: folders of person crops whose paths tell the camera, the person, or both."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from reid_da.datasets.listing import describe_folder, describe_paths, list_images, match_names, natural_key
from reid_da.datasets.patterns import suggested_pattern
from reid_da.datasets.persons import number_persons, person_names
from reid_da.datasets.table import UNKNOWN_CAMERA, Dataset, SampleTable
from reid_da.errors import InputError, first_few, unknown_name

Layout = Literal["camera-folders", "person-folders", "flat"]

_CAMERA_WORD = r"c(?:am(?:era)?)?[-_ ]?"

LAYOUTS: dict[str, str] = {
    "0007_c3_....jpg": r"(?:.*/)?(?P<pid>0*-?\d+)_c(?P<camera>\d+)[^/]*$",
    "cam01/person07/image.jpg": rf"(?i:(?P<camera>{_CAMERA_WORD}\d+))/(?P<pid>[^/]+)/[^/]+$",
    "cam01/image.jpg": rf"(?i:(?P<camera>{_CAMERA_WORD}\d+))/[^/]+$",
    "person07/..._cam3_....jpg": rf"(?P<pid>[^/]+)/(?:[^/]*?[-_ ])?(?i:{_CAMERA_WORD})(?P<camera>\d+)(?!\d)[^/]*$",
    "person07/cam01/image.jpg": rf"(?P<pid>[^/]+)/(?i:(?P<camera>{_CAMERA_WORD}\d+))/[^/]+$",
    "cam01/image.jpg and cam01/person07/image.jpg": (rf"(?i:(?P<camera>{_CAMERA_WORD}\d+))/(?:(?P<pid>[^/]+)/)?[^/]+$"),
    "anna_cam3_....jpg": r"(?P<pid>[^\W\d][^/]*?)_(?i:cam(?:era)?)[-_ ]?(?P<camera>\d+)(?!\d)[^/]*$",
}
"""Layouts that are tried in this order where nothing else is said; the first that fits every image is taken.

The camera is told by a word in all of them: a folder of folders with other names may be one of cameras or of persons,
which :data:`CHOICES` has the user say.
"""

_NAMED = "anna_cam3_....jpg"

CHOICES: dict[Layout, tuple[str, str]] = {
    "camera-folders": (r"(?P<camera>[^/]+)/[^/]+$", "a folder for each camera, persons unknown"),
    "person-folders": (r"(?P<pid>[^/]+)/[^/]+$", "a folder for each person, cameras unknown"),
    "flat": (r"", "persons and cameras unknown"),
}
"""What ``layout`` may say of a folder: the pattern of its paths, and what it means."""

GROUPS = frozenset({"pid", "camera", "split"})
"""Groups that a pattern of paths may have."""
SPLITS = ("train", "query", "gallery")
"""Splits of a data set."""
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "train_all", "bounding_box_train", "image_train", "bbox_train"), "train"),
    **dict.fromkeys(("query", "probe", "image_query"), "query"),
    **dict.fromkeys(("gallery", "test", "bounding_box_test", "image_test", "bbox_test"), "gallery"),
}
VALIDATION_WORDS = ("val", "valid", "validation")
"""Names of folders of a split, as toolkits and data sets call them."""


@dataclass(frozen=True, kw_only=True)
class Crop:
    """One image as its path, or a manifest, describes it.

    Attributes:
        path: path relative to the folder, with forward slashes.
        person: the person as text, or None if not known.
        camera: the camera as text, or None if not known.
        split: ``train``, ``query`` or ``gallery``.
    """

    path: str
    person: str | None
    camera: str | None
    split: str = "train"


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Compiled pattern of image paths.

    Args:
        pattern: regular expression with one or both of the groups ``(?P<camera>...)`` and ``(?P<pid>...)`` and, if
            known, ``(?P<split>...)``.

    Raises:
        InputError: it is no regular expression, tells neither camera nor person or has groups of other names.
    """
    try:
        compiled = re.compile(pattern)
    except (re.error, OverflowError, RecursionError, MemoryError) as error:
        raise InputError(f"pattern {pattern!r} is not a regular expression: {error}") from error
    groups = set(compiled.groupindex)
    if not groups & {"camera", "pid"} or groups - GROUPS:
        raise InputError(
            f"pattern {pattern!r} has the groups {sorted(groups) or 'none'}; it needs (?P<camera>...), (?P<pid>...) or "
            r"both and may have (?P<split>...), for example '(?P<pid>\d+)_c(?P<camera>\d+)_'"
        )
    return compiled


def list_crops(root: Path, pattern: str | None = None, layout: str | None = None) -> tuple[list[Crop], str]:
    """All images below ``root`` with what their paths tell, and how they were read, in words.

    Args:
        root: folder with images at any depth; those in sub-folders named ``*_camstyle`` are left out, as copies of the
            others in the styles of other cameras.
        pattern: see :func:`compile_pattern`. With a slash in it, it is matched with the path below
            ``root``, else with the file name alone. Without a pattern, the layouts of :data:`LAYOUTS` are tried.
        layout: one of :data:`CHOICES`, where the names do not tell.

    Raises:
        InputError: no images, their names do not match, or mean one thing as well as another.
    """
    if layout is not None and layout not in CHOICES:
        raise unknown_name("layout", layout, CHOICES)
    if layout is not None and pattern is not None:
        raise InputError("give a layout or a pattern, not both: a pattern says all that a layout says")
    compiled = None if pattern is None else compile_pattern(pattern)
    paths = list_images(root, recursive=True)
    if not paths:
        raise InputError(f"{root}: no images in it or below it, found {describe_folder(root)}")
    if compiled is None or "split" not in compiled.groupindex:
        _refuse_splits(root, paths)
    if pattern is not None and compiled is not None:
        return _crops_of_pattern(root, paths, compiled, pattern), f"pattern {pattern}"
    if layout is None:
        _ask_about_validation(root, paths)
    name = layout or _fitting_layout(paths) or ""
    if not name:
        raise InputError(_question(root, paths))
    expression, words = CHOICES[layout] if layout in CHOICES else (LAYOUTS[name], f"names like {name}")
    advice = "say what the names mean with a pattern" if layout else ""
    matches = match_names(re.compile(expression), paths, folder=root, advice=advice)
    return _crops(root, paths, matches), words


def read_folder(root: Path, *, pattern: str | None = None, layout: str | None = None) -> Dataset:
    """Data set of all images below a folder; all of them are training images unless the pattern tells the split.

    Raises:
        InputError: see :func:`list_crops`.
    """
    crops, words = list_crops(root, pattern, layout)
    return dataset_of_crops(crops, root=root, name=root.resolve().name, format="folder", layout=words)


def dataset_of_crops(
    crops: Sequence[Crop], *, root: Path, name: str, format: str, layout: str = "", notes: tuple[str, ...] = ()
) -> Dataset:
    """Data set of the given crops, with persons and cameras numbered.

    Args:
        crops: one record for each image; the camera is known of all of them or of none.
        root: folder that the paths are relative to.
        name: name of the data set.
        format: where the records come from.
        layout: how the paths were read, in words.
        notes: what the reader took for granted.

    Raises:
        InputError: the camera of some images is known and of others is not.
    """
    persons = [crop.person for crop in crops]
    pids, names = number_persons(persons), person_names(persons)
    spelled = camera_names([crop.camera for crop in crops])
    cameras = sorted(set(spelled.values()), key=lambda text: (natural_key(text), text))
    if len(cameras) > 1 and any(crop.camera is None for crop in crops):
        unknown = [crop.path for crop in crops if crop.camera is None]
        raise InputError(
            f"{root}: the camera of {len(unknown)} of {len(crops)} images is not known: {first_few(unknown)}"
        )
    camids = {camera: number for number, camera in enumerate(cameras)}
    rows: dict[str, list[tuple[str, int, int]]] = {split: [] for split in SPLITS}
    for crop, pid in zip(crops, pids, strict=True):
        rows[crop.split].append((crop.path, int(pid), camids[spelled[crop.camera]]))
    train, query, gallery = (SampleTable.from_rows(f"{name}/{split}", root, rows[split]) for split in SPLITS)
    if names:
        notes += (f"persons are named, not numbered: pid 1 to {len(names)} in the order of their names",)
    return Dataset(
        name=name,
        format=format,
        root=root,
        train=train,
        query=query,
        gallery=gallery,
        camera_names=tuple(cameras),
        notes=notes,
        layout=layout,
        person_names=names,
    )


def camera_names(cameras: Iterable[str | None]) -> dict[str | None, str]:
    """The name of each camera: as it is spelled, or its plain number where the same one is spelled in two ways."""
    spellings: dict[str, set[str]] = defaultdict(set)
    texts = set(cameras)
    for text in texts:
        spellings[camera_name(text)].add(re.sub(r"(?<=^\d)(\d*)\.0+$", r"\1", text or UNKNOWN_CAMERA))
    return {
        text: next(iter(spellings[key])) if len(spellings[key]) == 1 else key
        for text, key in ((text, camera_name(text)) for text in texts)
    }


def camera_name(text: str | None) -> str:
    """The camera's name; of a plain number only the value counts, so that ``01``, ``1`` and ``1.0`` are one camera."""
    if text is None:
        return UNKNOWN_CAMERA
    number = re.fullmatch(r"0*(\d{1,18})(?:\.0+)?", text)
    return str(int(number[1])) if number else text


def camera_key(name: str) -> str:
    """One name for ``c1``, as readers of Market-1501 call it, and ``1`` or ``01``, as an index does."""
    return camera_name(re.sub(r"^c(?=\d+$)", "", name))


def split_folders(paths: Iterable[str]) -> dict[str, set[str]]:
    """Folders of splits among the ancestors of images: names by the folder that holds them, two splits at least."""
    found: dict[str, set[str]] = defaultdict(set)
    for folder in {path.rpartition("/")[0] for path in paths}:
        parts = folder.split("/")
        for depth, part in enumerate(parts):
            if part.lower() in SPLIT_WORDS:
                found["/".join(parts[:depth])].add(part)
    return {parent: names for parent, names in found.items() if len({SPLIT_WORDS[name.lower()] for name in names}) > 1}


def _refuse_splits(root: Path, paths: Sequence[str]) -> None:
    """Refuse to take the images of a test split for training images."""
    found = split_folders(paths)
    if not found:
        return
    parent, names = min(found.items())
    listed = ", ".join(f"{name}/" for name in sorted(names))
    if parent:
        raise InputError(
            f"{root}: holds a data set deeper down ({parent}/), with training and test images apart ({listed}); give "
            f"its folder, {root / parent}"
        )
    example = min(path for path in paths if path.partition("/")[0] in names)
    inside = r"(?P<pid>[^/]+)/" if example.count("/") > 1 else r"(?P<pid>-?\d+)_c(?P<camera>\d+)"
    raise InputError(
        f"{root}: training and test images lie apart ({listed}), and all of them would be taken for training images; "
        "leave layout and pattern out if it is a known data set, or let the pattern tell the split too, such as "
        f"--pattern '(?P<split>[^/]+)/{inside}' for {example}"
    )


def _ask_about_validation(root: Path, paths: Sequence[str]) -> None:
    """Ask whether validation images are training images, or no images of this data set at all."""
    tops = {path.partition("/")[0] for path in paths if "/" in path}
    training = sorted(top for top in tops if SPLIT_WORDS.get(top.lower()) == "train")
    validation = sorted(top for top in tops if top.lower() in VALIDATION_WORDS)
    if training and validation:
        raise InputError(
            f"{root}: training and validation images lie apart ({training[0]}/, {validation[0]}/); give one of the "
            f"folders, such as {root / training[0]}, or take all of them for training images with a pattern, such as "
            r"--pattern '(?P<pid>\d+)_c(?P<camera>\d+)'"
        )


def _fitting_layout(paths: Sequence[str]) -> str | None:
    for name, layout in LAYOUTS.items():
        compiled = re.compile(layout)
        matches = [compiled.match(path) for path in paths]
        # one name for all is that of a place or of a recording
        if all(matches) and (name != _NAMED or len({match["pid"] for match in matches if match}) > 1):
            return name
    return None


def _question(root: Path, paths: Sequence[str]) -> str:
    """What to ask where names do not tell: what was seen, what it may mean, how to say so."""
    folders = sorted({path.rpartition("/")[0] for path in paths}, key=natural_key)
    seen = f"{root}: {describe_paths(paths)}: the names do not tell "
    example = next(path for path in paths if path.rpartition("/")[0] == folders[0])
    pattern = suggested_pattern(example) or r"--pattern '(?P<pid>\d+)_c(?P<camera>\d+)' or the like"
    if folders == [""]:
        choices, tell, first = ["flat"], "person and camera", "flat"
    elif all(path.count("/") == 1 for path in paths):
        choices, tell, first = ["person-folders", "camera-folders"], "persons from cameras", "person-folders"
    else:
        choices, tell, first = ["flat"], "what the folders are", "flat"
    options = ", ".join(f"--layout {choice} ({CHOICES[choice][1]})" for choice in choices)  # type: ignore[index]
    return (
        f"{seen}{tell}; choose {options}, or say it with a pattern such as {pattern}. In an experiment file write "
        f"{root}#layout={first}, or keep the answer in a manifest: reid-da data import {root} --layout {first}"
    )


def _crops_of_pattern(root: Path, paths: Sequence[str], compiled: re.Pattern[str], pattern: str) -> list[Crop]:
    names = paths if "/" in pattern else [path.rpartition("/")[2] for path in paths]
    advice = "" if "/" in pattern else "without a slash in it the pattern is matched with the file name alone"
    missed = next((path for path, name in zip(paths, names, strict=True) if compiled.match(name) is None), "")
    suggested = suggested_pattern(missed)
    if suggested is not None:
        advice = "; ".join(filter(None, (advice, f"what fits this name is {suggested}")))
    return _crops(root, paths, match_names(compiled, names, folder=root, advice=advice))


def _crops(root: Path, paths: Sequence[str], matches: Sequence[re.Match[str]]) -> list[Crop]:
    """What the groups of each match tell.

    Raises:
        InputError: a group of the camera or the split is empty in a match, or the split is unknown.
    """
    for group in ("camera", "split"):
        if group in matches[0].re.groupindex:
            absent = [path for path, match in zip(paths, matches, strict=True) if not match[group]]
            if absent:
                raise InputError(
                    f"{root}: the group (?P<{group}>...) of the pattern is empty in {len(absent)} of {len(paths)} "
                    f"images: {first_few(absent)}; every image needs it, or none"
                )
    crops = []
    for path, match in zip(paths, matches, strict=True):
        groups = match.groupdict()
        word = groups.get("split", "train")
        split = SPLIT_WORDS.get(word.lower())
        if split is None:
            raise InputError(f"{root / path}: the split is {word!r}, expected one of {', '.join(SPLITS)}")
        crops.append(Crop(path=path, person=groups.get("pid"), camera=groups.get("camera"), split=split))
    return crops
