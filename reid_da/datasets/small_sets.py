"""Small data sets of the field's first years: VIPeR, PRID2011, CUHK01, GRID, QMUL i-LIDS, CAVIAR4REID.

Their protocols are random splits; see :mod:`reid_da.datasets.trials`. Folders and names are those that the archives
of their authors unpack to.
"""

import re
from pathlib import Path

import numpy as np

from reid_da.datasets.listing import list_images
from reid_da.datasets.matlab import MAT_ERRORS, read_variables, reason
from reid_da.datasets.table import Dataset
from reid_da.datasets.trials import (
    TrialSet,
    rows_of,
    split_single_gallery,
    split_two_views,
    training_half,
    unknown_cameras,
)
from reid_da.errors import InputError

VIPER_NAME = re.compile(r"(?P<pid>\d{3,4})_\d+\.")  # 000_45.bmp: identity, viewing angle
PRID_NAME = re.compile(r"person_(?P<pid>\d{1,9})[./]")  # person_0001.png, or a folder of frames
GRID_NAME = re.compile(r"(?P<pid>\d{4})_(?P<camera>\d)_")  # 0001_1_25004_107_32_106_221.jpeg: identity, camera, ...
NUMBER_NAME = re.compile(r"(?P<pid>\d{4})\d{3}\.\w+$")  # 0001001.png: identity, number of the image
CUHK01_NAME = re.compile(r"(?P<pid>\d{4})(?P<number>\d{3})\.\w+$")

PRID_SHARED = 200
"""Persons 1 to 200 of PRID2011 are in both views; a higher number is somebody else in each of them."""
_PRID_SHOTS = ("single_shot", "multi_shot")
GRID_PARTITIONS = "features_and_partitions.mat"
"""File with GRID's published splits."""
NO_CAMERAS = "cameras are not told: gallery images of the query's own camera count too"
"""Note on data sets whose names have no camera."""


def _drawn(trial: str) -> str:
    return f"trial {trial} of 10: half of the identities, drawn by this program; papers average over ten draws"


def has_viper(folder: Path) -> bool:
    """Whether the two views of VIPeR lie in a folder, as BMP files."""
    return all(_first_fits(folder / view, re.compile(r"\d{3}_\d+\.bmp$")) for view in ("cam_a", "cam_b"))


def read_viper(root: Path, *, trial: str = "0") -> Dataset:
    """VIPeR (Gray et al., PETS 2007): ``cam_a/000_45.bmp``, ``cam_b/000_90.bmp``, 632 persons, one image in each view.

    Args:
        root: folder that holds ``cam_a`` and ``cam_b``.
        trial: which random half of the identities is for training; ``cam_a`` of the others is the query.

    Raises:
        InputError: a view is missing or empty, or a name does not fit.
    """
    views = [rows_of(root, view, VIPER_NAME, camid=camid) for camid, view in enumerate(("cam_a", "cam_b"))]
    train = training_half("viper", trial, (row[1] for row in views[0]))
    rows = split_two_views(views[0], views[1], train)
    layout = "cam_a/ and cam_b/, names like 000_45.bmp"
    return TrialSet(
        name="viper", rows=rows, camera_names=("cam_a", "cam_b"), layout=layout, notes=(_drawn(trial),)
    ).dataset(root)


def has_prid2011(folder: Path) -> bool:
    """Whether PRID2011 lies in a folder, single-shot or multi-shot."""
    places = [folder] if folder.name in _PRID_SHOTS else [folder / name for name in _PRID_SHOTS]
    return any(
        all(_first_fits(place / view, PRID_NAME, recursive=True) for view in ("cam_a", "cam_b")) for place in places
    )


