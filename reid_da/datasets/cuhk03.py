"""CUHK03 with the new protocol (CUHK03-NP: Zhong et al., CVPR 2017), detected or labelled boxes."""

import re
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from reid_da.datasets import market_layout
from reid_da.datasets.listing import describe_folder, list_images, match_names
from reid_da.datasets.matlab import MAT_ERRORS, read_variables, reason
from reid_da.datasets.table import Dataset, SampleTable
from reid_da.errors import InputError, first_few

Boxes = Literal["detected", "labelled"]
"""Boxes of CUHK03-NP: those of a detector, or drawn by hand."""

# Both spellings occur on disk. The second item is the one that the authors use.
SPELLINGS: dict[Boxes, tuple[str, ...]] = {"detected": ("detected",), "labelled": ("labelled", "labeled")}
"""Names of the folder of each kind of boxes."""

# 1_001_2_04.png: camera pair, identity, view (which of the two cameras), number
NAME = re.compile(r"\d+_\d+_(?P<view>[12])_")
"""File names of CUHK03-NP; the camera is the view within its pair."""


def has_layout(folder: Path) -> bool:
    """Whether CUHK03 lies in the folder, in either layout and with either kind of boxes; its config may be missing."""
    extracted = any((folder / f"images_{spelling}").is_dir() for names in SPELLINGS.values() for spelling in names)
    return extracted or any(_box_folder(folder, boxes) for boxes in SPELLINGS)


def read_cuhk03np(root: Path, *, boxes: Boxes = "detected") -> Dataset:
    """CUHK03-NP under ``root``.

    Two layouts are read: ``detected/`` or ``labeled/`` with the folders of Market-1501, and images extracted to
    ``images_detected/`` or ``images_labeled/`` beside ``cuhk03_new_protocol_config_*.mat``.

    Args:
        root: folder that holds them.
        boxes: pedestrian boxes by a detector, or drawn by hand.

    Raises:
        InputError: neither layout is there, or a file does not fit it.
    """
    name = f"cuhk03np-{boxes}"
    box_folder = _box_folder(root, boxes)
    if box_folder is not None:
        return market_layout.read_market_layout(box_folder, market_layout.CUHK03NP, name=name)
    config = _config(root, boxes)
    if config is None:
        spellings = " or ".join(SPELLINGS[boxes])
        images = next((f"images_{name}" for name in SPELLINGS[boxes] if (root / f"images_{name}").is_dir()), None)
        if images:
            raise InputError(
                f"{root}: {images}/ without cuhk03_new_protocol_config_{images.removeprefix('images_')}.mat, which "
                "tells training from test images; copy it beside the folder (from the authors of CUHK03-NP), or "
                "read all images as training images of two cameras: --pattern "
                r"'(?P<pid>\d+_\d+)_(?P<camera>[12])_'"
            )
        raise InputError(
            f"{root}: looked for {spellings}/ with {market_layout.TRAIN}/, or images_... ({spellings}) beside "
            f"cuhk03_new_protocol_config_... .mat, found {describe_folder(root)}"
        )
    return _read_extracted(root, *config, name=name)


def _box_folder(root: Path, boxes: Boxes) -> Path | None:
    folders = (root / spelling for spelling in SPELLINGS[boxes])
    return next((folder for folder in folders if market_layout.has_layout(folder)), None)


def _config(root: Path, boxes: Boxes) -> tuple[Path, str] | None:
    """Config file of the new protocol and name of the image folder beside it."""
    for spelling in SPELLINGS[boxes]:
        file = root / f"cuhk03_new_protocol_config_{spelling}.mat"
        if file.is_file() and (root / f"images_{spelling}").is_dir():
            return file, f"images_{spelling}"
    return None


def _read_extracted(root: Path, file: Path, folder: str, *, name: str) -> Dataset:
    names = ("labels", "filelist", "train_idx", "query_idx", "gallery_idx")
    config = dict(zip(names, read_variables(file, *names), strict=True))
    try:
        labels = config["labels"].ravel().astype(np.int64)
        files = [str(np.asarray(item).item()) for item in config["filelist"].ravel()]
        # MATLAB counts from 1
        splits = {split: config[f"{split}_idx"].ravel().astype(np.int64) - 1 for split in ("train", "query", "gallery")}
    except MAT_ERRORS as error:
        raise InputError(
            f"{file}: not a config of the new protocol (fields {', '.join(names)}): {reason(error)}"
        ) from error
    missing = sorted(set(files) - set(list_images(root / folder)))
    if missing:
        raise InputError(f"{root / folder}: {len(missing)} images of {file.name} are missing: {first_few(missing)}")
    views = [int(match["view"]) - 1 for match in match_names(NAME, files, folder=root / folder)]

    def table(split: str, rows: NDArray[np.int64]) -> SampleTable:
        return SampleTable.from_rows(
            f"{name}/{split}", root, [(f"{folder}/{files[row]}", int(labels[row]), views[row]) for row in rows]
        )

    tables = {split: table(split, rows) for split, rows in splits.items()}
    return Dataset(
        name=name,
        format="cuhk03np",
        root=root,
        train=tables["train"],
        query=tables["query"],
        gallery=tables["gallery"],
        camera_names=market_layout.numbered_cameras(*tables.values()),
        layout=f"{folder}/ with {file.name}",
    )
