"""The network of ECN: its branches against the formulas of the paper and the habits of the authors' code."""

import copy
import functools
import math

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from reid_da.errors import InputError
from reid_da.losses.margin import Margin
from reid_da.models.backbones import Backbone, create_backbone
from reid_da.models.reid_net import BatchNormMode, ReIDNetwork
from reid_da.models.weights import match_state_dict


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@functools.cache
def backbone(name: str) -> Backbone:
    return create_backbone(name, weights="none", generator=seeded(0))


def network(name: str = "resnet18", *, embedding_dim: int = 16, num_classes: int = 5, **options: object) -> ReIDNetwork:
    backbone = create_backbone(name, weights="none", generator=seeded(0))
    return ReIDNetwork(backbone, num_classes=num_classes, embedding_dim=embedding_dim, generator=seeded(1), **options)


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 64, 32, generator=seeded(2))


def held(model: ReIDNetwork) -> set[str]:
    """Names of the batch normalisation layers of the backbone that are in evaluation mode."""
    modules = model.backbone.named_modules()
    return {name for name, module in modules if isinstance(module, _BatchNorm) and not module.training}


def test_branches_follow_the_formulas() -> None:
    model = network().eval()
    state = {name: value.double() for name, value in model.state_dict().items()}
    pooled = model.backbone(images()).double()
    hidden = pooled @ state["embedding.weight"].T + state["embedding.bias"]
    standardised = (hidden - state["embedding_norm.running_mean"]) / (state["embedding_norm.running_var"] + 1e-5).sqrt()
    h = standardised * state["embedding_norm.weight"] + state["embedding_norm.bias"]
    logits = h.clamp(min=0) @ state["classifier.weight"].T + state["classifier.bias"]
    expected = {
        "test": pooled / pooled.norm(dim=1, keepdim=True),
        "source": logits,
        "target": h / h.norm(dim=1, keepdim=True),
    }
    for branch, values in expected.items():
        output = model(images(), branch)
        assert output.dtype == torch.float32
        torch.testing.assert_close(output.double(), values, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(images()), model(images(), "test"))


def test_official_weights_give_the_official_outputs() -> None:
    """The authors' network, rebuilt from torchvision's, and ours with its weights under their names."""
    base = torchvision.models.resnet18()
    feat, feat_bn, classifier = nn.Linear(512, 16), nn.BatchNorm1d(16), nn.Linear(16, 5)
    feat_bn.running_mean.fill_(0.1)
    official = nn.ModuleDict({"base": base, "feat": feat, "feat_bn": feat_bn, "classifier": classifier})
    model = network()
    model.load_state_dict(match_state_dict(official.state_dict(), model).state)
    official.eval()
    model.eval()
    base.fc = nn.Identity()
    embedded = feat_bn(feat(base(images())))
    torch.testing.assert_close(model(images(), "source"), classifier(embedded.relu()))
    torch.testing.assert_close(model(images(), "target"), nn.functional.normalize(embedded))


def test_initial_weights() -> None:
    model = network(embedding_dim=1024, num_classes=300)
    assert model.embedding.weight.std().item() == pytest.approx(math.sqrt(2 / 1024), rel=0.01)
    assert model.classifier.weight.std().item() == pytest.approx(0.001, rel=0.01)
    assert model.embedding_norm.weight.eq(1).all()
    for bias in (model.embedding.bias, model.embedding_norm.bias, model.classifier.bias):
        assert bias.eq(0).all()
    again = network(embedding_dim=1024, num_classes=300)
    assert torch.equal(model.classifier.weight, again.classifier.weight)


def test_default_sizes_are_those_of_the_paper() -> None:
    model = ReIDNetwork(copy.deepcopy(backbone("resnet50")), num_classes=702)
    assert model.embedding.weight.shape == (4096, 2048)
    assert model.classifier.weight.shape == (702, 4096)
    assert (model.dropout, model.target_dropout, model.bn_mode) == (0.5, "after_norm", "official")


def test_official_target_dropout_comes_after_the_normalisation() -> None:
    model = network()
    h = torch.randn(400, 1000, generator=seeded(3))
    unit = h / h.norm(dim=1, keepdim=True)
    features = model.target_features(h, generator=seeded(4))
    kept = features != 0
    torch.testing.assert_close(features[kept], 2 * unit[kept])
    # 400,000 draws: five standard deviations of the share are 0.004
    assert kept.float().mean().item() == pytest.approx(0.5, abs=0.004)
    assert features.square().sum(1).mean().item() == pytest.approx(2, rel=0.01)


