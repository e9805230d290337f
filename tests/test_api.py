"""The front door against the parts that it is made of."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn
from torch.nn import functional as F

import reid_da
from reid_da.errors import InputError
from reid_da.evaluation import RerankSettings, evaluate_retrieval
from reid_da.evaluation.calibration import save_calibration
from reid_da.evaluation.extraction import open_table
from reid_da.evaluation.file_extraction import table_of_files
from reid_da.evaluation.image_features import extract_features
from reid_da.experiments.runs import final_result
from reid_da.models.extractor import FeatureExtractor
from reid_da.studies.inspection import calibrate_run

SIZE = (32, 16)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return reid_da.load("resnet18", weights="none", image_size=SIZE, device="cpu")


@pytest.fixture(scope="module")
def crops(small_sites):
    """Folder of images, one of them in a folder inside."""
    return small_sites / "site-b" / "query"


@pytest.fixture(scope="module")
def first_run(small_tree, tmp_path_factory):
    """A run of one epoch, to be copied."""
    return reid_da.fit(small_tree, tmp_path_factory.mktemp("run") / "run", epochs=1, steps_per_epoch=1)


@pytest.fixture
def trained(first_run, tmp_path):
    return reid_da.Run(shutil.copytree(first_run.path, tmp_path / "run"))


def features_by_hand(model, paths):
    opened = open_table(table_of_files(paths), image_size=model.image_size, cache="never")
    return extract_features(model.network, opened.source).numpy()


def test_the_import_is_quick_and_every_name_is_there():
    code = "import sys, reid_da, reid_da.cli; print('torch' in sys.modules, [n for n in dir(reid_da) if n[0] != '_'])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ, cwd=Path.cwd()
    )
    assert done.stdout.startswith("False")
    names = set(reid_da._MODULES)
    assert names <= set(dir(reid_da))
    assert all(getattr(reid_da, name).__name__ == name for name in names)
    assert all(name in done.stdout for name in names)
    with pytest.raises(AttributeError, match="has no attribute 'lode'"):
        reid_da.lode  # noqa: B018


def test_embed_gives_the_features_of_the_evaluation_for_every_kind_of_input(model, crops):
    paths = sorted(crops.iterdir())[:3]
    expected = features_by_hand(model, paths)
    assert expected.std(axis=0).max() > 1e-3
    arrays = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    resized = [np.asarray(Image.open(path).resize(SIZE[::-1], Image.Resampling.BICUBIC)) for path in paths]
    pixels = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2)
    for images, options in (
        (paths, {}),
        ([str(path) for path in paths], {"batch_size": 2}),
        (arrays, {}),
        ([array[..., ::-1] for array in arrays], {"color_order": "bgr"}),
        (np.stack(resized), {}),
        (pixels, {}),
    ):
        found = model.embed(images, **options)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert model.embed(paths[0]).shape == (1, model.dim)
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-5)
    flipped = model.embed([array[:, ::-1] for array in arrays], flip=True)
    np.testing.assert_allclose(flipped, model.embed(arrays, flip=True), atol=1e-5)
    assert np.abs(flipped - expected).max() > 1e-4


def test_a_folder_is_its_images_by_sorted_path(model, crops, tmp_path):
    source = sorted(crops.iterdir())[:3]
    (tmp_path / "a").mkdir()
    for path, name in zip(source, ("c.jpg", "a/z.jpg", "b.jpg"), strict=True):
        shutil.copy(path, tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    by_path = [source[1], source[2], source[0]]
    np.testing.assert_allclose(model.embed(tmp_path), model.embed(by_path), atol=1e-6)
    result = model.search(source[0], tmp_path, top=2)
    assert result.paths[0, 0] == (tmp_path / "c.jpg").as_posix()
    assert result.indices[0, 0] == 2


def test_search_is_a_sorted_product(model, crops):
    paths = sorted(crops.iterdir())
    query, gallery = model.embed(paths[:4]).astype(np.float64), model.embed(paths).astype(np.float64)
    similarities = query @ gallery.T
    order = np.argsort(-similarities, axis=1, kind="stable")[:, :5]
    for result in (
        model.search(paths[:4], paths, top=5),
        model.search(model.embed(paths[:4]), crops, top=5),
        model.search(paths[:4], torch.from_numpy(model.embed(paths)), top=5),
    ):
        np.testing.assert_array_equal(result.indices, order)
        np.testing.assert_allclose(result.similarities, np.take_along_axis(similarities, order, axis=1), atol=1e-5)
        assert result.paths is None or result.paths.tolist() == [[paths[i].as_posix() for i in row] for row in order]
    assert result.paths is None
    assert model.search(paths[:1], paths[:2], top=10).indices.shape == (1, 2)


def test_mistakes_are_one_line(model, crops, tmp_path, small_settings):
    path = next(crops.iterdir())
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    (tmp_path / "empty").mkdir()
    for call, message in (
        (lambda: reid_da.load("resnet17"), "resnet17: no such run or file of weights, and no backbone of this name"),
        (lambda: model.embed(tmp_path / "none.jpg"), "none.jpg: cannot be decoded as an image"),
        (lambda: model.embed(broken), "broken.jpg: cannot be decoded as an image"),
        (lambda: model.embed(tmp_path / "empty"), "empty: has no images in it"),
        (lambda: model.embed([]), "there are no images"),
        (lambda: model.search(path, path, top=0), "top: expected at least 1, got 0"),
        (lambda: model.search(path, np.zeros((2, 512), np.float32)), "gallery"),
        (lambda: model.evaluate(), "resnet18: has no test data; give a data set"),
        (lambda: model.threshold(1e-3), "resnet18: only runs are calibrated"),
        (lambda: reid_da.Run(tmp_path), "not a run folder"),
        (lambda: reid_da.fit(small_settings, tmp_path / "run", epoch=1), "overrides: unknown key 'epoch'"),
        (lambda: reid_da.fit({"method": "source"}, tmp_path / "run", loss_weight=1), "loss_weight is a setting of"),
        (lambda: reid_da.fit({"epoch": 1}, tmp_path / "run"), "config: unknown key 'epoch'"),
        (lambda: FeatureExtractor(model.network, weights="none"), "a network has its weights"),
    ):
        with pytest.raises(InputError) as caught:
            call()
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_features_of_zeros_are_no_features(model, crops):
    class Zeros(nn.Module):
        def forward(self, images):
            return torch.zeros(len(images), 4)

    path = next(crops.iterdir())
    with pytest.raises(InputError, match=path.name):
        replace(model, network=Zeros()).embed(path)


def test_fit_then_evaluate_then_resume(trained, small_sites, small_tree, tmp_path):
    assert trained.settings.epochs == 1
    assert [record["epoch"] for record in trained.records("train")] == [1]
    model = trained.model(device="cpu")
    assert (model.image_size, model.epoch, model.run) == (SIZE, 1, trained.path)
    result = model.evaluate()
    assert result.mean_ap == pytest.approx(trained.metrics()["mAP"], abs=1e-6)
    features = model.extract(reid_da.load_dataset(small_sites / "site-b"))
    assert result.mean_ap == evaluate_retrieval(*features.arrays).mean_ap
    settings = RerankSettings(k1=5, k2=2)
    reranked = model.evaluate(rerank=settings)
    assert reranked.mean_ap != result.mean_ap
    assert "distance: as given" in reranked.convention
    np.testing.assert_allclose(model.embed(features.query_paths.tolist()), features.query_features, atol=1e-5)

    with pytest.raises(InputError, match="holds a complete run of 1 epochs"):
        reid_da.fit(small_tree, trained.path)
    changes = {"epochs": 1, "steps_per_epoch": 1}
    assert reid_da.fit(small_tree, trained.path, resume=True, **changes).metrics() == trained.metrics()
    trained.resume(epochs=2)
    assert [record["epoch"] for record in trained.records("train")] == [1, 2]
    assert trained.metrics()["mAP"] == final_result(reid_da.Run(trained.path)._folder)["mAP"]
    config = tmp_path / "small.yaml"
    config.write_text(yaml.safe_dump(small_tree))
    by_file = reid_da.fit(config, tmp_path / "file", memory={"temperature": 0.1}, **changes)
    assert by_file.settings.memory.temperature == 0.1
    assert by_file.settings.memory.num_neighbors == 3


def test_thresholds_belong_to_a_checkpoint_and_an_image_size(trained):
    model = trained.model(device="cpu")
    with pytest.raises(InputError, match="not calibrated yet"):
        model.threshold(0.1)
    calibration, notes = calibrate_run(trained.path, fprs=[0.1], device="cpu")
    file = trained.path / "calibration.json"
    save_calibration(file, calibration, notes=notes)
    threshold = model.threshold(0.1)
    features = model.extract()
    similarities = features.query_features @ features.gallery_features.T
    different = features.query_pids[:, None] != features.gallery_pids
    across = features.query_camids[:, None] != features.gallery_camids
    assert (similarities[different & across] >= threshold).mean() <= 0.1
    assert (similarities[different & across] >= threshold - 2e-3).mean() > 0.09
    with pytest.raises(InputError, match="is calibrated for images of"):
        trained.model(image_size=(16, 8), device="cpu").threshold(0.1)
    save_calibration(file, calibration, notes={**notes, "epoch": 7})
    with pytest.raises(InputError, match="belongs to epoch 7, and the model is of epoch 1; calibrate that one"):
        trained.model(device="cpu").threshold(0.1)


def test_tracker_calls_give_the_features_of_the_crops(model):
    frame = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    boxes = np.array([[3, 4, 23, 54], [-5.4, 10.4, 20.4, 70], [62, 4, 78, 54], [90, 0, 99, 9], [30, 20, 30, 40]])
    crops = [frame[4:54, 3:23], frame[10:60, 0:20], frame[4:54, 62:78]]
    expected = F.normalize(torch.from_numpy(model.embed([crop[..., ::-1] for crop in crops]))).numpy()
    extractor = reid_da.TrackerExtractor(model)
    ltwh = reid_da.TrackerExtractor(model, boxes="ltwh")
    sizes = np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])
    for found in (extractor(frame, boxes), extractor.get_features(boxes, frame), ltwh(frame, sizes)):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found[:3], expected, atol=1e-6)
        assert not found[3:].any()
    assert np.abs(expected - model.embed(crops)).max() > 1e-4  # the order of the colours matters
    np.testing.assert_allclose(extractor(crops), expected, atol=1e-6)
    for nothing in (extractor([]), extractor(frame, []), extractor.get_features(np.empty((0, 4)), frame)):
        assert nothing.shape == (0, model.dim)
    for call, message in (
        (lambda: extractor(frame, [[0, 0, np.nan, 5]]), r"boxes: expected finite numbers of shape \(N, 4\)"),
        (lambda: extractor(frame, np.zeros((2, 6))), r"\(N, 4\), got shape \(2, 6\)"),
        (lambda: extractor(frame / 255, boxes), "image: expected uint8 pixels of shape .* got float64"),
        (lambda: reid_da.TrackerExtractor(model, boxes="xywh"), "unknown boxes 'xywh'"),
    ):
        with pytest.raises(InputError, match=message):
            call()
