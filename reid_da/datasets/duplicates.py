"""Files with the same content under several names."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from reid_da.datasets.findings import Finding, Severity, found
from reid_da.datasets.image_files import ImageFile
from reid_da.datasets.table import Dataset


@dataclass(frozen=True, kw_only=True, slots=True)
class Copy:
    """One row of the data set that holds the same bytes as others.

    Attributes:
        split: ``train``, ``query`` or ``gallery``.
        path: relative path.
        pid: identity number.
        numbering: which numbering of the identities ``pid`` belongs to; pids of two numberings cannot be compared.
        camid: camera number.
    """

    split: str
    path: str
    pid: int
    numbering: int
    camid: int


def identical_rows(
    dataset: Dataset, files: Mapping[Path, ImageFile], *, has_own_test_pids: bool
) -> list[tuple[Copy, ...]]:
    """Groups of two or more rows with the same content, in the order of the data set.

    Args:
        dataset: the data set.
        files: what each of its files is; files without a digest have no copies.
        has_own_test_pids: whether test identities are numbered independently of the training ones.
    """
    groups: dict[bytes, list[Copy]] = defaultdict(list)
    for split, table in dataset.splits.items():
        numbering = int(has_own_test_pids and split != "train")
        for row, path in enumerate(table.paths):
            digest = files[table.path(row)].digest
            if digest is not None:
                pid, camid = int(table.pids[row]), int(table.camids[row])
                groups[digest].append(Copy(split=split, path=path, pid=pid, numbering=numbering, camid=camid))
    return [tuple(group) for group in groups.values() if len(group) > 1]


def duplicate_findings(groups: Sequence[Sequence[Copy]]) -> list[Finding]:
    """What follows from the groups of :func:`identical_rows`; one counts once under each code that it earns."""
    return [
        finding
        for kind in _KINDS
        for finding in found(
            kind.severity,
            kind.code,
            kind.message,
            [" = ".join(copy.path for copy in group) for group in groups if kind.applies(group)],
        )
    ]


def _splits(group: Sequence[Copy]) -> set[str]:
    return {copy.split for copy in group}


def _under_two_pids(group: Sequence[Copy]) -> bool:
    # junk and unlabelled images contradict nobody
    pids = {(copy.numbering, copy.pid) for copy in group if copy.pid >= 0}
    return len(pids) > len({numbering for numbering, _ in pids})


class _Kind(NamedTuple):
    severity: Severity
    code: str
    message: str
    applies: Callable[[Sequence[Copy]], bool]


_KINDS = (
    _Kind(
        "problem",
        "duplicates-under-two-pids",
        "the same picture under two identities: one of the labels is wrong; remove it",
        _under_two_pids,
    ),
    _Kind(
        "problem",
        "duplicates-in-train-and-test",
        "the same picture in train and in test: results will be too good; remove it from one of them",
        lambda group: _splits(group) > {"train"},
    ),
    _Kind(
        "problem",
        "duplicates-under-two-cameras",
        "the same picture under two cameras: one of the camera numbers is wrong; remove it",
        lambda group: len({copy.camid for copy in group}) > 1,
    ),
    _Kind(
        "problem",
        "duplicates-in-split",
        "the same picture twice in one split, so that it counts twice: keep one of them",
        lambda group: len(group) > len(_splits(group)),
    ),
    _Kind(
        "warning",
        "queries-in-gallery",
        "the query picture itself is in the gallery: harmless as long as evaluation leaves out matches by the same "
        "camera; better remove it from the gallery",
        lambda group: _splits(group) >= {"query", "gallery"},
    ),
)
