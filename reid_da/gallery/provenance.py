"""Which camera took an image, and when: from a table, from names of files and folders, or from EXIF data.

Who is shown is never read: an index of labelled images knows no more than one of images without labels.
"""

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from PIL import ExifTags, Image

from reid_da.datasets.folders import CHOICES, LAYOUTS, camera_name
from reid_da.errors import InputError, first_few, unknown_name
from reid_da.reading import UnsuitableFileError, read_error, read_list
from reid_da.text import from_csv_cell

GROUPS = frozenset({"camera", "time", "track"})
COLUMNS = ("path", "camera", "time", "track")
_STAMP = re.compile(r"(?<!\d)(20\d\d)[-_]?(\d\d)[-_]?(\d\d)[T_ -]?(\d\d)[-_:.h]?(\d\d)[-_:.m]?(\d\d)(?!\d)", re.ASCII)
_DIGITS = re.compile(r"[+-]?\d{1,15}(\.\d{1,9})?", re.ASCII)
_LONGEST_NAME = 255
CALENDAR_FROM = 1e8
"""Seconds from which a time is one of the calendar (1973), and not one since the start of a film."""


@dataclass(frozen=True)
class Origin:
    """Camera, time in seconds and track of an image, each None where not known."""

    camera: str | None = None
    time: float | None = None
    track: str | None = None


def origins(
    root: Path,
    paths: Sequence[str],
    *,
    pattern: str | None = None,
    layout: str | None = None,
    table: Path | None = None,
    fps: float = 1.0,
) -> tuple[list[Origin], str]:
    """Origin of each image, and in words how the names were read.

    Args:
        root: a folder.
        paths: N image paths below it, with forward slashes.
        pattern: regular expression with the groups ``(?P<camera>...)``, ``(?P<time>...)``, ``(?P<track>...)``; with a
            slash in it, it is matched with the path below ``root``, else with the file name.
        layout: ``camera-folders``, ``person-folders`` or ``flat``, where the names do not tell.
        table: CSV with the columns of :data:`COLUMNS`; ``path`` is relative to ``root``, to the table, or absolute.
        fps: a time that is a plain number is divided by this; frames per second for numbers of frames.

    Raises:
        InputError: a pattern or table does not fit the images, or folders may be cameras as well as persons.
    """
    if not (fps > 0 and math.isfinite(fps)):
        raise InputError(f"--fps: expected a number above 0, got {fps}")
    if sum(choice is not None for choice in (pattern, layout, table)) > 1:
        raise InputError("give one of: a pattern, a layout, a table of images")
    if table is not None:
        return _from_table(root, paths, table, fps=fps), f"cameras and times from {table}"
    if pattern is not None:
        return _from_pattern(root, paths, pattern, fps=fps), f"names read by the pattern {pattern}"
    name = layout or _fitting(root, paths)
    if name not in CHOICES and name not in LAYOUTS:
        raise unknown_name("layout", name, CHOICES)
    expression, words = CHOICES[name] if name in CHOICES else (LAYOUTS[name], f"names like {name}")
    compiled = re.compile(expression)
    found = []
    for path in paths:
        match = compiled.match(path)
        camera = match.groupdict().get("camera") if match else None
        found.append(Origin(camera=_camera(camera), time=stamp(path.rpartition("/")[2])))
    return found, words


def stamp(name: str) -> float | None:
    """Seconds since 1970 of a date with time in a file name, such as ``20261126-083015``, taken as UTC."""
    found = _STAMP.search(name)
    if found is None:
        return None
    try:
        return datetime(*map(int, found.groups()), tzinfo=timezone.utc).timestamp()  # type: ignore[arg-type,misc]
    except ValueError:
        return None


def parse_time(text: str, *, fps: float = 1.0) -> float:
    """Seconds of a date with time (ISO 8601; without an offset it is UTC), a stamp as in names, or a plain number.

    Raises:
        InputError: it is none of these.
    """
    text = text.strip()
    if _DIGITS.fullmatch(text) and not (len(text) == 14 and stamp(text) is not None):
        return float(text) / fps
    try:
        when = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        found = stamp(text)
        if found is None:
            raise InputError(
                f"{text!r} is no time: expected 2026-11-26T08:30:15, 20261126083015 or a number of seconds"
            ) from None
        return found
    return (when if when.tzinfo else when.replace(tzinfo=timezone.utc)).timestamp()


def time_text(seconds: float | None) -> str:
    """A time as people read it; empty where there is none."""
    if seconds is None or not math.isfinite(seconds):
        return ""
    if seconds < CALENDAR_FROM:
        return f"{seconds:g} s"
    try:
        when = datetime.fromtimestamp(seconds, tz=timezone.utc)
    except (ValueError, OverflowError, OSError):
        return f"{seconds:g} s"
    return when.strftime("%Y-%m-%d %H:%M:%S")


