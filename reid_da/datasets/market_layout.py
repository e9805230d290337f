"""Data sets in the folders of Market-1501: ``bounding_box_train``, ``query``, ``bounding_box_test``.

Market-1501 (Zheng et al., ICCV 2015), DukeMTMC-reID (Zheng et al., ICCV 2017), MSMT17 reformatted in this way, and
CUHK03-NP (Zhong et al., CVPR 2017) come so, and so do many people's own sets.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from reid_da.datasets.listing import describe_folder, list_images, match_names
from reid_da.datasets.table import JUNK_PID, Dataset, SampleTable
from reid_da.errors import InputError

TRAIN, QUERY, GALLERY = "bounding_box_train", "query", "bounding_box_test"

# The camera is a number of any length: read as one digit, cameras 10 to 15 would all become camera 1.
NAME = re.compile(r"(?P<pid>-?\d+)_c(?P<camera>\d+)")
MARKET_NAME = re.compile(r"-?\d+_c\d+s\d+_")
DUKE_NAME = re.compile(r"\d+_c\d+_f\d+")
MSMT17_NAME = re.compile(r"\d+_c\d+.*(morning|noon|afternoon)")
CUHK03_NAME = re.compile(r"\d+_c[12]_\d+\.png$")


@dataclass(frozen=True, kw_only=True)
class MarketNaming:
    """One data set in this layout: how its files are told from those of the others, and its pids of nobody.

    Attributes:
        name: name of the data set and of the format.
        recognises: whether a file name is one of this data set.
        distractor_pid: pid of gallery images that show nobody of the query, or None.
    """

    name: str
    recognises: Callable[[str], object]
    distractor_pid: int | None = None


MARKET1501 = MarketNaming(name="market1501", recognises=MARKET_NAME.match, distractor_pid=0)
DUKEMTMCREID = MarketNaming(name="dukemtmcreid", recognises=DUKE_NAME.match)
MSMT17_REFORMATTED = MarketNaming(name="msmt17-market", recognises=MSMT17_NAME.match)
CUHK03NP = MarketNaming(name="cuhk03np", recognises=CUHK03_NAME.match)
OTHER = MarketNaming(name="market-style", recognises=NAME.match)


def has_layout(folder: Path) -> bool:
    """Whether the folder holds the three folders of this layout."""
    return all((folder / name).is_dir() for name in (TRAIN, QUERY, GALLERY))


def uses_naming(folder: Path, naming: MarketNaming) -> bool:
    """Whether the folder has this layout and its training images are named as in the given data set."""
    if not has_layout(folder):
        return False
    first = next(iter(list_images(folder / TRAIN)), None)
    return first is not None and bool(naming.recognises(first))


def read_market_layout(root: Path, naming: MarketNaming, *, name: str | None = None) -> Dataset:
    """Data set under ``root``, which holds ``bounding_box_train``, ``query`` and ``bounding_box_test``.

    Junk images (pid -1) are left out of the training images and kept in the gallery, where every evaluation
    passes them over. Cameras are numbered 1, 2, ... in file names and 0, 1, ... here.

    Args:
        root: folder that holds the three folders.
        naming: which data set it is.
        name: name of the data set where it differs from the format's.

    Raises:
        InputError: a folder is missing or empty, or a file name has no pid and camera in it.
    """
    if not has_layout(root):
        raise InputError(
            f"{root}: looked for the folders {TRAIN}/, {QUERY}/ and {GALLERY}/, found {describe_folder(root)}"
        )
    name = name or naming.name
    train, query, gallery = (
        _read_split(root, folder, name=f"{name}/{split}")
        for folder, split in ((TRAIN, "train"), (QUERY, "query"), (GALLERY, "gallery"))
    )
    notes = []
    num_junk = int((train.pids == JUNK_PID).sum())
    if num_junk:
        train = train.without_junk()
        notes.append(f"{num_junk} junk images (pid -1) left out of the training images")
    return Dataset(
        name=name,
        format=naming.name,
        root=root,
        train=train,
        query=query,
        gallery=gallery,
        camera_names=numbered_cameras(train, query, gallery),
        distractor_pid=naming.distractor_pid,
        notes=tuple(notes),
    )


def numbered_cameras(*tables: SampleTable) -> tuple[str, ...]:
    """Names ``c1``, ``c2``, ... of all cameras up to the highest number in the tables."""
    highest = max((int(table.camids.max()) for table in tables if len(table)), default=-1)
    return tuple(f"c{number}" for number in range(1, highest + 2))


def _read_split(root: Path, folder: str, *, name: str) -> SampleTable:
    names = list_images(root / folder)
    if not names:
        raise InputError(f"{root / folder}: no images, found {describe_folder(root / folder)}")
    rows = []
    for match in match_names(NAME, names, folder=root / folder):
        camera = int(match["camera"])
        if camera < 1:
            raise InputError(f"{root / folder / match.string}: cameras are numbered from 1 in file names, got c0")
        rows.append((f"{folder}/{match.string}", int(match["pid"]), camera - 1))
    return SampleTable.from_rows(name, root, rows)
