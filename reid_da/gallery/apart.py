"""What cannot be one person: two detections of one camera at the same time."""

import itertools
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from reid_da.errors import unknown_name
from reid_da.gallery.store import Snapshot
from reid_da.gallery.threshold import is_coarse
from reid_da.gallery.vectors import Vectors

SameTime = Literal["auto", "apart", "ignore"]
_NEIGHBORS = 64
_ROWS = 2**10


def moments(snapshot: Snapshot, same_time: str = "auto") -> NDArray[np.int64]:
    """(N,) number of the camera and time of each image; -1 where it is not known, or no other image shares it.

    Args:
        snapshot: the images.
        same_time: ``apart``: images of one camera at the same time show different people; ``ignore``: they may not, and
            nothing is returned but -1; ``auto``: apart, unless all times are whole seconds of the calendar, in which a
            camera may well take two pictures of a person.

    Raises:
        InputError: ``same_time`` is none of these.
    """
    if same_time not in get_args(SameTime):
        raise unknown_name("--same-time", same_time, get_args(SameTime))
    found = np.full(len(snapshot), -1, dtype=np.int64)
    rows = np.flatnonzero(np.isfinite(snapshot.times) & (snapshot.camids >= 0))
    times = snapshot.times[rows]
    if same_time == "ignore" or (same_time == "auto" and is_coarse(times)):
        return found
    keys = np.stack([snapshot.camids[rows].astype(np.float64), times])
    _, number, counts = np.unique(keys, axis=1, return_inverse=True, return_counts=True)
    number = number.reshape(-1)
    found[rows] = np.where(counts[number] > 1, number, -1)
    return found


class Frames:
    """Who was seen when, of a group of images that are to be one person.

    Attributes:
        tracks: by moment, the track of the image there; -1 where it is not known.
    """

    def __init__(self, moment: int = -1, track: int = -1) -> None:
        self.tracks: dict[int, int] = {} if moment < 0 else {moment: track}

    def excludes(self, other: "Frames") -> bool:
        """Whether both hold images of one moment that are not known to be of one track."""
        few, many = sorted((self.tracks, other.tracks), key=len)
        return any(moment in many and (track < 0 or track != many[moment]) for moment, track in few.items())

    def add(self, other: "Frames") -> None:
        """Take in another group."""
        self.tracks.update(other.tracks)


def split_impossible(
    labels: NDArray[np.int64],
    vectors: Vectors,
    moment: NDArray[np.int64],
    tracks: NDArray[np.int64],
    *,
    min_size: int,
    known: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Clusters in which no two images are of one moment.

    A cluster that holds such pairs is put together anew: the most similar images first, each joined with the group of
    its neighbour unless that would put two images of one moment together. Groups that stay smaller than ``min_size``
    are outliers.

    Args:
        labels: (N,) clusters, -1 for outliers.
        vectors: (N, D) unit vectors.
        moment: (N,) of :func:`moments`.
        tracks: (N,) number of the track, -1 where not known.
        min_size: fewest images of a group.
        known: (N,) identities that were decided, which are together whatever their moments are; -1 for none.
    """
    known = np.full(len(labels), -1) if known is None else known
    found: NDArray[np.int64] = labels.copy()
    last = int(labels.max(initial=-1))
    order = np.argsort(labels, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
        if not len(members) or labels[members[0]] < 0 or not _has_conflict(moment[members], tracks[members]):
            continue
        groups = _groups(vectors[members], moment[members], tracks[members], known[members])
        for number, group in enumerate(sorted(groups, key=lambda group: (-len(group), group[0]))):
            if len(group) < min_size:
                found[members[group]] = -1
            elif number:  # the largest keeps the number of the cluster
                last += 1
                found[members[group]] = last
    return found


def _has_conflict(moment: NDArray[np.int64], tracks: NDArray[np.int64]) -> bool:
    known = moment >= 0
    pairs = np.stack([moment[known], np.where(tracks[known] < 0, -1 - np.arange(known.sum()), tracks[known])])
    return bool(np.unique(pairs, axis=1).shape[1] > len(np.unique(pairs[0])))


def _groups(
    vectors: Vectors, moment: NDArray[np.int64], tracks: NDArray[np.int64], known: NDArray[np.int64]
) -> list[NDArray[np.int64]]:
    """Rows of each group, in order."""
    parent = list(range(len(vectors)))
    frames = [Frames(int(when), int(track)) for when, track in zip(moment, tracks, strict=True)]

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    def join(first: int, second: int) -> None:
        keep, drop = min(first, second), max(first, second)
        parent[drop] = keep
        frames[keep].add(frames[drop])

    leaders: dict[int, int] = {}
    for row in np.flatnonzero(known >= 0).tolist():
        if leaders.setdefault(int(known[row]), row) != row:
            join(leaders[int(known[row])], row)
    for one, other in _edges(vectors):
        first, second = root(int(one)), root(int(other))
        if first != second and not frames[first].excludes(frames[second]):
            join(first, second)
    roots = np.array([root(row) for row in range(len(vectors))])
    return [np.flatnonzero(roots == number) for number in np.unique(roots)]


def _edges(vectors: Vectors) -> NDArray[np.int64]:
    """(E, 2) pairs of neighbours, the most similar first."""
    count = min(_NEIGHBORS, len(vectors) - 1)
    similarities, pairs = [], []
    for start in range(0, len(vectors), _ROWS):
        block = vectors[start : start + _ROWS] @ vectors.T
        rows = np.arange(start, start + len(block))
        block[np.arange(len(block)), rows] = -np.inf
        columns = np.argpartition(-block, count - 1, axis=1)[:, :count]
        similarities.append(np.take_along_axis(block, columns, axis=1).ravel())
        pairs.append(np.stack([np.repeat(rows, count), columns.ravel()], axis=1))
    edges = np.concatenate(pairs)
    order = np.lexsort((edges[:, 1], edges[:, 0], -np.concatenate(similarities)))
    ordered: NDArray[np.int64] = edges[order]
    return ordered


def num_pairs(moment: NDArray[np.int64], tracks: NDArray[np.int64]) -> int:
    """Pairs of images that cannot be one person."""
    order = np.argsort(moment, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(moment[order])) + 1)
    return sum(
        tracks[one] < 0 or tracks[one] != tracks[other]
        for group in groups
        if len(group) and moment[group[0]] >= 0
        for one, other in itertools.combinations(group, 2)
    )
