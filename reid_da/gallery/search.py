"""The nearest images of an index: exact, streamed block by block, filtered before they are ranked."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from reid_da.errors import InputError, unknown_name
from reid_da.gallery.protocol import Record
from reid_da.gallery.provenance import time_text
from reid_da.gallery.store import Gallery, Snapshot
from reid_da.gallery.vectors import Vectors
from reid_da.nearest import NO_NEIGHBOR, RunningNeighbors
from reid_da.reciprocal import SPARE_CANDIDATES
from reid_da.text import csv_cell, printable

_QUERIES = 256
"""Queries that are compared at a time."""
_ELEMENTS = 2**22
"""Similarities that exist at a time (16 MiB)."""
_PIECE_ROWS = (2**10, 2**15)
"""Fewest and most vectors that are compared at a time."""


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Which images are searched; what is not known does not pass.

    Attributes:
        cameras: names of the cameras; all if empty.
        after: earliest time in seconds.
        before: latest time in seconds.
        leave_out: ids of images that are not searched.
    """

    cameras: tuple[str, ...] = ()
    after: float | None = None
    before: float | None = None
    leave_out: tuple[int, ...] = ()

    def check(self, cameras: Sequence[str]) -> None:
        """Refuse a camera that is not among those of the index.

        Raises:
            InputError: there is no such camera.
        """
        for name in self.cameras:
            if name not in cameras:
                raise unknown_name("camera", name, cameras)

    def rows(self, snapshot: Snapshot) -> NDArray[np.int64]:
        """Rows of a snapshot that pass, in their order.

        Raises:
            InputError: there is no such camera.
        """
        self.check(snapshot.camera_names)
        passing = np.ones(len(snapshot), dtype=bool)
        if self.cameras:
            passing &= np.isin(snapshot.camids, [snapshot.camera_names.index(name) for name in self.cameras])
        if self.after is not None:
            passing &= snapshot.times >= self.after
        if self.before is not None:
            passing &= snapshot.times <= self.before
        if self.leave_out:
            passing &= ~np.isin(snapshot.ids, self.leave_out)
        return np.flatnonzero(passing)