def read_prid2011(root: Path, *, trial: str = "0") -> Dataset:
    """PRID2011 (Hirzer et al., SCIA 2011): the single-shot version if it is there, else the frames of the other.

    Half of the 200 persons who are in both views is for training; of the others view a is the query, and view b with
    its 549 further persons the gallery. View a of further persons is not used.

    Args:
        root: folder that holds ``single_shot`` or ``multi_shot``, or one of them.
        trial: which random half.

    Raises:
        InputError: a view is missing or empty, or a name does not fit.
    """
    shots = next((name for name in _PRID_SHOTS if (root / name).is_dir()), "")
    views = [
        rows_of(root, f"{shots}/{view}".lstrip("/"), PRID_NAME, camid=camid, recursive=True)
        for camid, view in enumerate(("cam_a", "cam_b"))
    ]
    shared = {row[1] for row in views[0]} & {row[1] for row in views[1]} & set(range(1, PRID_SHARED + 1))
    query_view = [row for row in views[0] if row[1] in shared]
    rows = split_two_views(query_view, views[1], training_half("prid2011", trial, shared))
    notes = [_drawn(trial)]
    if len(query_view) < len(views[0]):
        notes.append(f"{len(views[0]) - len(query_view)} images of view a show people whom view b does not; left out")
    layout = f"{shots or root.name}/, names like person_0001.png"
    return TrialSet(
        name="prid2011", rows=rows, camera_names=("cam_a", "cam_b"), layout=layout, notes=tuple(notes)
    ).dataset(root)


def has_cuhk01(folder: Path) -> bool:
    """Whether the images of CUHK01 lie in a folder, or in ``campus`` in it."""
    return _has_numbers(folder / "campus") or (_called(folder, "campus$", "cuhk[-_ ]?0?1$") and _has_numbers(folder))


def read_cuhk01(root: Path, *, trial: str = "0") -> Dataset:
    """CUHK01 (Li et al., ACCV 2012): ``campus/0001001.png``, 971 persons, two images in each of two views.

    Images 1 and 2 of a person are of one view, 3 and 4 of the other; the first is the query.

    Args:
        root: folder that holds ``campus``, or the images.
        trial: which random half, 485 identities, is for training.

    Raises:
        InputError: no images, or a name does not fit.
    """
    folder = "campus" if (root / "campus").is_dir() else ""
    rows = rows_of(root, folder, CUHK01_NAME, camid=0)
    views: list[list[tuple[str, int, int]]] = [[], []]
    for path, pid, _ in rows:
        match = CUHK01_NAME.match(path.rpartition("/")[2])
        number = int(match["number"]) if match else 0
        if not 1 <= number <= 4:
            raise InputError(f"{root / path}: the last three digits of CUHK01's names are 001 to 004, got {number:03}")
        views[number > 2].append((path, pid, int(number > 2)))
    splits = split_two_views(views[0], views[1], training_half("cuhk01", trial, (row[1] for row in rows)))
    layout = "names like 0001001.png: identity and number of the image"
    return TrialSet(
        name="cuhk01", rows=splits, camera_names=("view 1", "view 2"), layout=layout, notes=(_drawn(trial),)
    ).dataset(root)


def has_grid(folder: Path) -> bool:
    """Whether the probe and gallery images of GRID lie in a folder."""
    name = GRID_NAME if (folder / GRID_PARTITIONS).is_file() else re.compile(rf"{GRID_NAME.pattern}.*\.jpeg$")
    return all(_first_fits(folder / part, name) for part in ("probe", "gallery"))


def read_grid(root: Path, *, trial: str = "0") -> Dataset:
    """GRID (Loy et al., CVPR 2009; ``underground_reid``): 250 pairs by eight cameras and 775 further gallery images.

    The authors publish their ten partitions in ``features_and_partitions.mat``; without the file a half is drawn.

    Args:
        root: folder that holds ``probe`` and ``gallery``.
        trial: which partition, from 0.

    Raises:
        InputError: a folder is missing or empty, a name does not fit, or the partitions cannot be read.
    """
    probe, gallery = (rows_of(root, name, GRID_NAME, camid=None) for name in ("probe", "gallery"))
    if (root / GRID_PARTITIONS).is_file():
        train = _grid_partition(root / GRID_PARTITIONS, int(trial))
        note = f"partition {trial} of 10 of {GRID_PARTITIONS}; papers average over all ten"
    else:
        train = training_half("grid", trial, (row[1] for row in probe))
        note = f"{GRID_PARTITIONS} is missing, so {_drawn(trial)}"
    highest = max(row[2] for row in (*probe, *gallery))
    return TrialSet(
        name="grid",
        rows=split_two_views(probe, gallery, train),
        camera_names=tuple(f"c{number}" for number in range(1, highest + 2)),
        distractor_pid=0,
        layout="probe/ and gallery/, names like 0001_1_....jpeg",
        notes=(note,),
    ).dataset(root)


