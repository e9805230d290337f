import csv
import re

import numpy as np
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet

from reid_da.datasets import UNLABELLED_PID, import_folder, load_dataset
from reid_da.datasets.importing import split_identities
from reid_da.datasets.persons import number_persons, person_names
from reid_da.errors import InputError


@pytest.mark.parametrize(
    ("names", "cameras", "pids"),
    [
        (["cam1/person0007/a.jpg", "cam12/person0007/a.jpg", "cam2/person0012/b.png"], "cam1 cam12 cam2", [7, 7, 12]),
        (["anna/x_cam3_1.png", "anna/x_cam12_1.png", "ben/y_cam3_1.png"], "12 3 3", [1, 1, 2]),
        (["p01/camera 2/a.jpg", "p03/camera 1/a.jpg"], "camera 2 camera 1", [1, 3]),
        (["c1/a.jpg", "c12/a.jpg"], "c1 c12", None),
        (["0007_c12_a.jpg", "0009_c3_a.jpg", "-1_c3_a.jpg"], "3 12 3", [-1, 7, 9]),
        (["crops/0007_c12_a.jpg", "crops/0009_c3_a.jpg"], "12 3", [7, 9]),
    ],
)
def test_folders_tell_camera_and_person(tmp_path, make_images, names, cameras, pids):
    dataset = load_dataset(make_images(tmp_path, names))
    assert dataset.format == "folder"
    got = " ".join(dataset.camera_names[camid] for camid in dataset.train.camids)
    assert got == cameras
    assert dataset.train.pids.tolist() == (pids or [UNLABELLED_PID] * len(names))
    assert len(dataset.query) == len(dataset.gallery) == 0


def test_cameras_are_in_the_order_of_their_numbers(tmp_path, make_images):
    dataset = load_dataset(make_images(tmp_path, [f"cam{number}/a.jpg" for number in (1, 2, 10, 12)]))
    assert dataset.camera_names == ("cam1", "cam2", "cam10", "cam12")


@pytest.mark.parametrize("fakes", ["cam1_camstyle", "train_camstyle", "cam2/person0012_camstyle"])
def test_camera_style_images_are_no_images_of_a_further_camera(tmp_path, make_images, fakes):
    names = ["cam1/person0007/a.jpg", "cam2/person0012/b.jpg"]
    make_images(tmp_path, [*names, f"{fakes}/a_fake_2.jpg", f"{fakes}/b_fake_1.jpg"])
    assert list(load_dataset(tmp_path).train.paths) == names
    assert load_dataset(tmp_path, pattern="(?P<camera>cam.)/").train.paths == tuple(names)
    assert load_dataset(import_folder(tmp_path)).camera_names == ("cam1", "cam2")


def test_a_pattern_may_tell_the_split_and_use_the_whole_path(tmp_path, make_images):
    make_images(tmp_path, ["train/k7-5.jpg", "query/k7-6.jpg", "gallery/k07-6.jpg"])
    dataset = load_dataset(tmp_path, pattern=r"(?P<split>\w+)/k(?P<camera>\d+)-(?P<pid>\d+)")
    assert [table.pids.tolist() for table in dataset.splits.values()] == [[5], [6], [6]]
    assert dataset.camera_names == ("7",)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (r"(?P<split>\w+)/", r"has the groups \['split'\]; it needs \(\?P<camera>"),
        (r"(?P<camera>\d+)(?P<camera>\d+)", "not a regular expression"),
        (r"(?P<camera>\d+)_(?P<person>\d+)", "may have"),
        (r"(?P<camera>\d+", "not a regular expression"),
        (r"x(?P<camera>\d+)", r"2 of 2 image names do not match"),
        (r"(?P<split>\w+)/(?P<camera>\w)", "the split is 'one', expected one of train, query, gallery"),
    ],
)
def test_bad_patterns(tmp_path, make_images, pattern, message):
    make_images(tmp_path, ["one/a1.jpg", "two/a2.jpg"])
    with pytest.raises(InputError, match=message):
        load_dataset(tmp_path, pattern=pattern)


def test_numbering_of_persons():
    assert number_persons(["7", None, "-1", ""]).tolist() == [7, -2, -1, -2]
    assert number_persons(["id-7", "id-07"]).tolist() == [2, 1]
    assert number_persons(["zoe", "adam", "zoe", "-1"]).tolist() == [2, 1, 2, -1]
    assert person_names(["zoe", "adam", "-1", None]) == {1: "adam", 2: "zoe"}
    assert number_persons(["9" * 30]).tolist() == [1]
    assert number_persons(["12.0", "12", "007", "7", "0"]).tolist() == [12, 12, 7, 7, 0]
    assert person_names(["12.0", "12", "007"]) == {}


@pytest.mark.parametrize("text", ["-1", "-01", "-0001", "00-1", "-1.0"])
def test_junk_in_every_spelling_is_nobody(text):
    assert number_persons([text, "1"]).tolist() == [-1, 1]
    assert number_persons([text, "bob"]).tolist() == [-1, 1]


