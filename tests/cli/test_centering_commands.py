"""Centring and AdaBN from the command line and in ``reid_da.Model``."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

import reid_da
from reid_da.errors import InputError
from reid_da.evaluation import evaluate_retrieval, load_feature_file
from reid_da.evaluation.centered import load_means
from reid_da.gallery.store import Gallery


@pytest.fixture(scope="module")
def trained_run(small_tree, tmp_path_factory):
    return reid_da.fit(small_tree, tmp_path_factory.mktemp("run") / "run", epochs=1, steps_per_epoch=1).path


@pytest.fixture(scope="module")
def model(trained_run):
    return reid_da.load(trained_run, device="cpu")


def by_hand(features):
    """mAP of a feature set without the mean of each camera, over query and gallery."""
    stacked = np.concatenate([features.query_features, features.gallery_features]).astype(np.float64)
    cameras = np.concatenate([features.query_camids, features.gallery_camids])
    for camera in set(cameras.tolist()):
        stacked[cameras == camera] -= stacked[cameras == camera].mean(axis=0)
    count = len(features.query_features)
    changed = replace(features, query_features=stacked[:count], gallery_features=stacked[count:])
    return evaluate_retrieval(*changed.arrays).mean_ap


def test_all_commands_centre_alike(run, trained_run, model, small_sites, tmp_path):
    expected = by_hand(model.extract())
    assert expected != pytest.approx(model.evaluate().mean_ap, abs=1e-4)
    assert model.evaluate(center_cameras=True).mean_ap == pytest.approx(expected, abs=1e-5)
    record = json.loads(run("evaluate", trained_run, "--center-cameras", "--json").out)
    assert record["mAP"] == pytest.approx(expected, abs=1e-5)
    assert record["center_cameras"] is True
    site, plain, centered = small_sites / "site-b", tmp_path / "plain.npz", tmp_path / "centered.npz"
    assert run("extract", trained_run, site, "-o", plain).status == 0
    outcome = run("evaluate-features", plain, "--center-cameras")
    assert "the mean of each camera's features is taken out of them" in " ".join(outcome.out.split())
    record = json.loads(run("evaluate-features", plain, "--center-cameras", "--json").out)
    assert record["mAP"] == pytest.approx(expected, abs=1e-5)
    assert run("extract", trained_run, site, "--center-cameras", "-o", centered).status == 0
    found = load_feature_file(centered)
    assert evaluate_retrieval(*found.arrays).mean_ap == pytest.approx(expected, abs=1e-5)
    image = next((site / "query").iterdir())
    outcome = run("extract", trained_run, image, "--center-cameras", "-o", tmp_path / "f.npz")
    assert (outcome.status, (tmp_path / "f.npz").exists()) == (2, False)
    assert "--center-cameras needs the cameras, which a data set tells" in outcome.err


def test_a_single_new_image_is_centred_with_what_is_stored(run, trained_run, model, small_sites, tmp_path):
    copy = shutil.copytree(trained_run, tmp_path / "run")
    loaded = reid_da.load(copy, device="cpu")
    with pytest.raises(InputError, match=r"camera_means.safetensors: there are no camera means yet: reid-da center"):
        loaded.center_cameras(np.eye(2), "c1")
    outcome = run("center", copy, "--json")
    assert sum(json.loads(outcome.out)["images"].values()) == 57
    images = sorted((small_sites / "site-b" / "bounding_box_train").glob("*_c2*"))
    mean = model.embed(images).astype(np.float64).mean(axis=0)
    crop = model.embed(sorted((small_sites / "site-b" / "query").glob("*_c2*"))[0])
    expected = (crop - mean) / np.linalg.norm(crop - mean)
    names = load_means(copy / "camera_means.safetensors").names
    name = next(name for name in names if name.endswith("2"))
    np.testing.assert_allclose(loaded.center_cameras(crop, name), expected, atol=1e-5)
    np.testing.assert_allclose(loaded.center_cameras(crop, [name]), expected, atol=1e-5)
    with pytest.raises(InputError, match="unknown camera 'c9'"):
        loaded.center_cameras(crop, "c9")
    with pytest.raises(InputError, match=r"is of epoch 1 and images of \(32, 16\), and the model of epoch 1 and"):
        reid_da.load(copy, image_size=(16, 8), device="cpu").center_cameras(crop, name)
    with pytest.raises(InputError, match="resnet18: only runs have camera means"):
        reid_da.load("resnet18", weights="none", device="cpu").center_cameras(crop, name)
    file = copy / "camera_means.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InputError, match="is not a file of camera means, or is damaged"):
        load_means(file)


def test_adabn_changes_the_statistics_and_nothing_else(run, trained_run, model):
    adapted = model.with_batch_norms_of()
    changed = {
        name
        for (name, old), (_, new) in zip(
            model.network.state_dict().items(), adapted.network.state_dict().items(), strict=True
        )
        if not np.array_equal(old.numpy(), new.numpy())
    }
    assert {name.rpartition(".")[2] for name in changed} == {"running_mean", "running_var", "num_batches_tracked"}
    expected = adapted.evaluate().mean_ap
    record = json.loads(run("evaluate", trained_run, "--adabn", "--json").out)
    assert record["mAP"] == pytest.approx(expected, abs=1e-6)
    assert expected != pytest.approx(model.evaluate().mean_ap, abs=1e-5)


def test_an_index_is_centred_with_what_is_stored(run, trained_run, model, small_sites, tmp_path):
    own, index = shutil.copytree(trained_run, tmp_path / "run"), tmp_path / "index"
    folder = small_sites / "site-b" / "query"
    files = sorted(folder.iterdir())
    refused = run("index", "add", index, folder, "--model", own, "--center-cameras")
    assert "there are no camera means yet: reid-da center" in refused.err
    assert not index.exists()
    assert run("center", own).status == 0
    assert "give --flip or --center-cameras" in run(
        "index", "add", index, folder, "--model", own, "--center-cameras", "--flip"
    ).err  # fmt: skip
    assert run("index", "add", index, folder, "--model", own, "--center-cameras").status == 0
    cameras = [file.name.split("_")[1][:2] for file in files]
    expected = reid_da.load(own).center_cameras(model.embed(files), cameras)
    with Gallery(index) as gallery:
        np.testing.assert_allclose(gallery.snapshot().vectors(np.arange(len(files))), expected, atol=1e-5)
    # the index keeps the means: those of the run may change or go
    (own / "camera_means.safetensors").unlink()
    shutil.copy(files[0], tmp_path / "query.jpg")

    def best(*arguments):
        outcome = run("search", index, *arguments, "--top", 1, "--json")
        assert outcome.status == 0, outcome.err
        return json.loads(outcome.out)["answers"][0]["hits"][0]

    assert best(files[0])["similarity"] == pytest.approx(1, abs=1e-5)
    assert best(tmp_path / "query.jpg", "--query-camera", cameras[0])["similarity"] == pytest.approx(1, abs=1e-5)
    assert best(tmp_path / "query.jpg")["similarity"] < 0.999
    unknown = run("search", index, files[0], "--query-camera", "77")
    assert unknown.status == 2
    assert "unknown camera of the query '77'" in unknown.err
    calibrated = run("search", index, files[0], "--fpr", 0.1, "--threshold-from", "calibration")
    assert "the run is calibrated without centring" in calibrated.err
    (tmp_path / "cameras.csv").write_text("path,camera\n" + "".join(f"{file.name},9\n" for file in files))
    moved = run("index", "add", index, folder, "--table", tmp_path / "cameras.csv")
    assert (moved.status, "was embedded as an image of camera" in moved.err) == (2, True)
    new = tmp_path / "new"
    new.mkdir()
    shutil.copy(files[0], new / "0001_c9_1.jpg")
    assert "without statistics of their own, those of all cameras are used: 9" in run("index", "add", index, new).out
    assert run("index", "add", tmp_path / "plain", new, "--model", own).status == 0
    unused = run("search", tmp_path / "plain", files[0], "--query-camera", "1")
    assert "this index is neither centred nor normalised by camera; leave it out" in unused.err
    late = run("index", "add", tmp_path / "plain", new, "--center-cameras")
    assert "was made without --center-cameras" in late.err