def test_target_dropout_before_the_normalisation() -> None:
    model = network(target_dropout="before_norm", dropout=0.25)
    h = torch.randn(400, 1000, generator=seeded(3))
    features = model.target_features(h, generator=seeded(4))
    torch.testing.assert_close(features.norm(dim=1), torch.ones(400))
    kept = features != 0
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.004)
    lengths = (h * kept).norm(dim=1, keepdim=True)
    torch.testing.assert_close(features, h * kept / lengths)


def test_no_target_dropout() -> None:
    h = torch.randn(8, 16, generator=seeded(3))
    torch.testing.assert_close(network(target_dropout="none").target_features(h), h / h.norm(dim=1, keepdim=True))
    torch.testing.assert_close(network(dropout=0.0).target_features(h), h / h.norm(dim=1, keepdim=True))


def test_source_dropout_comes_after_the_rectifier() -> None:
    model = network(embedding_dim=1000, num_classes=1000)
    nn.init.eye_(model.classifier.weight)
    h = torch.randn(400, 1000, generator=seeded(3))
    values = model.source_logits(h, generator=seeded(4))
    torch.testing.assert_close(values[values != 0], 2 * h[values != 0])
    assert (values >= 0).all()
    assert (values != 0).float().mean().item() == pytest.approx(0.25, abs=0.004)


def test_dropout_is_the_generators_and_off_in_evaluation() -> None:
    model = network()
    h = torch.randn(8, 64, generator=seeded(3))
    first, second, other = (model.target_features(h, generator=seeded(seed)) for seed in (5, 5, 6))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    model(images(), "source", generator=seeded(5))
    assert torch.equal(torch.get_rng_state(), state)
    model.target_features(h)
    assert not torch.equal(torch.get_rng_state(), state)
    assert torch.equal(model.eval().target_features(h), nn.functional.normalize(h))


def test_gradient_reaches_only_the_kept_entries() -> None:
    model = network(target_dropout="after_norm")
    h = torch.randn(3, 6, generator=seeded(3), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: model.target_features(values, generator=seeded(4)), h)
    assert torch.autograd.gradcheck(model.eval().target_features, h)


def test_official_rule_holds_22_layers_of_resnet50() -> None:
    model = network("resnet50").train()
    blocks = [f"layer1.{block}" for block in range(3)] + [f"layer2.{block}" for block in range(4)]
    expected = {"bn1"} | {f"{block}.bn{number}" for block in blocks for number in (1, 2, 3)}
    assert len(expected) == 22
    assert held(model) == expected
    assert model.embedding_norm.training
    assert model.training
    assert not any(module.training for module in model.eval().modules())


@pytest.mark.parametrize(("mode", "count"), [("official", 9), ("frozen", 10), ("train", 0)])
def test_held_statistics_stay_and_the_others_move(mode: BatchNormMode, count: int) -> None:
    model = network(bn_mode=mode).train()
    names = held(model)
    assert len(names) == count
    assert ("layer2.0.downsample.1" in names) is (mode == "frozen")
    layers = dict(model.backbone.named_modules())
    before = {name: layer.running_mean.clone() for name, layer in layers.items() if isinstance(layer, _BatchNorm)}
    model(images(), "source")
    for name, mean in before.items():
        assert torch.equal(layers[name].running_mean, mean) is (name in names), name


def test_ibn_layers_are_held_by_the_official_rule_too() -> None:
    names = held(network("resnet50_ibn_a").train())
    assert {"bn1", "layer1.0.bn1.BN", "layer2.3.bn2"} <= names
    assert len(names) == 22


def test_held_layers_return_to_training_with_another_call() -> None:
    model = network()
    model.eval()
    assert held(model.train()) == held(network().train())


def test_official_freeze() -> None:
    model = network()
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    early = ("backbone.conv1.", "backbone.bn1.", "backbone.layer1.", "backbone.layer2.")
    assert frozen == {name for name, _ in model.named_parameters() if name.startswith(early)}
    assert "backbone.layer2.0.downsample.1.weight" in frozen
    assert all(parameter.requires_grad for parameter in network(freeze="none").parameters())


def test_parameter_groups_hold_each_trainable_parameter_once() -> None:
    model = network()
    groups = model.parameter_groups(lr_new=0.1, lr_backbone=0.01)
    assert [(group["name"], group["lr"]) for group in groups] == [("backbone", 0.01), ("new", 0.1)]
    listed = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(listed) == len(set(listed))
    assert set(listed) == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    new = {id(parameter) for parameter in groups[1]["params"]}
    assert new == {id(parameter) for name, parameter in model.named_parameters() if not name.startswith("backbone.")}