def test_other_negative_numbers_are_no_persons():
    with pytest.raises(InputError, match="person -2: numbers of persons start at 0, -1 marks junk"):
        number_persons(["-2", "3"])


# Manifests


def write_csv(path, rows):
    path.write_text("\n".join(rows) + "\n")
    return path


def test_manifest(tmp_path, make_images):
    make_images(tmp_path, ["a.jpg", "b.jpg", "deep/c.jpg", "d.jpg"])
    rows = [
        "path,pid,camid,split",
        "d.jpg,,yard,",
        "a.jpg,4,door,query",
        "b.jpg,4,yard,gallery",
        "deep/c.jpg,-1,yard,gallery",
    ]
    dataset = load_dataset(write_csv(tmp_path / "my.csv", rows))
    assert dataset.camera_names == ("door", "yard")
    assert dataset.train.pids.tolist() == [UNLABELLED_PID]
    assert dataset.gallery.pids.tolist() == [4, -1]
    assert dataset.gallery.path(1).is_file()


def test_parquet_manifest_with_gaps_in_the_pids(tmp_path, make_images):
    make_images(tmp_path, ["a.jpg", "b.jpg"])
    table = pyarrow.table({"path": ["a.jpg", "b.jpg"], "pid": [3.0, None], "camid": [2, 10]})
    parquet.write_table(table, tmp_path / "m.parquet")
    dataset = load_dataset(tmp_path / "m.parquet")
    assert dataset.train.pids.tolist() == [3, UNLABELLED_PID]
    assert dataset.camera_names == ("2", "10")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["file,pid", "a.jpg,3"], "no column path; expected path,pid,camid,split, found file,pid"),
        (["path,camid"], "has no rows"),
        (["path,camid", "a.jpg"], "row 1 does not have as many fields"),
        (["path,camid", "a.jpg,1,2"], "row 1 does not have as many fields"),
        (["path,camid", "a.jpg,1", "gone.jpg,1"], r"1 of 2 images do not exist: row 2 \(gone.jpg\)"),
        (["path,camid", "a.jpg,1", "a.jpg,1"], "row 2 repeats row 1"),
        (["path,camid", "a.jpg,", "b.jpg,2"], "row 1 has no camid, and others have"),
        (["path,camid,pid", "a.jpg,1,nan"], "row 1: pid should be a number from 0, a name, .* got 'nan'"),
        (["path,camid,pid", "a.jpg,1,-2"], "row 1: pid should be a number from 0, a name, .* got '-2'"),
        (["path,camid,split", "a.jpg,1,test"], "row 1: split should be one of train, query, gallery, got 'test'"),
    ],
)
def test_bad_manifests_name_the_row(tmp_path, make_images, rows, message):
    make_images(tmp_path, ["a.jpg"])
    with pytest.raises(InputError, match=message):
        load_dataset(write_csv(tmp_path / "m.csv", rows))


@pytest.mark.parametrize("name", ["m.csv", "m.parquet"])
def test_a_manifest_that_is_not_one(tmp_path, name):
    (tmp_path / name).write_bytes(b"\xff\xfe\x00garbage")
    with pytest.raises(InputError, match=f"{name}: cannot be read as"):
        load_dataset(tmp_path / name)


# Import


def people(tmp_path, make_images, num=12):
    names = [
        f"cam{cam}/person{pid}/{n}.jpg" for pid in range(num) for cam in (1, 2, 3) for n in range(1 + (pid + cam) % 3)
    ]
    return make_images(tmp_path / "crops", names)


def test_import_gives_a_manifest_that_reads_back_the_same(tmp_path, make_images):
    root = people(tmp_path, make_images)
    before = load_dataset(root).train
    manifest = import_folder(root)
    after = load_dataset(root)
    assert after.format == "manifest"
    assert after.train.paths == before.paths
    assert np.array_equal(after.train.pids, before.pids)
    assert np.array_equal(after.train.camids, before.camids)
    with pytest.raises(InputError, match="exists; name another file"):
        import_folder(root)
    assert import_folder(root, test_share=0.5, overwrite=True) == manifest


@pytest.mark.parametrize("folder", ["", "crops", "elsewhere"])
def test_paths_of_a_manifest_hold_wherever_it_lies(tmp_path, make_images, folder):
    root = people(tmp_path, make_images, num=2)
    manifest = import_folder(root, output=tmp_path / folder / "m.csv")
    assert load_dataset(manifest).train.path(0).is_file()


def test_split_is_disjoint_repeatable_and_answerable(tmp_path, make_images):
    root = people(tmp_path, make_images)
    for name, seed in (("a.csv", 1), ("b.csv", 1), ("c.csv", 2)):
        import_folder(root, output=tmp_path / name, test_share=0.5, seed=seed)
    assert (tmp_path / "a.csv").read_text() == (tmp_path / "b.csv").read_text()
    assert (tmp_path / "a.csv").read_text() != (tmp_path / "c.csv").read_text()
    dataset = load_dataset(tmp_path / "a.csv")
    assert dataset.train.num_pids == dataset.query.num_pids == 6
    assert not set(dataset.train.pids.tolist()) & set(dataset.gallery.pids.tolist())


