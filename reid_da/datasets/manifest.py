"""Manifests: a table with one row for each image, as CSV or Parquet."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from reid_da.atomic import write_text
from reid_da.datasets.folders import SPLITS, Crop, dataset_of_crops
from reid_da.datasets.persons import is_junk
from reid_da.datasets.table import Dataset
from reid_da.errors import InputError, first_few
from reid_da.reading import UnsuitableFileError, open_regular
from reid_da.text import csv_cell, from_csv_cell, size_text

COLUMNS = ("path", "pid", "camid", "split")
SUFFIXES = frozenset({".csv", ".parquet"})
"""Suffixes of manifests."""
_MAX_BYTES, _MAX_ROWS = 2**30, 10_000_000
"""Size of a manifest, unpacked, and number of its rows beyond which it is not read."""
_LONGEST_NAME = 255
_LONGEST_HEADER = 2**16


def is_manifest(file: Path) -> bool:
    """Whether a file exists and its header has the one column that every manifest needs."""
    try:
        with open_regular(file, limit=_MAX_BYTES) as stream:
            header = stream.readline(_LONGEST_HEADER).decode("utf-8-sig", "replace")
        return "path" in [field.strip() for field in next(csv.reader([header]), [])]
    except (OSError, UnsuitableFileError, csv.Error):
        return False


def read_manifest(file: Path) -> Dataset:
    """Data set of a manifest with the column ``path`` and, as far as they are known, ``camid``, ``pid`` and ``split``.

    ``path`` is relative to the manifest's folder, or absolute. ``camid`` is a number or a name; cameras are numbered
    in natural order. It is empty in all rows, or the column is missing, if cameras are not known. ``pid`` is a number
    from 0 or a name, -1 for junk, or empty for an unknown person; names are numbered from 1 in sorted order.
    ``split`` is train (also where it is empty), query or gallery.

    Raises:
        InputError: the file cannot be read, lacks a column, or a row is invalid (row 1 is the first below the header).
    """
    crops, notes = crops_of_manifest(file)
    return dataset_of_crops(
        crops,
        root=file.parent,
        name=file.resolve().parent.name,
        format="manifest",
        layout=file.name,
        notes=notes,
    )


def crops_of_manifest(file: Path) -> tuple[list[Crop], tuple[str, ...]]:
    """The rows of a manifest, and what was passed over; see :func:`read_manifest`.

    Raises:
        InputError: the file cannot be read, lacks a column, or a row is invalid.
    """
    rows = list(_parquet_rows(file) if file.suffix.lower() == ".parquet" else _csv_rows(file))
    if not rows:
        raise InputError(f"{file}: the manifest has no rows")
    if "path" not in rows[0]:
        raise InputError(f"{file}: no column path; expected {','.join(COLUMNS)}, found {','.join(rows[0])}")
    unknown = [name for name in rows[0] if name not in COLUMNS]
    has_cameras = any(row.get("camid") for row in rows)
    crops = [_crop(row, file=file, number=number, has_cameras=has_cameras) for number, row in enumerate(rows, start=1)]
    _require_files(crops, file)
    return crops, (f"columns not used: {', '.join(unknown)}",) if unknown else ()


def manifest_text(crops: Iterable[Crop]) -> str:
    """CSV manifest of the given crops.

    Values that a spreadsheet would take for formulas get an apostrophe in front, which :func:`read_manifest` drops.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for crop in crops:
        writer.writerow(map(csv_cell, (crop.path, crop.person or "", crop.camera or "", crop.split)))
    return text.getvalue()


def write_manifest(crops: Iterable[Crop], file: Path) -> None:
    """Write :func:`manifest_text`, all of it or nothing."""
    write_text(file, manifest_text(crops))


def _csv_rows(file: Path) -> Iterator[Mapping[str, str]]:
    try:
        with io.TextIOWrapper(open_regular(file, limit=_MAX_BYTES), newline="", encoding="utf-8-sig") as stream:
            for number, row in enumerate(csv.DictReader(stream, strict=True), start=1):
                if None in row or None in row.values():
                    raise InputError(f"{file}: row {number} does not have as many fields as the header")
                yield {key.strip(): from_csv_cell(value.strip()) for key, value in row.items()}
    except UnsuitableFileError as error:
        raise InputError(f"{file}: {error}") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file}: cannot be read as CSV: {error}") from error


def _parquet_rows(file: Path) -> Iterator[Mapping[str, str]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise InputError(f"{file}: Parquet needs pyarrow: pip install 'reid-da[parquet]'") from error
    try:
        metadata = parquet.read_metadata(file)
        size = sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
        if size > _MAX_BYTES or metadata.num_rows > _MAX_ROWS:
            raise InputError(f"{file}: has {metadata.num_rows:,} rows and {size_text(size)}, too many for a manifest")
        table = parquet.read_table(file)
    except (OSError, ArrowException) as error:
        raise InputError(f"{file}: cannot be read as Parquet: {str(error).splitlines()[0]}") from error
    for row in table.to_pylist():
        yield {key: _text(value) for key, value in row.items()}


def _text(value: object) -> str:
    # a column of integers with gaps comes as floats from many writers
    if isinstance(value, float):
        return "" if value != value else str(int(value)) if value.is_integer() else str(value)
    return "" if value is None else str(value).strip()


def _crop(row: Mapping[str, str], *, file: Path, number: int, has_cameras: bool) -> Crop:
    pid, split = row.get("pid", ""), row.get("split", "") or "train"
    if not row["path"]:
        raise InputError(f"{file}: row {number} has no path")
    if has_cameras and not row.get("camid"):
        raise InputError(f"{file}: row {number} has no camid, and others have; give every row one, or none")
    for column in ("pid", "camid"):
        if len(row.get(column, "")) > _LONGEST_NAME:
            raise InputError(f"{file}: row {number}: {column} has more than {_LONGEST_NAME} characters")
    if pid.lower() == "nan" or (pid.startswith("-") and not is_junk(pid)):
        raise InputError(
            f"{file}: row {number}: pid should be a number from 0, a name, -1 for junk or empty if not known, "
            f"got {pid!r}"
        )
    if split not in SPLITS:
        raise InputError(f"{file}: row {number}: split should be one of {', '.join(SPLITS)}, got {split!r}")
    return Crop(path=Path(row["path"]).as_posix(), person=pid or None, camera=row.get("camid") or None, split=split)


def _require_files(crops: list[Crop], file: Path) -> None:
    first_row: dict[tuple[str, str], int] = {}
    missing = []
    for number, crop in enumerate(crops, start=1):
        if first_row.setdefault((crop.split, crop.path), number) != number:
            raise InputError(
                f"{file}: row {number} repeats row {first_row[crop.split, crop.path]} ({crop.path}, {crop.split})"
            )
        if not _is_file(file.parent / crop.path):
            missing.append(f"row {number} ({crop.path})")
    if missing:
        raise InputError(
            f"{file}: {len(missing)} of {len(crops)} images do not exist: {first_few(missing)}; "
            "paths are relative to the manifest's folder"
        )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    # too long for a name, or with a zero byte
    except (OSError, ValueError):
        return False
