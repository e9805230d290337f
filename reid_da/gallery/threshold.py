"""Which similarity means "the same person", without labels: from pairs that cannot be one person.

Two images that one camera took at the same time show two people, whoever they are; so do images of cameras that see
different places. Their similarities are a sample of those of different people, and the threshold that lets through a
given share of them is that of a false positive rate. Images of one track show one person; they tell how many true
pairs a threshold lets through.

What the sample is not: pairs of one camera share background and light, which pairs across cameras do not. Of most
models that makes them more similar, so that their threshold is on the safe side across cameras.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from reid_da.errors import InputError
from reid_da.evaluation.operating_point import check_rates
from reid_da.features import pieces
from reid_da.gallery.protocol import ImageIndex
from reid_da.gallery.provenance import CALENDAR_FROM
from reid_da.gallery.store import Gallery, Snapshot

FPRS = (1e-1, 1e-2, 1e-3)
MAX_PAIRS = 500_000
"""Pairs of a kind that are compared; of more a random part."""
META = "threshold"
"""Where an index keeps its thresholds."""
_BLOCK_SECONDS = 60.0
_NUM_BOOTSTRAPS = 200
_LEAST_UNITS = 10
_PAIR_ROWS = 2**14
Kind = Literal["same-camera", "other-camera"]


@dataclass(frozen=True, kw_only=True)
class Point:
    """A threshold at a false positive rate.

    Attributes:
        fpr: the rate that was asked for.
        threshold: lowest similarity at which no more than this share of the impossible pairs passes; None where these
            are too few to tell.
        low: 2.5 % quantile of the threshold over resamplings of tracks, or of minutes where there are no tracks.
        high: 97.5 % quantile; both are None where there are too few of these to tell.
        tpr: share of the pairs of one track that pass, or None.
        styled: share of the images that pass beside themselves in the style of another camera, or None.
    """

    fpr: float
    threshold: float | None
    low: float | None
    high: float | None
    tpr: float | None
    styled: float | None = None


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Thresholds without labels, and what they rest on.

    Attributes:
        points: one for each false positive rate.
        kinds: number of impossible pairs by kind.
        num_negatives: impossible pairs that were compared.
        num_positives: pairs of one track that were compared.
        num_units: tracks or minutes that the pairs are from.
        unit: ``track`` or ``minute``: what is resampled as a whole.
        is_coarse: whether times are whole seconds of the calendar and tracks are not known. Then pictures of one person
            may count as those of two, and the thresholds are too high.
    """

    points: tuple[Point, ...]
    kinds: dict[str, int]
    num_negatives: int
    num_positives: int
    num_units: int
    unit: str
    is_coarse: bool = False

    def at(self, fpr: float) -> float | None:
        """The threshold at a rate that was asked for; None where there is none."""
        return next((point.threshold for point in self.points if np.isclose(point.fpr, fpr, rtol=1e-9)), None)


@dataclass(frozen=True, eq=False)
class _Pairs:
    first: NDArray[np.int64]
    second: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.first)