@given(
    st.lists(st.tuples(st.integers(-1, 5), st.sampled_from("abc")), min_size=2, max_size=30),
    st.floats(0.05, 0.95),
    st.integers(0, 3),
)
def test_every_query_has_a_match_in_another_camera(rows, share, seed):
    pids, cameras = np.array([row[0] for row in rows]), [row[1] for row in rows]
    try:
        splits = split_identities(pids, cameras, test_share=share, seed=seed)
    except InputError:
        return
    by_split = {name: [row for row, split in zip(rows, splits, strict=True) if split == name] for name in set(splits)}
    queries, gallery = by_split["query"], by_split["gallery"]
    one_camera = len(set(cameras)) == 1
    assert len(set(queries)) == len(queries)
    assert not {pid for pid, _ in by_split.get("train", [])} & {pid for pid, _ in queries + gallery}
    for pid, camera in queries:
        assert pid != -1
        # with one camera in all, a match by the same is all that there is
        assert any(other == pid and (elsewhere != camera or one_camera) for other, elsewhere in gallery)


def test_single_images_give_as_many_queries_as_they_can():
    # two images in two cameras: one asks, the other answers; three in three: two ask, one answers
    for cameras, queries in (("ab", 1), ("abc", 2), ("aab", 1), ("aabb", 2), ("aabc", 2), ("aaa", 1), ("a", 0)):
        pids = np.array([1] * len(cameras) + [2] * len(cameras))
        if queries:
            splits = split_identities(pids, list(cameras * 2), test_share=0.5)
            assert splits.count("query") == queries, cameras
        else:
            with pytest.raises(InputError, match="nothing to query"):
                split_identities(pids, list(cameras * 2), test_share=0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_share": 1.5}, "above 0 and at most 1, got 1.5"),
        ({"output": "m.txt"}, "written as CSV"),
        ({"pattern": r"(?P<camera>.)", "test_share": 0.5}, "images has an identity"),
        ({"pattern": r"(?P<split>cam1)?.*/(?P<pid>.*)/"}, r"\(\?P<split>...\) of the pattern is empty in .* images"),
        ({"pattern": r"(?P<split>cam\d)/(?P<pid>.*)/"}, "the split is 'cam1', expected one of train, query, gallery"),
        ({"pattern": r"cam(?P<camera>1)?.*/"}, r"\(\?P<camera>...\) of the pattern is empty in .* images: cam2"),
        ({"layout": "person-folders", "pattern": r"(?P<camera>.)"}, "give a layout or a pattern, not both"),
        ({"layout": "persons"}, "unknown layout 'persons' .did you mean 'person-folders'"),
    ],
)
def test_bad_imports_write_nothing(tmp_path, make_images, options, message):
    root = people(tmp_path, make_images, num=3)
    options = {"output": tmp_path / options.pop("output", "m.csv"), **options}
    with pytest.raises(InputError, match=message):
        import_folder(root, **options)
    assert not list(tmp_path.glob("m.*"))
    with pytest.raises(InputError, match="no such folder"):
        import_folder(tmp_path / "nope")


def test_import_writes_plain_csv(tmp_path, make_images):
    manifest = import_folder(make_images(tmp_path, ["door/a, b.jpg"]), layout="camera-folders")
    with manifest.open() as stream:
        assert list(csv.reader(stream)) == [["path", "pid", "camid", "split"], ["door/a, b.jpg", "", "door", "train"]]
    assert re.search(r'"door/a, b.jpg",,door,train', manifest.read_text())


def test_all_labelled_people_can_be_a_test_set():
    pids = np.array([1, 1, 2, 2, -2, -2, -1])
    splits = split_identities(pids, ["a", "b", "a", "b", "a", "b", "a"], test_share=1)
    assert set(splits[:4]) == {"query", "gallery"}
    assert splits[4:] == ["train", "train", "gallery"]


def test_a_partly_labelled_folder_is_target_and_test_set(tmp_path):
    for camera in (1, 2):
        for person in ("anna", "ben", None):
            folder = tmp_path / "crops" / f"cam{camera}" / (person or "")
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 16)).save(folder / f"{camera}.jpg")
    dataset = load_dataset(import_folder(tmp_path / "crops", test_share=1.0))
    assert (len(dataset.train), len(dataset.query), len(dataset.gallery)) == (2, 2, 2)
    assert not dataset.train.is_labelled
    assert set(dataset.query.pids) == {1, 2}


@pytest.mark.parametrize(
    ("names", "persons"),
    [(["anna_cam1_0.jpg", "ben_cam2_1.jpg"], 2), (["hall_cam1_0.jpg", "hall_cam2_1.jpg"], None)],
)
def test_names_of_persons_before_the_camera(names, persons, tmp_path):
    for name in names:
        Image.new("RGB", (8, 16)).save(tmp_path / name)
    if persons is None:
        # one name for all images is no person
        with pytest.raises(InputError, match="do not tell"):
            load_dataset(tmp_path)
    else:
        assert load_dataset(tmp_path).train.num_pids == persons
