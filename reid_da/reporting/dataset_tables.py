"""Checks and statistics of data sets as tables for the terminal."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
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
from reid_da.text import markup, printable

_STYLES: dict[Severity, str] = {"problem": "bold red", "warning": "yellow", "note": "cyan"}


def format_report(report: CheckReport) -> RenderableType:
    """The report for a terminal: verdict, counts, and findings with their first examples, gravest first."""
    return Group(
        _verdict(report),
        Text(printable(report.reading), style="dim"),
        *_apart(_split_table(report.splits), _camera_table(report.cameras), *map(_finding, report.findings)),
    )


def format_statistics(statistics: DatasetStatistics) -> RenderableType:
    """The statistics for a terminal: counts by split and camera, and how the identities spread."""
    tables = [_split_table(statistics.splits), _camera_table(statistics.cameras), _identity_table(statistics)]
    sizes = [] if statistics.sizes is None else [_sizes(statistics.sizes)]
    heading = [Text(printable(statistics.name), style="bold"), Text(printable(statistics.reading), style="dim")]
    return Group(*heading, *_apart(*tables, *sizes))


def _apart(*blocks: RenderableType) -> list[RenderableType]:
    """The blocks, each below an empty line."""
    return [item for block in blocks for item in (Text(), block)]


def _verdict(report: CheckReport) -> Text:
    counts = dict.fromkeys(SEVERITIES, 0)
    for finding in report.findings:
        counts[finding.severity] += 1
    kinds = ", ".join(_plural(count, severity) for severity, count in counts.items() if count)
    kinds = f" ({kinds})" if kinds else ""
    unread = "" if report.images_verified else "; the image files themselves were not read"
    if report.is_sound:
        return Text(f"sound{kinds}{unread}", style="bold green")
    return Text(f"not sound{kinds}{unread}", style="bold red")


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


def _split_table(splits: Sequence[SplitCounts]) -> Table:
    optional = [name for name in ("junk", "distractors", "unlabelled") if any(getattr(split, name) for split in splits)]
    table = _table("split", "images", "ids", "cameras", *optional)
    for split in splits:
        counts = [getattr(split, name) for name in ("images", "ids", "cameras", *optional)]
        table.add_row(split.name, *(_number(count) for count in counts))
    return table


def _camera_table(cameras: Sequence[CameraCounts]) -> Table:
    table = _table("camera", "train images", "train ids", "query images", "gallery images", "test ids")
    for camera in cameras:
        counts = (
            camera.train_images,
            camera.train_ids,
            camera.query_images,
            camera.gallery_images,
            camera.test_ids,
        )
        table.add_row(markup(camera.name), *(_number(count) for count in counts))
    return table


def _identity_table(statistics: DatasetStatistics) -> Table:
    table = _table("", "train", "test (query and gallery)")
    halves = (statistics.train, statistics.test)
    table.add_row("ids", *(_number(half.ids) for half in halves))
    for num_cameras in range(1, 1 + max(len(half.ids_by_num_cameras) for half in halves)):
        table.add_row(f"  in {_plural(num_cameras, 'camera')}", *(_ids_in(half, num_cameras) for half in halves))
    table.add_row("images of an id", *(_spread(half.images_per_id_spread) for half in halves))
    table.add_row("matches across cameras", *(_share(half.cross_camera_share) for half in halves))
    return table


def _sizes(sizes: SizeStatistics) -> Text:
    unreadable = f"; unreadable files: {sizes.unreadable:,}" if sizes.unreadable else ""
    return Text(f"image height {_spread(sizes.height)}; width {_spread(sizes.width)}{unreadable}")


def _ids_in(half: IdentityStatistics, num_cameras: int) -> str:
    return _number(half.ids_by_num_cameras[num_cameras - 1] if num_cameras <= len(half.ids_by_num_cameras) else 0)


def _table(first: str, *others: str) -> Table:
    table = Table(show_edge=False, pad_edge=False, box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _number(count: int) -> str:
    return f"{count:,}" if count else "-"


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    return str(spread.min) if spread.min == spread.max else f"{spread.min} to {spread.max}, median {spread.median:g}"
