"""Feature files: what goes in comes out, and every fault is named in one line."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse
import torch
from numpy.typing import NDArray

from reid_da.errors import InputError
from reid_da.evaluation import array_files
from reid_da.evaluation.feature_files import FeatureSet, load_feature_file, save_feature_file
from reid_da.evaluation.retrieval import evaluate_retrieval

RNG = np.random.default_rng(0)
FEATURES = FeatureSet(
    query_features=RNG.standard_normal((4, 3)).astype(np.float32),
    query_pids=np.array([1, 2, 3, -1]),
    query_camids=np.array([0, 0, 1, 1]),
    gallery_features=RNG.standard_normal((6, 3)).astype(np.float32),
    gallery_pids=np.array([1, 2, 3, -1, 0, 2]),
    gallery_camids=np.array([1, 1, 0, 0, 2, 3]),
)
NPZ = {name: array for name, array in vars(FEATURES).items() if array is not None}
MAT = {
    "query_f": FEATURES.query_features,
    "query_label": FEATURES.query_pids,  # savemat writes them as (1, N)
    "query_cam": FEATURES.query_camids,
    "gallery_f": FEATURES.gallery_features,
    "gallery_label": FEATURES.gallery_pids[:, None],
    "gallery_cam": FEATURES.gallery_camids.astype(float),
}


def write(path: Path, arrays: dict[str, Any]) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        scipy.io.savemat(path, arrays)
    return path


def assert_equal(left: FeatureSet, right: FeatureSet) -> None:
    for ours, theirs in zip(left.arrays, right.arrays, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype


def test_npz_round_trip(tmp_path: Path) -> None:
    save_feature_file(tmp_path / "new folder" / "features.npz", FEATURES)
    assert_equal(load_feature_file(tmp_path / "new folder" / "features.npz"), FEATURES)
    assert [path.name for path in (tmp_path / "new folder").iterdir()] == ["features.npz"]


def test_mat(tmp_path: Path) -> None:
    features = load_feature_file(write(tmp_path / "result.mat", MAT))
    assert_equal(features, FEATURES)
    assert evaluate_retrieval(*features.arrays).to_json() == evaluate_retrieval(*FEATURES.arrays).to_json()


NAMES = {".npz": list(NPZ), ".mat": list(MAT)}


def with_labels(folder: Path, suffix: str, labels: list[list[str]]) -> FeatureSet:
    """The set with other pids and cameras of the query, then of the gallery, as text, read back from a file."""
    known = NPZ if suffix == ".npz" else MAT
    names = [name for number, name in enumerate(NAMES[suffix]) if number % 3]
    # text in a .mat file is a cell array, an array of objects here
    arrays = {
        name: np.array(of, dtype=str if suffix == ".npz" else object) for name, of in zip(names, labels, strict=True)
    }
    return load_feature_file(write(folder / f"f{suffix}", {**known, **arrays}))


@pytest.mark.parametrize("suffix", [".npz", ".mat"])
def test_labels_may_be_text(tmp_path: Path, suffix: str) -> None:
    query = [["1.0", "2", "03", "-1"], ["0", "0", "1.0", "1"]]
    gallery = [["1", "2.0", "3", "00-1", "0", "2"], ["1", "1", "0", "0", "2", "3"]]
    assert_equal(with_labels(tmp_path, suffix, query + gallery), FEATURES)


@pytest.mark.parametrize("suffix", [".npz", ".mat"])
def test_names_are_numbered_over_query_and_gallery_together(tmp_path: Path, suffix: str) -> None:
    query = [["bob", "cy", "dan", "-1"], ["yard", "yard", "door", "door"]]
    gallery = [["bob", "cy", "dan", "-1", "ann", "cy"], ["door", "door", "yard", "yard", "²", "x"]]
    features = with_labels(tmp_path, suffix, query + gallery)
    assert features.query_pids.tolist() == [2, 3, 4, -1]
    assert features.gallery_pids.tolist() == [2, 3, 4, -1, 1, 3]
    assert features.query_camids.tolist() == [2, 2, 0, 0]
    assert features.gallery_camids.tolist() == [0, 0, 2, 2, 3, 1]


def test_files_without_cameras_are_evaluated_with_matches_by_the_same(tmp_path: Path) -> None:
    features = load_feature_file(write(tmp_path / "f.npz", without(NPZ, "query_camids", "gallery_camids")))
    assert features.query_camids.tolist() == [0] * 4
    with pytest.raises(InputError, match="--same-camera include"):
        evaluate_retrieval(*features.arrays)
    assert evaluate_retrieval(*features.arrays, same_camera="include").num_valid_queries == 3
    with pytest.raises(InputError, match="no gallery_camids .found"):
        load_feature_file(write(tmp_path / "f.npz", without(NPZ, "gallery_camids")))


def test_more_arrays_than_needed(tmp_path: Path) -> None:
    assert_equal(load_feature_file(write(tmp_path / "f.npz", {**NPZ, "paths": np.array(["a"])})), FEATURES)


def without(arrays: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: array for name, array in arrays.items() if name not in names}


def with_nan(features: NDArray[Any]) -> NDArray[Any]:
    changed = features.copy()
    changed[[1, 3], 2] = np.nan
    return changed


@pytest.mark.parametrize(
    ("name", "arrays", "message"),
    [
        ("f.npz", without(NPZ, "query_pids", "gallery_pids"), "f.npz: no query_pids, gallery_pids .found: gallery_cam"),
        ("f.npz", {}, "f.npz: no query_features, .* .found: nothing"),
        ("f.mat", without(MAT, "gallery_cam"), "f.mat: no gallery_cam .found: gallery_f, gallery_label, query_cam"),
        ("f.npz", {**NPZ, "query_pids": [1, 2]}, r"f.npz: query_pids: expected 4 values"),
        ("f.mat", {**MAT, "query_label": np.ones((2, 2))}, r"f.mat: query_pids: expected 4 values, .* \(2, 2\)"),
        (
            "f.npz",
            {**NPZ, "query_features": with_nan(FEATURES.query_features)},
            "f.npz: query_features: 2 rows .* 1, 3",
        ),
        (
            "f.npz",
            {**NPZ, "gallery_features": FEATURES.gallery_features * 0},
            "f.npz: gallery_features: 6 rows are all",
        ),
        ("f.npz", {**NPZ, "query_features": ["a"]}, "f.npz: query_features: expected real numbers"),
        ("f.npz", {**NPZ, "query_pids": [7, 8, 9, 9]}, "f.npz: no query has a true match .* their 3 identities"),
        ("f.npz", {**NPZ, "query_pids": [7, 8, 9, -2]}, "f.npz: query_pids: 1 images have no identity"),
        ("f.npz", {**NPZ, "query_pids": np.array([None] * 4)}, "f.npz: cannot be read as .npz .*pickle"),
    ],
)
def test_bad_arrays(tmp_path: Path, name: str, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_feature_file(write(tmp_path / name, arrays))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".npz", ".mat"])
@pytest.mark.parametrize("content", [b"", b"not a feature file\n" * 20, b"PK\x03\x04" + bytes(200), bytes(128)])
def test_damaged_files(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"f{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"f{suffix}: (cannot be read as {suffix}|no query_f)") as caught:
        load_feature_file(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["f.npz", "f.mat"])
def test_file_cut_short(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, NPZ if name == "f.npz" else MAT)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(InputError, match=f"{name}: cannot be read as"):
        load_feature_file(path)


def test_names_of_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"f.npz: no such file"):
        load_feature_file(tmp_path / "f.npz")
    with pytest.raises(InputError, match=r"f.h5: expected a feature file that ends in .npz or .mat"):
        load_feature_file(tmp_path / "f.h5")
    with pytest.raises(InputError, match=r"f.mat: expected the name of a feature file to write to end in .npz"):
        save_feature_file(tmp_path / "f.mat", FEATURES)


def test_mat_of_version_7_3(tmp_path: Path) -> None:
    path = tmp_path / "f.mat"
    path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(500))
    with pytest.raises(InputError, match=r"f.mat: cannot be read as .mat \(.*; write the features again"):
        load_feature_file(path)


def write_mat73(path: Path, arrays: dict[str, Any]) -> Path:
    """A file as MATLAB writes it: 512 bytes of header before the HDF5, every axis in reverse, labels as (1, N)."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in arrays.items():
            file[name] = np.atleast_2d(np.asarray(array, dtype=np.float64)).T
        file.create_group("#refs#")
    with path.open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
    return path


