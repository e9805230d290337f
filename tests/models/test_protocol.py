"""What every backbone offers: stages that cover it, freezing and held normalisation by depth, pooling, groups."""

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from reid_da.errors import InputError
from reid_da.models.backbones import BACKBONE_NAMES, create_backbone
from reid_da.models.heads import GeMPooling, create_pooling
from reid_da.models.protocol import Backbone
from reid_da.models.reid_net import ReIDNetwork

KINDS = ["resnet18", "resnet50_ibn_a", "mobilenet_v2", "efficientnet_b0", "osnet_x1_0", "osnet_ain_x1_0"]


def small(name: str, **options: object) -> Backbone:
    generator = torch.Generator().manual_seed(0)
    return create_backbone(name, width=0.25, weights="none", generator=generator, **options)


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 64, 32, generator=torch.Generator().manual_seed(1))


def parameters_of(backbone: Backbone, depth: int) -> set[int]:
    found = set()
    for stage in backbone.stages()[:depth]:
        for part in stage:
            found |= {id(part)} if isinstance(part, nn.Parameter) else {id(weight) for weight in part.parameters()}
    return found


@pytest.mark.parametrize("name", BACKBONE_NAMES)
def test_stages_hold_every_parameter_once(name: str) -> None:
    backbone = small(name)
    by_stage = [parameters_of(backbone, depth) for depth in range(len(backbone.stages()) + 1)]
    assert by_stage[-1] == {id(parameter) for parameter in backbone.parameters()}
    assert len(backbone.stages()) == 5
    assert all(first < second for first, second in itertools.pairwise(by_stage))


@pytest.mark.parametrize("name", KINDS)
def test_stages_are_in_the_order_that_images_pass(name: str) -> None:
    """A change in a stage moves the output of no stage before it."""
    backbone = small(name).eval()
    outputs: dict[int, Tensor] = {}

    def note(number: int) -> None:
        last = next(part for part in reversed(backbone.stages()[number]) if isinstance(part, nn.Module))
        last.register_forward_hook(
            lambda _module, _inputs, output: outputs.__setitem__(number, output.detach().clone())
        )

    for number in range(4):
        note(number)
    backbone(images())
    before = dict(outputs)
    changed = 2
    for part in backbone.stages()[changed]:
        for parameter in part.parameters():
            parameter.data.add_(0.1)
    backbone(images())
    assert [torch.equal(before[number], outputs[number]) for number in range(4)] == [True, True, False, False]


@pytest.mark.parametrize("name", KINDS)
def test_official_part_ends_at_maps_of_an_eighth(name: str) -> None:
    backbone = small(name).eval()
    sizes: list[tuple[int, ...]] = []
    first = next(iter(backbone.stages()[backbone.official_depth]))
    assert isinstance(first, nn.Module)
    first.register_forward_pre_hook(lambda _module, inputs: sizes.append(tuple(inputs[0].shape[2:])))
    backbone(images())
    # OSNet halves its maps at the end of a stage, the others at the start of the next one
    assert sizes == [(4, 2) if name.startswith("osnet") else (8, 4)]


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("freeze", ["official", "none", 0, 2, 5])
def test_freezing_by_depth(name: str, freeze: str | int) -> None:
    network = ReIDNetwork(small(name), num_classes=3, embedding_dim=8, freeze=freeze, bn_mode="frozen").train()
    depth = {"official": 3, "none": 0}.get(freeze, freeze)
    frozen = {id(parameter) for parameter in network.backbone.parameters() if not parameter.requires_grad}
    assert frozen == parameters_of(network.backbone, depth)
    held = {
        id(module) for module in network.backbone.modules() if isinstance(module, _BatchNorm) and not module.training
    }
    assert held == {id(module) for module in network.backbone.batch_norms(3 if freeze == "none" else depth)}
    groups = {group["name"]: group["params"] for group in network.parameter_groups(lr_new=1.0, lr_backbone=0.1)}
    assert frozen.isdisjoint(id(parameter) for parameter in groups["backbone"])
    assert len(frozen) + len(groups["backbone"]) == len(list(network.backbone.parameters()))
    torch.optim.SGD(network.parameter_groups(lr_new=1.0, lr_backbone=0.1))


