"""Checks and statistics of data sets as tables."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from reid_da.datasets.check import CheckReport
from reid_da.datasets.findings import SEVERITIES, Finding, Severity
from reid_da.datasets.statistics import (
    CameraCounts,
    DatasetStatistics,
    IdentityStatistics,
    SizeStatistics,
    SplitCounts,
    Spread,
)
from reid_da.errors import first_few
from reid_da.reporting.tables import Row, Table, apart, column_names
from reid_da.text import printable

_STYLES: dict[Severity, str] = {"problem": "bold red", "warning": "yellow", "note": "cyan"}


def format_report(report: CheckReport) -> RenderableType:
    """The report for a terminal: verdict, counts, and findings with their first examples, gravest first."""
    head = [_verdict(report), Text(printable(report.reading), style="dim")]
    tables = (split_table(report.splits), camera_table(report.cameras))
    return apart([Group(*head), *tables, *map(_finding, report.findings)])


def format_statistics(statistics: DatasetStatistics) -> RenderableType:
    """The statistics for a terminal: counts by split and camera, and how the identities spread."""
    tables = [split_table(statistics.splits), camera_table(statistics.cameras), identity_table(statistics)]
    sizes = [] if statistics.sizes is None else [_sizes(statistics.sizes)]
    head = [Text(printable(statistics.name), style="bold"), Text(printable(statistics.reading), style="dim")]
    return apart([Group(*head), *tables, *sizes])


def _verdict(report: CheckReport) -> Text:
    counts = dict.fromkeys(SEVERITIES, 0)
    for finding in report.findings:
        counts[finding.severity] += 1
    kinds = ", ".join(_plural(count, severity) for severity, count in counts.items() if count)
    kinds = f" ({kinds})" if kinds else ""
    unread = "" if report.images_verified else "; the image files themselves were not read"
    if report.is_sound:
        return Text(f"valid{kinds}{unread}", style="bold green")
    return Text(f"not valid{kinds}{unread}", style="bold red")


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _finding(finding: Finding) -> RenderableType:
    line = Text.assemble((finding.severity, _STYLES[finding.severity]), f"  {finding.code}")
    if finding.examples:
        line.append(f": {finding.count:,}", style="bold")
    lines = [_indented(finding.message)]
    if finding.examples:
        lines.append(_indented(first_few(finding.examples), style="dim"))
    return Group(line, *lines)


def _indented(text: str, *, style: str = "") -> Padding:
    return Padding(Text(printable(text), style=style), (0, 0, 0, 4), expand=False)


def split_table(splits: Sequence[SplitCounts]) -> Table:
    """Images, identities and cameras of each split, and what else there is in some of them."""
    optional = [name for name in ("junk", "distractors", "unlabelled") if any(getattr(split, name) for split in splits)]
    names = ("images", "ids", "cameras", *optional)
    return Table(
        columns=column_names("split", *names),
        rows=[Row(cells=[split.name, *(getattr(split, name) or None for name in names)]) for split in splits],
    )


def camera_table(cameras: Sequence[CameraCounts]) -> Table:
    """Images and identities of each camera."""
    names = ("train_images", "train_ids", "query_images", "gallery_images", "test_ids")
    return Table(
        columns=column_names("camera", *(name.replace("_", " ") for name in names)),
        rows=[Row(cells=[camera.name, *(getattr(camera, name) or None for name in names)]) for camera in cameras],
    )


def identity_table(statistics: DatasetStatistics) -> Table:
    """How the identities of training and test spread over cameras and images."""
    halves = (statistics.train, statistics.test)
    counts = {"ids": [half.ids for half in halves]}
    for num_cameras in range(1, 1 + max(len(half.ids_by_num_cameras) for half in halves)):
        counts[f"  in {_plural(num_cameras, 'camera')}"] = [_ids_in(half, num_cameras) for half in halves]
    return Table(
        columns=column_names("", "train", "test (query and gallery)"),
        rows=[
            *(Row(cells=[name, *(count or None for count in of_halves)]) for name, of_halves in counts.items()),
            Row(cells=["images of an id", *(_spread(half.images_per_id_spread) for half in halves)]),
            Row(cells=["matches across cameras", *(_share(half.cross_camera_share) for half in halves)]),
        ],
    )


def _sizes(sizes: SizeStatistics) -> Text:
    unreadable = f"; unreadable files: {sizes.unreadable:,}" if sizes.unreadable else ""
    return Text(f"image height {_spread(sizes.height)}; width {_spread(sizes.width)}{unreadable}")


def _ids_in(half: IdentityStatistics, num_cameras: int) -> int:
    return half.ids_by_num_cameras[num_cameras - 1] if num_cameras <= len(half.ids_by_num_cameras) else 0


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    return str(spread.min) if spread.min == spread.max else f"{spread.min} to {spread.max}, median {spread.median:g}"
