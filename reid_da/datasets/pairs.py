"""Pairs of images for verification: from a file in the format of LFW, from a CSV file, or drawn from a test set."""

import csv
import io
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reid_da.datasets.folders import camera_name
from reid_da.datasets.listing import natural_key
from reid_da.datasets.table import JUNK_PID, UNLABELLED_PID, Dataset, SampleTable
from reid_da.errors import InputError, first_few
from reid_da.reading import UnsuitableFileError, read_list

NUM_FOLDS = 10
"""Folds of LFW's protocol."""
DEFAULT_COUNT = 6000
"""Pairs that are drawn where there are as many: the number of LFW."""
_SAME = {"0": "0", "1": "1", "0.0": "0", "1.0": "1", "false": "0", "true": "1"}
_SHOWN = 60
"""Characters of a line that a message shows."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class ImagePairs:
    """Pairs of images.

    Attributes:
        name: file or data set that they are from, for messages.
        images: each image once.
        first: (P,) int64 rows of ``images``.
        second: (P,) int64 rows of ``images``.
        same: (P,) bool, whether a pair shows one person.
        folds: (P,) int64.
    """

    name: str
    images: SampleTable
    first: NDArray[np.int64] = field(repr=False)
    second: NDArray[np.int64] = field(repr=False)
    same: NDArray[np.bool_] = field(repr=False)
    folds: NDArray[np.int64] = field(repr=False)

    def __len__(self) -> int:
        return len(self.same)


@dataclass(frozen=True, kw_only=True)
class _Pair:
    first: str
    second: str
    same: bool
    fold: int


def read_pairs(file: Path, images: Path | None = None) -> ImagePairs:
    """Pairs of a file.

    A file whose name ends in ``.csv`` has the columns ``path1``, ``path2``, ``same`` (0 or 1, false or true) and, if
    it likes, ``fold``, a number or a name; without, the pairs of each kind are dealt out to ten folds in their order.
    Any other file has the format of LFW: a line ``FOLDS PAIRS`` (or ``PAIRS`` for one fold), then for each fold as
    many lines ``NAME N M`` of one person and as many lines ``NAME N OTHER M`` of two, where image N of NAME is
    ``NAME/NAME_000N.jpg``.

    Args:
        file: the file.
        images: folder that the images lie in; that of the file if None.

    Raises:
        InputError: the file cannot be read, a line of it makes no sense (it is named), or images are missing.
    """
    try:
        # Excel begins its files with a byte order mark
        text = read_list(file)
    except (OSError, UnicodeDecodeError, UnsuitableFileError) as error:
        raise InputError(f"{file}: cannot be read as text: {error}") from error
    pairs = _read_csv(text, file) if file.suffix.lower() == ".csv" else _read_lfw(text, file)
    if not pairs:
        raise InputError(f"{file}: has no pairs")
    root = images or file.parent
    names = sorted({name for pair in pairs for name in (pair.first, pair.second)})
    missing = [name for name in names if not (root / name).is_file()]
    if missing:
        raise InputError(f"{file}: {len(missing)} of {len(names)} images are not in {root}: {first_few(missing)}")
    rows = {name: row for row, name in enumerate(names)}
    unknown = np.full(len(names), UNLABELLED_PID)
    return ImagePairs(
        name=str(file),
        images=SampleTable(
            name="pairs", root=root, paths=tuple(names), pids=unknown, camids=np.zeros(len(names), dtype=np.int64)
        ),
        first=np.array([rows[pair.first] for pair in pairs]),
        second=np.array([rows[pair.second] for pair in pairs]),
        same=np.array([pair.same for pair in pairs]),
        folds=np.array([pair.fold for pair in pairs]),
    )


def draw_pairs(dataset: Dataset, count: int | None = None, *, seed: int = 0) -> ImagePairs:
    """Random pairs of a query and a gallery image from different cameras, half of them of one person, in ten folds.

    Where there is one camera, or none is known, the images of a pair are by the same.

    Args:
        dataset: with query and gallery, whose people are known.
        count: number of pairs; an equal number of pairs of each kind is drawn without repetition. If None as many as
            there are, at most :data:`DEFAULT_COUNT`; the log tells if they are fewer.
        seed: of the random numbers.

    Raises:
        InputError: ``count`` is odd or less than two pairs for each fold, or the data set has too few pairs of one
            kind or images of unknown people.
    """
    _check_drawable(dataset, count)
    query, gallery = dataset.query, dataset.gallery
    wanted = (DEFAULT_COUNT if count is None else count) // 2
    rng = np.random.default_rng(seed)
    kinds = [_draw(dataset, wanted, same=same, rng=rng) for same in (True, False)]
    drawn = min(map(len, kinds))
    if drawn < wanted:
        _tell_that_pairs_are_few(dataset, kinds, is_refused=count is not None)
    rows = np.concatenate([candidates[:drawn] for candidates in kinds])
    rows[:, 1] += len(query)
    used, places = np.unique(rows, return_inverse=True)
    first, second = places.reshape(rows.shape).T
    # both tables have paths relative to the data set
    images = SampleTable(
        name=f"{dataset.title} pairs",
        root=query.root,
        paths=(*query.paths, *gallery.paths),
        pids=np.concatenate([query.pids, gallery.pids]),
        camids=np.concatenate([query.camids, gallery.camids]),
    )
    return ImagePairs(
        name=str(dataset.root),
        images=images.select(used),
        first=first,
        second=second,
        same=np.repeat([True, False], drawn),
        folds=np.tile(np.arange(drawn) * NUM_FOLDS // drawn, 2),
    )


def _check_drawable(dataset: Dataset, count: int | None) -> None:
    if count is not None and (count % 2 or count < 2 * NUM_FOLDS):
        raise InputError(
            f"--pairs: expected an even number, half of them pairs of one person, and at least {2 * NUM_FOLDS},"
            f" got {count}"
        )
    if not len(dataset.query) or not len(dataset.gallery):
        raise InputError(f"{dataset.root}: has no query and gallery images to draw pairs from")
    if not (dataset.query.is_labelled and dataset.gallery.is_labelled):
        raise InputError(
            f"{dataset.root}: who is on its test images is not known for all of them; list pairs in a file"
        )


def _tell_that_pairs_are_few(dataset: Dataset, kinds: Sequence[NDArray[np.int64]], *, is_refused: bool) -> None:
    """Log that only so many pairs could be drawn, or refuse it: if more were asked for, or they do not fill the folds.

    Args:
        dataset: which data set.
        kinds: (at most the wanted number, 2) pairs of one person, and of two.
        is_refused: whether that number was asked for.
    """
    drawn = min(map(len, kinds))
    kind = "one person" if len(kinds[0]) == drawn else "two persons"
    cameras = " from different cameras" if dataset.same_camera == "exclude" else ""
    found = f"{dataset.root}: has {drawn} pairs of {kind}{cameras}"
    if drawn < NUM_FOLDS:
        raise InputError(f"{found}, too few for {NUM_FOLDS} folds; give another data set, or a file of pairs")
    if is_refused:
        raise InputError(f"{found}; draw at most twice as many: --pairs {2 * drawn}")
    logger.info("%s, and as many of the other kind are drawn", found)


def _draw(dataset: Dataset, count: int, *, same: bool, rng: np.random.Generator) -> NDArray[np.int64]:
    """(at most count, 2) rows of query and gallery, in random order; fewer only if there are no more."""
    query, gallery, distractor = dataset.query, dataset.gallery, dataset.distractor_pid
    across = dataset.same_camera == "exclude"
    usable = np.flatnonzero((gallery.pids != JUNK_PID) & ((gallery.pids != distractor) | (not same)))
    queries = rng.permutation(np.flatnonzero(query.pids != JUNK_PID))
    # some pairs of each query in turn: all pairs of two persons would not fit into the memory
    share = len(usable) if same else 2 * count // max(len(queries), 1) + 1
    while True:
        found: list[NDArray[np.int64]] = [np.empty((0, 2), dtype=np.int64)]
        for row in queries:
            is_pair = (gallery.pids[usable] == query.pids[row]) == same
            columns = usable[is_pair & ((not across) | (gallery.camids[usable] != query.camids[row]))]
            columns = rng.permutation(columns)[:share]
            found.append(np.stack([np.full(len(columns), row), columns], axis=1))
        pairs = np.concatenate(found)
        if len(pairs) >= count or share >= len(usable):
            return rng.permutation(pairs)[:count].astype(np.int64)
        # queries with few partners leave the others more to give
        share *= 2


def _read_lfw(text: str, file: Path) -> list[_Pair]:
    lines = [line.split() for line in text.splitlines()]
    if not lines or len(lines[0]) not in (1, 2) or not all(map(_is_number, lines[0])):
        raise InputError(f"{file}, line 1: expected the number of folds and of pairs, found {_shown(lines, 0)!r}")
    per_fold = int(lines[0][-1])
    pairs: list[_Pair] = []
    counts = Counter[tuple[int, bool]]()
    for number, fields in enumerate(lines[1:], start=2):
        if not fields:
            continue
        pair = _lfw_pair(fields, fold=len(pairs) // max(2 * per_fold, 1))
        if pair is None:
            raise InputError(
                f"{file}, line {number}: expected NAME N M or NAME N OTHER M, found {_shown(lines, number - 1)!r}"
            )
        counts[pair.fold, pair.same] += 1
        if counts[pair.fold, pair.same] > per_fold:
            kind = "one person" if pair.same else "two persons"
            raise InputError(
                f"{file}, line {number}: more pairs of {kind} in fold {pair.fold + 1} than the {per_fold} of line 1"
            )
        pairs.append(pair)
    expected = 2 * per_fold * (int(lines[0][0]) if len(lines[0]) == 2 else 1)
    if len(pairs) != expected:
        raise InputError(f"{file}: its first line announces {expected} pairs, it has {len(pairs)}")
    return pairs


def _lfw_pair(fields: Sequence[str], *, fold: int) -> _Pair | None:
    """The pair in a line of LFW's format; None if the line is not one."""
    if len(fields) == 3 and _is_number(fields[1]) and _is_number(fields[2]):
        return _Pair(first=_lfw(fields[0], fields[1]), second=_lfw(fields[0], fields[2]), same=True, fold=fold)
    if len(fields) == 4 and _is_number(fields[1]) and _is_number(fields[3]):
        return _Pair(first=_lfw(*fields[:2]), second=_lfw(*fields[2:]), same=False, fold=fold)
    return None


