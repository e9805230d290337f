"""Each published layout is read as its authors laid it out, and where the names are somebody else's, it is not."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from reid_da.datasets import FORMATS, load_dataset
from reid_da.datasets.check import check_dataset
from reid_da.datasets.published import PUBLISHED
from reid_da.datasets.statistics import count_splits
from reid_da.datasets.trials import training_half
from reid_da.errors import InputError


def touch(root, names):
    """Empty files: readers look at names alone."""
    for folder in {(root / name).parent for name in names}:
        folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (root / name).touch()
    return root


def rows(table):
    return [
        (path, int(pid), int(camid)) for path, pid, camid in zip(table.paths, table.pids, table.camids, strict=True)
    ]


def codes(dataset):
    return {finding.code for finding in check_dataset(dataset, verify_images=False).findings}


VERI = [
    "image_train/0001_c001_00016450_0.jpg",
    "image_train/0001_c020_00016460_0.jpg",
    "image_query/0002_c002_00030600_0.jpg",
    "image_test/0002_c003_00084280_1.jpg",
]


def test_veri776_has_folders_of_its_own_and_cameras_of_three_digits(tmp_path):
    dataset = load_dataset(touch(tmp_path, VERI))
    assert (dataset.format, dataset.num_cameras) == ("veri776", 20)
    assert rows(dataset.train) == [(VERI[0], 1, 0), (VERI[1], 1, 19)]
    assert rows(dataset.query) == [(VERI[2], 2, 1)]
    assert rows(dataset.gallery) == [(VERI[3], 2, 2)]
    assert "image_train/, image_query/, image_test/" in dataset.reading


@pytest.mark.parametrize(
    "folders", [("train", "probe", "gallery"), ("train", "query", "test"), ("training", "query", "gallery")]
)
def test_split_folders_of_other_names_are_no_heap(tmp_path, folders):
    train, query, gallery = folders
    names = [f"{train}/0001_c1_a.jpg", f"{query}/0002_c1_a.jpg", f"{gallery}/0002_c2_a.jpg", f"{gallery}/-1_c2_a.jpg"]
    dataset = load_dataset(touch(tmp_path, names))
    assert dataset.format == "market-style"
    assert [table.pids.tolist() for table in dataset.splits.values()] == [[1], [2], [-1, 2]]


def test_a_folder_for_each_person_in_each_split_is_read_too(tmp_path):
    names = ["train/0002/0002_c1s1_1_01.jpg", "query/0003/0003_c1s1_1_01.jpg", "gallery/0003/0003_c2s1_1_01.jpg"]
    dataset = load_dataset(touch(tmp_path, names))
    assert [table.paths for table in dataset.splits.values()] == [(name,) for name in names]


def test_images_below_those_of_a_split_are_told(tmp_path):
    names = ["query/0003_c1_a.jpg", "query/more/0004_c1_a.jpg", "gallery/0003_c2_a.jpg", "train/0001_c1_a.jpg"]
    dataset = load_dataset(touch(tmp_path, names))
    assert len(dataset.query) == 1
    assert dataset.notes == ("1 images in folders below query/ left out",)


def test_names_of_split_folders_without_a_camera_are_an_error_that_shows_them(tmp_path):
    touch(tmp_path, ["train/anna/1.jpg", "query/bert/1.jpg", "gallery/bert/2.jpg"])
    with pytest.raises(InputError, match=r"1 of 1 image names .*1.jpg; names tell person and camera, as 0007_c3_"):
        load_dataset(tmp_path, format="market-style")
    with pytest.raises(InputError) as caught:
        load_dataset(tmp_path)
    # the advice works
    pattern = re.search("--pattern '(.*)' for", str(caught.value))[1]
    dataset = load_dataset(tmp_path, pattern=pattern)
    assert [len(table) for table in dataset.splits.values()] == [1, 1, 1]
    assert dataset.query.pids.tolist() == dataset.gallery.pids.tolist()


MSMT17_SHORT = [
    *(f"bounding_box_train/{pid:04}_c{camera}_{pid:04}.jpg" for pid in (0, 1) for camera in (1, 14)),
    "query/0000_c14_0030.jpg",
    "bounding_box_test/0000_c1_0003.jpg",
]


@pytest.mark.parametrize("path", ["MSMT17", "msmt17/market"])
def test_msmt17_with_short_names_is_known_by_the_name_of_its_folder(tmp_path, path):
    dataset = load_dataset(touch(tmp_path / path, MSMT17_SHORT))
    assert dataset.format == "msmt17-market"
    assert "ids-in-train-and-test" not in codes(dataset)


def test_a_format_that_is_named_need_not_be_recognised(tmp_path):
    touch(tmp_path, MSMT17_SHORT)
    report = check_dataset(load_dataset(tmp_path), verify_images=False)
    (leak,) = [finding for finding in report.findings if finding.code == "ids-in-train-and-test"]
    assert "--format msmt17-market" in leak.message
    dataset = load_dataset(tmp_path, format="msmt17-market")
    assert dataset.query.pids.tolist() == [0]
    assert "ids-in-train-and-test" not in codes(dataset)
    assert load_dataset(f"{tmp_path}#format=msmt17-market").format == "msmt17-market"
    assert load_dataset(tmp_path, format="market1501").format == "market1501"


DUKE = [
    "bounding_box_train/0001_c2_f0046182.jpg",
    "query/0005_c2_f0046985.jpg",
    "bounding_box_test/0005_c3_f0046985.jpg",
]


@pytest.mark.parametrize(
    ("folder", "format"),
    [
        ("Occluded_Duke", "occluded-duke"),
        ("Occluded-DukeMTMC-reID", "occluded-duke"),
        ("DukeMTMC-reID", "dukemtmcreid"),
    ],
)
def test_occluded_duke_is_known_by_the_name_of_its_folder(tmp_path, folder, format):
    assert load_dataset(touch(tmp_path / folder, DUKE)).format == format


def test_pid_0_in_the_names_of_market1501_is_a_person_where_training_or_query_images_have_it(tmp_path):
    names = ["bounding_box_train/0001_c1s1_1_0.jpg", "query/0002_c1s1_1_0.jpg", "bounding_box_test/0000_c2s1_1_0.jpg"]
    assert load_dataset(touch(tmp_path / "a", names)).distractor_pid == 0
    own = load_dataset(touch(tmp_path / "b", [*names, "query/0000_c1s1_1_0.jpg"]))
    assert own.distractor_pid is None
    assert own.notes == ("pid 0 is a person here: training or query images have it",)
    assert {split.name: split.ids for split in count_splits(own)} == {"train": 1, "query": 2, "gallery": 1}


# MARS


MARS = [
    "bbox_train/0001/0001C1T0001F001.jpg",
    "bbox_train/0001/0001C6T0001F001.jpg",
    "bbox_test/00-1/00-1C1T0001F001.jpg",
    "bbox_test/0000/0000C2T0001F001.jpg",
    "bbox_test/0002/0002C1T0001F001.jpg",
    "bbox_test/0002/0002C1T0001F002.jpg",
    "bbox_test/0002/0002C3T0001F001.jpg",
]


def mars(root):
    touch(root, MARS)
    (root / "info").mkdir()
    names = [name.rpartition("/")[2] for name in MARS[2:]]
    (root / "info/test_name.txt").write_text("\n".join(names) + "\n")
    tracks = [(1, 1, -1, 1), (2, 2, 0, 2), (3, 4, 2, 1), (5, 5, 2, 3)]
    savemat(root / "info/tracks_test_info.mat", {"track_test_info": np.array(tracks)})
    savemat(root / "info/query_IDX.mat", {"query_IDX": np.array([[3]])})
    return root


def test_mars_junk_is_nobody_and_queries_are_those_of_its_info(tmp_path):
    dataset = load_dataset(mars(tmp_path))
    assert (dataset.format, dataset.num_cameras, dataset.distractor_pid) == ("mars", 6, 0)
    assert dataset.train.pids.tolist() == [1, 1]
    assert rows(dataset.query) == [(MARS[4], 2, 0)]
    # the second frame of the query's tracklet is left out
    assert rows(dataset.gallery) == [(MARS[2], -1, 0), (MARS[3], 0, 1), (MARS[6], 2, 2)]


def test_mars_without_its_info_has_no_queries_and_says_so(tmp_path):
    dataset = load_dataset(touch(tmp_path, MARS))
    assert (len(dataset.query), len(dataset.gallery)) == (0, 5)
    assert any("info/ of the authors' evaluation code is missing" in note for note in dataset.notes)
    assert sorted(dataset.gallery.pids.tolist()) == [-1, 0, 2, 2, 2]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "info/query_IDX.mat").unlink(), "query_IDX.mat: no such file"),
        (lambda root: (root / "info/query_IDX.mat").write_bytes(b"x"), "query_IDX.mat: no variable query_IDX in it"),
        (lambda root: (root / MARS[6]).unlink(), "images of .*test_name.txt are missing, such as 0002C3T0001F001.jpg"),
        (lambda root: (root / "info/test_name.txt").write_text("a.jpg"), "info: its files do not fit together"),
    ],
)
def test_mars_with_a_damaged_info(tmp_path, damage, message):
    damage(mars(tmp_path))
    with pytest.raises(InputError, match=message):
        load_dataset(tmp_path)


# VehicleID


def vehicleid(root):
    images = {f"{number:07}": vehicle for number, vehicle in enumerate([7, 7, 8, 9, 9, 9])}
    touch(root, [f"image/{name}.jpg" for name in images])
    (root / "train_test_split").mkdir()
    for file, vehicles in (("train_list.txt", (7, 8)), ("test_list_800.txt", (9,)), ("test_list_1600.txt", (9,))):
        lines = [f"{name} {vehicle}" for name, vehicle in images.items() if vehicle in vehicles]
        (root / "train_test_split" / file).write_text("\n".join(lines) + "\n")
    return root


def test_vehicleid_has_one_gallery_image_for_each_vehicle_and_no_cameras(tmp_path):
    dataset = load_dataset(vehicleid(tmp_path))
    assert dataset.format == "vehicleid"
    assert dataset.train.pids.tolist() == [7, 7, 8]
    assert (dataset.query.pids.tolist(), dataset.gallery.pids.tolist()) == ([9, 9], [9])
    assert (dataset.has_cameras, dataset.same_camera) == (False, "include")
    assert load_dataset(tmp_path, test_list="1600").layout == "train_list.txt and test_list_1600.txt"
    chosen = {load_dataset(tmp_path, trial=str(trial)).gallery.paths for trial in range(10)}
    assert len(chosen) > 1


@pytest.mark.parametrize(
    ("damage", "options", "message"),
    [
        (lambda root: None, {"test_list": "2400"}, "test_list_2400.txt: no such file; found"),
        (lambda root: None, {"test_list": "5"}, "unknown value of option test_list '5'"),
        (lambda root: (root / "image/0000004.jpg").unlink(), {}, "1 of 3 listed images are not in image/: 0000004.jpg"),
        (
            lambda root: (root / "train_test_split/train_list.txt").write_text("0000001\n"),
            {},
            "train_list.txt: line 1 should be 'image vehicle', got '0000001'",
        ),
        (
            lambda root: (root / "train_test_split/test_list_800.txt").write_text("0000001 7\n"),
            {},
            "vehicles in train_list.txt and in test_list_800.txt: 7",
        ),
    ],
)
def test_vehicleid_with_damaged_lists(tmp_path, damage, options, message):
    damage(vehicleid(tmp_path))
    with pytest.raises(InputError, match=message):
        load_dataset(tmp_path, **options)


# The small sets


def test_occluded_reid(tmp_path):
    folders = ("occluded_body_images", "whole_body_images")
    names = [
        f"{folder}/{pid:03}/{pid:03}_{n:02}.tif" for folder in folders for pid in range(1, 201) for n in range(1, 6)
    ]
    dataset = load_dataset(touch(tmp_path, names))
    assert dataset.format == "occluded-reid"
    assert rows(dataset.query)[0] == ("occluded_body_images/001/001_01.tif", 1, 0)
    assert rows(dataset.gallery)[-1] == ("whole_body_images/200/200_05.tif", 200, 1)
    assert "published-counts" in codes(dataset)


def viper():
    return [f"{view}/{pid:03}_{angle}.bmp" for view, angle in (("cam_a", 0), ("cam_b", 90)) for pid in range(632)]


def prid():
    views = {"cam_a": range(1, 386), "cam_b": range(1, 750)}
    return [f"single_shot/{view}/person_{pid:04}.png" for view, pids in views.items() for pid in pids]


def cuhk01():
    return [f"campus/{pid:04}{number:03}.png" for pid in range(1, 972) for number in (1, 2, 3, 4)]


def grid():
    pairs = [
        f"{folder}/{pid:04}_{camera}_25004_1_2_3_4.jpeg"
        for pid in range(1, 251)
        for folder, camera in (("probe", 1 + pid % 3), ("gallery", 5 + pid % 4))
    ]
    return pairs + [f"gallery/0000_{1 + number % 8}_{number}_1_2_3_4.jpeg" for number in range(775)]


def ilids():
    return [f"Persons/{pid:04}{number:03}.jpg" for pid in range(1, 120) for number in range(1, 5)]


def caviar():
    images = {pid: 20 if pid <= 50 else 10 for pid in range(1, 73)}
    return [f"CAVIARa/{pid:04}{number:03}.jpg" for pid, count in images.items() for number in range(1, count + 1)]


@pytest.mark.parametrize(
    ("format", "names", "cameras"),
    [
        ("viper", viper, 2),
        ("prid2011", prid, 2),
        ("cuhk01", cuhk01, 2),
        ("grid", grid, 8),
        ("ilids", ilids, 1),
        ("caviar4reid", caviar, 1),
    ],
)
def test_small_sets_have_the_published_counts_and_halves_without_overlap(tmp_path, format, names, cameras):
    dataset = load_dataset(touch(tmp_path, names()))
    assert (dataset.format, dataset.num_cameras) == (format, cameras)
    assert "published-counts" in codes(dataset)
    assert not {"ids-in-train-and-test", "query-ids-not-in-gallery", "queries-of-nobody"} & codes(dataset)
    assert set(dataset.query.pids.tolist()) <= set(dataset.gallery.pids.tolist())
    assert not set(dataset.train.pids.tolist()) & set(dataset.query.pids.tolist())
    # the formula of the docstring, by itself
    known = sorted(set(dataset.train.pids.tolist()) | set(dataset.query.pids.tolist()))
    order = sorted(known, key=lambda pid: hashlib.sha256(f"{format}/0/{pid}".encode()).digest())
    assert set(dataset.train.pids.tolist()) == set(order[: len(order) // 2])
    other = load_dataset(tmp_path, trial="1")
    assert other.train.paths != dataset.train.paths
    assert len(other.query) + len(other.gallery) + len(other.train) == len(dataset.query) + len(dataset.gallery) + len(
        dataset.train
    )
    with pytest.raises(InputError, match="unknown value of option trial '10'"):
        load_dataset(tmp_path, trial="10")


def test_draws_stay_as_they_are():
    # whoever changes the draw changes every figure that was measured on it
    assert sorted(training_half("viper", "0", range(12))) == [0, 2, 4, 5, 8, 9]


def test_prid2011_leaves_out_who_has_the_number_of_somebody_else(tmp_path):
    dataset = load_dataset(touch(tmp_path, prid()))
    assert max(dataset.query.pids.tolist()) <= 200
    assert sum(pid > 200 for pid in dataset.gallery.pids.tolist()) == 549
    assert "185 images of view a show people whom view b does not; left out" in dataset.notes


def test_prid2011_multi_shot_is_read_where_the_other_is_missing(tmp_path):
    names = [
        f"multi_shot/{view}/person_{pid:04}/{n:04}.png" for view in ("cam_a", "cam_b") for pid in (1, 2) for n in (1, 2)
    ]
    dataset = load_dataset(touch(tmp_path, names))
    assert [len(table) for table in dataset.splits.values()] == [4, 2, 2]
    assert load_dataset(tmp_path / "multi_shot").format == "prid2011"


def test_views_of_cuhk01_are_pairs_of_numbers(tmp_path):
    dataset = load_dataset(
        touch(tmp_path, [f"campus/{pid:04}{number:03}.png" for pid in (1, 2) for number in (1, 2, 3, 4)])
    )
    assert sorted(dataset.train.camids.tolist()) == [0, 0, 1, 1]
    assert {path[-5] for path in dataset.query.paths} == {"1", "2"}
    touch(tmp_path, ["campus/0001005.png"])
    with pytest.raises(InputError, match="the last three digits of CUHK01's names are 001 to 004, got 005"):
        load_dataset(tmp_path)


def grid_partitions(root, train):
    """As the authors' file: a cell for each partition, a structure whose third field lists the training identities."""
    structure = np.empty((1,), dtype=[("a", object), ("b", object), ("trainIdx", object)])
    structure[0] = (np.zeros(1), np.zeros(1), np.array(train))
    cells = np.empty((1, 10), dtype=object)
    for number in range(10):
        cells[0, number] = structure
    savemat(root / "features_and_partitions.mat", {"trainIdxAll": cells})


