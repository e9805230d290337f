import re
import shutil

import numpy as np
import pytest
from scipy.io import savemat

from reid_da.datasets import load_dataset
from reid_da.errors import InputError

MARKET = {
    "bounding_box_train": ["0002_c1s1_000451_03.jpg", "0002_c6s1_000001_01.jpg", "-1_c1s1_000001_00.jpg"],
    "query": ["0001_c1s1_001051_00.jpg"],
    "bounding_box_test": ["0001_c2s1_000301_00.jpg", "0000_c3s1_000301_00.jpg", "-1_c2s1_000301_05.jpg"],
}
DUKE = {
    "bounding_box_train": ["0001_c2_f0046182.jpg", "0001_c8_f0046182.jpg"],
    "query": ["0005_c2_f0046985.jpg"],
    "bounding_box_test": ["0005_c3_f0046985.jpg", "4000_c3_f0046985.jpg"],
}
MSMT17_REFORMATTED = {
    "bounding_box_train": ["0000_c1_0303morning_0008_0.jpg", "0000_c15_0303noon_0008_1.jpg"],
    "query": ["0000_c12_0303afternoon_0008_0.jpg"],
    "bounding_box_test": ["0000_c10_0303morning_0008_0.jpg"],
}
CUHK03 = {
    "bounding_box_train": ["0001_c1_1.png", "0001_c2_6.png"],
    "query": ["0002_c1_1.png"],
    "bounding_box_test": ["0002_c2_2.png"],
}
OWN = {
    "bounding_box_train": ["17_c3_foo.jpg", "17_c21_foo.jpg"],
    "query": ["18_c3_foo.jpg"],
    "bounding_box_test": ["18_c4_foo.jpg"],
}


def files(layout):
    return [f"{folder}/{name}" for folder, names in layout.items() for name in names]


def msmt17(root, make_images, version=1):
    train, test = {1: ("train", "test"), 2: ("mask_train_v2", "mask_test_v2")}[version]
    lists = {
        "list_train.txt": (train, ["0000/0000_000_01_0303morning_0008_0.jpg", "0001/0001_000_15_0303noon_0008_0.jpg"]),
        "list_val.txt": (train, ["0000/0000_001_12_0303morning_0009_1.jpg"]),
        "list_query.txt": (test, ["0000/0000_000_02_0303morning_0008_0.jpg"]),
        "list_gallery.txt": (test, ["0000/0000_001_03_0303morning_0008_1.jpg"]),
    }
    for name, (folder, paths) in lists.items():
        make_images(root / folder, paths)
        (root / name).write_text("".join(f"{path} {int(path[:4])}\n" for path in paths))
    return root


def test_one_list_of_msmt17_may_be_missing_as_the_message_says(tmp_path, make_images):
    msmt17(tmp_path, make_images)
    (tmp_path / "list_val.txt").unlink()
    with pytest.raises(InputError, match="no list_val.txt beside train/") as caught:
        load_dataset(tmp_path)
    assert len(load_dataset(str(caught.value).rpartition(" ")[2]).train) == 2


@pytest.mark.parametrize(
    ("layout", "format", "cameras", "distractor"),
    [
        (MARKET, "market1501", 6, 0),
        (DUKE, "dukemtmcreid", 8, None),
        (MSMT17_REFORMATTED, "msmt17-market", 15, None),
        (CUHK03, "cuhk03np", 2, None),
        (OWN, "market-style", 21, None),
    ],
)
def test_market_layouts_are_told_apart_by_their_names(tmp_path, make_images, layout, format, cameras, distractor):
    dataset = load_dataset(make_images(tmp_path, files(layout)))
    assert dataset.format == format
    assert dataset.num_cameras == cameras
    assert dataset.distractor_pid == distractor
    assert dataset.camera_names[-1] == f"c{cameras}"


def test_market_junk_is_left_out_of_training_and_kept_in_the_gallery(tmp_path, make_images):
    dataset = load_dataset(make_images(tmp_path, files(MARKET)))
    assert dataset.train.pids.tolist() == [2, 2]
    assert dataset.train.camids.tolist() == [0, 5]
    assert sorted(dataset.gallery.pids.tolist()) == [-1, 0, 1]
    assert dataset.notes == ("1 junk images (pid -1) left out of the training images",)


