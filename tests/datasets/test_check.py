"""A sound data set raises nothing; damaged in one way, it raises that finding, with the right count, and no other."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from reid_da.datasets import JUNK_PID, UNLABELLED_PID, Dataset, SampleTable
from reid_da.datasets.check import CheckReport, check_dataset
from reid_da.datasets.loading import load_dataset
from reid_da.datasets.published import PUBLISHED, published_findings, published_set
from reid_da.datasets.statistics import SplitCounts
from reid_da.errors import InputError

Row = tuple[int, int]
TRAIN = [(pid, camid) for pid in (1, 2, 3) for camid in (0, 1)] * 2
QUERY = [(pid, 0) for pid in (7, 8)]
GALLERY = [(pid, camid) for pid in (7, 8) for camid in (0, 1)] + [(0, 0), (JUNK_PID, 1)]


def table(split: str, rows: list[Row], root: Path = Path("nowhere")) -> SampleTable:
    pids, camids = [row[0] for row in rows], [row[1] for row in rows]
    paths = tuple(f"{split}/{number:03}.jpg" for number in range(len(rows)))
    return SampleTable(name=split, root=root, paths=paths, pids=np.array(pids), camids=np.array(camids))


def dataset(
    train: list[Row] = TRAIN,
    query: list[Row] = QUERY,
    gallery: list[Row] = GALLERY,
    *,
    root: Path = Path("nowhere"),
    num_cameras: int = 2,
    data_format: str = "folder",
) -> Dataset:
    return Dataset(
        name="small",
        format=data_format,
        root=root,
        train=table("train", train, root),
        query=table("query", query, root),
        gallery=table("gallery", gallery, root),
        camera_names=tuple(f"c{number}" for number in range(1, num_cameras + 1)),
        distractor_pid=0,
    )


def labels_checked(*splits: list[Row], **settings: object) -> CheckReport:
    return check_dataset(dataset(*splits, **settings), verify_images=False)


def counts(report: CheckReport) -> dict[str, int]:
    return {finding.code: finding.count for finding in report.findings}


@pytest.fixture(scope="module")
def sound_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    generator = np.random.default_rng(0)
    for split, rows in (("train", TRAIN), ("query", QUERY), ("gallery", GALLERY)):
        (folder / split).mkdir()
        for path in table(split, rows).paths:
            pixels = generator.integers(0, 256, (96, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / path)
    return folder


@pytest.fixture
def folder(sound_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sound_folder, tmp_path / "copy")


def test_sound(sound_folder: Path) -> None:
    report = check_dataset(dataset(root=sound_folder))

    assert report.findings == ()
    assert report.is_sound
    assert report.images_verified
    assert [(split.name, split.images, split.ids, split.cameras) for split in report.splits] == [
        ("train", 12, 3, 2),
        ("query", 2, 2, 1),
        ("gallery", 6, 2, 2),
    ]
    assert [camera.name for camera in report.cameras] == ["c1", "c2"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-500])


def as_png(path: Path) -> None:
    with Image.open(path) as image:
        image.save(path, "PNG")


def lying(path: Path) -> None:
    with Image.open(path) as image:
        image.resize((97, 96)).save(path)


@pytest.mark.parametrize(
    ("damage", "code", "is_sound"),
    [
        (lambda path: path.unlink(), "missing-files", False),
        (lambda path: path.write_bytes(b""), "empty-files", False),
        (lambda path: path.write_text("no image"), "not-images", False),
        (cut, "truncated-images", False),
        (as_png, "format-mismatch", True),
        (lying, "wide-images", True),
    ],
)
def test_damaged_file(folder: Path, damage: Callable[[Path], object], code: str, is_sound: bool) -> None:
    damage(folder / "gallery/002.jpg")

    report = check_dataset(dataset(root=folder))

    assert counts(report) == {code: 1}
    assert report.findings[0].examples[0].startswith("gallery/002.jpg")
    assert report.is_sound == is_sound


def test_files_are_left_alone_if_asked() -> None:
    report = labels_checked()

    assert report.findings == ()
    assert not report.images_verified


@pytest.mark.parametrize(
    ("original", "copy", "codes"),
    [
        # rows of TRAIN: pids 1, 1, 2, 2, 3, 3 and again, cameras 0 and 1 in turn
        ("train/000.jpg", "train/006.jpg", {"duplicates-in-split"}),
        ("train/000.jpg", "train/001.jpg", {"duplicates-in-split", "duplicates-under-two-cameras"}),
        ("train/000.jpg", "train/002.jpg", {"duplicates-in-split", "duplicates-under-two-pids"}),
        ("train/000.jpg", "gallery/004.jpg", {"duplicates-in-train-and-test", "duplicates-under-two-pids"}),
        ("query/000.jpg", "gallery/000.jpg", {"queries-in-gallery"}),
        ("query/000.jpg", "gallery/001.jpg", {"queries-in-gallery", "duplicates-under-two-cameras"}),
        # junk contradicts nobody
        ("gallery/001.jpg", "gallery/005.jpg", {"duplicates-in-split"}),
    ],
)
def test_same_content_twice(folder: Path, original: str, copy: str, codes: set[str]) -> None:
    shutil.copy(folder / original, folder / copy)

    report = check_dataset(dataset(root=folder))

    assert counts(report) == dict.fromkeys(codes, 1)
    for finding in report.findings:
        assert finding.examples == (f"{original} = {copy}",)
        assert finding.severity == ("warning" if finding.code == "queries-in-gallery" else "problem")


def test_copies_are_counted_by_picture(folder: Path) -> None:
    for copy in (6, 8):
        shutil.copy(folder / "train/000.jpg", folder / f"train/{copy:03}.jpg")
    shutil.copy(folder / "train/001.jpg", folder / "train/007.jpg")

    report = check_dataset(dataset(root=folder))

    # one picture thrice, another one twice; the copy in row 8 is under another pid
    assert counts(report) == {"duplicates-under-two-pids": 1, "duplicates-in-split": 2}


def test_pids_of_msmt17_are_compared_within_each_half_only(folder: Path) -> None:
    shutil.copy(folder / "train/000.jpg", folder / "gallery/000.jpg")
    shutil.copy(folder / "gallery/001.jpg", folder / "gallery/003.jpg")

    report = check_dataset(replace(dataset(root=folder, data_format="msmt17"), distractor_pid=None))

    assert report.findings[0].examples == ("gallery/001.jpg = gallery/003.jpg",)
    assert counts(report) == {
        "duplicates-under-two-pids": 1,
        "duplicates-in-train-and-test": 1,
        "duplicates-in-split": 1,
        "other-data-set": 1,
    }


def test_file_that_is_listed_in_two_splits(sound_folder: Path) -> None:
    small = dataset(root=sound_folder)
    listed_twice = replace(small, gallery=replace(small.gallery, paths=("query/000.jpg", *small.gallery.paths[1:])))

    assert counts(check_dataset(listed_twice)) == {"queries-in-gallery": 1}


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        (([], [], []), {"no-images": 1}),
        ((TRAIN, [], []), {"no-test-split": 1}),
        (([], QUERY, GALLERY), {"no-train-split": 1}),
        ((TRAIN, [], GALLERY), {"no-query": 1}),
        ((TRAIN, QUERY, []), {"no-gallery": 1}),
        (([(UNLABELLED_PID, camid) for _, camid in TRAIN], QUERY, GALLERY), {"unlabelled-train": 12}),
        (([*TRAIN, (UNLABELLED_PID, 0)], QUERY, GALLERY), {"partly-labelled-train": 1}),
        (([*TRAIN, (JUNK_PID, 0)], QUERY, GALLERY), {"junk-in-train": 1}),
        ((TRAIN, [*QUERY, (UNLABELLED_PID, 0)], GALLERY), {"unlabelled-query": 1}),
        ((TRAIN, QUERY, [*GALLERY, (UNLABELLED_PID, 0)]), {"unlabelled-gallery": 1}),
        # pid 9 is nowhere in the gallery, pid 10 by the camera of the query only
        ((TRAIN, [*QUERY, (9, 0), (9, 1)], GALLERY), {"query-ids-not-in-gallery": 2}),
        ((TRAIN, [*QUERY, (10, 1)], [*GALLERY, (10, 1)]), {"query-ids-in-one-camera": 1}),
        ((TRAIN, [*QUERY, (JUNK_PID, 0), (0, 1)], GALLERY), {"queries-of-nobody": 2}),
        (([*TRAIN, (7, 0), (7, 1), (8, 0), (8, 1)], QUERY, GALLERY), {"ids-in-train-and-test": 2}),
        # as in a set that counts from 0, where a pid of distractors means somebody in train
        (([*TRAIN, (0, 0), (0, 1)], QUERY, GALLERY), {}),
        (([*TRAIN, (4, 0)], QUERY, GALLERY), {"train-ids-with-one-image": 1}),
        (([*TRAIN, (4, 0), (4, 0), (5, 1), (5, 1)], QUERY, GALLERY), {"train-ids-in-one-camera": 2}),
        (([*TRAIN, (1, 2)], QUERY, GALLERY), {"cameras-with-one-id": 1}),
        (([*TRAIN, (1, 2), (2, 2)], QUERY, GALLERY), {}),
        ((TRAIN, QUERY, [*GALLERY, (7, 2), (8, 2)]), {"cameras-not-in-train": 1}),
    ],
)
def test_labels(splits: tuple[list[Row], ...], expected: dict[str, int]) -> None:
    num_cameras = 1 + max((camid for rows in splits for _, camid in rows), default=0)

    report = labels_checked(*splits, num_cameras=num_cameras)

    assert counts(report) == expected


@pytest.mark.parametrize(("pid", "is_known"), [(7, True), (UNLABELLED_PID, False)])
def test_people_without_a_test_split_are_told_how_to_get_one(pid: int, is_known: bool) -> None:
    report = labels_checked([(pid, 0), (pid, 1)], [], [])

    (message,) = [finding.message for finding in report.findings if finding.code == "no-test-split"]
    assert ("reid-da data import FOLDER --test-only" in message) == is_known


def test_severities() -> None:
    severities = {
        finding.code: finding.severity
        for rows in ([], [(1, 0)], [(7, 0), (8, 0)], [(UNLABELLED_PID, 1)])
        for finding in labels_checked(rows, [*QUERY, (9, 0), (0, 1)], GALLERY).findings
    }

    assert severities == {
        "no-train-split": "note",
        "unlabelled-train": "note",
        "ids-in-train-and-test": "problem",
        "query-ids-not-in-gallery": "problem",
        "queries-of-nobody": "problem",
        "train-ids-with-one-image": "warning",
        "cameras-not-in-train": "warning",
    }


def test_gravest_findings_come_first() -> None:
    report = labels_checked([], [*QUERY, (9, 0)], GALLERY, num_cameras=3)

    assert [finding.severity for finding in report.findings] == ["problem", "warning", "note"]
    assert not report.is_sound


@pytest.mark.parametrize(
    ("query", "gallery", "cause", "others"),
    [
        ([(7, 0), (8, 1)], [(5, 0), (6, 1)], "no identity in common", {"query-ids-not-in-gallery": 2}),
        ([(7, 0), (8, 0)], [(7, 0), (8, 0)], "one camera, c1", {"query-ids-in-one-camera": 2}),
        ([(0, 0), (JUNK_PID, 0)], [(7, 0), (8, 1)], "no query has the pid of a person", {"queries-of-nobody": 2}),
        (
            [(7, 0), (8, 1)],
            [(7, 0), (9, 1)],
            "see below",
            {"query-ids-not-in-gallery": 1, "query-ids-in-one-camera": 1},
        ),
    ],
)
def test_no_query_matches(query: list[Row], gallery: list[Row], cause: str, others: dict[str, int]) -> None:
    report = labels_checked(TRAIN, query, gallery)

    assert counts(report) == {"no-query-matches": 2, **others}
    first = report.findings[0]
    assert first.code == "no-query-matches"
    assert cause in first.message
    assert "all query identities do not appear in gallery" in first.message


@given(
    query=st.lists(st.tuples(st.integers(-2, 4), st.integers(0, 2)), min_size=1, max_size=12),
    gallery=st.lists(st.tuples(st.integers(-1, 4), st.integers(0, 2)), min_size=1, max_size=12),
)
def test_queries_agree_with_a_search_row_by_row(query: list[Row], gallery: list[Row]) -> None:
    expected = {"query-ids-not-in-gallery": 0, "query-ids-in-one-camera": 0, "queries-of-nobody": 0}
    num_valid = 0
    for pid, camid in query:
        cameras = [other for gallery_pid, other in gallery if gallery_pid == pid]
        if pid in (0, JUNK_PID):
            expected["queries-of-nobody"] += 1
        elif pid > 0 and not cameras:
            expected["query-ids-not-in-gallery"] += 1
        elif pid > 0 and set(cameras) == {camid}:
            expected["query-ids-in-one-camera"] += 1
        num_valid += pid > 0 and bool(set(cameras) - {camid})

    found = counts(labels_checked(TRAIN, query, gallery, num_cameras=3))

    assert {code: found.get(code, 0) for code in expected} == expected
    assert ("no-query-matches" in found) == (num_valid == 0)


@pytest.mark.parametrize("data_format", ["msmt17", "msmt17-market"])
def test_msmt17_numbers_both_halves_alike(data_format: str) -> None:
    rows = [(pid, camid) for pid in (0, 1, 2) for camid in (0, 1)]
    small = replace(dataset(rows, rows, rows, data_format=data_format), distractor_pid=None)

    assert "ids-in-train-and-test" not in counts(check_dataset(small, verify_images=False))
    assert counts(check_dataset(replace(small, format="folder"), verify_images=False)) == {"ids-in-train-and-test": 3}


def test_camera_that_no_image_is_of() -> None:
    report = labels_checked(num_cameras=4)

    assert counts(report) == {"cameras-without-images": 2}
    assert report.findings[0].examples == ("c3", "c4")


def test_all_images_by_one_camera() -> None:
    report = labels_checked([(UNLABELLED_PID, 0)] * 5, [], [], num_cameras=1)

    assert counts(report) == {"one-camera": 1, "no-test-split": 1, "unlabelled-train": 5}


def test_notes_of_the_reader_are_passed_on() -> None:
    report = check_dataset(replace(dataset(), notes=("three images left out",)), verify_images=False)

    assert [(finding.code, finding.message) for finding in report.findings] == [
        ("reader-note", "three images left out")
    ]


def test_json_holds_every_example(folder: Path) -> None:
    for number in range(5):
        (folder / f"train/{number:03}.jpg").write_bytes(b"")

    document = json.loads(json.dumps(check_dataset(dataset(root=folder)).to_json()))

    assert document["is_sound"] is False
    assert document["root"] == str(folder)
    assert document["splits"][0]["images"] == 12
    assert document["cameras"][1]["name"] == "c2"
    (finding,) = document["findings"]
    assert finding["severity"] == "problem"
    assert finding["examples"] == [f"train/{number:03}.jpg" for number in range(5)]


def test_number_of_workers_is_checked(sound_folder: Path) -> None:
    with pytest.raises(InputError, match="num_workers"):
        check_dataset(dataset(root=sound_folder), num_workers=0)


@pytest.mark.parametrize(
    ("site", "expected"),
    [
        ("site-a", {"train": (1176, 100, 8, 0), "query": (206, 50, 8, 0), "gallery": (500, 138, 8, 0)}),
        ("site-b", {"train": (1152, 100, 6, 0), "query": (198, 50, 6, 0), "gallery": (514, 50, 6, 26)}),
    ],
)
def test_shipped_data_are_sound(rendered: Path, site: str, expected: dict[str, tuple[int, ...]]) -> None:
    report = check_dataset(load_dataset(rendered / site))

    assert counts(report) == {"other-data-set": 1}
    assert {split.name: (split.images, split.ids, split.cameras, split.junk) for split in report.splits} == expected


def split_counts(data_format: str, *, kind: int = 0, **changes: int) -> dict[str, SplitCounts]:
    """Counts as published, but for the changes, e.g. ``train_images=30248``."""
    published = {what.replace(" ", "_"): count for what, count in PUBLISHED[data_format][kind].counts.items()}
    usual = {f"{split}_{what}": 1000 for split in ("train", "query", "gallery") for what in ("ids", "images")}
    numbers = {**usual, **published, **changes}
    nothing = {"cameras": 6, "junk": 0, "distractors": 0, "unlabelled": 0}
    return {
        name: SplitCounts(name=name, images=numbers[f"{name}_images"], ids=numbers[f"{name}_ids"], **nothing)
        for name in ("train", "query", "gallery")
    }


@pytest.mark.parametrize("data_format", sorted(PUBLISHED))
def test_published_counts(data_format: str) -> None:
    for kind, published in enumerate(PUBLISHED[data_format]):
        (finding,) = published_findings(data_format, split_counts(data_format, kind=kind))

        assert (finding.code, finding.severity) == ("published-counts", "note")
        assert finding.message.endswith(published.title)
        assert finding.count == len(published.counts)


@pytest.mark.parametrize(
    ("data_format", "changes", "severity", "words"),
    [
        ("msmt17", {"train_images": 30248}, "note", "30,248 train images, where MSMT17 has 32,621: list_train.txt"),
        ("market1501", {"gallery_images": 19732}, "note", "junk images (pid -1) are counted"),
        ("market1501", {"gallery_images": 13115}, "note", "distractors (pid 0000) are left out"),
        ("market1501", {"gallery_images": 515913}, "note", "500,000 extra distractors"),
        ("market1501", {"train_images": 12935}, "warning", "12,935 train images, where Market-1501 has 12,936"),
        ("dukemtmcreid", {"query_ids": 701}, "warning", "701 query ids, where DukeMTMC-reID has 702"),
        # half of the training images were lost, but the other counts say which data set it is
        ("dukemtmcreid", {"train_images": 8000}, "warning", "8,000 train images, where DukeMTMC-reID has 16,522"),
    ],
)
def test_counts_that_differ_from_the_published_ones(
    data_format: str, changes: dict[str, int], severity: str, words: str
) -> None:
    (finding,) = published_findings(data_format, split_counts(data_format, **changes))

    assert (finding.code, finding.severity) == ("published-counts-differ", severity)
    assert words in finding.message


@pytest.mark.parametrize("data_format", ["dukemtmcreid", "occluded-duke"])
def test_counts_of_occluded_duke_are_not_those_of_dukemtmc(data_format: str) -> None:
    splits = split_counts("occluded-duke")
    (finding,) = published_findings(data_format, splits)
    assert finding.message == "all counts are those published for Occluded-DukeMTMC"
    assert published_set(data_format, splits) == "occluded-duke"
    assert published_set("dukemtmcreid", split_counts("dukemtmcreid")) == "dukemtmcreid"
    assert published_set("dukemtmcreid", split_counts("dukemtmcreid", query_ids=701)) is None


def test_junk_and_unlabelled_images_are_not_compared() -> None:
    splits = split_counts("market1501", gallery_images=19732, train_ids=0)
    splits["gallery"] = replace(splits["gallery"], junk=3819)
    splits["train"] = replace(splits["train"], unlabelled=12936)

    assert [finding.code for finding in published_findings("market1501", splits)] == ["published-counts"]


def test_another_data_set_with_known_names() -> None:
    splits = split_counts("market1501", train_images=4923, train_ids=400, query_images=807, query_ids=200)

    (finding,) = published_findings("market1501", splits)

    assert (finding.code, finding.severity) == ("other-data-set", "note")
    assert "Market-1501" in finding.message


def test_nothing_to_compare_with() -> None:
    empty = split_counts("market1501", train_images=0, query_images=0, gallery_images=0)

    assert published_findings("folder", split_counts("market1501")) == []
    assert published_findings("market1501", empty) == []
