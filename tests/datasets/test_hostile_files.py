"""Files and names that somebody put into a data set to do harm, or that are odd without anybody meaning it."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from reid_da.cli import main
from reid_da.datasets import load_dataset, matlab
from reid_da.datasets.folders import Crop, compile_pattern
from reid_da.datasets.image_files import image_sizes, inspect_image
from reid_da.datasets.listing import list_images, natural_key
from reid_da.datasets.manifest import is_manifest, read_manifest, write_manifest
from reid_da.datasets.pairs import read_pairs
from reid_da.datasets.table import SampleTable
from reid_da.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("c1/a.jpg", "c1/b.jpg", "c2/c.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 16), "blue").save(tmp_path / name)
    return tmp_path


def test_a_folder_that_cannot_be_listed_is_not_left_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def denied(path: str) -> object:
        if str(path).endswith("c2"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(InputError, match="c2: cannot be listed: Permission denied"):
        list_images(folder, recursive=True)
    assert list_images(folder / "c1") == ["a.jpg", "b.jpg"]


def test_links_into_the_folder_are_passed_over(folder: Path) -> None:
    (folder / "c1" / "up").symlink_to(folder)
    (folder / "c2" / "across").symlink_to(folder / "c1")
    assert list_images(folder, recursive=True) == ["c1/a.jpg", "c1/b.jpg", "c2/c.jpg"]


def test_devices_and_pipes_are_not_read(folder: Path) -> None:
    (folder / "c1" / "zero.jpg").symlink_to("/dev/zero")
    os.mkfifo(folder / "c1" / "pipe.jpg")
    for name in ("zero.jpg", "pipe.jpg"):
        file = inspect_image(folder / "c1" / name)
        assert (file.fault, file.detail) == ("unreadable", "is not a regular file but a device, a pipe or the like")
        assert image_sizes([folder / "c1" / name]).tolist() == [[0, 0]]
    (folder / "zero.csv").symlink_to("/dev/zero")
    with pytest.raises(InputError, match="zero.csv: is not a regular file"):
        read_manifest(folder / "zero.csv")
    os.mkfifo(folder / "manifest.csv")
    assert not is_manifest(folder / "manifest.csv")
    assert not is_manifest(folder / "zero.csv")


def test_the_fingerprint_of_ordinary_names_is_what_it_was() -> None:
    table = SampleTable.from_rows("t", Path("r"), [("a/ä.jpg", 1, 0), ("b.jpg", 2, 0)])
    assert table.fingerprint == "953f0f11dac68ce1"


@pytest.mark.parametrize("camera", ["²", "c²", "٣", "=1+1", "@x", "'=1"])
def test_odd_cameras_survive_a_manifest(folder: Path, camera: str) -> None:
    assert natural_key(camera)
    write_manifest([Crop(path="c1/a.jpg", person="1", camera=camera)], folder / "m.csv")
    assert not [cell for cell in (folder / "m.csv").read_text().split(",") if cell.startswith(("=", "@"))]
    assert read_manifest(folder / "m.csv").camera_names == (camera,)


@pytest.mark.parametrize("field", ["pid", "camid"])
def test_numbers_of_thousands_of_digits(folder: Path, field: str) -> None:
    row = {"pid": "1", "camid": "1", field: 5000 * "9"}
    (folder / "m.csv").write_text(f"path,pid,camid\nc1/a.jpg,{row['pid']},{row['camid']}\n")
    with pytest.raises(InputError, match=f"m.csv: row 1: {field}"):
        read_manifest(folder / "m.csv")


def test_patterns_that_overflow() -> None:
    with pytest.raises(InputError, match="is not a regular expression"):
        compile_pattern(r"(?P<camera>\d{99999999999})")


def test_parquet_bombs_are_not_unpacked(folder: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="Parquet is an extra")
    from pyarrow import parquet

    rows = pyarrow.table({"path": pyarrow.DictionaryArray.from_arrays(pyarrow.repeat(0, 10_000_001), ["c1/a.jpg"])})
    parquet.write_table(rows, folder / "m.parquet")
    assert (folder / "m.parquet").stat().st_size < 2**20
    with pytest.raises(InputError, match="m.parquet: has 10,000,001 rows .* too many for a manifest"):
        read_manifest(folder / "m.parquet")


def test_lists_that_are_devices(folder: Path) -> None:
    (folder / "pairs.csv").symlink_to("/dev/zero")
    with pytest.raises(InputError, match="pairs.csv: cannot be read as text: is not a regular file"):
        read_pairs(folder / "pairs.csv", None)


def test_an_output_that_is_no_file_is_refused_before_the_work(folder: Path) -> None:
    with pytest.raises(SystemExit):
        main(["data", "stats", str(folder), "--picture", "/dev/null"])
    assert Path("/dev/null").is_char_device()


def test_protocols_of_matlab_are_not_unpacked_beyond_the_size_of_a_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "query_IDX.mat"
    savemat(file, {"query_IDX": [[3]], "other": np.zeros(10**6)}, do_compression=True)
    assert matlab.read_variables(file, "query_IDX")[0].tolist() == [[3]]
    monkeypatch.setattr(matlab, "MAX_BYTES", 10**5)
    with pytest.raises(InputError, match=r"query_IDX.mat: .*it unpacks to more than 100,000 bytes"):
        matlab.read_variables(file, "query_IDX")
    savemat(file, {"query_IDX": np.zeros(10**5)}, do_compression=False)
    with pytest.raises(InputError, match=r"query_IDX.mat: .*has 800,\d+ bytes, more than 100,000"):
        matlab.read_variables(file, "query_IDX")
    file.unlink()
    file.symlink_to("/dev/zero")
    with pytest.raises(InputError, match=r"query_IDX.mat: .*is not a regular file"):
        matlab.read_variables(file, "query_IDX")


def test_numbers_in_names_may_not_ask_for_a_table_of_any_length(tmp_path: Path) -> None:
    for name in ("bounding_box_train/0001_c99999999999_a", "query/0002_c1_a", "bounding_box_test/0002_c2_a"):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", (8, 16)).save(tmp_path / f"{name}.jpg")
    with pytest.raises(InputError, match="numbered from 1 to 9,999 in file names, got c99999999999$"):
        load_dataset(tmp_path)
    pairs = tmp_path / "pairs.txt"
    for text in ("9" * 5000, "1\nanna 1 " + "9" * 5000):
        pairs.write_text(text)
        with pytest.raises(InputError, match=r"pairs.txt, line \d: expected"):
            read_pairs(pairs)


@pytest.mark.parametrize("name", ["single_shot/cam_{}/person_{}.png", "{}_body_images/{}/1.tif"])
def test_identities_beyond_64_bits_are_named(tmp_path: Path, name: str) -> None:
    for folder in ("a", "b") if "cam" in name else ("occluded", "whole"):
        for person in ("0001", "0002", "9" * 30):
            file = tmp_path / name.format(folder, person)
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 16)).save(file)
    with pytest.raises(InputError, match="1 of 3 image names do not match .*9{30}"):
        load_dataset(tmp_path)