def test_grid_follows_the_published_partitions(tmp_path):
    touch(tmp_path, grid())
    train = list(range(2, 252, 2))
    grid_partitions(tmp_path, train)
    dataset = load_dataset(tmp_path)
    assert sorted(set(dataset.train.pids.tolist())) == train
    assert (len(dataset.train), len(dataset.query), len(dataset.gallery)) == (250, 125, 900)
    assert "partition 0 of 10 of features_and_partitions.mat" in dataset.notes[0]
    assert dataset.distractor_pid == 0
    (tmp_path / "features_and_partitions.mat").write_bytes(b"x")
    with pytest.raises(InputError, match="features_and_partitions.mat: no variable trainIdxAll in it"):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        # two views, but not VIPeR's files; persons in folders of cameras; numbers that might be anything
        ["cam_a/000_45.jpg", "cam_b/000_90.jpg"],
        ["cam_a/person_0001.png", "cam_b/person_0001.png"],
        ["0001001.jpg", "0001002.jpg"],
        ["probe/0001_1_a.jpg", "gallery/0001_2_a.jpg"],
    ],
)
def test_what_only_resembles_a_small_set_is_asked_for(tmp_path, names):
    with pytest.raises(InputError, match="--layout|--pattern"):
        load_dataset(touch(tmp_path / "own", names))


