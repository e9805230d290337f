"""Weight files of other toolkits: names as their public code writes them, around the weights of small networks."""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from reid_da.errors import InputError
from reid_da.models.backbones import create_backbone
from reid_da.models.protocol import Backbone
from reid_da.models.reid_net import ReIDNetwork
from reid_da.models.weights import load_weights, match_state_dict

State = dict[str, Tensor]
NORM = {"weight": 1.5, "bias": 0.0, "running_mean": 0.25, "running_var": 2.0}


@functools.cache
def source(name: str = "resnet18") -> Backbone:
    return create_backbone(name, width=0.125, weights="none", generator=torch.Generator().manual_seed(7))


def target(name: str = "resnet18", **options: object) -> Backbone:
    generator = torch.Generator().manual_seed(1)
    return create_backbone(name, width=0.125, weights="none", generator=generator, **options)


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: value for name, value in state.items()}


def norm(name: str, width: int = 64) -> State:
    return {f"{name}.{part}": torch.full((width,), value) for part, value in NORM.items()}


def linear(name: str, outputs: int, inputs: int, *, bias: bool = True) -> State:
    return {f"{name}.weight": torch.ones(outputs, inputs)} | ({f"{name}.bias": torch.ones(outputs)} if bias else {})


def numbered(state: State, order: str) -> State:
    """Names in a sequence of the parts of a ResNet, which has the number of each part in ``order``."""
    parts = dict(zip(("conv1", "bn1", "layer1", "layer2", "layer3", "layer4"), order, strict=True))
    split = [(name.partition("."), value) for name, value in state.items()]
    return {f"base.{parts[part]}.{rest}": value for (part, _, rest), value in split}


def bot(state: State) -> State:
    return prefixed(state, "base.") | norm("bottleneck") | linear("classifier", 751, 64, bias=False)


def spcl(state: State) -> State:
    return prefixed(numbered(state, "014567") | norm("feat_bn"), "module.")


def cluster_contrast(state: State) -> State:
    return spcl(state) | {"module.gap.p": torch.tensor([2.5])}


def mmt(state: State) -> State:
    head = linear("classifier", 500, 64, bias=False)
    return prefixed(numbered(state, "013456") | norm("feat_bn") | head, "module.")


def layumi(state: State) -> State:
    head = linear("classifier.add_block.0", 512, 64) | norm("classifier.add_block.1", 512)
    head |= linear("classifier.classifier.0", 751, 512)
    return prefixed(state | linear("fc", 1000, 64), "model.") | head


def mmtracking(state: State) -> State:
    head = linear("head.fcs.0.fc", 1024, 64) | norm("head.fcs.0.bn", 1024) | linear("head.fc_out", 128, 1024)
    return prefixed(state, "backbone.") | head | norm("head.bn", 128) | linear("head.classifier", 380, 128)


def mmtracking_whole(state: State) -> State:
    return prefixed(mmtracking(state), "reid.") | {"detector.backbone.conv1.weight": torch.ones(8, 3, 7, 7)}


def fast_reid(state: State) -> State:
    return prefixed(state, "backbone.") | {"heads.pool_layer.p": torch.tensor([4.0]), "heads.weight": torch.ones(9, 64)}


LAYOUTS: dict[str, tuple[str, Callable[[State], State]]] = {
    "bot": ("strong baseline (BoT)", bot),
    "spcl": ("SpCL or cluster-contrast", spcl),
    "cluster-contrast": ("SpCL or cluster-contrast", cluster_contrast),
    "mmt": ("MMT", mmt),
    "layumi": ("layumi", layumi),
    "mmtracking": ("mmtracking", mmtracking),
    "mmtracking-whole": ("mmtracking", mmtracking_whole),
    "fastreid": ("FastReID", fast_reid),
}


