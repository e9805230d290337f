"""What is in an index: a summary, and its images as rows."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from reid_da.gallery.identities import Identity
from reid_da.gallery.protocol import Record
from reid_da.gallery.provenance import time_text
from reid_da.gallery.qdrant import Collection
from reid_da.gallery.search import Answers
from reid_da.gallery.store import Gallery
from reid_da.gallery.threshold import Thresholds
from reid_da.reporting.tables import Column, Row, Table
from reid_da.text import csv_cell, printable

IMAGE_COLUMNS = ("id", "path", "camera", "time", "track", "identity", "name")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """An index in figures.

    Attributes:
        images: number of images.
        cameras: images and first and last time by name of the camera, ``None`` for unknown ones.
        identities: number of identities.
        unassigned: number of images without an identity.
        removed: vectors of removed images that the next compaction drops.
        vector_bytes: size of the vectors on the disk.
        model: what made the vectors.
        fingerprint: of that model.
    """

    images: int
    cameras: tuple[tuple[str | None, int, float | None, float | None], ...]
    identities: int
    unassigned: int
    removed: int
    vector_bytes: int
    model: str
    fingerprint: str

    def to_json(self) -> dict[str, Any]:
        """The figures as dictionaries, lists and numbers."""
        cameras = [
            {"camera": name, "images": count, "first": first, "last": last} for name, count, first, last in self.cameras
        ]
        return {**vars(self), "cameras": cameras}

    def table(self) -> Table:
        """A row for each camera, and the rest as notes."""
        rows = [
            Row(cells=(name or "unknown", count, time_text(first) or None, time_text(last) or None))
            for name, count, first, last in self.cameras
        ]
        notes = [
            f"{self.images:,} images, {self.identities:,} identities, {self.unassigned:,} images without one",
            f"model {self.model} ({self.fingerprint[:8]}), vectors {self.vector_bytes / 1e6:.1f} MB",
        ]
        if self.removed:
            notes.append(f"vectors of {self.removed:,} removed images are still there: reid-da index compact")
        columns = [Column(heading="camera", align="left"), Column(heading="images")]
        columns += [Column(heading=name, align="left") for name in ("first", "last")]
        return Table(columns=columns, rows=rows, notes=notes)


def summary(index: Gallery | Collection) -> Summary:
    """An index in figures."""
    if isinstance(index, Gallery):
        cameras = index.rows(
            "SELECT name, count(*), min(time), max(time) FROM images LEFT JOIN cameras ON cameras.id = camera "
            "GROUP BY camera ORDER BY length(name), name"
        )
        images, assigned, identities = index.rows(
            "SELECT count(*), count(identity), count(DISTINCT identity) FROM images"
        )[0]
        vectors = index.rows("SELECT ifnull(sum(rows), 0) FROM blocks")[0][0]
    else:
        records = index.all_records()
        cameras = _by_camera(records)
        images = vectors = len(records)
        known = [record.identity for record in records if record.identity is not None]
        assigned, identities = len(known), len(set(known))
    return Summary(
        images=images,
        cameras=tuple(cameras),
        identities=identities,
        unassigned=images - assigned,
        removed=vectors - images,
        vector_bytes=vectors * index.card.dim * 4,
        model=index.card.model,
        fingerprint=index.card.fingerprint,
    )


def _by_camera(records: Sequence[Record]) -> list[tuple[str | None, int, float | None, float | None]]:
    """Images, first and last time of each camera."""
    groups: dict[str | None, list[Record]] = {}
    for record in records:
        groups.setdefault(record.camera, []).append(record)
    found = []
    for name, members in sorted(groups.items(), key=lambda group: (len(group[0] or ""), group[0] or "")):
        times = [record.time for record in members if record.time is not None]
        found.append((name, len(members), min(times, default=None), max(times, default=None)))
    return found


def to_csv(records: Iterable[Record]) -> str:
    """Images as CSV; what a spreadsheet would take for a formula gets an apostrophe in front."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(IMAGE_COLUMNS)
    for record in records:
        writer.writerow("" if value is None else csv_cell(printable(value)) for value in record)
    return text.getvalue()


def answers_table(answers: Answers) -> Table:
    """What was found, a row for each image."""
    rows = []
    for answer in answers.answers:
        verdict = " (unknown)" if answer.is_unknown else ""
        for hit in answer.hits:
            image = hit.image
            match = None if hit.is_match is None else "yes" if hit.is_match else "no"
            identity = image.name or (None if image.identity is None else str(image.identity))
            origin = (image.camera, time_text(image.time) or None, identity, PurePath(image.path).name, image.id)
            cells = (hit.rank, hit.similarity, match, *origin)
            name = f"{PurePath(answer.query).name}{verdict}" if hit.rank == 1 else ""
            rows.append(Row(cells=(name, *cells), style="dim" if hit.is_match is False else ""))
    columns = [
        Column(heading="query", align="left"),
        Column(heading="rank"),
        Column(heading="cosine", form="{:.3f}"),
    ]
    columns += [Column(heading=name, align="left") for name in ("match", "camera", "time", "identity", "image")]
    columns += [Column(heading="id", align="left")]
    return Table(columns=columns, rows=rows)


def threshold_table(thresholds: Thresholds) -> Table:
    """Thresholds without labels, and what they rest on."""
    has_styles = any(point.styled is not None for point in thresholds.points)
    rows = [
        Row(
            cells=(
                f"{point.fpr:g}",
                point.threshold,
                None if point.low is None else f"{point.low:.3f} to {point.high:.3f}",
                None if point.tpr is None else 100 * point.tpr,
                *([100 * point.styled if point.styled is not None else None] if has_styles else []),
            )
        )
        for point in thresholds.points
    ]
    kinds = ", ".join(f"{count:,} of {kind}" for kind, count in thresholds.kinds.items())
    notes = [f"from {kinds} at the same time, {thresholds.num_units:,} {thresholds.unit}s"]
    if thresholds.num_positives:
        notes.append(f"same track: {thresholds.num_positives:,} pairs, all within a camera; across cameras fewer pass")
    if any(point.threshold is None for point in thresholds.points):
        notes.append("-: too few pairs to tell")
    if thresholds.is_coarse:
        notes.append(
            "times are whole seconds: pictures of one person within a second count as two people, which makes the "
            "thresholds too high; give tracks or finer times with reid-da index add --table"
        )
    columns = [
        Column(heading="FPR", align="left"),
        Column(heading="threshold", form="{:.4f}"),
        Column(heading="95 %", align="left"),
        Column(heading="same track passes (%)"),
    ]
    if has_styles:
        columns.append(Column(heading="other style passes (%)"))
        notes.append("other style: images beside themselves in the colours of another camera, in one pose and angle")
    return Table(columns=columns, rows=rows, notes=notes)


def identities_table(listed: Sequence[Identity]) -> Table:
    """A row for each identity."""
    rows = [
        Row(
            cells=(
                str(identity.id), identity.name, identity.images, identity.cameras,
                time_text(identity.first) or None, time_text(identity.last) or None,
            )
        )
        for identity in listed
    ]  # fmt: skip
    columns = [Column(heading="identity", align="left"), Column(heading="name", align="left")]
    columns += [Column(heading="images"), Column(heading="cameras")]
    columns += [Column(heading=name, align="left") for name in ("first", "last")]
    return Table(columns=columns, rows=rows)
