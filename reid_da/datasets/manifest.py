"""Manifests: a table with one row for each image, as CSV or Parquet."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from reid_da.atomic import write_text
from reid_da.datasets.folders import SPLITS, Crop, dataset_of_crops
from reid_da.datasets.table import JUNK_PID, Dataset
from reid_da.errors import InputError, first_few
from reid_da.reading import UnsuitableFileError, open_regular
from reid_da.text import csv_cell, from_csv_cell, printable, size_text

COLUMNS = ("path", "pid", "camid", "split")
SUFFIXES = frozenset({".csv", ".parquet"})
_MAX_BYTES, _MAX_ROWS = 2**30, 10_000_000
"""Size of a manifest, unpacked, and number of its rows beyond which it is not read."""
_LONGEST_NAME = 255


def read_manifest(file: Path) -> Dataset:
    """Data set of a manifest with the columns ``path``, ``camid`` and, if known, ``pid`` and ``split``.

    ``path`` is relative to the manifest's folder, or absolute. ``camid`` is a number or a name; cameras are numbered
    in natural order. ``pid`` is an integer from 0, -1 for junk, or empty for an unknown person. ``split`` is train
    (also where it is empty), query or gallery.

    Raises:
        InputError: the file cannot be read, lacks a column, or a row is at fault (row 1 is the first below the header).
    """
    rows = list(_parquet_rows(file) if file.suffix.lower() == ".parquet" else _csv_rows(file))
    if not rows:
        raise InputError(f"{file}: the manifest has no rows")
    missing = [name for name in ("path", "camid") if name not in rows[0]]
    unknown = [name for name in rows[0] if name not in COLUMNS]
    if missing:
        raise InputError(
            f"{file}: no column {' and no column '.join(missing)}; expected {','.join(COLUMNS)}, "
            f"found {','.join(rows[0])}"
        )
    crops = [_crop(row, file=file, number=number) for number, row in enumerate(rows, start=1)]
    _require_files(crops, file)
    notes = (f"columns not used: {', '.join(unknown)}",) if unknown else ()
    return dataset_of_crops(crops, root=file.parent, name=file.resolve().parent.name, format="manifest", notes=notes)


def write_manifest(crops: Iterable[Crop], file: Path) -> None:
    """Write a CSV manifest of the given crops, all of it or nothing.

    Values that a spreadsheet would take for formulas get an apostrophe in front, which :func:`read_manifest` drops.

    Raises:
        InputError: a name is not UTF-8.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for crop in crops:
        values = (crop.path, crop.person or "", crop.camera, crop.split)
        try:
            "".join(values).encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{printable(crop.path)}: the name is not UTF-8; rename the file") from error
        writer.writerow([csv_cell(value) for value in values])
    write_text(file, text.getvalue())


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


def _crop(row: Mapping[str, str], *, file: Path, number: int) -> Crop:
    pid, split = row.get("pid", ""), row.get("split", "") or "train"
    if not row["path"] or not row["camid"]:
        raise InputError(f"{file}: row {number} has no {'path' if not row['path'] else 'camid'}")
    if len(row["camid"]) > _LONGEST_NAME:
        raise InputError(f"{file}: row {number}: camid has more than {_LONGEST_NAME} characters")
    if pid and pid != str(JUNK_PID) and not (pid.isdecimal() and len(pid) < 20 and int(pid) < 2**63):
        raise InputError(
            f"{file}: row {number}: pid should be an integer from 0, -1 for junk or empty if not known, got {pid!r}"
        )
    if split not in SPLITS:
        raise InputError(f"{file}: row {number}: split should be one of {', '.join(SPLITS)}, got {split!r}")
    return Crop(
        path=Path(row["path"]).as_posix(), person=str(int(pid)) if pid else None, camera=row["camid"], split=split
    )


def _require_files(crops: list[Crop], file: Path) -> None:
    first_row: dict[tuple[str, str], int] = {}
    missing = []
    for number, crop in enumerate(crops, start=1):
        if first_row.setdefault((crop.split, crop.path), number) != number:
            raise InputError(
                f"{file}: row {number} repeats row {first_row[crop.split, crop.path]} ({crop.path}, {crop.split})"
            )
        if not (file.parent / crop.path).is_file():
            missing.append(f"row {number} ({crop.path})")
    if missing:
        raise InputError(
            f"{file}: {len(missing)} of {len(crops)} images do not exist: {first_few(missing)}; "
            "paths are relative to the manifest's folder"
        )
