"""Statistics worked out by hand and by a count row by row."""

import json
from collections import defaultdict
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from reid_da.datasets import JUNK_PID, UNLABELLED_PID, Dataset, SampleTable
from reid_da.datasets.loading import load_dataset
from reid_da.datasets.statistics import Spread, count_cameras, count_matches, count_splits, dataset_statistics
from reid_da.errors import InputError

Row = tuple[int, int]


def table(name: str, rows: list[Row], root: Path) -> SampleTable:
    return SampleTable(
        name=name,
        root=root,
        paths=tuple(f"{name}/{number}.png" for number in range(len(rows))),
        pids=np.array([row[0] for row in rows]),
        camids=np.array([row[1] for row in rows]),
    )


def dataset(
    train: list[Row],
    query: list[Row],
    gallery: list[Row],
    *,
    root: Path = Path("nowhere"),
    distractor_pid: int | None = 0,
) -> Dataset:
    return Dataset(
        name="small",
        format="folder",
        root=root,
        train=table("train", train, root),
        query=table("query", query, root),
        gallery=table("gallery", gallery, root),
        camera_names=("c1", "c2", "c3"),
        distractor_pid=distractor_pid,
    )


BY_HAND = dataset(
    # pid 0 is somebody in train
    [(0, 0), (0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 2), (UNLABELLED_PID, 2)],
    [(7, 0), (8, 1)],
    [(7, 0), (7, 1), (8, 1), (8, 0), (8, 0), (9, 2), (0, 0), (0, 1), (JUNK_PID, 2)],
)


def test_counts_by_split() -> None:
    train, query, gallery = count_splits(BY_HAND)

    assert (train.name, train.images, train.ids, train.cameras) == ("train", 8, 3, 3)
    assert (train.junk, train.distractors, train.unlabelled) == (0, 0, 1)
    assert (query.name, query.images, query.ids, query.cameras) == ("query", 2, 2, 2)
    assert (gallery.name, gallery.images, gallery.ids, gallery.cameras) == ("gallery", 9, 3, 3)
    assert (gallery.junk, gallery.distractors, gallery.unlabelled) == (1, 2, 0)


def test_counts_by_camera() -> None:
    cameras = count_cameras(BY_HAND)

    assert [camera.name for camera in cameras] == ["c1", "c2", "c3"]
    assert [camera.train_images for camera in cameras] == [3, 2, 3]
    assert [camera.query_images for camera in cameras] == [1, 1, 0]
    assert [camera.gallery_images for camera in cameras] == [4, 3, 2]
    assert [camera.images for camera in cameras] == [8, 6, 5]
    assert [camera.train_ids for camera in cameras] == [2, 2, 2]
    assert [camera.test_ids for camera in cameras] == [2, 2, 1]
    assert [camera.ids for camera in cameras] == [4, 4, 3]
    assert [camera.unlabelled for camera in cameras] == [0, 0, 1]


def test_identities_by_hand() -> None:
    statistics = dataset_statistics(BY_HAND, measure_sizes=False)

    assert statistics.train.ids == 3
    assert statistics.train.ids_by_num_cameras == (1, 1, 1)
    assert statistics.train.images_per_id == (1, 3, 3)
    assert statistics.train.images_per_id_spread == Spread(min=1, median=3.0, max=3)
    # three pairs of pid 0, one of them by one camera; three pairs of pid 1
    assert statistics.train.cross_camera_share == pytest.approx(5 / 6)
    assert statistics.test.ids == 3
    assert statistics.test.ids_by_num_cameras == (1, 2)
    assert statistics.test.images_per_id == (1, 3, 4)
    # two matches of the first query, three of the second, one of each by its own camera
    assert statistics.test.cross_camera_share == pytest.approx(3 / 5)
    assert statistics.sizes is None


rows_of = st.lists(st.tuples(st.integers(-2, 4), st.integers(0, 2)), max_size=15)