def _read_csv(text: str, file: Path) -> list[_Pair]:
    (_, header), *records = _csv_records(text, file) or [(1, [])]
    if not {"path1", "path2", "same"} <= set(header):
        found = ",".join(header)[:_SHOWN]
        hint = "; separate with commas" if ";" in found or "\t" in found else ""
        raise InputError(f"{file}, line 1: expected the columns path1, path2, same, found {found!r}{hint}")
    rows = [_csv_row(header, values, f"{file}, line {number}") for number, values in records]
    totals = Counter(row["same"] for row in rows)
    names = sorted({row["fold"] for row in rows if "fold" in row}, key=natural_key)
    numbers = {name: int(name) if all(map(_is_number, names)) else place for place, name in enumerate(names)}
    seen = Counter[str]()
    pairs = []
    for row in rows:
        fold = numbers[row["fold"]] if numbers else seen[row["same"]] * NUM_FOLDS // totals[row["same"]]
        seen[row["same"]] += 1
        pairs.append(_Pair(first=row["path1"], second=row["path2"], same=row["same"] == "1", fold=fold))
    return pairs


def _csv_records(text: str, file: Path) -> list[tuple[int, list[str]]]:
    """Line that each record begins in, from 1, and its fields without spaces around them; empty lines left out."""
    # strict: otherwise a quote that nobody closes takes in the rest of the file
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
    records, begin = [], 1
    try:
        for fields in reader:
            if any(fields):
                records.append((begin, [field.strip() for field in fields]))
            begin = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{file}, line {begin}: cannot be read as CSV ({error}); is a quote not closed?") from error
    return records


