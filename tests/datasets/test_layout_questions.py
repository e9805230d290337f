"""What names do not tell is asked; what they tell is said; what is passed over is counted."""

import logging
import os
import re
import sys

import pytest

from reid_da.datasets import UNLABELLED_PID, import_folder, load_dataset
from reid_da.datasets.check import check_dataset
from reid_da.datasets.importing import persons_file
from reid_da.datasets.listing import list_images
from reid_da.datasets.loading import _say
from reid_da.datasets.pairs import draw_pairs
from reid_da.errors import InputError

PERSONS = ["anna/1.jpg", "anna/2.jpg", "bert/1.jpg"]


@pytest.mark.parametrize("names", [PERSONS, ["001/001_01.tif", "002/002_01.tif"], ["²/1.jpg", "³/1.jpg"]])
def test_folders_of_persons_and_of_cameras_are_asked_for(tmp_path, make_images, names):
    make_images(tmp_path, names)
    with pytest.raises(InputError) as caught:
        load_dataset(tmp_path)
    message = str(caught.value)
    # what was seen, both readings, and commands that work
    assert names[0] in message
    for layout in ("person-folders", "camera-folders"):
        assert f"--layout {layout}" in message
        assert len(load_dataset(tmp_path, layout=layout).train) == len(names)
    assert load_dataset(re.search(r"write (\S+),", message)[1]).layout == "a folder for each person, cameras unknown"


def test_a_folder_for_each_person(tmp_path, make_images):
    dataset = load_dataset(make_images(tmp_path, PERSONS), layout="person-folders")
    assert dataset.train.pids.tolist() == [1, 1, 2]
    assert dataset.person_names == {1: "anna", 2: "bert"}
    assert (dataset.camera_names, dataset.has_cameras, dataset.same_camera) == (("unknown",), False, "include")
    assert dataset.reading == (
        f"{tmp_path}: read as folder (a folder for each person, cameras unknown): train 3; cameras unknown"
    )


def test_a_folder_for_each_camera(tmp_path, make_images):
    dataset = load_dataset(make_images(tmp_path, PERSONS), layout="camera-folders")
    assert dataset.train.pids.tolist() == [UNLABELLED_PID] * 3
    assert dataset.camera_names == ("anna", "bert")
    assert dataset.reading.endswith(
        "(a folder for each camera, persons unknown): train 3; 2 cameras; identities of train unknown"
    )


def test_validation_images_are_asked_for(tmp_path, make_images):
    make_images(tmp_path, ["train/0001_c1_a.jpg", "val/0001_c2_a.jpg"])
    with pytest.raises(InputError, match=r"training and validation images lie apart \(train/, val/\)") as caught:
        load_dataset(tmp_path)
    # both answers that it names
    assert len(load_dataset(re.search(r"such as (\S+),", str(caught.value))[1]).train) == 1
    assert len(load_dataset(tmp_path, pattern=re.search("--pattern '(.*)'", str(caught.value))[1]).train) == 2


def test_a_data_set_that_is_read_as_it_is_needs_no_manifest(tmp_path, make_images):
    folders = {"bounding_box_train": "0001", "query": "0002", "bounding_box_test": "0002"}
    make_images(tmp_path, [f"{folder}/{pid}_c{c}s1_00000{c}_00.jpg" for folder, pid in folders.items() for c in (1, 2)])
    with pytest.raises(InputError, match="is read as market1501 as it is, .* needs no manifest"):
        import_folder(tmp_path)
    assert not (tmp_path / "manifest.csv").exists()


def test_a_heap_tells_neither(tmp_path, make_images):
    make_images(tmp_path, ["a.jpg", "b.jpg"])
    with pytest.raises(
        InputError, match=r"2 images .a.jpg, b.jpg.: the names do not tell person and camera; choose --layout flat"
    ):
        load_dataset(tmp_path)
    dataset = load_dataset(tmp_path, layout="flat")
    assert dataset.train.pids.tolist() == [UNLABELLED_PID] * 2
    assert not dataset.has_cameras


def test_camera_folders_with_deeper_images_are_an_error(tmp_path, make_images):
    make_images(tmp_path, ["door/anna/1.jpg", "yard/2.jpg"])
    with pytest.raises(InputError, match="what the folders are"):
        load_dataset(tmp_path)
    with pytest.raises(InputError, match="1 of 2 image names do not match .*door/anna/1.jpg; say what the names mean"):
        load_dataset(tmp_path, layout="camera-folders")