@pytest.mark.parametrize("network", ["resnet18", "resnet50_ibn_a"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_backbone_of_every_layout_fits(layout: str, network: str) -> None:
    name, write = LAYOUTS[layout]
    weights = source(network).state_dict()
    file = write(weights)
    match = match_state_dict(file, target(network))
    assert match.layout == name
    assert match.missing == ()
    assert match.state.keys() == weights.keys()
    for key, value in weights.items():
        assert torch.equal(match.state[key], value), key
    assert len(match.ignored) == len(file) - len(weights)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_part_of_the_backbone_may_be_missing_or_unknown(layout: str) -> None:
    _, write = LAYOUTS[layout]
    file = write(source().state_dict())
    (lost,) = (name for name in write({"layer3.1.bn2.running_var": torch.ones(1)}) if "bn2.running_var" in name)
    with pytest.raises(InputError, match=r"1 missing \(layer3.1.bn2.running_var\)"):
        match_state_dict({name: value for name, value in file.items() if name != lost}, target())
    extra = lost.replace("bn2.running_var", "se.fc1.weight")
    with pytest.raises(InputError, match=rf"1 not in the network \({extra}\)"):
        match_state_dict(file | {extra: torch.ones(1)}, target())


@pytest.mark.parametrize("layout", ["bot", "mmt"])
def test_a_bnneck_with_its_classifier_fits_a_whole_network(layout: str) -> None:
    file = LAYOUTS[layout][1](source().state_dict())
    classes = 751 if layout == "bot" else 500
    network = ReIDNetwork(target(), num_classes=classes, embedding="none")
    # neither toolkit keeps the counter of its neck out of its files
    counter = "bottleneck" if layout == "bot" else "module.feat_bn"
    match = match_state_dict(file | {f"{counter}.num_batches_tracked": torch.tensor(3)}, network)
    network.load_state_dict(match.state)
    assert match.ignored == ()
    assert network.embedding_norm.running_var.eq(2).all()
    assert network.classifier.weight.eq(1).all()


@pytest.mark.parametrize(("layout", "power"), [("cluster-contrast", 2.5), ("fastreid", 4.0), ("bot", 3.0)])
def test_the_power_of_gem_is_taken_where_there_is_one(layout: str, power: float, tmp_path: Path) -> None:
    torch.save(LAYOUTS[layout][1](source().state_dict()), tmp_path / "weights.pth")
    backbone = target(pooling="gem")
    match = load_weights(backbone, tmp_path / "weights.pth")
    assert backbone.pooling.p.item() == power
    assert match.missing == (() if layout != "bot" else ("pooling.p",))


def test_of_domain_specific_normalisation_the_targets_is_taken() -> None:
    file = {}
    for name, value in spcl(source().state_dict()).items():
        head, dot, rest = name.rpartition(".")
        is_norm = name.removeprefix("module.base.").startswith("1.") or ".bn" in name or "downsample.1" in name
        if is_norm:
            file |= {f"{head}.BN_S{dot}{rest}": value + 1, f"{head}.BN_T{dot}{rest}": value}
        else:
            file[name] = value
    match = match_state_dict(file, target())
    weights = source().state_dict()
    assert all(torch.equal(match.state[name], value) for name, value in weights.items())
    assert "module.base.1.BN_S.weight" in match.ignored


def test_layers_that_change_the_maps_are_refused() -> None:
    with pytest.raises(InputError, match=r"1 not in the network \(usam_1.weight\)"):
        match_state_dict(layumi(source().state_dict()) | {"usam_1.weight": torch.ones(1, 1, 3, 3)}, target())


@pytest.mark.parametrize(
    ("layout", "warning"),
    [("mmt", "its ResNets have no ReLU"), ("bot", "stem_relu=false"), ("fastreid", "without padding")],
)
def test_features_that_will_differ_are_announced(
    layout: str, warning: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(LAYOUTS[layout][1](source().state_dict()), tmp_path / "weights.pth")
    load_weights(target(), tmp_path / "weights.pth")
    assert warning in caplog.text
    caplog.clear()
    torch.save(layumi(source().state_dict()), tmp_path / "weights.pth")
    load_weights(target(), tmp_path / "weights.pth")
    assert not caplog.records


@pytest.mark.parametrize("layout", ["mmt", "bot"])
def test_a_stem_without_relu_fits_the_toolkits_that_have_none(
    layout: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(LAYOUTS[layout][1](source().state_dict()), tmp_path / "weights.pth")
    network = target(stem_relu=False)
    load_weights(network, tmp_path / "weights.pth")
    assert not caplog.records
    images = torch.randn(1, 3, 32, 16)
    network.eval()
    expected = network.maxpool(network.bn1(network.conv1(images)))
    for layer in (network.layer1, network.layer2, network.layer3, network.layer4):
        expected = layer(expected)
    torch.testing.assert_close(network(images), expected.mean(dim=(2, 3)))


def test_what_is_not_needed_is_named_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    torch.save(bot(source().state_dict()), tmp_path / "weights.pth")
    load_weights(target(), tmp_path / "weights.pth")
    assert "not needed: bottleneck.weight, bottleneck.bias" in caplog.text
    assert "classifier.weight" in caplog.text


def test_integers_are_no_weights() -> None:
    file = source().state_dict() | {"conv1.weight": torch.ones(8, 3, 7, 7, dtype=torch.int64)}
    with pytest.raises(InputError, match=r"1 of another type \(conv1.weight int64 instead of float32\)"):
        match_state_dict(file, target())