def test_files_that_are_no_images_are_passed_over(tmp_path, make_images):
    root = make_images(tmp_path, files(MARKET))
    (root / "bounding_box_train" / "Thumbs.db").write_bytes(b"x")
    (root / "query" / ".hidden.jpg").write_bytes(b"x")
    assert len(load_dataset(root).query) == 1


def test_the_folder_name_is_not_mistaken_for_a_camera(tmp_path, make_images):
    root = make_images(tmp_path / "0009_c5s1_1" / "data_c3", files(DUKE))
    assert load_dataset(root).train.camids.tolist() == [1, 7]


@pytest.mark.parametrize("version", [1, 2])
def test_msmt17_cameras_have_two_digits_and_validation_images_are_training_images(tmp_path, make_images, version):
    dataset = load_dataset(msmt17(tmp_path, make_images, version))
    assert dataset.format == "msmt17"
    assert dataset.train.camids.tolist() == [0, 11, 14]
    assert dataset.train.pids.tolist() == [0, 0, 1]
    assert dataset.query.pids.tolist() == [0]
    assert len(load_dataset(tmp_path, train_lists="train").train) == 2


@pytest.mark.parametrize(
    "path", ["", "Market-1501-v15.09.15", "market1501", "market1501/Market-1501-v15.09.15", "whatever"]
)
def test_a_data_set_is_found_under_its_usual_names(tmp_path, make_images, path):
    make_images(tmp_path / path, files(MARKET))
    assert load_dataset(tmp_path).root == tmp_path / path
    assert load_dataset(tmp_path, format="market1501").root == tmp_path / path


def test_several_data_sets_in_one_folder_have_to_be_named(tmp_path, make_images):
    make_images(tmp_path / "market1501", files(MARKET))
    make_images(tmp_path / "DukeMTMC-reID", files(DUKE))
    with pytest.raises(InputError, match="several data sets .*market1501 in market1501/.*DukeMTMC-reID/"):
        load_dataset(tmp_path)
    assert load_dataset(tmp_path, format="dukemtmcreid").format == "dukemtmcreid"


@pytest.mark.parametrize("spelling", ["labeled", "labelled"])
def test_cuhk03np_boxes(tmp_path, make_images, spelling):
    make_images(tmp_path / "cuhk03-np" / "detected", files(CUHK03))
    make_images(tmp_path / "cuhk03-np" / spelling, [*files(CUHK03), "bounding_box_train/0003_c1_1.png"])
    assert len(load_dataset(tmp_path).train) == 2
    assert len(load_dataset(tmp_path, boxes="labelled").train) == 3
    assert load_dataset(tmp_path / "cuhk03-np" / spelling).format == "cuhk03np"


def test_cuhk03np_extracted_images_follow_the_config(tmp_path, make_images):
    names = ["1_001_1_01.png", "1_001_2_06.png", "1_002_1_01.png", "1_002_2_06.png"]
    make_images(tmp_path / "images_detected", names)
    savemat(
        tmp_path / "cuhk03_new_protocol_config_detected.mat",
        {
            "labels": np.array([[1], [1], [2], [2]]),
            "filelist": np.array([[name] for name in names], dtype=object),
            "train_idx": np.array([[1], [2]]),
            "query_idx": np.array([[3]]),
            "gallery_idx": np.array([[4]]),
        },
    )
    dataset = load_dataset(tmp_path)
    assert dataset.train.paths == ("images_detected/1_001_1_01.png", "images_detected/1_001_2_06.png")
    assert (dataset.query.pids.tolist(), dataset.query.camids.tolist()) == ([2], [0])
    assert (dataset.gallery.pids.tolist(), dataset.gallery.camids.tolist()) == ([2], [1])
    (tmp_path / "images_detected" / names[3]).unlink()
    with pytest.raises(InputError, match="1 images of cuhk03_new_protocol_config_detected.mat are missing: 1_002_2_06"):
        load_dataset(tmp_path)
    (tmp_path / "cuhk03_new_protocol_config_detected.mat").write_bytes(b"no matlab")
    with pytest.raises(InputError, match="no variables labels, filelist, .* in it"):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    ("site", "format", "sizes"),
    [("site-a", "dukemtmcreid", (1176, 206, 500)), ("site-b", "market1501", (1152, 198, 514))],
)
def test_shipped_sets_have_the_counts_of_their_readme(rendered, site, format, sizes):
    dataset = load_dataset(rendered / site)
    assert dataset.format == format
    assert tuple(len(table) for table in dataset.splits.values()) == sizes
    assert (dataset.train.num_pids, dataset.query.num_pids) == (100, 50)