class Candidates(Protocol):
    """Finds rows that may be the nearest; :func:`nearest` orders them."""

    def __call__(self, snapshot: Snapshot, queries: Vectors, rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        """(Q, count) of the given rows of a snapshot that are near each query, -1 where there are fewer."""
        ...


def exact_candidates(snapshot: Snapshot, queries: Vectors, rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The nearest rows by float32 products with all of them; see :class:`Candidates`."""
    found = np.empty((len(queries), count), dtype=np.int64)
    for start in range(0, len(queries), _QUERIES):
        part = queries[start : start + _QUERIES]
        size = min(max(_ELEMENTS // len(part), _PIECE_ROWS[0]), _PIECE_ROWS[1])
        running = RunningNeighbors(count)
        for piece in snapshot.pieces(rows, size):
            running.add(torch.from_numpy(part @ snapshot.vectors(piece).T))
        slots = running.slots().numpy()
        found[start : start + len(part)] = np.where(slots == NO_NEIGHBOR, NO_NEIGHBOR, rows[slots])
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """Nearest images of Q queries, the nearest first.

    Attributes:
        rows: (Q, K) int64 rows of the snapshot, -1 where an approximate search found fewer.
        similarities: (Q, K) float64 cosine similarities.
        searched: number of images that passed the filters.
    """

    rows: NDArray[np.int64]
    similarities: NDArray[np.float64]
    searched: int


def nearest(
    snapshot: Snapshot,
    queries: Vectors,
    *,
    top: int,
    filters: Filters | None = None,
    candidates: Candidates = exact_candidates,
) -> Found:
    """The images of a snapshot nearest to each query; all that pass the filters if these are fewer than ``top``.

    A few more candidates than are wanted are ordered by similarities in float64, equal ones by their ids, so that
    neither blocks nor filters nor threads show in the order.

    Args:
        snapshot: the images.
        queries: (Q, D) unit vectors.
        top: images per query.
        filters: which images are searched; all by default.
        candidates: exact, or an approximate index.

    Raises:
        InputError: ``top`` is below 1, or the vectors have another length.
    """
    if top < 1:
        raise InputError(f"top: expected at least 1, got {top}")
    if queries.ndim != 2 or queries.shape[1] != snapshot.dim:
        raise InputError(f"queries: expected vectors of {snapshot.dim} dimensions, got the shape {queries.shape}")
    rows = (filters or Filters()).rows(snapshot)
    count = min(top, len(rows))
    if not count:
        return Found(
            rows=np.empty((len(queries), 0), dtype=np.int64), similarities=np.empty((len(queries), 0)), searched=0
        )
    proposed = np.sort(candidates(snapshot, queries, rows, min(count + SPARE_CANDIDATES, len(rows))), axis=1)
    similarities = np.full(proposed.shape, -np.inf)
    for number, of_query in enumerate(proposed):
        valid = of_query >= 0
        similarities[number, valid] = exact_similarities(queries[number], snapshot.vectors(of_query[valid]))
    order = np.argsort(-similarities, axis=1, kind="stable")[:, :count]
    return Found(
        rows=np.take_along_axis(proposed, order, axis=1),
        similarities=np.clip(np.take_along_axis(similarities, order, axis=1), -1, 1),
        searched=len(rows),
    )


def exact_similarities(query: Vectors, vectors: Vectors) -> NDArray[np.float64]:
    """(N,) cosine similarities of a (D,) query to (N, D) vectors, in float64."""
    one, others = query.astype(np.float64), vectors.astype(np.float64)
    # unit length in float32 is not exact, and would put near copies before an image itself
    lengths = np.linalg.norm(others, axis=1) * np.linalg.norm(one)
    found: NDArray[np.float64] = np.einsum("nd,d->n", others, one) / lengths
    return found


@dataclass(frozen=True, kw_only=True)
class Hit:
    """An image that was found.

    Attributes:
        rank: from 1.
        image: what is known of it.
        similarity: cosine similarity to the query.
        is_match: whether that reaches the threshold; None without one.
    """

    rank: int
    image: Record
    similarity: float
    is_match: bool | None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What was found for a query.

    Attributes:
        query: its name.
        hits: the nearest images, the nearest first.
    """

    query: str
    hits: tuple[Hit, ...] = field(repr=False)

    @property
    def is_unknown(self) -> bool | None:
        """Whether no image reaches the threshold; None without a threshold."""
        if any(hit.is_match is None for hit in self.hits):
            return None
        return not any(hit.is_match for hit in self.hits)


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Answers to several queries.

    Attributes:
        answers: one for each query.
        threshold: lowest similarity that means the same person, or None.
        fpr: false positive rate of a pair at that threshold, or None.
        source: where the threshold comes from, in words.
        searched: number of images that passed the filters.
    """

    answers: tuple[Answer, ...]
    threshold: float | None
    fpr: float | None
    source: str
    searched: int

    @property
    def expected_false(self) -> float | None:
        """False matches to be expected for each query: the rate of a pair times the images that were searched."""
        return None if self.fpr is None else self.fpr * self.searched

    def to_json(self) -> dict[str, Any]:
        """Dictionaries, lists and numbers; times in seconds."""
        return {
            "threshold": self.threshold,
            "fpr": self.fpr,
            "threshold_source": self.source,
            "searched": self.searched,
            "expected_false_matches": self.expected_false,
            "answers": [
                {
                    "query": answer.query,
                    "unknown": answer.is_unknown,
                    "hits": [hit_json(hit) for hit in answer.hits],
                }
                for answer in self.answers
            ],
        }

    def to_csv(self) -> str:
        """A line for each query and image; ``match`` is empty without a threshold."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("query", "rank", "similarity", "match", "id", "path", "camera", "time", "identity", "name"))
        for answer in self.answers:
            for hit in answer.hits:
                match = "" if hit.is_match is None else "yes" if hit.is_match else "no"
                image = hit.image
                texts = (image.path, image.camera, time_text(image.time), image.identity, image.name)
                cells = ("" if value is None else csv_cell(printable(value)) for value in texts)
                writer.writerow(
                    (csv_cell(printable(answer.query)), hit.rank, f"{hit.similarity:.6f}", match, image.id, *cells)
                )
        return text.getvalue()


def hit_json(hit: Hit) -> dict[str, Any]:
    """A hit as a dictionary."""
    return {
        "rank": hit.rank,
        "similarity": round(hit.similarity, 6),
        "match": hit.is_match,
        **hit.image._asdict(),
        "time_text": time_text(hit.image.time),
    }


def answers(
    gallery: Gallery,
    snapshot: Snapshot,
    found: Found,
    names: Sequence[str],
    *,
    threshold: float | None = None,
    fpr: float | None = None,
    source: str = "",
) -> Answers:
    """What was found, with what the index knows of each image; an image that is gone by now is left out."""
    rows = np.unique(found.rows[found.rows >= 0])
    records = gallery.records(snapshot.ids[rows].tolist())
    lists = [
        [
            (records[int(snapshot.ids[row])], float(similarity))
            for row, similarity in zip(of_query, similarities, strict=True)
            if row >= 0 and int(snapshot.ids[row]) in records
        ]
        for of_query, similarities in zip(found.rows, found.similarities, strict=True)
    ]
    return answers_of(lists, names, threshold=threshold, fpr=fpr, source=source, searched=found.searched)


def answers_of(
    lists: Sequence[Sequence[tuple[Record, float]]],
    names: Sequence[str],
    *,
    threshold: float | None,
    fpr: float | None,
    source: str,
    searched: int,
) -> Answers:
    """Answers from images with their similarities, the nearest first, for each query."""
    listed = [
        Answer(
            query=name,
            hits=tuple(
                Hit(
                    rank=rank,
                    image=image,
                    similarity=similarity,
                    is_match=None if threshold is None else similarity >= threshold,
                )
                for rank, (image, similarity) in enumerate(hits, start=1)
            ),
        )
        for name, hits in zip(names, lists, strict=True)
    ]
    return Answers(answers=tuple(listed), threshold=threshold, fpr=fpr, source=source, searched=searched)