def _csv_row(header: list[str], values: list[str], where: str) -> dict[str, str]:
    """The fields of a record by the names of their columns; ``same`` is 0 or 1."""
    if len(values) != len(header):
        raise InputError(f"{where}: expected {len(header)} fields, {','.join(header)[:_SHOWN]}, found {len(values)}")
    row = dict(zip(header, values, strict=True))
    for name in ("path1", "path2"):
        if not row[name]:
            raise InputError(f"{where}: {name} is empty; name an image")
    same = _SAME.get(row["same"].lower())
    if same is None:
        raise InputError(f"{where}: same should be 0 or 1, false or true, found {row['same'][:_SHOWN]!r}")
    if row.get("fold") == "":
        raise InputError(f"{where}: fold should be a number or a name, found ''; or leave the column out")
    if "fold" in row:
        # 2.0 is 2, as tables with gaps have it
        row["fold"] = camera_name(row["fold"])
    return {**row, "same": same}


def _lfw(name: str, number: str) -> str:
    return f"{name}/{name}_{int(number):04d}.jpg"


def _shown(lines: Sequence[Sequence[str]], index: int) -> str:
    return " ".join(lines[index])[:_SHOWN] if lines else ""


def _is_number(text: str) -> bool:
    return text.isdecimal() and len(text) < 10