def test_every_set_of_the_published_ones_is_a_format():
    assert set(PUBLISHED) <= set(FORMATS)


# Layouts that are nearly right


def test_cuhk03_without_its_protocol_file(tmp_path):
    touch(tmp_path, [f"images_detected/1_{pid:03}_{view}_0{view}.png" for pid in (1, 2) for view in (1, 2)])
    with pytest.raises(InputError, match="images_detected/ without cuhk03_new_protocol_config_detected.mat") as caught:
        load_dataset(tmp_path)
    dataset = load_dataset(tmp_path, pattern=re.search("--pattern '(.*)'", str(caught.value))[1])
    assert dataset.camera_names == ("1", "2")
    assert dataset.train.pids.tolist() == [1, 1, 2, 2]
    assert dataset.person_names == {1: "1_001", 2: "1_002"}


@pytest.mark.parametrize("missing", ["list_train.txt", "list_val.txt", "list_query.txt", "list_gallery.txt"])
def test_msmt17_without_one_of_its_lists(tmp_path, missing):
    touch(tmp_path, ["train/0000/0000_000_01_0303morning_0008_0.jpg", "test/0000/0000_000_02_0303morning_0008_0.jpg"])
    for name, number in (("train", 1), ("val", 1), ("query", 2), ("gallery", 2)):
        (tmp_path / f"list_{name}.txt").write_text(f"0000/0000_000_0{number}_0303morning_0008_0.jpg 0\n")
    (tmp_path / missing).unlink()
    with pytest.raises(InputError, match=f"no {missing} beside train/; copy it from the archive"):
        load_dataset(tmp_path)
    if missing == "list_val.txt":
        assert len(load_dataset(tmp_path, train_lists="train").train) == 1


def test_one_folder_of_market1501_is_read_by_its_own_path_as_the_message_says(tmp_path):
    touch(tmp_path, ["bounding_box_train/0002_c1s1_000451_03.jpg"])
    with pytest.raises(InputError, match=r"to read one folder alone, give its path: (\S+)") as caught:
        load_dataset(tmp_path)
    dataset = load_dataset(Path(str(caught.value).rpartition(": ")[2]))
    assert (dataset.format, dataset.train.pids.tolist(), dataset.camera_names) == ("folder", [2], ("1",))
