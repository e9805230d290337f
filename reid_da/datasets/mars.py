"""MARS (Zheng et al., ECCV 2016), tracklets of people, read image by image."""

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reid_da.datasets.listing import describe_folder, list_images, match_names
from reid_da.datasets.matlab import read_variables
from reid_da.datasets.persons import number_persons
from reid_da.datasets.table import JUNK_PID, Dataset
from reid_da.datasets.trials import Row, TrialSet
from reid_da.errors import InputError
from reid_da.reading import UnsuitableFileError, read_error, read_list

TRAIN, TEST = "bbox_train", "bbox_test"

# 0065C1T0002F0016.jpg: identity (00-1 is junk, 0000 a distractor), camera, tracklet, frame
NAME = re.compile(r"(?P<pid>\d{4}|00-1)C(?P<camera>\d)T\d+F\d+\.")


def has_layout(folder: Path) -> bool:
    """Whether the two image folders of MARS lie in a folder."""
    return all((folder / name).is_dir() for name in (TRAIN, TEST))


def read_mars(root: Path) -> Dataset:
    """MARS: ``bbox_train/0001/0001C1T0001F001.jpg``, every frame an image; junk is ``00-1``, distractors are ``0000``.

    Which test tracklets are queries is told by ``info/`` of the authors' evaluation code. The first frame of each of
    these is a query here, its other frames are left out, and the frames of all other test tracklets are the gallery.
    That is not the protocol of the paper, which pools the features of a tracklet. Without ``info/`` the test images
    are all gallery.

    Args:
        root: folder that holds ``bbox_train`` and ``bbox_test``.

    Raises:
        InputError: a folder is missing or empty, a name does not fit, or ``info/`` does not fit the images.
    """
    if not has_layout(root):
        raise InputError(f"{root}: looked for {TRAIN}/ and {TEST}/, found {describe_folder(root)}")
    train, test = _rows(root, TRAIN), _rows(root, TEST)
    junk = sum(row[1] == JUNK_PID for row in train)
    notes = [f"{junk} junk images (pid -1) left out of the training images"] if junk else []
    splits = {"train": [row for row in train if row[1] != JUNK_PID], "query": [], "gallery": test}
    if (root / "info").is_dir():
        splits |= _tracklet_splits(root, test)
        notes.append("queries are the first frames of the query tracklets; the paper pools whole tracklets")
    else:
        notes.append("info/ of the authors' evaluation code is missing, so it is not known which images are queries")
    highest = max(row[2] for row in (*train, *test))
    return TrialSet(
        name="mars",
        rows=splits,
        camera_names=tuple(f"c{number}" for number in range(1, highest + 2)),
        distractor_pid=0,
        layout=f"{TRAIN}/ and {TEST}/, every frame an image",
        notes=tuple(notes),
    ).dataset(root)


def _rows(root: Path, folder: str) -> list[Row]:
    paths = list_images(root / folder, recursive=True)
    if not paths:
        raise InputError(f"{root / folder}: no images, found {describe_folder(root / folder)}")
    matches = match_names(NAME, [path.rpartition("/")[2] for path in paths], folder=root / folder)
    pids = number_persons([match["pid"] for match in matches]).tolist()
    return [
        (f"{folder}/{path}", pid, int(match["camera"]) - 1)
        for path, pid, match in zip(paths, pids, matches, strict=True)
    ]


def _tracklet_splits(root: Path, test: list[Row]) -> dict[str, list[Row]]:
    names_file = root / "info" / "test_name.txt"
    if not names_file.is_file():
        raise InputError(f"{names_file}: no such file; copy info/ of the authors' evaluation code again")
    try:
        names = read_list(names_file, errors="replace").split()
    except (OSError, UnsuitableFileError) as error:
        raise InputError(read_error(names_file, error)) from error
    tracks = _matrix(root / "info" / "tracks_test_info.mat", "track_test_info")
    queries = set((_matrix(root / "info" / "query_IDX.mat", "query_IDX").ravel() - 1).tolist())
    if tracks.ndim != 2 or tracks.shape[1] != 4:
        raise InputError(f"{root / 'info'}: tracks_test_info.mat should have four columns, has {tracks.shape}")
    if tracks[:, :2].max(initial=0) > len(names) or max(queries, default=0) >= len(tracks):
        raise InputError(f"{root / 'info'}: its files do not fit together; copy them again")
    rows = {row[0].rpartition("/")[2]: row for row in test}
    splits: dict[str, list[Row]] = {"query": [], "gallery": []}
    for number, (start, end, _, _) in enumerate(tracks.tolist()):
        frames = names[start - 1 : start if number in queries else end]
        missing = [name for name in frames if name not in rows]
        if missing:
            raise InputError(f"{root / TEST}: images of {names_file} are missing, such as {missing[0]}")
        splits["query" if number in queries else "gallery"] += [rows[name] for name in frames]
    return splits


def _matrix(file: Path, name: str) -> NDArray[np.int64]:
    values: NDArray[Any] = np.asarray(read_variables(file, name)[0])
    if values.dtype.kind not in "iuf":
        raise InputError(f"{file}: {name} should be numbers, got the type {values.dtype}; copy the file again")
    return values.astype(np.int64)