@pytest.mark.parametrize("freeze", [6, -1])
def test_depths_that_are_not_there(freeze: int) -> None:
    with pytest.raises(InputError, match=f"freeze: this backbone has 5 stages, got {freeze}"):
        ReIDNetwork(small("mobilenet_v2"), num_classes=3, freeze=freeze)


@pytest.mark.parametrize("name", ["mobilenet_v2", "osnet_x1_0"])
def test_official_batch_norms_of_other_networks_are_all_of_the_official_part(name: str) -> None:
    network = ReIDNetwork(small(name), num_classes=3, embedding_dim=8).train()
    held = [module for module in network.backbone.modules() if isinstance(module, _BatchNorm) and not module.training]
    assert held == network.backbone.batch_norms(3)
    assert held


@pytest.mark.parametrize("name", KINDS)
def test_every_backbone_takes_a_step(name: str) -> None:
    network = ReIDNetwork(small(name), num_classes=3, embedding_dim=8, freeze="none", bn_mode="train").train()
    optimizer = torch.optim.SGD(network.parameter_groups(lr_new=0.1, lr_backbone=0.1))
    before = {key: value.clone() for key, value in network.backbone.named_parameters()}
    network(images(4), "source").logsumexp(1).sum().backward()
    optimizer.step()
    still = [key for key, value in network.backbone.named_parameters() if torch.equal(value, before[key])]
    # a bias in front of a normalisation has no gradient but rounding
    assert not [key for key in still if key.endswith("conv.weight")]
    assert len(still) <= 2


@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet_b0", "osnet_x0_25"])
def test_features_are_float32_under_autocast(name: str) -> None:
    backbone = small(name).eval()
    with torch.autocast("cpu", torch.bfloat16):
        features = backbone(images())
    assert features.dtype == torch.float32
    assert features.shape == (2, backbone.feature_dim)


def test_gem_is_the_generalised_mean() -> None:
    maps = torch.rand(2, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 0.2
    pooling = create_pooling("gem").double()
    expected = maps.clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3)
    torch.testing.assert_close(pooling(maps), expected)
    clamped = maps.clamp(min=1e-6)
    torch.testing.assert_close(GeMPooling(power=1.0).double()(maps), clamped.mean((2, 3)))
    torch.testing.assert_close(GeMPooling(power=400.0).double()(maps), clamped.amax((2, 3)), rtol=0.01, atol=0)
    maps.requires_grad_(True)
    assert torch.autograd.gradcheck(pooling, (maps,))


@pytest.mark.parametrize(("name", "expected"), [("avg", [2.5, 0.0]), ("max", [4.0, 3.0])])
def test_mean_and_maximum(name: str, expected: list[float]) -> None:
    maps = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[-3.0, 3.0], [-1.0, 1.0]]]])
    assert create_pooling(name)(maps).tolist() == [expected]
    assert create_pooling(name)(maps.bfloat16()).dtype == torch.float32


def test_gem_is_precise_under_autocast() -> None:
    maps = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    pooling = create_pooling("gem")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(pooling(maps), pooling(maps.float()))
    torch.testing.assert_close(pooling(maps), maps.double().pow(3).mean((2, 3)).pow(1 / 3).float())


def test_the_power_of_gem_learns_with_the_new_layers() -> None:
    backbone = small("resnet18", pooling="gem")
    network = ReIDNetwork(backbone, num_classes=3, embedding="none", freeze=5)
    groups = {group["name"]: group["params"] for group in network.parameter_groups(lr_new=1.0, lr_backbone=0.1)}
    assert groups["backbone"] == []
    assert any(parameter is backbone.pooling.p for parameter in groups["new"])
    assert backbone.pooling.p.requires_grad


def test_unknown_pooling() -> None:
    with pytest.raises(InputError, match="unknown pooling 'gems'.*did you mean 'gem'"):
        small("resnet18", pooling="gems")


def test_an_identity_neck_compares_and_classifies_the_pooled_features() -> None:
    network = ReIDNetwork(small("resnet18"), num_classes=3, embedding="identity", dropout=0.0).eval()
    pooled = network.backbone(images())
    assert torch.equal(network.embed(pooled), pooled)
    logits = pooled @ network.classifier.weight.T + network.classifier.bias
    torch.testing.assert_close(network(images(), "source"), logits)
    assert {key.partition(".")[0] for key in network.state_dict()} == {"backbone", "classifier"}