def estimate(
    gallery: Gallery,
    *,
    fprs: Sequence[float] = FPRS,
    window: float = 0.0,
    disjoint_views: bool = False,
    styled: NDArray[np.float64] | None = None,
    max_pairs: int = MAX_PAIRS,
    seed: int = 0,
) -> Thresholds:
    """Thresholds of an index, from its own images.

    Args:
        gallery: the index; times have to be known, tracks help.
        fprs: false positive rates, above 0 and at most 1.
        window: how many seconds apart is still the same time.
        disjoint_views: no place is seen by two cameras, and their clocks agree: then images of different cameras at
            the same time are impossible pairs too.
        styled: similarities of :func:`~reid_da.gallery.styled.styled_similarities`, or None.
        max_pairs: pairs of a kind that are compared.
        seed: of the choice of pairs and of the resampling.

    Raises:
        InputError: there are no such pairs, or a setting is out of its range.
    """
    check_rates(fprs)
    if not 0 <= window < 1e6:
        raise InputError(f"window: expected seconds from 0, got {window:g}")
    snapshot, tracks = gallery.snapshot(), track_numbers(gallery)
    generator = np.random.default_rng(seed)
    found = {"same-camera": impossible_pairs(snapshot, tracks, "same-camera", window, max_pairs, generator)}
    if disjoint_views:
        found["other-camera"] = impossible_pairs(snapshot, tracks, "other-camera", window, max_pairs, generator)
    negatives = _Pairs(*(np.concatenate([getattr(p, side) for p in found.values()]) for side in ("first", "second")))
    if not len(negatives):
        known = int((np.isfinite(snapshot.times) & (snapshot.camids >= 0)).sum())
        raise InputError(
            f"{gallery.path}: no two images of one camera at the same time (camera and time are known of {known} of "
            f"{len(snapshot)} images); give times with reid-da index add --table or --pattern, or a larger --window"
        )
    positives = same_track_pairs(tracks, max_pairs, generator)
    units, unit, num_units = _units(snapshot, tracks, negatives)
    similarities = pair_similarities(snapshot, negatives.first, negatives.second)
    of_tracks = pair_similarities(snapshot, positives.first, positives.second)
    order = np.argsort(-similarities, kind="stable")
    ordered, weights = similarities[order], np.ones(len(order))
    resampled = (
        [_resampled_weights(units[:, order], num_units, generator) for _ in range(_NUM_BOOTSTRAPS)]
        if num_units >= _LEAST_UNITS
        else []
    )
    points = []
    for fpr in fprs:
        threshold = _threshold(ordered, weights, fpr)
        limits = [limit for w in resampled if (limit := _threshold(ordered, w, fpr)) is not None]
        is_known = threshold is not None and len(limits) > _NUM_BOOTSTRAPS / 2
        low, high = (float(q) for q in np.quantile(limits, (0.025, 0.975))) if is_known else (None, None)
        tpr = float((of_tracks >= threshold).mean()) if threshold is not None and len(of_tracks) else None
        passing = None if styled is None or threshold is None else float((styled >= threshold).mean())
        points.append(Point(fpr=fpr, threshold=threshold, low=low, high=high, tpr=tpr, styled=passing))
    return Thresholds(
        points=tuple(points),
        kinds={kind: len(pairs) for kind, pairs in found.items()},
        num_negatives=len(negatives),
        num_positives=len(positives),
        num_units=num_units,
        unit=unit,
        is_coarse=unit != "track" and is_coarse(snapshot.times[negatives.first]),
    )


def is_coarse(times: NDArray[np.float64]) -> bool:
    """Whether times are whole seconds of the calendar, in which a camera may take several pictures of a person."""
    return len(times) > 0 and bool(((times >= CALENDAR_FROM) & (times == np.floor(times))).all())


def save(gallery: Gallery, thresholds: Thresholds) -> None:
    """Keep thresholds with the index."""
    with gallery.writing() as writer:
        writer.set_meta(META, json.dumps(asdict(thresholds)))


def stored(index: ImageIndex) -> Thresholds | None:
    """The thresholds that an index keeps, if any.

    Raises:
        InputError: they are damaged.
    """
    text = index.meta(META)
    if text is None:
        return None
    try:
        fields: dict[str, Any] = json.loads(text)
        points = tuple(Point(**point) for point in fields.pop("points"))
        return Thresholds(points=points, **fields)
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{index.place}: its thresholds are damaged; reid-da index threshold makes them anew"
        ) from error


def track_numbers(gallery: Gallery) -> NDArray[np.int64]:
    """(N,) number of the track of each image, in the order of a snapshot; -1 where not known.

    Tracks are told apart within a camera: trackers of different cameras count from 1 each.
    """
    rows = gallery.rows("SELECT camera, track FROM images ORDER BY id")
    numbers: dict[tuple[Any, str], int] = {}
    found = [-1 if track is None else numbers.setdefault((camera, track), len(numbers)) for camera, track in rows]
    return np.array(found, dtype=np.int64)


