"""From a folder of crops to a manifest, with a train/query/gallery split if identities are known."""

import csv
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reid_da.atomic import write_text
from reid_da.datasets.folders import camera_names, dataset_of_crops, list_crops
from reid_da.datasets.formats import FORMATS
from reid_da.datasets.manifest import SUFFIXES, crops_of_manifest, write_manifest
from reid_da.datasets.persons import number_persons
from reid_da.datasets.table import JUNK_PID, UNLABELLED_PID
from reid_da.errors import InputError
from reid_da.text import csv_cell


def import_folder(
    root: Path,
    *,
    output: Path | None = None,
    pattern: str | None = None,
    layout: str | None = None,
    test_share: float | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """Write a manifest of all images below a folder, or in a table, and return its path.

    Persons who have names keep them; which pid is whose is written to a second file beside the manifest,
    see :func:`persons_file`.

    Args:
        root: folder with images at any depth, of which sub-folders named ``*_camstyle`` are left out; or a table as
            :func:`reid_da.datasets.manifest.read_manifest` reads it, for a split of the people that it names.
        output: the manifest; ``manifest.csv`` in the folder of ``root`` if None.
        pattern: how paths tell camera and person; see :func:`reid_da.datasets.folders.list_crops`.
        layout: what the folders are, where their names do not tell; see there too.
        test_share: share of the identities, above 0, that goes to query and gallery; 1: all of them, for a labelled
            test set beside unlabelled cameras. Images without an identity are for training. None: all images are,
            unless the pattern tells the split.
        seed: of the random split.
        overwrite: replace an existing manifest.

    Raises:
        InputError: the folder does not fit the pattern, a split is asked for without identities or with too few of
            them, or the manifest exists. Nothing is written then.
    """
    root = _home(root)
    listed = root if root.suffix.lower() in SUFFIXES and root.is_file() else None
    if listed is not None and (pattern is not None or layout is not None):
        raise InputError(f"{listed}: a table says itself who is on its images; leave layout and pattern out")
    root = root if listed is None else listed.parent
    output = _home(output) if output else root / "manifest.csv"
    if listed is not None and output.exists() and output.samefile(listed):
        raise InputError(f"{output}: is the table to import; name another file with -o")
    if output.suffix.lower() != ".csv":
        raise InputError(f"{output}: the manifest is written as CSV, name it ....csv")
    for file in (output, persons_file(output)):
        if file.exists() and not overwrite:
            raise InputError(f"{file} exists; name another file or ask to overwrite it")
    if not root.is_dir():
        raise InputError(f"{root}: no such folder")
    if listed is not None:
        crops, _ = crops_of_manifest(listed)
    else:
        if pattern is None and layout is None:
            _refuse_known(root)
        crops, _ = list_crops(root, pattern, layout)
    pids = number_persons([crop.person for crop in crops])
    spelled = camera_names([crop.camera for crop in crops])
    if test_share is not None:
        if any(crop.split != "train" for crop in crops):
            raise InputError(f"{root}: the pattern tells the split already; leave the share of the test half out")
        splits = split_identities(pids, [spelled[crop.camera] for crop in crops], test_share=test_share, seed=seed)
        crops = [replace(crop, split=split) for crop, split in zip(crops, splits, strict=True)]
    # whatever would make the manifest unreadable is found here
    names = dataset_of_crops(crops, root=root, name=root.name, format="folder").person_names
    prefix = _relative_prefix(root, output.parent)
    numbered = (
        replace(
            crop,
            path=crop.path if Path(crop.path).is_absolute() else prefix + crop.path,
            person=None if pid == UNLABELLED_PID else names.get(int(pid), str(pid)),
            camera=None if crop.camera is None else spelled[crop.camera],
        )
        for crop, pid in zip(crops, pids, strict=True)
    )
    if names:
        write_names(names, persons_file(output))
    else:
        persons_file(output).unlink(missing_ok=True)
    write_manifest(numbered, output)
    return output


def _refuse_known(root: Path) -> None:
    """Say that a data set with training and test images that is read as it is needs no manifest."""
    # a manifest in it may be the one to write anew; a folder is what is imported
    known = [name for name, entry in FORMATS.items() if name not in ("manifest", "folder") and entry.fits(root)]
    if known:
        raise InputError(
            f"{root}: is read as {known[0]} as it is, with training and test images apart, and needs no manifest; give "
            f"the folder itself, as in reid-da data check {root}"
        )


def persons_file(manifest: Path) -> Path:
    """The file beside a manifest that says which person has which number: columns ``pid`` and ``person``."""
    return manifest.with_suffix(".persons.csv")


def write_names(names: Mapping[int, str], file: Path) -> None:
    """Write who has which number, as CSV; see :func:`persons_file`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("pid", "person"))
    writer.writerows((pid, csv_cell(name)) for pid, name in sorted(names.items()))
    write_text(file, text.getvalue())


def _home(path: Path) -> Path:
    """The path with ``~`` as the home folder."""
    try:
        return path if path.exists() else path.expanduser()
    except RuntimeError as error:
        raise InputError(f"{path}: {error}") from error


def split_identities(pids: NDArray[np.int64], cameras: Sequence[str], *, test_share: float, seed: int = 0) -> list[str]:
    """Split of each image (``train``, ``query`` or ``gallery``) such that no identity is in training and test.

    A test identity gives at most one query for each of its cameras, and only queries that keep a true match in
    another camera; the rest of its images is gallery. Where all images are by one camera, or by unknown ones, each
    test identity with two images gives one query, whose matches are by the same camera. Junk (pid -1) goes to the
    gallery.

    Images without an identity are for training: in a partly labelled folder they are the target to adapt to.

    Args:
        pids: (N,) identities.
        cameras: camera of each image, one name for all where they are not known.
        test_share: share of the identities that goes to the test half, above 0; at least one identity each way, or with
            1 all of them.
        seed: the same seed gives the same split.

    Raises:
        InputError: no identity is known, or fewer than two are, or ``test_share`` is out of range.
    """
    if not 0 < test_share <= 1:
        raise InputError(f"the test share is above 0 and at most 1, got {test_share}")
    if (pids == UNLABELLED_PID).all():
        raise InputError(
            f"none of {len(pids)} images has an identity, so no split into train, query and gallery can be made; give "
            "a pattern with (?P<pid>...), put the images of a few people into a folder each (cam1/anna/...), or import "
            "without a split"
        )
    identities = np.unique(pids[~np.isin(pids, (JUNK_PID, UNLABELLED_PID))])
    if len(identities) < 2:
        raise InputError(f"a split needs at least 2 identities, found {len(identities)}")
    generator = np.random.default_rng(seed)
    most = len(identities) if test_share == 1 else len(identities) - 1
    num_test = min(max(round(test_share * len(identities)), 1), most)
    test = set(generator.permutation(identities)[:num_test].tolist())
    images: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    splits = ["train"] * len(pids)
    for row, pid in enumerate(pids.tolist()):
        if pid == JUNK_PID or pid in test:
            splits[row] = "gallery"
        if pid in test:
            images[pid][cameras[row]].append(row)
    one_camera = len(set(cameras)) == 1
    for pid in sorted(images):
        chosen = _choose_one(images[pid], generator) if one_camera else _choose_queries(images[pid], generator)
        for row in chosen:
            splits[row] = "query"
    if "query" not in splits and one_camera:
        raise InputError("no identity of the test half has two images, so there is nothing to query")
    if "query" not in splits:
        raise InputError(
            "no identity of the test half was seen by two cameras, so there is nothing to query; "
            "`reid-da data stats` shows how many cameras see each identity"
        )
    return splits


def _choose_one(rows: dict[str, list[int]], generator: np.random.Generator) -> list[int]:
    """One of the rows of an identity if it has several."""
    (own,) = rows.values()
    return [own[int(generator.integers(len(own)))]] if len(own) > 1 else []


def _choose_queries(rows: dict[str, list[int]], generator: np.random.Generator) -> list[int]:
    """Rows of one identity, by camera, that become queries: as many cameras as can be, each with a match elsewhere."""
    cameras = sorted(rows)
    several = [camera for camera in cameras if len(rows[camera]) > 1]
    single = [camera for camera in cameras if len(rows[camera]) == 1]
    # A camera with several images stays in the gallery whatever is drawn from it. Queries from two cameras find each
    # other's; one alone needs a second camera in the gallery; and with none, one single image has to stay.
    num_kept = 1 if not several else max(2 - len(several), 0)
    kept = set(generator.permutation(len(single))[:num_kept].tolist())
    asking = several + [camera for number, camera in enumerate(single) if number not in kept]
    if len(cameras) < 2:
        return []
    return [rows[camera][int(generator.integers(len(rows[camera])))] for camera in asking]


def _relative_prefix(root: Path, folder: Path) -> str:
    """What to put before paths below ``root`` to make them relative to ``folder``; absolute if it does not hold it."""
    root, folder = root.resolve(), folder.resolve()
    if root == folder:
        return ""
    inside = root.is_relative_to(folder)
    return (root.relative_to(folder) if inside else root).as_posix() + "/"