@given(train=rows_of, query=rows_of, gallery=rows_of, distractor_pid=st.sampled_from([None, 0]))
def test_identities_agree_with_a_count_row_by_row(
    train: list[Row], query: list[Row], gallery: list[Row], distractor_pid: int | None
) -> None:
    statistics = dataset_statistics(dataset(train, query, gallery, distractor_pid=distractor_pid), measure_sizes=False)

    train_people = [row for row in train if row[0] >= 0]
    query_people, gallery_people = (
        [row for row in rows if row[0] >= 0 and row[0] != distractor_pid] for rows in (query, gallery)
    )
    pairs_of_halves = (combinations(train_people, 2), product(query_people, gallery_people))
    for half, people, pairs in zip(
        (statistics.train, statistics.test),
        (train_people, query_people + gallery_people),
        pairs_of_halves,
        strict=True,
    ):
        cameras_of: dict[int, list[int]] = defaultdict(list)
        for pid, camid in people:
            cameras_of[pid].append(camid)
        num_cameras = [len(set(cameras)) for cameras in cameras_of.values()]
        matches = [first[1] != second[1] for first, second in pairs if first[0] == second[0]]
        assert half.ids == len(cameras_of)
        assert half.images_per_id == tuple(sorted(len(cameras) for cameras in cameras_of.values()))
        assert half.ids_by_num_cameras == tuple(
            num_cameras.count(number) for number in range(1, max(num_cameras, default=0) + 1)
        )
        assert half.cross_camera_share == (pytest.approx(sum(matches) / len(matches)) if matches else None)


@given(query=rows_of, gallery=rows_of)
def test_matches_agree_with_a_count_row_by_row(query: list[Row], gallery: list[Row]) -> None:
    small = dataset([], query, gallery)

    total, same_camera = count_matches(small.query, small.gallery)

    assert total.tolist() == [sum(other[0] == row[0] for other in gallery) for row in query]
    assert same_camera.tolist() == [gallery.count(row) for row in query]


def test_sizes(tmp_path: Path) -> None:
    small = dataset([(1, 0), (1, 1)], [(2, 0)], [(2, 1)], root=tmp_path)
    for path, size in (("train/0", (40, 80)), ("train/1", (50, 90)), ("query/0", (60, 130))):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        Image.new("RGB", size).save(tmp_path / f"{path}.png")

    sizes = dataset_statistics(small, num_workers=2).sizes

    assert sizes is not None
    assert sizes.width == Spread(min=40, median=50.0, max=60)
    assert sizes.height == Spread(min=80, median=90.0, max=130)
    assert sizes.unreadable == 1


def test_empty_data_set() -> None:
    statistics = dataset_statistics(dataset([], [], []))

    assert statistics.train.images_per_id_spread is None
    assert statistics.train.ids_by_num_cameras == ()
    assert statistics.sizes is not None
    assert statistics.sizes.height is None
    assert [camera.images for camera in statistics.cameras] == [0, 0, 0]


def test_json() -> None:
    document = json.loads(json.dumps(dataset_statistics(BY_HAND, measure_sizes=False).to_json()))

    assert document["splits"][2]["distractors"] == 2
    assert document["cameras"][0]["train_images"] == 3
    assert document["train"]["images_per_id"] == [1, 3, 3]
    assert document["sizes"] is None


def test_number_of_workers_is_checked() -> None:
    with pytest.raises(InputError, match="num_workers"):
        dataset_statistics(BY_HAND, num_workers=-1)


@pytest.mark.parametrize(("site", "num_cameras", "gallery_ids"), [("site-a", 8, 138), ("site-b", 6, 50)])
def test_shipped_data_are_as_described(rendered: Path, site: str, num_cameras: int, gallery_ids: int) -> None:
    statistics = dataset_statistics(load_dataset(rendered / site))

    assert len(statistics.cameras) == num_cameras
    assert statistics.train.ids == 100
    assert statistics.splits[2].ids == gallery_ids
    # each person passes 3 to 5 cameras, three images in each, at 128 x 64
    assert statistics.train.ids_by_num_cameras[:2] == (0, 0)
    assert len(statistics.train.ids_by_num_cameras) == 5
    assert set(statistics.train.images_per_id) <= {9, 10, 11, 12, 13, 14, 15}
    assert statistics.sizes is not None
    assert statistics.sizes.height == Spread(min=128, median=128.0, max=128)
    assert statistics.sizes.width == Spread(min=64, median=64.0, max=64)