def test_a_step_moves_only_what_is_trained() -> None:
    model = network().train()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameter_groups(lr_new=0.1, lr_backbone=0.1), weight_decay=0.1)
    loss = model(images(), "source", generator=seeded(0)).logsumexp(1).mean()
    loss = loss + model(images(), "target", generator=seeded(0)).square().sum(1).mean()
    loss.backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        moves = parameter.requires_grad and "bias" not in name
        assert not (moves and torch.equal(parameter, before[name])), name
        assert parameter.requires_grad or torch.equal(parameter, before[name]), name


def test_embeddings_are_float32_under_autocast() -> None:
    model = network().train()
    with torch.autocast("cpu", torch.bfloat16):
        assert model(images(), "target").dtype == torch.float32
        assert model(images()).dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bn_mode": "offical"}, "unknown bn_mode 'offical'.*did you mean 'official'"),
        ({"freeze": "all"}, "unknown freeze 'all'"),
        ({"target_dropout": "never"}, "unknown target_dropout 'never'"),
        ({"dropout": 1.0}, "dropout: expected a rate of at least 0 and below 1, got 1.0"),
        ({"dropout": -0.1}, "dropout: expected a rate"),
    ],
)
def test_wrong_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        network(**options)


def test_unknown_branch() -> None:
    with pytest.raises(ValueError, match="branch: expected test, source or target, got 'pool5'"):
        network()(images(), "pool5")


def test_without_a_linear_embedding_the_branches_share_the_normalised_pooled_features() -> None:
    model = network(embedding="none").eval()
    assert model.embedding_dim == model.backbone.feature_dim
    assert model.classifier.bias is None
    model.embedding_norm.running_mean.normal_(generator=seeded(3))
    pooled = model.backbone(images())
    h = (pooled - model.embedding_norm.running_mean) / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(model(images(), "source"), h @ model.classifier.weight.T, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(images(), "target"), h / h.norm(dim=1, keepdim=True), rtol=1e-4, atol=1e-5)
    trained = {id(p) for group in model.parameter_groups(lr_new=1, lr_backbone=1) for p in group["params"]}
    assert trained == {id(p) for p in model.parameters() if p.requires_grad}


def test_a_neck_that_begins_with_batch_normalisation() -> None:
    model = network(embedding="norm_linear", dropout=0.5).eval()
    state = {name: value.double() for name, value in model.state_dict().items()}
    model.embedding.norm.running_mean.fill_(0.3)
    model.embedding.norm.running_var.fill_(2.0)
    pooled = model.backbone(images()).double()
    inner = (pooled - 0.3) / math.sqrt(2.0 + 1e-5)
    hidden = inner @ state["embedding.linear.weight"].T
    h = (hidden - state["embedding_norm.running_mean"]) / (state["embedding_norm.running_var"] + 1e-5).sqrt()
    expected = h @ state["classifier.weight"].T + state["classifier.bias"]
    torch.testing.assert_close(model(images(), "source").double(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        model(images(), "target").double(), h / h.norm(dim=1, keepdim=True), rtol=1e-4, atol=1e-5
    )
    assert float(state["embedding.linear.weight"].std()) == pytest.approx(512**-0.5, rel=0.05)


def test_its_dropout_stands_before_the_linear_layer_and_nowhere_else() -> None:
    model = network(embedding="norm_linear", dropout=0.5).train()
    model.embedding_norm.eval()
    pooled = model.backbone(images())
    dropped = model.embed(pooled, generator=seeded(4))
    kept = torch.empty(len(pooled), 512).bernoulli_(0.5, generator=seeded(4))
    expected = model.embedding_norm(model.embedding.linear(model.embedding.norm(pooled) * kept * 2))
    torch.testing.assert_close(dropped, expected)
    torch.testing.assert_close(model.source_logits(dropped), model.classifier(dropped))
    torch.testing.assert_close(model.target_features(dropped), dropped / dropped.norm(dim=1, keepdim=True))


@pytest.mark.parametrize("embedding", ["linear", "norm_linear", "none", "identity"])
def test_the_bias_of_the_neck_can_be_kept_at_zero(embedding: str) -> None:
    model = network(embedding=embedding, neck_bias=False)
    trained = {
        id(parameter) for group in model.parameter_groups(lr_new=1, lr_backbone=1) for parameter in group["params"]
    }
    names = {name for name, parameter in model.named_parameters() if id(parameter) not in trained}
    assert {name for name in names if not name.startswith("backbone.")} == (
        set() if embedding == "identity" else {"embedding_norm.bias"}
    )


def test_centres_of_a_head_may_be_longer_at_first() -> None:
    for init, deviation in (("normal", 0.01), ("xavier", math.sqrt(2 / (64 + 36)))):
        model = network(embedding_dim=64, num_classes=36, margin=Margin(), center_init=init)
        assert model.classifier.weight.std().item() == pytest.approx(deviation, rel=0.05)
