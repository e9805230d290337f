"""Backbones against torchvision's networks and the definition of IBN-Net."""

import functools
import math
import re
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

from reid_da.errors import InputError
from reid_da.models.backbones import BACKBONE_NAMES, create_backbone
from reid_da.models.protocol import Backbone
from reid_da.models.resnet import InstanceBatchNorm

TORCHVISION = ["resnet18", "resnet50", "mobilenet_v2", "efficientnet_b0"]


@functools.cache
def random_backbone(name: str, *, last_stride: int = 2, seed: int = 0) -> Backbone:
    generator = torch.Generator().manual_seed(seed)
    return create_backbone(name, last_stride=last_stride, weights="none", generator=generator)


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 64, 32, generator=torch.Generator().manual_seed(1))


def strides(backbone: Backbone) -> dict[str, tuple[int, ...]]:
    return {name: module.stride for name, module in backbone.named_modules() if isinstance(module, nn.Conv2d)}


@pytest.mark.parametrize("name", [*TORCHVISION, "resnet34", "resnet101"])
def test_weights_have_the_names_and_shapes_of_torchvision(name: str) -> None:
    with torch.device("meta"):
        reference = torchvision.models.get_model(name)
    shapes = {
        key: value.shape for key, value in reference.state_dict().items() if not key.startswith(("fc.", "classifier."))
    }
    assert {key: value.shape for key, value in random_backbone(name).state_dict().items()} == shapes


@pytest.mark.parametrize("name", TORCHVISION)
def test_features_are_those_of_torchvision_without_classifier(name: str) -> None:
    backbone = random_backbone.__wrapped__(name).eval()
    generator = torch.Generator().manual_seed(2)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.2, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    reference = torchvision.models.get_model(name)
    reference.load_state_dict(backbone.state_dict(), strict=False)
    setattr(reference, "fc" if name.startswith("resnet") else "classifier", nn.Identity())
    features = backbone(images())
    assert features.shape == (2, backbone.feature_dim)
    torch.testing.assert_close(features, reference.eval()(images()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "published"), [("mobilenet_v2", 3_504_872), ("efficientnet_b0", 5_288_548)])
def test_parameters_are_as_many_as_torchvision_publishes(name: str, published: int) -> None:
    backbone = random_backbone(name)
    classifier = (backbone.feature_dim + 1) * 1000
    assert sum(parameter.numel() for parameter in backbone.parameters()) + classifier == published


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("resnet18", {"layer4.0.conv1", "layer4.0.downsample.0"}),
        ("resnet50", {"layer4.0.conv2", "layer4.0.downsample.0"}),
        ("mobilenet_v2", {"features.14.conv.1.0"}),
        ("efficientnet_b0", {"features.6.0.block.1.0"}),
    ],
)
def test_last_stride_changes_the_last_halving(name: str, changed: set[str]) -> None:
    stock, dense = random_backbone(name), random_backbone(name, last_stride=1)
    before, after = strides(stock), strides(dense)
    assert {key for key in before if before[key] != after[key]} == changed
    assert {after[key] for key in changed} == {(1, 1)}
    # 64 x 32 through strides of 2 in the stem (twice), layer2, layer3 and layer4
    assert stock.eval().feature_map(images()).shape[2:] == (2, 1)
    assert dense.eval().feature_map(images()).shape[2:] == (4, 2)


@pytest.mark.parametrize(("name", "width", "feature_dim"), [("resnet18", 0.5, 256), ("resnet50", 0.25, 512)])
def test_width_scales_every_number_of_channels(name: str, width: float, feature_dim: int) -> None:
    stock = random_backbone(name).state_dict()
    generator = torch.Generator().manual_seed(0)
    narrow = create_backbone(name, width=width, weights="none", generator=generator)
    for key, value in narrow.state_dict().items():
        expected = [int(size * width) if size >= 64 else size for size in stock[key].shape]
        assert list(value.shape) == expected, key
    assert narrow.feature_dim == feature_dim
    assert narrow.eval()(images()).shape == (2, feature_dim)


