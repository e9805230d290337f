"""One identity across cameras: found by clustering, corrected by hand, and kept from then on.

An identity is a number that is never given twice, with a name or without: people whom nobody knows persist, too. What
was decided stays: clustering anew gives identities to images that have none. Every operation is kept with what it
changed, and can be undone.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reid_da.clustering import ClusteringSettings, cluster
from reid_da.datasets.folders import Crop
from reid_da.datasets.importing import persons_file, split_identities, write_names
from reid_da.datasets.manifest import write_manifest
from reid_da.errors import InputError, first_few
from reid_da.gallery.apart import Frames, moments, num_pairs, split_impossible
from reid_da.gallery.store import NONE, Gallery
from reid_da.gallery.threshold import track_numbers

DEFAULT_CLUSTERING = ClusteringSettings(metric="jaccard", k1=15, eps=0.5)
"""Stricter than what training uses: a wrong identity is worse than none."""
LONGEST_NAME = 100
_JOIN_ROWS = 2**12


class Identity(NamedTuple):
    """An identity of an index."""

    id: int
    name: str | None
    images: int
    cameras: int
    first: float | None
    last: float | None


@dataclass(frozen=True, kw_only=True)
class Clustered:
    """What clustering has changed.

    Attributes:
        joined: images that joined an identity that was there.
        founded: images in identities that are new.
        new: number of new identities.
        identities: number of identities now.
        unassigned: images without an identity now.
        apart: pairs of images of one camera at the same time, which were kept apart.
    """

    joined: int
    founded: int
    new: int
    identities: int
    unassigned: int
    apart: int


def identities(gallery: Gallery) -> list[Identity]:
    """All identities that have images, by number."""
    rows = gallery.rows(
        "SELECT identity, identities.name, count(*), count(DISTINCT camera), min(time), max(time) FROM images "
        "JOIN identities ON identities.id = identity GROUP BY identity ORDER BY identity"
    )
    return [Identity(*row) for row in rows]


def assign_identities(
    gallery: Gallery,
    *,
    settings: ClusteringSettings | None = None,
    afresh: bool = False,
    same_time: str = "auto",
) -> Clustered:
    """Cluster the images and give an identity to those that have none.

    All images are clustered. In a cluster that holds identities, each image without one joins that of its nearest
    image there; a cluster without identities becomes a new one; outliers stay unassigned. Images of one camera at the
    same time are never put together; what was put together by hand stays so.

    Args:
        gallery: the index.
        settings: of the clustering; :data:`DEFAULT_CLUSTERING` by default.
        afresh: cluster anew what has identities, too. A cluster takes over the identity, with its name, that it shares
            most images with.
        same_time: see :func:`~reid_da.gallery.apart.moments`.

    Raises:
        InputError: there are too few images, or settings that do not fit.
        BlockingIOError: another process writes to the index.
    """
    with gallery.writing() as writer:
        snapshot = gallery.snapshot()
        if len(snapshot) < 2:
            raise InputError(f"{gallery.path}: has {len(snapshot)} images; clustering needs two at least")
        everything = np.arange(len(snapshot))
        vectors = snapshot.vectors(everything)
        settings = settings or DEFAULT_CLUSTERING
        labels = np.asarray(cluster(vectors, snapshot.camids, settings=settings).labels)
        moment, tracks = moments(snapshot, same_time), track_numbers(gallery)
        known = None if afresh else snapshot.identities
        labels = split_impossible(labels, vectors, moment, tracks, min_size=settings.min_samples, known=known)
        before = snapshot.identities
        with writer.transaction() as cursor:
            if afresh:
                after, num_new = _taken_over(cursor, labels, before)
            else:
                after, num_new = _joined(cursor, labels, before, vectors, list(map(Frames, moment, tracks)))
            changes = np.flatnonzero(after != before)
            _record(
                cursor,
                "cluster",
                {int(snapshot.ids[row]): (_or_none(before[row]), _or_none(after[row])) for row in changes},
            )
        is_new = (after >= 0) & ~np.isin(after, before[before >= 0])
    return Clustered(
        joined=int(((after != before) & (after >= 0) & ~is_new).sum()),
        founded=int(is_new.sum()),
        new=num_new,
        identities=len(np.unique(after[after >= 0])),
        unassigned=int((after < 0).sum()),
        apart=num_pairs(moment, tracks),
    )


def _joined(
    cursor: Any,
    labels: NDArray[np.int64],
    before: NDArray[np.int64],
    vectors: NDArray[np.float32],
    frames: Sequence[Frames],
) -> tuple[NDArray[np.int64], int]:
    """Identities of all images where none of those that are there changes, and the number of new ones."""
    after, num_new = before.copy(), 0
    seen: dict[int, Frames] = {}
    for row in np.flatnonzero(before >= 0).tolist():
        seen.setdefault(int(before[row]), Frames()).add(frames[row])
    order = np.argsort(labels, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
        if labels[members[0]] < 0:
            continue
        is_known = before[members] >= 0
        known, unknown = members[is_known], members[~is_known]
        if not len(unknown):
            continue
        if not len(known):
            after[unknown] = _new_identity(cursor)
            num_new += 1
            continue
        for start in range(0, len(unknown), _JOIN_ROWS):
            part = unknown[start : start + _JOIN_ROWS]
            nearest = before[known[(vectors[part] @ vectors[known].T).argmax(axis=1)]]
            for row, identity in zip(part.tolist(), nearest.tolist(), strict=True):
                if not seen[identity].excludes(frames[row]):
                    after[row] = identity
                    seen[identity].add(frames[row])
    return after, num_new


def _taken_over(cursor: Any, labels: NDArray[np.int64], before: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """Identities of all images by their clusters alone, and the number of new ones."""
    shared = Counter((int(old), int(label)) for old, label in zip(before, labels, strict=True) if old >= 0 <= label)
    taken: dict[int, int] = {}
    for (old, label), _ in sorted(shared.items(), key=lambda item: (-item[1], item[0])):
        if label not in taken and old not in taken.values():
            taken[label] = old
    num_new = 0
    for label in range(int(labels.max()) + 1):
        if label not in taken:
            taken[label] = _new_identity(cursor)
            num_new += 1
    return np.array([taken.get(label, NONE) for label in labels.tolist()], dtype=np.int64), num_new


def merge(gallery: Gallery, numbers: Sequence[int]) -> int:
    """Make several identities one: the first that is given, which takes over the name of another if it has none.

    Raises:
        InputError: there are fewer than two, or one does not exist.
    """
    first, *others = dict.fromkeys(numbers)
    if not others:
        raise InputError("merge: give two identities at least")
    with gallery.writing() as writer:
        known = {identity.id: identity for identity in identities(gallery)}
        _require(gallery, numbers, known)
        marks = ",".join(map(str, map(int, others)))
        rows = gallery.rows(f"SELECT id, identity FROM images WHERE identity IN ({marks})")
        name = next((known[number].name for number in others if known[number].name), None)
        renames = {} if known[first].name or name is None else {first: (None, name)}
        with writer.transaction() as cursor:
            _record(cursor, "merge", {image: (before, first) for image, before in rows}, renames)
    return first


def split(gallery: Gallery, images: Sequence[int]) -> int:
    """Give images an identity of their own, and return it.

    Raises:
        InputError: there are no images, one does not exist, or they are all images of their identity already.
    """
    wanted = sorted(set(images))
    if not wanted:
        raise InputError("split: give the ids of images")
    with gallery.writing() as writer:
        records = gallery.records(wanted)
        absent = [number for number in wanted if number not in records]
        if absent:
            raise InputError(f"{gallery.path}: no images with the ids {first_few(absent)}")
        before = {record.identity for record in records.values()}
        if len(before) == 1 and (own := next(iter(before))) is not None:
            number = gallery.rows("SELECT count(*) FROM images WHERE identity = ?", (own,))[0][0]
            if number == len(wanted):
                raise InputError(f"split: these are all images of identity {own}; leave some to it")
        with writer.transaction() as cursor:
            new = _new_identity(cursor)
            _record(cursor, "split", {number: (records[number].identity, new) for number in wanted})
    return new


def name(gallery: Gallery, number: int, text: str | None) -> None:
    """Name an identity, or take its name away.

    Raises:
        InputError: it does not exist, or the name is too long.
    """
    text = (text or "").strip() or None
    if text and len(text) > LONGEST_NAME:
        raise InputError(f"name: expected at most {LONGEST_NAME} characters, got {len(text)}")
    with gallery.writing() as writer:
        known = {identity.id: identity for identity in identities(gallery)}
        _require(gallery, [number], known)
        with writer.transaction() as cursor:
            _record(cursor, "name", {}, {number: (known[number].name, text)})


def undo(gallery: Gallery) -> str | None:
    """Take back the last operation that was not, and return what it was; None if there is none.

    Images that have been removed since stay so.
    """
    with gallery.writing() as writer:
        last = gallery.rows("SELECT id, action FROM operations WHERE NOT undone ORDER BY id DESC LIMIT 1")
        if not last:
            return None
        number, action = last[0]
        with writer.transaction() as cursor:
            cursor.execute(
                "UPDATE images SET identity = changes.before FROM changes "
                "WHERE changes.image = images.id AND operation = ? AND images.identity IS changes.after",
                (number,),
            )
            cursor.execute(
                "UPDATE identities SET name = renames.before FROM renames "
                "WHERE renames.identity = identities.id AND operation = ?",
                (number,),
            )
            cursor.execute("UPDATE operations SET undone = 1 WHERE id = ?", (number,))
    return str(action)


def export_manifest(
    gallery: Gallery, file: Path, *, test_share: float | None = None, with_unknown: bool = False, seed: int = 0
) -> int:
    """Write the identities as a manifest that training and evaluation read; the number of its rows.

    The pid of an image is the number of its identity; names are in a file beside the manifest.

    Args:
        gallery: the index.
        file: the CSV file.
        test_share: share of the identities that becomes query and gallery; None: all images are for training.
        with_unknown: also images without an identity, with an empty pid.
        seed: of the split.

    Raises:
        InputError: no image has an identity, or there are too few identities for a split.
    """
    if file.suffix.lower() != ".csv":
        raise InputError(f"{file}: the manifest is written as CSV, name it ....csv")
    if test_share is not None and with_unknown:
        raise InputError("a split needs identities; leave images without one out")
    records = gallery.all_records("" if with_unknown else "WHERE identity NOTNULL")
    if not any(record.identity is not None for record in records):
        raise InputError(f"{gallery.path}: no image has an identity yet: reid-da cluster {gallery.path}")
    has_cameras = any(record.camera is not None for record in records)
    cameras = [record.camera or "unknown" for record in records]
    splits = ["train"] * len(records)
    if test_share is not None:
        pids = np.array([record.identity for record in records], dtype=np.int64)
        splits = split_identities(pids, cameras, test_share=test_share, seed=seed)
    folder = file.resolve().parent
    crops = [
        Crop(
            path=_relative(record.path, folder),
            person=None if record.identity is None else str(record.identity),
            camera=camera if has_cameras else None,
            split=of_image,
        )
        for record, camera, of_image in zip(records, cameras, splits, strict=True)
    ]
    names = {record.identity: record.name for record in records if record.identity is not None and record.name}
    write_manifest(crops, file)
    if names:
        write_names(names, persons_file(file))
    else:
        persons_file(file).unlink(missing_ok=True)
    return len(crops)


def _relative(path: str, folder: Path) -> str:
    place = Path(path)
    return place.relative_to(folder).as_posix() if place.is_relative_to(folder) else place.as_posix()


def _require(gallery: Gallery, numbers: Sequence[int], known: Mapping[int, Identity]) -> None:
    absent = [number for number in numbers if number not in known]
    if absent:
        raise InputError(f"{gallery.path}: no identity {first_few(absent)}; reid-da index identities lists them")


def _new_identity(cursor: Any) -> int:
    return int(cursor.execute("INSERT INTO identities (name) VALUES (NULL)").lastrowid)


def _record(
    cursor: Any,
    action: str,
    changes: Mapping[int, tuple[int | None, int | None]],
    renames: Mapping[int, tuple[str | None, str | None]] | None = None,
) -> None:
    """Change identities of images and names of identities, and remember what was before."""
    cursor.execute("INSERT INTO operations (time, action) VALUES (?, ?)", (time.time(), action))
    number = cursor.lastrowid
    rows = [(number, image, before, after) for image, (before, after) in changes.items()]
    cursor.executemany("INSERT INTO changes VALUES (?, ?, ?, ?)", rows)
    cursor.executemany("UPDATE images SET identity = ? WHERE id = ?", [(row[3], row[1]) for row in rows])
    for identity, (before, after) in (renames or {}).items():
        cursor.execute("INSERT INTO renames VALUES (?, ?, ?, ?)", (number, identity, before, after))
        cursor.execute("UPDATE identities SET name = ? WHERE id = ?", (after, identity))


def _or_none(value: Any) -> int | None:
    return None if value < 0 else int(value)