def exif_time(content: bytes) -> float | None:
    """Seconds since 1970 at which a camera says that it took the picture; without an offset it is taken as UTC."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            tags = image.getexif().get_ifd(ExifTags.IFD.Exif)
        text = str(tags[ExifTags.Base.DateTimeOriginal]).strip("\0 ")
        offset = str(tags.get(ExifTags.Base.OffsetTimeOriginal, "+00:00")).strip("\0 ")
        fraction = str(tags.get(ExifTags.Base.SubsecTimeOriginal, "0")).strip("\0 ")
        when = datetime.strptime(f"{text} {offset}", "%Y:%m:%d %H:%M:%S %z")
        return when.timestamp() + (float(f"0.{fraction}") if fraction.isdecimal() else 0.0)
    except Exception:  # whatever Pillow's parsers meet: then the picture does not tell
        return None


def _fitting(root: Path, paths: Sequence[str]) -> str:
    for name, layout in LAYOUTS.items():
        compiled = re.compile(layout)
        if all(map(compiled.match, paths)):
            return name
    folders = {path.rpartition("/")[0] for path in paths}
    if len(folders) > 1:
        raise InputError(
            f"{root}: the names do not tell which camera took which image ({first_few(sorted(folders))}); choose "
            "--layout camera-folders (the folder of an image is its camera), --layout flat (not known), "
            r"--pattern '(?P<camera>\d+)_(?P<time>\d+)', or --table FILE.csv with the columns path,camera,time"
        )
    return "flat"


def _camera(text: str | None) -> str | None:
    """Name of a camera, the same for ``3`` and ``03``."""
    if not text:
        return None
    if len(text) > _LONGEST_NAME:
        raise InputError(f"the name of a camera has more than {_LONGEST_NAME} characters: {text[:30]}...")
    return camera_name(text)


def _origin(values: Mapping[str, str | None], *, fps: float) -> Origin:
    when, track = values.get("time"), values.get("track")
    seconds = parse_time(when, fps=fps) if when else None
    if track and len(track) > _LONGEST_NAME:
        raise InputError(f"the name of a track has more than {_LONGEST_NAME} characters: {track[:30]}...")
    return Origin(camera=_camera(values.get("camera")), time=seconds, track=track or None)


def _from_pattern(root: Path, paths: Sequence[str], pattern: str, *, fps: float) -> list[Origin]:
    try:
        compiled = re.compile(pattern)
    except (re.error, OverflowError, RecursionError, MemoryError) as error:
        raise InputError(f"pattern {pattern!r} is not a regular expression: {error}") from error
    groups = set(compiled.groupindex)
    if not groups or groups - GROUPS:
        raise InputError(
            f"pattern {pattern!r} has the groups {sorted(groups) or 'none'}; it needs one or several of "
            "(?P<camera>...), (?P<time>...), (?P<track>...)"
        )
    names = paths if "/" in pattern else [path.rpartition("/")[2] for path in paths]
    matches = [compiled.match(name) for name in names]
    missed = [path for path, match in zip(paths, matches, strict=True) if match is None]
    if missed:
        raise InputError(
            f"{root}: {len(missed)} of {len(paths)} image names do not match the pattern {pattern!r}: "
            f"{first_few(missed)}"
        )
    try:
        return [_origin(match.groupdict(), fps=fps) for match in matches if match is not None]
    except InputError as error:
        raise InputError(f"{root}: pattern {pattern!r}: {error}") from error


def _from_table(root: Path, paths: Sequence[str], table: Path, *, fps: float) -> list[Origin]:
    try:
        rows = csv.DictReader(io.StringIO(read_list(table)), strict=True)
        if "path" not in (rows.fieldnames or ()):
            raise InputError(f"{table}: no column path; expected {','.join(COLUMNS)}")
        by_path: dict[str, Origin] = {}
        for number, row in enumerate(rows, start=1):
            if None in row or None in row.values():
                raise InputError(f"{table}: row {number} does not have as many fields as the header")
            values = {key.strip(): from_csv_cell(value.strip()) for key, value in row.items()}
            values.setdefault("camera", values.get("camid", ""))
            try:
                by_path[values["path"]] = _origin(values, fps=fps)
            except InputError as error:
                raise InputError(f"{table}: row {number}: {error}") from error
    except UnsuitableFileError as error:
        raise InputError(f"{table}: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(read_error(table, error)) from error
    except csv.Error as error:
        raise InputError(f"{table}: cannot be read as CSV: {error}") from error
    places = {(base / path).resolve(): origin for path, origin in by_path.items() for base in (root, table.parent)}
    found = [places.get((root / path).resolve()) for path in paths]
    missed = [path for path, origin in zip(paths, found, strict=True) if origin is None]
    if missed:
        raise InputError(f"{table}: has no row for {len(missed)} of {len(paths)} images: {first_few(missed)}")
    return [origin for origin in found if origin is not None]
