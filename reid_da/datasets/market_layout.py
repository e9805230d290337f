"""Data sets in the folders of Market-1501: ``bounding_box_train``, ``query``, ``bounding_box_test``.

Market-1501 (Zheng et al., ICCV 2015), DukeMTMC-reID (Zheng et al., ICCV 2017), Occluded-DukeMTMC (Miao et al., ICCV
2019), MSMT17 reformatted in this way, and CUHK03-NP (Zhong et al., CVPR 2017) come so, and so do many people's own
sets. VeRi-776 (Liu et al., ECCV 2016) has the same names in folders of other names, and so do the sets of several
toolkits.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from reid_da.datasets.listing import describe_folder, list_images, match_names
from reid_da.datasets.persons import number_persons
from reid_da.datasets.table import JUNK_PID, Dataset, SampleTable
from reid_da.errors import InputError

TRAIN, QUERY, GALLERY = "bounding_box_train", "query", "bounding_box_test"
Folders = tuple[str, str, str]
"""Names of the folders of training, query and gallery images."""

MARKET_FOLDERS: Folders = (TRAIN, QUERY, GALLERY)
"""Folders of Market-1501."""
VERI_FOLDERS: Folders = ("image_train", "image_query", "image_test")
"""Folders of VeRi-776."""
FOLDERS: tuple[Folders, ...] = (
    MARKET_FOLDERS,
    VERI_FOLDERS,
    *product(("train", "training", "train_all"), ("query", "probe"), ("gallery", "test")),
)
"""Names of the folders of training, query and gallery images, in the order in which they are looked for."""

# The camera is a number of any length: read as one digit, cameras 10 to 15 would all become camera 1.
NAME = re.compile(r"(?P<pid>0*-?\d+)_c(?P<camera>\d+)")
"""Identity and camera at the start of a file name."""
MARKET_NAME = re.compile(r"-?\d+_c\d+s\d+_")
"""File names of Market-1501: identity, camera, sequence."""
DUKE_NAME = re.compile(r"\d+_c\d+_f\d+")
MSMT17_NAME = re.compile(r"\d+_c\d+.*(morning|noon|afternoon)")
MSMT17_SHORT_NAME = re.compile(r"\d{4}_c\d{1,2}_\d{4}\.\w+$")
VERI_NAME = re.compile(r"\d{4}_c\d{3}_\d+_\d+\.\w+$")
CUHK03_NAME = re.compile(r"\d+_c[12]_\d+\.png$")

_OCCLUDED_DUKE = re.compile(r"occ(?:luded)?[-_ ]?duke", re.IGNORECASE)
_MSMT17 = re.compile(r"msmt[-_ ]?17", re.IGNORECASE)

_CAMERA_DIGITS = 4
"""Of the largest camera number in a file name: all up to it get a name and a row in tables."""


@dataclass(frozen=True, kw_only=True)
class MarketNaming:
    """One data set in this layout: how its files are told from those of the others, and its pids of nobody.

    Attributes:
        name: name of the data set and of the format.
        recognises: whether a folder with a file of this name in its training folder is this data set.
        folders: names that its folders have, the first of :data:`FOLDERS` that are there if None.
        distractor_pid: pid of gallery images that show nobody of the query, or None.
    """

    name: str
    recognises: Callable[[Path, str], object]
    folders: Folders | None = MARKET_FOLDERS
    distractor_pid: int | None = None


def _is_called(word: re.Pattern[str], *folders: Path) -> bool:
    """Whether one of the folders has a word in its name."""
    return any(word.search(folder.absolute().name) for folder in folders)


MARKET1501 = MarketNaming(name="market1501", recognises=lambda _, name: MARKET_NAME.match(name), distractor_pid=0)
DUKEMTMCREID = MarketNaming(name="dukemtmcreid", recognises=lambda _, name: DUKE_NAME.match(name))
OCCLUDED_DUKE = MarketNaming(
    name="occluded-duke", recognises=lambda folder, name: DUKE_NAME.match(name) and _is_called(_OCCLUDED_DUKE, folder)
)
MSMT17_REFORMATTED = MarketNaming(
    name="msmt17-market",
    # the short names, which are passed around too, might be anybody's
    recognises=lambda folder, name: (
        MSMT17_NAME.match(name)
        or (MSMT17_SHORT_NAME.match(name) and _is_called(_MSMT17, folder, folder.absolute().parent))
    ),
)
CUHK03NP = MarketNaming(name="cuhk03np", recognises=lambda _, name: CUHK03_NAME.match(name))
VERI = MarketNaming(name="veri776", recognises=lambda _, name: VERI_NAME.match(name), folders=VERI_FOLDERS)
OTHER = MarketNaming(name="market-style", recognises=lambda _, name: NAME.match(name), folders=None)


def has_layout(folder: Path, folders: Folders | None = MARKET_FOLDERS) -> bool:
    """Whether a folder holds the three given folders, or any of :data:`FOLDERS` if None."""
    return _present(folder, folders) is not None


def uses_naming(folder: Path, naming: MarketNaming) -> bool:
    """Whether the folder has this layout and its training images are named as in the given data set."""
    folders = _present(folder, naming.folders)
    if folders is None:
        return False
    first = next(iter(_images(folder / folders[0])[0]), None)
    return first is not None and bool(naming.recognises(folder, first.rpartition("/")[2]))


def read_market_layout(root: Path, naming: MarketNaming, *, name: str | None = None) -> Dataset:
    """Data set under ``root``, which holds a folder each of training, query and gallery images.

    Junk images (pid -1) are left out of the training images and kept in the gallery, where every evaluation passes
    them over. Cameras are numbered 1, 2, ... in file names and 0, 1, ... here. The pid of distractors means nobody
    only if no query and no training image has it: in own data with these names it is somebody's number.

    Args:
        root: folder that holds the three folders.
        naming: which data set it is.
        name: name of the data set where it differs from the format's.

    Raises:
        InputError: a folder is missing or empty, or a file name has no pid and camera in it.
    """
    # a naming that was asked for by name is read in whatever folders there are
    folders = _present(root, naming.folders) or _present(root, None)
    if folders is None:
        wanted = naming.folders or MARKET_FOLDERS
        raise InputError(
            f"{root}: looked for the folders {', '.join(f'{folder}/' for folder in wanted)}, found "
            f"{describe_folder(root)}"
        )
    name = name or naming.name
    notes: list[str] = []
    train, query, gallery = (
        _read_split(root, folder, name=f"{name}/{split}", notes=notes)
        for folder, split in zip(folders, ("train", "query", "gallery"), strict=True)
    )
    num_junk = int((train.pids == JUNK_PID).sum())
    if num_junk:
        train = train.without_junk()
        notes.append(f"{num_junk} junk images (pid -1) left out of the training images")
    distractor = naming.distractor_pid
    if any((table.pids == distractor).any() for table in (train, query)):
        notes.append(f"pid {distractor} is a person here: training or query images have it")
        distractor = None
    return Dataset(
        name=name,
        format=naming.name,
        root=root,
        train=train,
        query=query,
        gallery=gallery,
        camera_names=numbered_cameras(train, query, gallery),
        distractor_pid=distractor,
        notes=tuple(notes),
        layout=f"{', '.join(f'{folder}/' for folder in folders)}, names like {train.paths[0].rpartition('/')[2]}"
        if len(train)
        else "",
    )


def numbered_cameras(*tables: SampleTable) -> tuple[str, ...]:
    """Names ``c1``, ``c2``, ... of all cameras up to the highest number in the tables."""
    highest = max((int(table.camids.max()) for table in tables if len(table)), default=-1)
    return tuple(f"c{number}" for number in range(1, highest + 2))


def _present(root: Path, folders: Folders | None) -> Folders | None:
    """The given folders, or the first of :data:`FOLDERS`, if they are all there."""
    candidates = FOLDERS if folders is None else (folders,)
    return next((names for names in candidates if all((root / name).is_dir() for name in names)), None)


def _images(folder: Path) -> tuple[list[str], int]:
    """The images of a split, and how many others lie deeper: a toolkit may have a folder for each person."""
    paths = list_images(folder, recursive=True)
    direct = [path for path in paths if "/" not in path]
    return (direct, len(paths) - len(direct)) if direct else (paths, 0)


def _read_split(root: Path, folder: str, *, name: str, notes: list[str]) -> SampleTable:
    paths, deeper = _images(root / folder)
    if not paths:
        raise InputError(f"{root / folder}: no images, found {describe_folder(root / folder)}")
    if deeper:
        notes.append(f"{deeper} images in folders below {folder}/ left out")
    matches = match_names(
        NAME,
        [path.rpartition("/")[2] for path in paths],
        folder=root / folder,
        advice="names tell person and camera, as 0007_c3_....jpg does; rename or remove the others",
    )
    pids = number_persons([match["pid"] for match in matches])
    rows = []
    for path, pid, match in zip(paths, pids.tolist(), matches, strict=True):
        camera = int(match["camera"]) if len(match["camera"].lstrip("0")) <= _CAMERA_DIGITS else 0
        if camera < 1:
            raise InputError(
                f"{root / folder / path}: cameras are numbered from 1 to {10**_CAMERA_DIGITS - 1:,} in file names, got "
                f"c{match['camera'].lstrip('0') or 0}"
            )
        rows.append((f"{folder}/{path}", pid, camera - 1))
    return SampleTable.from_rows(name, root, rows)