def test_mat_of_version_7_3_gives_the_same(tmp_path: Path) -> None:
    features = load_feature_file(write_mat73(tmp_path / "f.mat", MAT))
    np.testing.assert_array_equal(features.query_features, FEATURES.query_features)
    np.testing.assert_array_equal(features.gallery_pids, FEATURES.gallery_pids)
    assert evaluate_retrieval(*features.arrays).to_json() == evaluate_retrieval(*FEATURES.arrays).to_json()


def test_mat_of_version_7_3_without_h5py(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_mat73(tmp_path / "f.mat", MAT)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(
        InputError, match=r"f.mat: is of version 7.3, which needs h5py: install reid-da\[matlab\], or .*-v7"
    ):
        load_feature_file(path)


def npz_bomb(path: Path, name: str, *, megabytes: int) -> Path:
    arrays = {**NPZ, name: np.zeros((megabytes, 2**18), dtype=np.float32)}
    np.savez_compressed(path, **arrays)
    return path


def test_arrays_that_nobody_asked_for_are_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array_files, "_ALWAYS_ALLOWED", 2**20)
    assert_equal(load_feature_file(npz_bomb(tmp_path / "f.npz", "unused", megabytes=20)), FEATURES)
    bomb = {"unused": np.zeros((20, 2**17)), **MAT}
    scipy.io.savemat(tmp_path / "f.mat", bomb, do_compression=True)
    monkeypatch.setattr(array_files, "_check_inflated", noted := Noted(array_files._check_inflated))
    assert_equal(load_feature_file(tmp_path / "f.mat"), FEATURES)
    assert sorted(noted.first) == sorted(MAT)


