"""What was found in an index, as pictures."""

import os
from collections.abc import Sequence
from pathlib import Path

from reid_da.errors import InputError
from reid_da.gallery.protocol import Record
from reid_da.gallery.provenance import time_text
from reid_da.gallery.search import Answers, Hit
from reid_da.gallery.store import Gallery
from reid_da.reporting.galleries import MATCH, NEUTRAL, NO_MATCH, Tile, draw_tiles

_MOST_QUERIES = 40
_HITS_IN_ROW = 10
"""More of a query go on in the row below: a strip of 20 is too wide for a page or a slide."""


def draw_answers(
    answers: Answers, queries: Sequence[str], path: str | os.PathLike[str], *, blur_faces: bool = False
) -> None:
    """Write a picture of the ranked lists: the query, then what was found, with similarity, camera and time.

    Raises:
        InputError: there are too many queries for one picture.
    """
    if len(queries) > _MOST_QUERIES:
        raise InputError(f"a picture shows at most {_MOST_QUERIES} queries, these are {len(queries)}")
    rows: list[list[Tile | None]] = []
    for query, answer in zip(queries, answers.answers, strict=True):
        verdict = "unknown" if answer.is_unknown else "query"
        hits = [_tile_of_hit(hit) for hit in answer.hits]
        rows.append([Tile(query, (verdict,)), *hits[:_HITS_IN_ROW]])
        rows += [[None, *hits[start : start + _HITS_IN_ROW]] for start in range(_HITS_IN_ROW, len(hits), _HITS_IN_ROW)]
    legend = ""
    if answers.threshold is not None:
        legend = f"thick frame: similarity of {answers.threshold:.3f} or more ({answers.source})"
    draw_tiles(rows, path, title=f"searched: {answers.searched:,} images", legend=legend, blur_faces=blur_faces)


def _tile_of_hit(hit: Hit) -> Tile:
    colour = NEUTRAL if hit.is_match is None else MATCH if hit.is_match else NO_MATCH
    return Tile(hit.image.path, (f"{hit.similarity:.3f}", _where(hit.image)), colour)


def _where(image: Record) -> str:
    camera = "" if image.camera is None else f"cam {image.camera}" if image.camera.isdecimal() else image.camera
    return camera or time_text(image.time)[-8:]


def draw_sheets(
    gallery: Gallery, folder: Path, *, blur_faces: bool = False, most_images: int = 60, columns: int = 12
) -> int:
    """Write a contact sheet for each identity, its images by camera and time, and return how many were written.

    Sheets of identities that are no more are removed.

    Args:
        gallery: the index.
        folder: where the sheets go, ``identity-000017.png``.
        blur_faces: make faces unrecognisable.
        most_images: images of an identity that are shown, spread evenly over them.
        columns: images in a row.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".identity-*.tmp"):
        leftover.unlink(missing_ok=True)  # of a process that was killed
    by_identity: dict[int, list[Record]] = {}
    for record in gallery.all_records("WHERE identity NOTNULL"):
        by_identity.setdefault(record.identity or 0, []).append(record)
    wanted = set()
    for identity, records in sorted(by_identity.items()):
        ordered = sorted(records, key=lambda record: (record.camera or "", record.time or 0, record.id))
        step = max(1, -(-len(ordered) // most_images))
        tiles = [Tile(record.path, (_where(record), time_text(record.time)[-8:])) for record in ordered[::step]]
        rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
        file = folder / f"identity-{identity:06d}.png"
        cameras = len({record.camera for record in records})
        title = f"{records[0].name or f'identity {identity}'}: {len(records)} images, {cameras} cameras"
        draw_tiles(rows, file, title=title, blur_faces=blur_faces)
        wanted.add(file.name)
    for file in folder.glob("identity-*.png"):
        if file.name not in wanted:
            file.unlink()
    return len(wanted)