def impossible_pairs(
    snapshot: Snapshot,
    tracks: NDArray[np.int64],
    kind: Kind,
    window: float,
    max_pairs: int,
    generator: np.random.Generator,
) -> _Pairs:
    """Pairs of images at the same time, of one camera or of two; of one track never."""
    rows = np.flatnonzero(np.isfinite(snapshot.times) & (snapshot.camids >= 0))
    group = snapshot.camids[rows] if kind == "same-camera" else np.zeros(len(rows), dtype=np.int64)
    rows = rows[np.lexsort((snapshot.times[rows], group))]
    group = snapshot.camids[rows] if kind == "same-camera" else np.zeros(len(rows), dtype=np.int64)
    ends = np.empty(len(rows), dtype=np.int64)
    for number in np.unique(group):
        first, last = np.searchsorted(group, (number, number + 1))
        times = snapshot.times[rows[first:last]]
        ends[first:last] = first + np.searchsorted(times, times + window, side="right")
    owner, other = _chosen(ends - np.arange(len(rows)) - 1, max_pairs, generator)
    one, two = rows[owner], rows[other]
    keep = (tracks[one] != tracks[two]) | (tracks[one] < 0)
    if kind == "other-camera":
        keep &= snapshot.camids[one] != snapshot.camids[two]
    return _Pairs(one[keep], two[keep])


def same_track_pairs(tracks: NDArray[np.int64], max_pairs: int, generator: np.random.Generator) -> _Pairs:
    """Pairs of images of one track, which show one person."""
    rows = np.flatnonzero(tracks >= 0)
    rows = rows[np.argsort(tracks[rows], kind="stable")]
    ends = np.searchsorted(tracks[rows], tracks[rows], side="right")
    owner, other = _chosen(ends - np.arange(len(rows)) - 1, max_pairs, generator)
    return _Pairs(rows[owner], rows[other])


def _chosen(
    counts: NDArray[np.int64], max_pairs: int, generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs (i, i + 1) to (i, i + counts[i]) of all i, or a random part of them; the list of all never exists."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    picked = np.arange(total) if total <= max_pairs else np.unique(generator.integers(total, size=max_pairs))
    owner = np.searchsorted(ends, picked, side="right")
    return owner, owner + 1 + picked - (ends - counts)[owner]


def pair_similarities(snapshot: Snapshot, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.float64]:
    """(P,) cosine similarities of pairs of rows of a snapshot."""
    found = np.empty(len(first))
    for part in pieces(len(first), _PAIR_ROWS):
        found[part] = np.einsum("pd,pd->p", snapshot.vectors(first[part]), snapshot.vectors(second[part]))
    return found


def _units(snapshot: Snapshot, tracks: NDArray[np.int64], pairs: _Pairs) -> tuple[NDArray[np.int64], str, int]:
    """(2, P) units that the images of each pair belong to, what they are, and how many there are.

    Images of one person that walks by are no independent evidence. Whole tracks are resampled, or minutes of a camera.
    """
    if (tracks[pairs.first] >= 0).all() and (tracks[pairs.second] >= 0).all():
        of_pairs, unit = np.stack([tracks[pairs.first], tracks[pairs.second]]), "track"
    else:
        minutes = np.floor(snapshot.times[pairs.first] / _BLOCK_SECONDS).astype(np.int64)
        of_one = minutes * (len(snapshot.camera_names) + 1) + snapshot.camids[pairs.first]
        of_pairs, unit = np.stack([of_one, of_one]), "minute"
    _, numbers = np.unique(of_pairs, return_inverse=True)
    return numbers.reshape(of_pairs.shape), unit, int(numbers.max()) + 1


def _resampled_weights(units: NDArray[np.int64], num_units: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """How often each pair occurs when units are drawn with replacement (Bolle et al., CVIU 2004: subsets bootstrap)."""
    times = np.bincount(generator.integers(num_units, size=num_units), minlength=num_units).astype(np.float64)
    one, two = units
    weights: NDArray[np.float64] = np.where(one == two, times[one], times[one] * times[two])
    return weights


def _threshold(ordered: NDArray[np.float64], weights: NDArray[np.float64], fpr: float) -> float | None:
    """The lowest threshold that at most a share of the weighted, falling similarities reaches; None if unresolved."""
    reached = np.cumsum(weights)
    if not len(reached) or fpr * reached[-1] < 1:
        return None
    place = int(np.searchsorted(reached, fpr * reached[-1] * (1 + 1e-12), side="right"))
    return -1.0 if place >= len(ordered) else float(np.nextafter(ordered[place], 2))
