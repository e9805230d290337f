"""Batch norms by camera from the command line, in ``reid_da.Model``, in an index and in exported files."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import reid_da
from reid_da.errors import InputError
from reid_da.evaluation import evaluate_retrieval, load_feature_file
from reid_da.evaluation.camera_norms import FILE_NAME, load_norms
from reid_da.evaluation.extraction import features_of_test_images
from reid_da.experiments.domains import ExperimentContext
from reid_da.exporting import export_model
from reid_da.exporting.formats import open_torchscript
from reid_da.gallery.store import Gallery
from reid_da.images.augment import normalize
from reid_da.images.decode import decode_image
from reid_da.models.adabn import with_batch_norms_of
from reid_da.models.camera_norm import LEAST_FOR_STATISTICS


@pytest.fixture(scope="module")
def trained_run(small_tree, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    return reid_da.fit(small_tree, folder, epochs=1, steps_per_epoch=2, model={"camera_norm": True}).path


@pytest.fixture(scope="module")
def model(trained_run):
    return reid_da.load(trained_run, device="cpu")


@pytest.fixture(scope="module")
def files(small_sites):
    return sorted((small_sites / "site-b" / "query").iterdir())


KNOWN = ("c2", "c3", "c5", "c6")
"""Cameras with enough training images for statistics of their own; the others have those of all."""


def camera_of(file):
    return file.name.split("_")[1][:2]


@pytest.fixture(scope="module")
def by_hand(model, small_sites, files):
    """Features of the queries, those of each camera by a network with the statistics of its training images."""
    folder = small_sites / "site-b" / "bounding_box_train"
    assert len(list(folder.glob("*_c1*"))) < LEAST_FOR_STATISTICS
    features = np.zeros((len(files), model.dim), dtype=np.float32)
    for camera in sorted({camera_of(file) for file in files}):
        images = sorted(folder.glob(f"*_{camera}*") if camera in KNOWN else folder.glob("*.jpg"))
        assert len(images) >= LEAST_FOR_STATISTICS
        pixels = [decode_image(path, size=model.image_size, interpolation="bicubic") for path in images]
        batch = normalize(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2))
        network = with_batch_norms_of(model.network, [batch])
        # the neck has the statistics of all images
        network.embedding_norm.load_state_dict(model.network.embedding_norm.state_dict())
        own = [place for place, file in enumerate(files) if camera_of(file) == camera]
        features[own] = reid_da.Model(network=network, image_size=model.image_size).embed([files[n] for n in own])
    return features


def test_a_training_stores_what_its_evaluation_used(run, trained_run, model, small_sites, by_hand, tmp_path):
    found = model.extract()
    np.testing.assert_allclose(found.query_features, by_hand, atol=2e-5)
    plain = replace_features(model)
    assert np.abs(plain - by_hand).max() > 0.01
    (noted,) = reid_da.Run(trained_run).records("evaluation")
    expected = evaluate_retrieval(*found.arrays).mean_ap
    assert noted["mAP"] == pytest.approx(expected, abs=1e-6)
    assert json.loads(run("evaluate", trained_run, "--json").out)["mAP"] == pytest.approx(expected, abs=1e-6)
    site, file = small_sites / "site-b", tmp_path / "features.npz"
    assert run("extract", trained_run, site, "-o", file).status == 0
    np.testing.assert_allclose(load_feature_file(file).query_features, by_hand, atol=2e-5)
    assert run("evaluate-features", file).status == 0


def test_people_to_test_on_have_the_statistics_of_the_target(trained_run, model, by_hand):
    whole = model.test_data()
    people = replace(whole, train=whole.train.select([]))
    # of cameras whose training images are too few for statistics it looks at these images themselves
    known = np.isin(people.query.camids, [people.camera_names.index(name) for name in KNOWN])
    np.testing.assert_allclose(model.extract(people).query_features[known], by_hand[known], atol=2e-5)
    # also in a training, which has stored nothing yet
    settings = reid_da.Run(trained_run).settings
    context = ExperimentContext(settings)
    context._datasets["test"] = people
    context.settings = settings.model_copy(update={"data": settings.data.model_copy(update={"test": Path("people")})})
    normed = context.for_test_features(model.network)
    features = features_of_test_images(people, normed, image_size=model.image_size)
    np.testing.assert_allclose(features.query_features[known], by_hand[known], atol=2e-5)
    # cameras of other names are other cameras: each has the statistics of its own images, if they are enough
    others = replace(people, camera_names=tuple(f"hall {n}" for n in range(len(people.camera_names))))
    found = model.extract(others).query_features
    expected = model.with_camera_norms_of(others, share=1).extract(others).query_features
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert np.abs(found - by_hand).max() > 1e-3
    mixed = replace(people, camera_names=tuple("hall" if name == "c2" else name for name in people.camera_names))
    found, is_hall = model.extract(mixed).query_features, people.query.camids == people.camera_names.index("c2")
    np.testing.assert_allclose(found[known & ~is_hall], by_hand[known & ~is_hall], atol=2e-5)
    np.testing.assert_allclose(found[is_hall], expected[is_hall], atol=2e-5)


def replace_features(model):
    """Features of the queries with the running statistics of the training."""
    plain = reid_da.Model(network=model.network, image_size=model.image_size)
    return plain.extract(model.test_data()).query_features


def test_single_images_are_normalised_with_what_is_stored(model, files, by_hand):
    cameras = [camera_of(file) for file in files]
    np.testing.assert_allclose(model.embed(files, cameras=cameras), by_hand, atol=2e-5)
    np.testing.assert_allclose(model.embed(files[0], cameras=cameras[0]), by_hand[:1], atol=2e-5)
    # as an index spells it
    np.testing.assert_allclose(model.embed(files[0], cameras=cameras[0][1:]), by_hand[:1], atol=2e-5)
    pixels = np.stack([decode_image(file, size=model.image_size, interpolation="bicubic") for file in files])
    tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    for images in (list(pixels), tensor):
        np.testing.assert_allclose(model.embed(images, cameras=cameras), by_hand, atol=2e-5)
    unknown = model.embed(files[:3])
    np.testing.assert_array_equal(unknown, model.embed(files[:3], cameras=["c9", None, "c8"]))
    assert np.abs(unknown - by_hand[:3]).max() > 1e-3
    with pytest.raises(InputError, match="cameras: expected the name of one camera, or one for each image, got 2"):
        model.embed(files[:3], cameras=["c1", "c2"])


def test_a_broken_image_ends_no_training_after_its_last_epoch(small_tree, small_sites, tmp_path, caplog):
    site = shutil.copytree(small_sites / "site-b", tmp_path / "site-b", ignore=shutil.ignore_patterns(".reid-da-cache"))
    broken = sorted((site / "bounding_box_train").iterdir())[0]
    broken.write_bytes(broken.read_bytes()[:200])
    data = {**small_tree["data"], "target": str(site), "on_error": "skip"}
    options = {"epochs": 1, "steps_per_epoch": 1, "model": {"camera_norm": True}, "data": data}
    run = reid_da.fit(small_tree, tmp_path / "run", **options)
    assert load_norms(run.path / FILE_NAME).names == KNOWN
    assert run.metrics()["mAP"] == pytest.approx(run.model(device="cpu").evaluate().mean_ap, abs=1e-6)
    assert broken.name in caplog.text


def test_statistics_can_be_made_anew(run, trained_run, files, by_hand, tmp_path):
    copy = shutil.copytree(trained_run, tmp_path / "run")
    (copy / FILE_NAME).unlink()
    with pytest.raises(InputError, match=r"no statistics of cameras .* store them: reid-da center .*run$"):
        reid_da.load(copy, device="cpu").embed(files[0])
    outcome = run("center", copy)
    assert outcome.status == 0
    assert "batch-norm statistics of 4 cameras of market1501" in outcome.out
    found = reid_da.load(copy, device="cpu").embed(files, cameras=[camera_of(file) for file in files])
    np.testing.assert_allclose(found, by_hand, atol=2e-5)
    assert json.loads(run("center", copy, "--json").out)["cameras"] == list(KNOWN)
    # and the means of features that are normalised so: such an index may be centred, too
    folder = files[0].parent
    assert run("index", "add", tmp_path / "index", folder, "--model", copy, "--center-cameras").status == 0
    centered = reid_da.load(copy, device="cpu").center_cameras(by_hand, [camera_of(file) for file in files])
    with Gallery(tmp_path / "index") as gallery:
        np.testing.assert_allclose(gallery.snapshot().vectors(np.arange(len(files))), centered, atol=1e-4)
    with pytest.raises(InputError, match="no statistics of cameras for this checkpoint at 16x8"):
        reid_da.load(copy, image_size=(16, 8), device="cpu").embed(files[0])
    file = copy / FILE_NAME
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InputError, match="is damaged .*make it anew: reid-da center"):
        load_norms(file)


def test_an_index_looks_at_images_by_camera(run, trained_run, small_sites, files, by_hand, tmp_path):
    index, folder = tmp_path / "index", small_sites / "site-b" / "query"
    assert run("index", "add", index, folder, "--model", trained_run).status == 0
    with Gallery(index) as gallery:
        np.testing.assert_allclose(gallery.snapshot().vectors(np.arange(len(files))), by_hand, atol=2e-5)
    shutil.copy(files[0], tmp_path / "query.jpg")

    def best(*arguments):
        outcome = run("search", index, *arguments, "--top", 1, "--json")
        assert outcome.status == 0, outcome.err
        return json.loads(outcome.out)["answers"][0]["hits"][0]["similarity"]

    assert best(files[0]) == pytest.approx(1, abs=1e-5)
    assert best(tmp_path / "query.jpg", "--query-camera", camera_of(files[0])) == pytest.approx(1, abs=1e-5)
    assert best(tmp_path / "query.jpg") < 0.9999
    new = tmp_path / "new"
    new.mkdir()
    shutil.copy(files[0], new / "0001_c9_1.jpg")
    assert (
        "without statistics of their own, those of all cameras are used: 1, 4, 9" in run("index", "add", index, new).out
    )


def test_statistics_of_other_images_are_another_model(run, trained_run, small_sites, files, tmp_path):
    copy, index = shutil.copytree(trained_run, tmp_path / "run"), tmp_path / "index"
    assert run("index", "add", index, files[0].parent, "--model", copy).status == 0
    assert run("center", copy, "--data", small_sites / "site-a").status == 0
    assert "holds vectors of another model" in run("search", index, files[0]).err


@pytest.mark.parametrize("kind", ["torchscript", "safetensors"])
def test_exported_files(kind, model, files, by_hand, tmp_path):
    pixels = np.stack([decode_image(file, size=model.image_size, interpolation="bicubic") for file in files])
    tensor, camera = torch.from_numpy(pixels).permute(0, 3, 1, 2), camera_of(files[0])
    own = [place for place, file in enumerate(files) if camera_of(file) == camera]
    file = tmp_path / {"torchscript": "model.pt", "safetensors": "model.safetensors"}[kind]
    if kind == "safetensors":
        export_model(model, file, kind=kind, dataset=model.test_data())
        found = reid_da.load(file, device="cpu").embed(files, cameras=[camera_of(file) for file in files])
        np.testing.assert_allclose(found, by_hand, atol=2e-5)
        with pytest.raises(InputError, match="--camera: a safetensors file holds the statistics of all cameras"):
            export_model(model, file, kind=kind, camera=camera)
        return
    export = export_model(model, file, kind=kind, camera=camera, dataset=model.test_data())
    np.testing.assert_allclose(open_torchscript(file)(tensor[own]).detach().numpy(), by_hand[own], atol=2e-5)
    assert (export.camera, export.after) == (camera, None)
    assert f"statistics of camera `{camera}`, and is for images of it alone" in export.card.read_text()
    export = export_model(model, file, kind=kind, camera="any", dataset=model.test_data())
    np.testing.assert_allclose(open_torchscript(file)(tensor).detach().numpy(), model.embed(files), atol=2e-5)
    assert export.after is not None
    assert "statistics of images of all cameras together" in export.card.read_text()
    with pytest.raises(InputError, match=r"holds one network: give --camera NAME \(c2, c3, c5, c6\)"):
        export_model(model, file, kind=kind)
    with pytest.raises(InputError, match="unknown camera 'c9'"):
        export_model(model, file, kind=kind, camera="c9")


def test_a_camera_is_for_models_that_normalise_by_it(run, small_tree, tmp_path):
    outcome = run("export", "resnet18", "--weights", "none", "--camera", "c1", "-o", tmp_path / "model.onnx")
    assert (outcome.status, list(tmp_path.iterdir())) == (2, [])
    assert "--camera: resnet18 does not normalise by camera; leave the option out" in outcome.err


def test_any_model_can_be_evaluated_by_camera(run, trained_run, model, small_sites):
    options = ("evaluate", trained_run, "--json")
    plain = reid_da.Model(network=model.network, image_size=model.image_size)
    found = {}
    for share in (0.0, 0.5, 1.0):
        found[share] = json.loads(run(*options, "--camera-norm", share).out)["mAP"]
        features = plain.with_camera_norms_of(small_sites / "site-b", share=share).extract(small_sites / "site-b")
        assert found[share] == pytest.approx(evaluate_retrieval(*features.arrays).mean_ap, abs=1e-6)
    assert found[0.0] == pytest.approx(plain.evaluate(small_sites / "site-b").mean_ap, abs=1e-6)
    assert found[1.0] == pytest.approx(model.evaluate().mean_ap, abs=1e-6)
    assert len(set(found.values())) == 3
    records = [json.loads(line) for line in (trained_run / "evaluations.jsonl").read_text().splitlines()]
    assert [record["camera_norm"] for record in records[-3:]] == [0.0, 0.5, 1.0]
    assert "give --adabn or --camera-norm" in run(*options, "--camera-norm", 1, "--adabn").err
    assert "takes its statistics itself; leave AdaBN out" in run(*options, "--adabn").err
    assert "--camera-norm" in run(*options, "--camera-norm", 1.5).err
    with pytest.raises(InputError, match="share of the statistics of a camera: expected 0 to 1, got 2"):
        plain.with_camera_norms_of(small_sites / "site-b", share=2)
