"""Feature files: what goes in comes out, and every fault is named in one line."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
from numpy.typing import NDArray

from reid_da.errors import InputError
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