class Noted:
    """A function that notes its first arguments."""

    def __init__(self, function: Any) -> None:
        self.function, self.first = function, []

    def __call__(self, *arguments: Any) -> Any:
        self.first.append(arguments[0])
        return self.function(*arguments)


def test_bombs_are_refused_before_they_are_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array_files, "_ALWAYS_ALLOWED", 2**20)
    with pytest.raises(InputError, match=r"f.npz: query_features: would take 21.0 MB or more, unpacked from 2"):
        load_feature_file(npz_bomb(tmp_path / "f.npz", "query_features", megabytes=20))
    scipy.io.savemat(tmp_path / "f.mat", {**MAT, "query_f": np.zeros((20, 2**17))}, do_compression=True)
    with pytest.raises(InputError, match=r"f.mat: query_f: would take .* MB or more, unpacked from 2"):
        load_feature_file(tmp_path / "f.mat")


def test_what_does_not_fit_into_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array_files, "_available_memory", lambda: 100)
    for name, arrays in (("f.npz", NPZ), ("f.mat", MAT)):
        with pytest.raises(InputError, match=f"{name}: the arrays would take .*, but 100 bytes of memory are free"):
            load_feature_file(write(tmp_path / name, arrays))


def test_compressed_matlab_files_are_read(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "f.mat", MAT, do_compression=True)
    assert_equal(load_feature_file(tmp_path / "f.mat"), FEATURES)
    scipy.io.savemat(tmp_path / "g.mat", {key: np.asarray(value, float) for key, value in MAT.items()}, format="4")
    assert len(load_feature_file(tmp_path / "g.mat").query_pids) == 4


