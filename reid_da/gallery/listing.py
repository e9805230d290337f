"""What is in an index: a summary, and its images as rows."""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from reid_da.gallery.provenance import time_text
from reid_da.gallery.store import Gallery, Record
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


def summary(gallery: Gallery) -> Summary:
    """An index in figures."""
    cameras = gallery.rows(
        "SELECT name, count(*), min(time), max(time) FROM images LEFT JOIN cameras ON cameras.id = camera "
        "GROUP BY camera ORDER BY length(name), name"
    )
    images, assigned, identities = gallery.rows(
        "SELECT count(*), count(identity), count(DISTINCT identity) FROM images"
    )[0]
    vectors = gallery.rows("SELECT ifnull(sum(rows), 0) FROM blocks")[0][0]
    return Summary(
        images=images,
        cameras=tuple(cameras),
        identities=identities,
        unassigned=images - assigned,
        removed=vectors - images,
        vector_bytes=vectors * gallery.card.dim * 4,
        model=gallery.card.model,
        fingerprint=gallery.card.fingerprint,
    )


def to_csv(records: Iterable[Record]) -> str:
    """Images as CSV; what a spreadsheet would take for a formula gets an apostrophe in front."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(IMAGE_COLUMNS)
    for record in records:
        writer.writerow("" if value is None else csv_cell(printable(value)) for value in record)
    return text.getvalue()