@pytest.mark.parametrize(
    "names",
    [
        ["bounding_box_train/0002_c1s1_1_0.jpg", "query/0003_c1s1_1_0.jpg", "bounding_box_test/0003_c2s1_1_0.jpg"],
        ["image_train/0001_c001_1_0.jpg", "image_query/0002_c001_1_0.jpg", "image_test/0002_c002_1_0.jpg"],
        ["train/0001_c1_1.jpg", "probe/0002_c1_1.jpg", "gallery/0002_c2_1.jpg"],
        ["train/0001_c1_1.jpg", "test/0002_c2_1.jpg"],
    ],
)
def test_no_pattern_and_no_layout_takes_test_images_for_training_images(tmp_path, make_images, names):
    make_images(tmp_path, names)
    for options in ({"pattern": r"(?P<pid>\d+)_c(?P<camera>\d+)"}, {"layout": "camera-folders"}, {"layout": "flat"}):
        for read in (load_dataset, import_folder):
            with pytest.raises(InputError, match="all of them would be taken for training images") as caught:
                read(tmp_path, **options)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == []
    dataset = load_dataset(tmp_path, pattern=re.search("--pattern '(.*)' for", str(caught.value))[1])
    assert [len(table) for table in dataset.splits.values()] == [1, len(names) - 2, 1]


def test_a_camera_may_be_called_like_a_split(tmp_path, make_images):
    make_images(tmp_path, ["gallery/1.jpg", "entrance/1.jpg"])
    assert load_dataset(tmp_path, layout="camera-folders").camera_names == ("entrance", "gallery")


# Options behind the path


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("layout=camera-folders", ("anna", "bert")),
        ("pattern=(?P<camera>[a-z]{1,9})/", ("anna", "bert")),
        ("format=folder,pattern=(?P<pid>[a-z]{1,9})/", ("unknown",)),
    ],
)
def test_options_may_follow_the_path(tmp_path, make_images, written, expected):
    make_images(tmp_path / "my#crops", PERSONS)
    assert load_dataset(f"{tmp_path}/my#crops#{written}").camera_names == expected


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("layout", "expected option=value behind the #, such as #layout=person-folders, got 'layout'"),
        ("layuot=flat", "unknown option 'layuot' .did you mean 'layout'"),
        ("layout=persons", "unknown value of option layout 'persons'"),
        ("boxes=detected", "option boxes belongs to the format cuhk03np"),
        (f"pattern={'x' * 300}", "it needs .*camera"),
    ],
)
def test_mistakes_behind_the_path(tmp_path, make_images, written, message):
    make_images(tmp_path, ["cam1/a.jpg"])
    with pytest.raises(InputError, match=message):
        load_dataset(f"{tmp_path}#{written}")