def has_ilids(folder: Path) -> bool:
    """Whether the images of QMUL i-LIDS lie in a folder, or in ``Persons`` in it."""
    return _has_numbers(folder / "Persons") or (_called(folder, "persons$", "i[-_ ]?lids") and _has_numbers(folder))


def read_ilids(root: Path, *, trial: str = "0") -> Dataset:
    """QMUL i-LIDS (Zheng et al., BMVC 2009): ``Persons/0001001.jpg``, 119 persons, 476 images, cameras not told.

    Half of the identities, 59, is for training; of each other one image is the gallery, and the rest are queries.

    Args:
        root: folder that holds ``Persons``, or the images.
        trial: which random half and gallery.

    Raises:
        InputError: no images, or a name does not fit.
    """
    return _read_numbers(root, "Persons", name="ilids", trial=trial)


def has_caviar(folder: Path) -> bool:
    """Whether the images of CAVIAR4REID lie in a folder, or in ``CAVIARa`` in it."""
    return _has_numbers(folder / "CAVIARa") or (_called(folder, "caviar") and _has_numbers(folder))


def read_caviar(root: Path, *, trial: str = "0") -> Dataset:
    """CAVIAR4REID (Cheng et al., BMVC 2011): ``CAVIARa/0001001.jpg``, 72 persons, 1,220 images, cameras not told.

    Half of the identities, 36, is for training; of each other one image is the gallery, and the rest are queries.

    Args:
        root: folder that holds ``CAVIARa``, or the images.
        trial: which random half and gallery.

    Raises:
        InputError: no images, or a name does not fit.
    """
    return _read_numbers(root, "CAVIARa", name="caviar4reid", trial=trial)


def _read_numbers(root: Path, folder: str, *, name: str, trial: str) -> Dataset:
    rows = rows_of(root, folder if (root / folder).is_dir() else "", NUMBER_NAME, camid=0)
    train = training_half(name, trial, (row[1] for row in rows))
    return TrialSet(
        name=name,
        rows=split_single_gallery(name, trial, rows, train),
        camera_names=unknown_cameras(),
        layout="names like 0001001.jpg: identity and number of the image",
        notes=(_drawn(trial), NO_CAMERAS),
    ).dataset(root)


def _grid_partition(file: Path, trial: int) -> set[int]:
    """Training identities of one of the published partitions."""
    partitions = read_variables(file, "trainIdxAll")[0]
    try:
        # a MATLAB structure in a cell: its third field lists the identities
        fields = partitions.ravel()[trial].ravel()[0]
        train = {int(pid) for pid in np.asarray(fields[2]).ravel()}
    except MAT_ERRORS as error:
        raise InputError(f"{file}: no partition {trial} in it ({reason(error)}); copy the file again") from error
    if not train:
        raise InputError(f"{file}: partition {trial} has no training identities; copy the file again")
    return train


def _has_numbers(folder: Path) -> bool:
    return _first_fits(folder, NUMBER_NAME)


def _first_fits(folder: Path, name: re.Pattern[str], *, recursive: bool = False) -> bool:
    if not folder.is_dir():
        return False
    first = next(iter(list_images(folder, recursive=recursive)), None)
    return first is not None and name.match(first) is not None


def _called(folder: Path, *words: str) -> bool:
    return any(re.match(word, folder.absolute().name, re.IGNORECASE) for word in words)
