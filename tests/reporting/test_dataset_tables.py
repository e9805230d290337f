"""What the tables say, as plain text of a terminal."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from reid_da.datasets.check import CheckReport
from reid_da.datasets.findings import Finding
from reid_da.datasets.statistics import (
    CameraCounts,
    DatasetStatistics,
    IdentityStatistics,
    SizeStatistics,
    SplitCounts,
    Spread,
)
from reid_da.reporting.dataset_tables import format_report, format_statistics

SPLITS = (
    SplitCounts(name="train", images=12936, ids=751, cameras=6, junk=0, distractors=0, unlabelled=0),
    SplitCounts(name="query", images=3368, ids=750, cameras=6, junk=0, distractors=0, unlabelled=0),
    SplitCounts(name="gallery", images=19732, ids=750, cameras=6, junk=3819, distractors=2798, unlabelled=0),
)
CAMERAS = (
    CameraCounts(
        name="[entrance]",
        train_images=2017,
        query_images=387,
        gallery_images=4000,
        train_ids=652,
        test_ids=656,
        unlabelled=0,
    ),
)
PROBLEM = Finding(
    severity="problem",
    code="empty-files",
    message="the file has no content",
    count=5,
    examples=tuple(f"train/[{number}].jpg" for number in range(5)),
)
NOTE = Finding(severity="note", code="reader-note", message="two columns not used", count=1)
REPORT = CheckReport(
    name="market1501",
    format="market1501",
    root=Path("somewhere"),
    reading="somewhere: read as market1501: train 3; 2 cameras",
    splits=SPLITS,
    cameras=CAMERAS,
    findings=(PROBLEM, NOTE),
    images_verified=True,
)
STATISTICS = DatasetStatistics(
    name="market1501",
    reading="somewhere: read as market1501: train 3; 2 cameras",
    splits=SPLITS,
    cameras=CAMERAS,
    train=IdentityStatistics(ids=4, ids_by_num_cameras=(1, 3), images_per_id=(2, 3, 3, 70), cross_camera_share=0.8125),
    test=IdentityStatistics(ids=0, ids_by_num_cameras=(), images_per_id=(), cross_camera_share=None),
    sizes=SizeStatistics(
        height=Spread(min=128, median=128, max=128), width=Spread(min=40, median=64.5, max=90), unreadable=3
    ),
)


def lines(renderable: RenderableType) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=120).print(renderable)
    return stream.getvalue().splitlines()


def row(texts: list[str], start: str) -> list[str]:
    line = next(text for text in texts if text.strip().startswith(start))
    return line.strip().removeprefix(start).split()


def test_verdict_comes_first_and_findings_last() -> None:
    texts = lines(format_report(REPORT))

    assert texts[0] == "not valid (1 problem, 1 note)"
    assert texts[1] == REPORT.reading
    assert texts[-6:] == [
        "problem  empty-files: 5",
        "    the file has no content",
        "    train/[0].jpg, train/[1].jpg, train/[2].jpg and 2 more",
        "",
        "note  reader-note",
        "    two columns not used",
    ]
    assert not any(text.endswith(" ") for text in texts[-6:])


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"findings": ()}, "valid"),
        ({"findings": (NOTE, NOTE)}, "valid (2 notes)"),
        ({"findings": (), "images_verified": False}, "valid; the image files themselves were not read"),
    ],
)
def test_verdicts(changes: dict[str, object], verdict: str) -> None:
    assert lines(format_report(replace(REPORT, **changes)))[0] == verdict


@pytest.mark.parametrize("texts", [lines(format_report(REPORT)), lines(format_statistics(STATISTICS))])
def test_counts(texts: list[str]) -> None:
    assert row(texts, "split ") == ["images", "ids", "cameras", "junk", "distractors"]
    assert row(texts, "train ") == ["12,936", "751", "6", "-", "-"]
    assert row(texts, "gallery ") == ["19,732", "750", "6", "3,819", "2,798"]
    # a name in brackets is no markup
    assert row(texts, "[entrance]") == ["2,017", "652", "387", "4,000", "656"]


def test_columns_of_nothing_but_zeros_are_left_out() -> None:
    texts = lines(format_report(replace(REPORT, splits=SPLITS[:2])))

    assert row(texts, "split ") == ["images", "ids", "cameras"]


def test_statistics() -> None:
    texts = lines(format_statistics(STATISTICS))

    assert texts[0] == "market1501"
    assert row(texts, "ids ") == ["4", "-"]
    assert row(texts, "in 1 camera ") == ["1", "-"]
    assert row(texts, "in 2 cameras") == ["3", "-"]
    assert " ".join(row(texts, "images of an id")) == "2 to 70, median 3 -"
    assert row(texts, "matches across cameras") == ["81.2%", "-"]
    assert texts[-1] == "image height 128; width 40 to 90, median 64.5; unreadable files: 3"


def test_statistics_without_sizes() -> None:
    assert not any("height" in text for text in lines(format_statistics(replace(STATISTICS, sizes=None))))
