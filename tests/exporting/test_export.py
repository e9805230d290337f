"""Exported models against the PyTorch model, in every format."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import reid_da
from reid_da.errors import InputError
from reid_da.exporting import export, export_model
from reid_da.exporting.formats import Exportable, open_torchscript
from reid_da.images.augment import normalize
from reid_da.models import create_backbone
from reid_da.models.resnet import Bottleneck, ResNet
from reid_da.training.portable import read_portable
from reid_da.training.trained import TrainedModel

NAMES = {"onnx": "model.onnx", "torchscript": "model.pt", "safetensors": "model.safetensors"}


@pytest.fixture(scope="module")
def trained_run(small_tree, tmp_path_factory):
    return reid_da.fit(small_tree, tmp_path_factory.mktemp("run") / "run", epochs=1, steps_per_epoch=1).path


@pytest.fixture(scope="module")
def model(trained_run):
    return reid_da.load(trained_run, device="cpu")


@pytest.mark.parametrize("kind", NAMES)
def test_an_exported_model_gives_the_features_and_figures_of_the_original(kind, model, tmp_path, small_sites):
    file = tmp_path / NAMES[kind]
    found = export_model(model, file, kind=kind, dataset=model.test_data())
    assert sorted(path.name for path in tmp_path.iterdir()) == [file.name, f"{file.name}.md"]
    assert set(found.differences) == {1, 2, 5, 16}
    assert max(found.differences.values()) < 1e-5
    assert found.after.mean_ap == pytest.approx(model.evaluate().mean_ap, abs=1e-6)
    assert found.before.mean_ap == pytest.approx(found.after.mean_ap, abs=1e-6)

    images = torch.randint(0, 256, (7, 3, *model.image_size), dtype=torch.uint8)
    expected = model.embed(images)
    if kind == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(file))
        (features,) = session.run(None, {"images": images.numpy()})
        assert session.get_inputs()[0].type == "tensor(uint8)"
    elif kind == "torchscript":
        features = open_torchscript(file)(images).detach().numpy()
    else:
        features = reid_da.load(file, device="cpu").embed(images)
    np.testing.assert_allclose(features, expected, atol=1e-5)

    card = (tmp_path / f"{file.name}.md").read_text()
    assert f"{100 * found.after.mean_ap:.1f}" in card
    assert "Licences" in card
    assert "method: ecn" in card
    # nothing of this machine leaves it
    for content in (card, file.read_bytes().decode("latin1")):
        assert str(small_sites) not in content


def test_preprocessing_may_stay_outside(model, tmp_path):
    found = export_model(model, tmp_path / "m.pt", kind="torchscript", pixels="normalized")
    assert (found.pixels, found.after) == ("normalized", None)
    images = torch.randint(0, 256, (3, 3, *model.image_size), dtype=torch.uint8)
    features = open_torchscript(tmp_path / "m.pt")(normalize(images)).detach()
    np.testing.assert_allclose(features, model.embed(images), atol=1e-5)
    assert "(pixels / 255 - mean) / std" in (tmp_path / "m.pt.md").read_text()


def test_safetensors_say_themselves_what_they_are(model, trained_run, tmp_path):
    file = tmp_path / "model.safetensors"
    export_model(model, file, kind="safetensors")
    loaded = reid_da.load(file, device="cpu")
    assert (loaded.image_size, loaded.epoch, loaded.settings.method) == (model.image_size, 1, "ecn")
    assert loaded.settings.data.target is None
    with pytest.raises(InputError, match="has no test data; give a data set"):
        loaded.evaluate()
    # a file of weights without a description is what it was
    plain = trained_run / "checkpoints" / "epoch_0001" / "model.safetensors"
    assert read_portable(plain) is None
    for damage in (
        b"",
        file.read_bytes()[:200],
        file.read_bytes().replace(b'\\"method\\": \\"ecn\\"', b'\\"method\\": \\"enc\\"'),
    ):
        (tmp_path / "bad.safetensors").write_bytes(damage)
        with pytest.raises(InputError, match="bad.safetensors"):
            reid_da.load(tmp_path / "bad.safetensors")


def test_a_model_that_became_another_is_not_written(model, tmp_path, monkeypatch):
    class Wrong(nn.Module):
        def __init__(self, path):
            super().__init__()
            self.right = open_torchscript(path)

        def forward(self, images):
            # right for the example's two images, as a batch size that became a constant would be
            return self.right(images) if len(images) <= 2 else F.normalize(self.right(images) + 1e-3)

    monkeypatch.setattr(export, "open_torchscript", Wrong)
    with pytest.raises(InputError, match=r"gives other features: they differ by .* for a batch of 5"):
        export_model(model, tmp_path / "m.pt", kind="torchscript")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "onxx"}, "unknown format 'onxx' .did you mean 'onnx'"),
        ({"kind": "onnx", "pixels": "float"}, "unknown pixels 'float'"),
        ({"kind": "safetensors", "pixels": "uint8"}, "holds weights and no preprocessing"),
    ],
)
def test_mistakes(model, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        export_model(model, tmp_path / "m", **options)
    backbone = reid_da.load("resnet18", weights="none", image_size=(32, 16), device="cpu")
    with pytest.raises(InputError, match="format safetensors is for runs"):
        export_model(backbone, tmp_path / "m", kind="safetensors")
    assert list(tmp_path.iterdir()) == []


def test_unit_vectors_come_out_whatever_the_network_gives():
    class Mean(nn.Module):
        def forward(self, images):
            return images.mean(dim=(2, 3))

    images = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    expected = F.normalize(normalize(images).mean(dim=(2, 3)))
    torch.testing.assert_close(Exportable(Mean(), pixels="uint8")(images), expected)


def test_command(trained_run, tmp_path, capsys):
    from reid_da.cli import main

    run = shutil.copytree(trained_run, tmp_path / "run")
    for arguments, status in (
        (["export", run, "-o", tmp_path / "m.pt", "--format", "torchscript", "--json"], 0),
        (["export", run, "-o", tmp_path / "none" / "m.pt"], 2),
    ):
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        assert (ended.value.code or 0) == status
        captured = capsys.readouterr()
        if not status:
            record = json.loads(captured.out)
            assert record["exported"]["mAP"] == pytest.approx(record["pytorch"]["mAP"], abs=1e-6)
        else:
            assert captured.err.endswith("none: no such folder\n")


def small_ibn():
    return ResNet(Bottleneck, (1, 1, 1, 1), width=0.125, has_ibn=True)


def small_ain():
    """The first stage of OSNet-AIN, with its instance norms and gates."""
    network = create_backbone("osnet_ain_x1_0", weights="none", width=0.125, image_size=(32, 16))
    return nn.Sequential(network.conv1, network.maxpool, network.conv2[0], nn.AdaptiveAvgPool2d(1), nn.Flatten())


def small_mobilenet():
    features = create_backbone("mobilenet_v2", weights="none", width=0.25, image_size=(32, 16)).features
    return nn.Sequential(*features[:5], nn.AdaptiveAvgPool2d(1), nn.Flatten())


def small_vit():
    timm = pytest.importorskip("timm", reason="the extra timm is not installed")
    return timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=(32, 16), depth=1)


class SideBySide(nn.Module):
    """Networks whose features are one after the other, so that one export covers all of them."""

    def __init__(self, *networks):
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, images):
        return torch.cat([F.normalize(network(images)) for network in self.networks], dim=1)


def check_onnx(network, tmp_path):
    network.eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # those of a new network change nothing
            nn.init.normal_(module.running_mean, std=0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
    found = export_model(TrainedModel(network=network, image_size=(32, 16)), tmp_path / "m.onnx", kind="onnx")
    assert set(found.differences) == {1, 2, 5, 16}
    assert max(found.differences.values()) < 1e-5


def test_layers_of_other_networks_are_the_same_in_onnx(tmp_path):
    torch.manual_seed(0)
    check_onnx(SideBySide(small_ibn(), small_ain(), small_mobilenet(), small_vit()), tmp_path)


@pytest.mark.skipif("REID_DA_ALL_NETWORKS" not in os.environ, reason="half a minute each: REID_DA_ALL_NETWORKS=1")
@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet50_ibn_a", "osnet_ain_x1_0", "timm:vit_tiny_patch16_224"])
def test_other_networks_are_the_same_in_onnx(name, tmp_path):
    torch.manual_seed(0)
    width = {} if name.startswith("timm:") else {"width": 0.125}
    check_onnx(create_backbone(name, weights="none", image_size=(32, 16), **width), tmp_path)