# What a user may get wrong: each one line, each naming the thing at fault.


def nothing(root, make_images):
    return root / "nope"


def no_images(root, make_images):
    (root / "empty").mkdir()


def missing_folder(root, make_images):
    shutil.rmtree(make_images(root, files(MARKET)) / "query")


def empty_split(root, make_images):
    missing_folder(root, make_images)
    (root / "query").mkdir()


def camera_zero(root, make_images):
    make_images(root, [*files(DUKE), "query/0005_c0_f0046985.jpg"])


def foreign_names(root, make_images):
    make_images(root, [*files(MARKET), *(f"query/holiday{n}.jpg" for n in range(5))])


def market(root, make_images):
    make_images(root, files(MARKET))


def deeper(root, make_images):
    make_images(root / "a" / "b", files(MARKET))


def labelled_boxes(root, make_images):
    make_images(root / "labeled", files(CUHK03))


def missing_image(root, make_images):
    (msmt17(root, make_images) / "train/0001/0001_000_15_0303noon_0008_0.jpg").unlink()


def bad_line(root, make_images):
    (msmt17(root, make_images) / "list_val.txt").write_text("0000/0000_001_12_0303morning_0009_1.jpg\n")


def empty_list(root, make_images):
    (msmt17(root, make_images) / "list_query.txt").write_text("\n")


def repeated_line(root, make_images):
    file = msmt17(root, make_images) / "list_query.txt"
    file.write_text(file.read_text() * 2)


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (nothing, {}, "nope: no such file or folder"),
        (no_images, {}, "no images in it or below it, found empty/"),
        (missing_folder, {}, "found bounding_box_train, bounding_box_test, but .* needs .*query/"),
        (empty_split, {}, "query: no images, found nothing"),
        (camera_zero, {}, "numbered from 1"),
        (foreign_names, {}, "5 of 6 image names do not match .*holiday0.jpg, holiday1.jpg, holiday2.jpg and 2 more"),
        (market, {"format": "msmt17"}, "looked for the format msmt17 .*list_train.txt.*found bounding_box_test/, "),
        (market, {"format": "market"}, "unknown format 'market'.*did you mean 'market1501'"),
        (market, {"boxes": "detected"}, "option boxes belongs to the format cuhk03np; this data set is read as market"),
        (market, {"box": "detected"}, "unknown option 'box' .did you mean 'boxes'"),
        (msmt17, {"train_lists": "both"}, r"unknown value of option train_lists 'both'.*train, train\+val"),
        (missing_image, {}, "list_train.txt: 1 of 2 listed images are not in train/: 0001/0001_000_15"),
        (bad_line, {}, "list_val.txt: line 1 should be 'path pid'"),
        (empty_list, {}, "list_query.txt: the list is empty"),
        (repeated_line, {}, "list_query.txt: 1 images are listed more than once"),
        (labelled_boxes, {"boxes": "detected"}, "looked for detected/ .*found labeled/"),
        (deeper, {}, "holds a data set deeper down .a/b/.*give its folder"),
    ],
)
def test_mistakes_are_named_in_one_line(tmp_path, make_images, build, options, message):
    path = build(tmp_path, make_images) or tmp_path
    with pytest.raises(InputError) as caught:
        load_dataset(path, **options)
    assert re.search(message, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)
