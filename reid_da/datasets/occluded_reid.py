"""Occluded-REID (Zhuo et al., ICME 2018): occluded queries, whole bodies in the gallery, no training images."""

import re
from pathlib import Path

from reid_da.datasets.table import Dataset
from reid_da.datasets.trials import TrialSet, rows_of

FOLDERS = ("occluded_body_images", "whole_body_images")
"""Folders of queries (occluded) and gallery (whole bodies)."""

NAME = re.compile(r"(?P<pid>\d{1,9})/")  # 001/001_01.tif


def has_layout(folder: Path) -> bool:
    """Whether the two folders of Occluded-REID lie in a folder."""
    return all((folder / name).is_dir() for name in FOLDERS)


def read_occluded_reid(root: Path) -> Dataset:
    """Occluded-REID: ``occluded_body_images/001/001_01.tif``, 200 persons, five images each occluded and whole.

    The files do not tell the cameras. As its users do, all queries count as of one camera and the gallery as of
    another, so that every gallery image of the person is a match.

    Args:
        root: folder that holds the two folders.

    Raises:
        InputError: a folder is missing or empty, or a name does not fit.
    """
    query, gallery = (rows_of(root, name, NAME, camid=camid, recursive=True) for camid, name in enumerate(FOLDERS))
    return TrialSet(
        name="occluded-reid",
        rows={"train": [], "query": query, "gallery": gallery},
        camera_names=("occluded", "whole"),
        layout="a folder for each person, occluded ones are queries",
        notes=("cameras are not told: queries count as of one camera, the gallery as of another",),
    ).dataset(root)