@pytest.mark.parametrize(
    ("name", "arrays", "message"),
    [
        (
            "f.npz",
            {**NPZ, "query_pids": np.array([2**64 - 1, 1, 2, 3], np.uint64)},
            "at most 64 bits with sign, got 18",
        ),
        ("f.npz", {**NPZ, "query_pids": np.array([1e300, 1, 2, 3])}, "at most 64 bits with sign, got 1e"),
        ("f.npz", {**NPZ, "query_pids": np.array([True, True, False, True])}, "expected whole numbers, got True"),
        ("f.npz", {**NPZ, "query_pids": np.array([1j, 1, 2, 3])}, "expected whole numbers"),
        (
            "f.npz",
            {**NPZ, "query_features": FEATURES.query_features * 1j},
            "expected real numbers, got the type complex",
        ),
        ("f.npz", {**NPZ, "query_features": FEATURES.query_features > 0}, "expected real numbers, got the type bool"),
        (
            "f.mat",
            {**MAT, "query_f": scipy.sparse.csc_matrix(np.eye(4, 3))},
            "query_f: expected a full matrix .* sparse",
        ),
        ("f.mat", {**MAT, "query_f": np.array([[1, "a"]], dtype=object)}, "query_f: expected a full matrix .* cell"),
        ("f.mat", {**MAT, "query_f": {"a": 1}}, "query_f: expected a full matrix .* struct"),
    ],
)
def test_types_that_cannot_be_meant(tmp_path: Path, name: str, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_feature_file(write(tmp_path / name, arrays))


def test_largest_labels_are_kept(tmp_path: Path) -> None:
    pids = np.array([2**63 - 1, 1, 2, 3], np.uint64)
    gallery = np.array([2**63 - 1, 1, 2, 3, 4, 5])
    features = load_feature_file(write(tmp_path / "f.npz", {**NPZ, "query_pids": pids, "gallery_pids": gallery}))
    assert features.query_pids.tolist() == [2**63 - 1, 1, 2, 3]


@pytest.mark.filterwarnings("ignore:.*quantize")
@pytest.mark.parametrize("change", ["sparse", "quantised"])
def test_tensors_that_are_no_full_matrices(change: str) -> None:
    query, pids = torch.ones(4, 3), torch.arange(4)
    if change == "sparse":
        arguments = [(query.to_sparse(), pids), (query, pids.to_sparse())]
    else:
        arguments = [(torch.quantize_per_tensor(query, 0.1, 0, torch.qint8), pids)]
    for features, labels in arguments:
        with pytest.raises(InputError, match="sparse or quantised tensor"):
            evaluate_retrieval(features, labels, pids, query, pids, pids)


def test_devices_and_pipes_are_no_feature_files(tmp_path: Path) -> None:
    (tmp_path / "zero.npz").symlink_to("/dev/zero")
    with pytest.raises(InputError, match="zero.npz: is not a regular file"):
        load_feature_file(tmp_path / "zero.npz")
    with pytest.raises(InputError, match="none.npz: no such file"):
        load_feature_file(tmp_path / "none.npz")


def test_mat_of_version_7_3_reads_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(bytes(96))
    for kind, message in (
        ("external", "query_f: its values are in another file"),
        ("virtual", "query_f: its values are in another file"),
        ("link", "no query_f .found: #refs#, gallery_cam"),
    ):
        path = write_mat73(tmp_path / "f.mat", MAT)
        with h5py.File(path, "r+") as file:
            del file["query_f"]
            if kind == "external":
                file.create_dataset("query_f", (3, 4), "f8", external=[(str(tmp_path / "other"), 0, 96)])
            elif kind == "virtual":
                layout = h5py.VirtualLayout((3, 4), "f8")
                layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", (3, 4))
                file.create_virtual_dataset("query_f", layout)
            else:
                file["query_f"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "x")
        with pytest.raises(InputError, match=message):
            load_feature_file(path)


def test_mat_of_version_7_3_that_unpacks_to_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array_files, "_ALWAYS_ALLOWED", 2**20)
    path = write_mat73(tmp_path / "f.mat", MAT)
    with h5py.File(path, "r+") as file:
        del file["query_f"]
        file.create_dataset("query_f", (2**18, 20), "f8", chunks=True, compression="gzip")
    with pytest.raises(InputError, match="f.mat: query_f: would take 41.9 MB or more, unpacked from"):
        load_feature_file(path)
    monkeypatch.setattr(array_files, "_available_memory", lambda: 100)
    with pytest.raises(InputError, match="f.mat: the arrays would take .*, but 100 bytes of memory are free"):
        load_feature_file(write_mat73(tmp_path / "f.mat", MAT))


@pytest.mark.parametrize("name", ["f.npz", "f.mat"])
def test_a_column_for_each_image(tmp_path: Path, name: str) -> None:
    """Features of 3 dimensions and 4 or 6 images, transposed."""
    arrays = NPZ if name == "f.npz" else MAT
    query, gallery = ("query_features", "gallery_features") if name == "f.npz" else ("query_f", "gallery_f")
    turned = {**arrays, query: arrays[query].T, gallery: arrays[gallery].T}
    with pytest.raises(
        InputError, match=rf"{name}: {query}: the shape \(3, 4\) with 4 labels has one column per image"
    ):
        load_feature_file(write(tmp_path / name, turned))
    with pytest.raises(InputError, match="differ in dimensions: 4 and 6; both have 3 rows: .* transpose"):
        evaluate_retrieval(turned[query], *FEATURES.arrays[1:3], turned[gallery], *FEATURES.arrays[4:])
    with pytest.raises(InputError, match="query_pids: expected 3 values, .*one column per image have to be transposed"):
        evaluate_retrieval(FEATURES.query_features.T, *FEATURES.arrays[1:3], np.ones((6, 4)), *FEATURES.arrays[4:])


def test_names_of_images(tmp_path: Path) -> None:
    named = replace(FEATURES, query_paths=np.array(list("abcd")), gallery_paths=np.array(list("efghij")))
    save_feature_file(tmp_path / "f.npz", named)
    found = load_feature_file(tmp_path / "f.npz")
    assert found.query_paths is not None
    assert found.query_paths.tolist() == list("abcd")
    assert len(found.arrays) == 6
    assert load_feature_file(write(tmp_path / "g.npz", NPZ)).gallery_paths is None
    with pytest.raises(InputError, match=r"f.npz: query_paths: expected 4 texts, got the type <U1 and shape \(1,\)"):
        load_feature_file(write(tmp_path / "f.npz", {**NPZ, "query_paths": np.array(["a"])}))