def test_ibn_stands_in_every_block_of_the_first_three_layers() -> None:
    backbone = random_backbone("resnet50_ibn_a")
    found = {name for name, module in backbone.named_modules() if isinstance(module, InstanceBatchNorm)}
    blocks = {"layer1": 3, "layer2": 4, "layer3": 6}
    assert found == {f"{layer}.{block}.bn1" for layer, count in blocks.items() for block in range(count)}
    state = backbone.state_dict()
    assert state["layer2.0.bn1.IN.weight"].shape == state["layer2.0.bn1.BN.running_mean"].shape == (64,)
    assert backbone.eval()(images()).shape == (2, 2048)


def test_ibn_normalises_one_half_by_image_and_the_other_by_batch() -> None:
    layer = InstanceBatchNorm(6).double()
    maps = torch.randn(4, 6, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    by_image, by_batch = maps[:, :3], maps[:, 3:]

    def standardise(values: Tensor, dims: tuple[int, ...]) -> Tensor:
        centred = values - values.mean(dims, keepdim=True)
        return centred / (centred.square().mean(dims, keepdim=True) + 1e-5).sqrt()

    expected = torch.cat([standardise(by_image, (2, 3)), standardise(by_batch, (0, 2, 3))], dim=1)
    torch.testing.assert_close(layer(maps), expected)


def test_random_weights_follow_kaiming_and_the_generator() -> None:
    state = torch.get_rng_state()
    first, second, other = (random_backbone.__wrapped__("resnet18", seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key])
    assert not torch.equal(first.conv1.weight, other.conv1.weight)
    weight = first.layer3[1].conv2.weight  # 256 outputs of 3 x 3
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (256 * 9)), rel=0.01)
    assert torch.equal(first.bn1.running_var, torch.ones(64))
    assert first.bn1.num_batches_tracked == 0


def test_features_are_float32_under_autocast() -> None:
    backbone = random_backbone("resnet18").eval()
    with torch.autocast("cpu", torch.bfloat16):
        assert backbone.feature_map(images()).dtype == torch.bfloat16
        assert backbone(images()).dtype == torch.float32


def test_imagenet_weights_come_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    reference = random_backbone("resnet18", seed=3)
    cached = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    cached.parent.mkdir(parents=True)
    torch.save(reference.state_dict(), cached)
    assert torch.equal(create_backbone("resnet18").layer4[1].conv2.weight, reference.layer4[1].conv2.weight)


def test_imagenet_weights_without_network_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torch.hub.urlopen", unreachable)
    with pytest.raises(InputError) as caught:
        create_backbone("resnet50")
    message = str(caught.value)
    assert "no route to host" in message
    assert "model.weights=PATH" in message
    assert "model.weights=none" in message
    assert message.endswith(f"put resnet50-0676ba61.pth into {tmp_path / 'hub' / 'checkpoints'}")


@pytest.mark.parametrize("name", [name for name in BACKBONE_NAMES if not name.startswith("osnet")])
def test_imagenet_weights_are_asked_for_with_their_hash(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    asked: list[tuple[str, str]] = []

    def refuse(url: str, _path: str, hash_prefix: str, *, progress: bool) -> None:
        asked.append((url, hash_prefix))
        raise RuntimeError("invalid hash value")

    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    with pytest.raises(InputError, match="invalid hash value"):
        create_backbone(name)
    ((url, hash_prefix),) = asked
    assert len(hash_prefix) == 8
    assert re.search(rf"/{name}(_rwightman)?-{hash_prefix}.pth$", url)
    if name != "resnet50_ibn_a":
        assert url == torchvision.models.get_model_weights(name).IMAGENET1K_V1.url


def test_wrong_arguments() -> None:
    with pytest.raises(InputError, match="unknown model 'resnet5'.*did you mean 'resnet50'"):
        create_backbone("resnet5", weights="none")
    with pytest.raises(InputError, match="last_stride: expected 1 or 2, got 3"):
        create_backbone("resnet18", last_stride=3, weights="none")
    with pytest.raises(InputError, match="width: expected a number above 0, got -1"):
        create_backbone("resnet18", width=-1, weights="none")
    with pytest.raises(InputError, match="no ImageNet weights for a width of 0.5"):
        create_backbone("resnet18", width=0.5)
    with pytest.raises(InputError, match="nothing.pth: no such weight file"):
        create_backbone("resnet18", weights="nothing.pth")