def test_the_home_folder_is_expanded(tmp_path, make_images, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    make_images(tmp_path / "crops", PERSONS)
    assert load_dataset("~/crops#layout=camera-folders").root == tmp_path / "crops"
    manifest = import_folder(tmp_path.__class__("~/crops"), layout="person-folders")
    assert manifest == tmp_path / "crops/manifest.csv"
    with pytest.raises(InputError, match="nowhere: no such file or folder"):
        load_dataset("~/nowhere")


def test_how_a_data_set_was_read_is_said_once(tmp_path, make_images, caplog):
    make_images(tmp_path, ["cam1/a.jpg", "cam2/b.jpg"])
    (tmp_path / "cam2/c.avif").write_bytes(b"x")
    _say.cache_clear()
    with caplog.at_level(logging.INFO, logger="reid_da"):
        load_dataset(tmp_path)
        load_dataset(str(tmp_path))
    assert caplog.messages == [
        f"{tmp_path}: read as folder (names like cam01/image.jpg): train 2; 2 cameras; identities of train unknown; "
        "1 files of kinds that are not read: .avif 1"
    ]


# Identities without cameras


def people(root, make_images):
    return make_images(root, [f"p{pid}/{number}.jpg" for pid in range(6) for number in range(4)])


def test_a_split_without_cameras_asks_with_one_image_of_each_person(tmp_path, make_images):
    root = people(tmp_path, make_images)
    import_folder(root, pattern="(?P<pid>.*)/", test_share=0.5)
    dataset = load_dataset(root)
    assert dataset.format == "manifest"
    assert (len(dataset.train), len(dataset.query), len(dataset.gallery)) == (12, 3, 9)
    assert dataset.same_camera == "include"
    assert not set(dataset.train.pids.tolist()) & set(dataset.gallery.pids.tolist())
    report = check_dataset(dataset)
    assert report.is_sound
    (warning,) = report.findings
    assert (warning.code, warning.severity) == ("no-cameras", "warning")
    assert "cannot be compared with those of papers" in warning.message


def test_one_camera_is_evaluated_like_none(tmp_path, make_images):
    root = make_images(tmp_path, [f"cam1/p{pid}/{number}.jpg" for pid in range(4) for number in range(3)])
    import_folder(root, test_share=0.5)
    dataset = load_dataset(root)
    assert (dataset.camera_names, dataset.same_camera) == (("cam1",), "include")
    report = check_dataset(dataset)
    assert report.is_sound
    assert [finding.code for finding in report.findings] == ["one-camera"]


def test_a_test_half_by_one_of_several_cameras_is_still_a_problem(tmp_path, make_images):
    make_images(tmp_path, ["a.jpg", "b.jpg", "c.jpg"])
    rows = ["path,pid,camid,split", "a.jpg,1,x,train", "b.jpg,2,y,query", "c.jpg,2,y,gallery"]
    (tmp_path / "m.csv").write_text("\n".join(rows) + "\n")
    dataset = load_dataset(tmp_path / "m.csv")
    assert dataset.same_camera == "exclude"
    assert not check_dataset(dataset).is_sound


@pytest.mark.parametrize("header", ["path,pid,split", "path,pid,camid,split"])
def test_manifests_need_no_cameras(tmp_path, make_images, header):
    make_images(tmp_path, ["a.jpg", "b.jpg"])
    camera = "," if "camid" in header else ""
    rows = [header, f"a.jpg,7,{camera}query", f"b.jpg,7.0,{camera}gallery"]
    (tmp_path / "m.csv").write_text("\n".join(rows) + "\n")
    dataset = load_dataset(tmp_path / "m.csv")
    assert not dataset.has_cameras
    assert dataset.query.pids.tolist() == dataset.gallery.pids.tolist() == [7]


def test_pairs_are_drawn_without_cameras(tmp_path, make_images):
    root = make_images(tmp_path, [f"{pid}/{number}.jpg" for pid in range(6) for number in range(8)])
    import_folder(root, layout="person-folders", test_share=0.5)
    pairs = draw_pairs(load_dataset(root), 20)
    assert pairs.same.tolist() == [True] * 10 + [False] * 10
    people = [path.partition("/")[0] for path in pairs.images.paths]
    assert [people[a] == people[b] for a, b in zip(pairs.first, pairs.second, strict=True)] == pairs.same.tolist()


# Text


def test_names_of_persons_and_cameras_in_a_manifest(tmp_path, make_images):
    make_images(tmp_path, ["a.jpg", "b.jpg", "c.jpg", "d.jpg"])
    rows = ["path,pid,camid", "a.jpg,zoe,12.0", "b.jpg,adam,²", "c.jpg,-1,12", "d.jpg,,yard"]
    (tmp_path / "m.csv").write_text("\n".join(rows) + "\n")
    dataset = load_dataset(tmp_path / "m.csv")
    assert dataset.camera_names == ("12", "yard", "²")
    assert dataset.train.pids.tolist() == [2, 1, -1, UNLABELLED_PID]
    assert dataset.train.camids.tolist() == [0, 2, 0, 1]
    assert dataset.person_names == {1: "adam", 2: "zoe"}


@pytest.mark.parametrize(
    ("folders", "names"),
    [(("01", "02"), ("01", "02")), (("01", "1", "2"), ("1", "2")), (("Door [1]", "²"), ("Door [1]", "²"))],
)
def test_cameras_keep_their_names(tmp_path, make_images, folders, names):
    root = make_images(tmp_path, [f"{folder}/a.jpg" for folder in folders])
    assert load_dataset(root, layout="camera-folders").camera_names == names
    import_folder(root, layout="camera-folders")
    assert load_dataset(root).camera_names == names
    report = check_dataset(load_dataset(root))
    assert tuple(camera.name for camera in report.cameras) == names


def test_numbers_of_named_persons_are_kept_beside_the_manifest(tmp_path, make_images):
    root = make_images(tmp_path, PERSONS)
    manifest = import_folder(root, layout="person-folders")
    assert persons_file(manifest).read_text() == "pid,person\n1,anna\n2,bert\n"
    assert manifest.read_text().splitlines()[1] == "anna/1.jpg,anna,,train"
    assert load_dataset(root).person_names == {1: "anna", 2: "bert"}
    with pytest.raises(InputError, match="manifest.csv exists"):
        import_folder(root, layout="person-folders")
    import_folder(root, layout="camera-folders", overwrite=True)
    assert not persons_file(manifest).exists()


def test_a_manifest_goes_before_what_the_folder_looks_like(tmp_path, make_images):
    make_images(
        tmp_path,
        ["bounding_box_train/0002_c1s1_1_0.jpg", "query/0003_c1s1_1_0.jpg", "bounding_box_test/0003_c2s1_1_0.jpg"],
    )
    assert load_dataset(tmp_path).format == "market1501"
    (tmp_path / "manifest.csv").write_text("name,size\nsomebody else's,1\n")
    assert load_dataset(tmp_path).format == "market1501"
    (tmp_path / "manifest.csv").write_text("path,pid\nquery/0003_c1s1_1_0.jpg,3\n")
    assert load_dataset(tmp_path).format == "manifest"


# Files


def test_kinds_that_are_not_read_are_counted_and_named(tmp_path, make_images):
    make_images(tmp_path, ["c1/a.jfif", "c1/b.gif", "c2/c.ppm", "c2/d.jpg"])
    for name in ("c1/e.avif", "c2/f.HEIC", "c2/film.mp4", "c2/Thumbs.db", "c2/.hidden.avif"):
        (tmp_path / name).write_bytes(b"x")
    dataset = load_dataset(tmp_path)
    assert dataset.train.paths == ("c1/a.jfif", "c1/b.gif", "c2/c.ppm", "c2/d.jpg")
    assert dataset.passed_over == ("c1/e.avif", "c2/f.HEIC", "c2/film.mp4")
    (finding,) = [f for f in check_dataset(dataset).findings if f.code == "files-passed-over"]
    assert (finding.count, finding.severity) == (3, "warning")
    assert check_dataset(dataset).is_sound


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_links_are_followed_once(tmp_path, make_images):
    root = make_images(tmp_path / "root", ["c1/a.jpg", "c2/b.jpg"])
    elsewhere = make_images(tmp_path / "elsewhere", ["c.jpg"])
    (root / "c2" / "up").symlink_to("..")
    (root / "c2" / "beside").symlink_to("../c1")
    (root / "c2" / "around").symlink_to("../..")
    for name in ("c3", "c4"):
        (root / name).symlink_to(elsewhere)
    (elsewhere / "itself").symlink_to(".")
    (elsewhere / "back").symlink_to(root)
    assert list_images(root, recursive=True) == ["c1/a.jpg", "c2/b.jpg", "c3/c.jpg"]
    # a data set that is itself a link
    (tmp_path / "alias").symlink_to(root)
    assert len(list_images(tmp_path / "alias", recursive=True)) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems refuse such names")
def test_a_name_that_is_not_utf8_is_named(tmp_path, make_images):
    make_images(tmp_path, ["c1/a.jpg"])
    (tmp_path / "c1" / os.fsdecode(b"caf\xe9.jpg")).write_bytes((tmp_path / "c1/a.jpg").read_bytes())
    for read in (load_dataset, import_folder):
        with pytest.raises(
            InputError, match=r"1 of 2 image paths are not UTF-8: c1/caf\\xe9.jpg; rename them"
        ) as caught:
            read(tmp_path)
        str(caught.value).encode()
    unnameable = tmp_path / os.fsdecode(b"\xe9")
    unnameable.mkdir()
    with pytest.raises(InputError, match="the path is not valid UTF-8; rename it"):
        load_dataset(unnameable)
