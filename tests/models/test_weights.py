"""Weight files of every layout, and everything that can be wrong with one."""

import copy
import functools
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from reid_da.errors import InputError
from reid_da.models.backbones import create_backbone
from reid_da.models.protocol import Backbone
from reid_da.models.reid_net import ReIDNetwork
from reid_da.models.weights import load_weights, match_state_dict, read_state_dict

State = dict[str, Tensor]
LAYOUTS = ["torchvision", "torchreid", "official-ecn", "fastreid", "reid-da", "bare"]


@functools.cache
def cached_backbone(name: str, seed: int) -> Backbone:
    return create_backbone(name, weights="none", generator=torch.Generator().manual_seed(seed))


def backbone(name: str = "resnet18", seed: int = 0) -> Backbone:
    return copy.deepcopy(cached_backbone(name, seed))


def network(seed: int = 0) -> ReIDNetwork:
    generator = torch.Generator().manual_seed(seed)
    return ReIDNetwork(backbone(seed=seed), num_classes=5, embedding_dim=8, generator=generator)


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: value for name, value in state.items()}


def linear(name: str, outputs: int, inputs: int) -> State:
    return {f"{name}.weight": torch.ones(outputs, inputs), f"{name}.bias": torch.ones(outputs)}


def official_ecn(model: ReIDNetwork) -> State:
    """Weights of ``model`` under the names of the authors' code, with the ImageNet classifier that it keeps."""
    names = {"backbone": "base", "embedding": "feat", "embedding_norm": "feat_bn", "classifier": "classifier"}
    state = {}
    for name, value in model.state_dict().items():
        module, _, rest = name.partition(".")
        state[f"{names[module]}.{rest}"] = value
    return state | linear("base.fc", 1000, 512)


def write_checkpoint(layout: str, folder: Path) -> tuple[Path, State]:
    """File in the given layout and the weights of the backbone in it."""
    model = network(seed=7)
    model.backbone.bn1.running_mean.fill_(0.25)
    weights = model.backbone.state_dict()
    path = folder / ("model.safetensors" if layout == "reid-da" else "model.pth.tar")
    if layout == "torchvision":
        torch.save(weights | linear("fc", 1000, 512), path)
    elif layout == "torchreid":
        optimizer = torch.optim.Adam(model.classifier.parameters())
        scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [20, 40])
        state = prefixed(weights | linear("classifier", 751, 512), "module.")
        extras = {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict(), "epoch": 60}
        torch.save({"state_dict": state, "rank1": np.float32(0.9), **extras}, path)
    elif layout == "official-ecn":
        memory = {"em": torch.nn.Parameter(torch.zeros(12, 8))}
        checkpoint = {"state_dict": official_ecn(model), "state_dict_inv": memory, "epoch": 60}
        # PyTorch 1.0, which the authors used, wrote this older format
        torch.save(checkpoint, path, _use_new_zipfile_serialization=False)
    elif layout == "fastreid":
        heads = {"heads.bottleneck.0.weight": torch.ones(512), "pixel_mean": torch.zeros(1, 3, 1, 1)}
        torch.save({"model": prefixed(weights, "backbone.") | heads, "iteration": 3}, path)
    elif layout == "reid-da":
        save_file(model.state_dict(), path)
    else:
        torch.save(weights, path)
    return path, weights


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_backbone(layout: str, tmp_path: Path) -> None:
    path, weights = write_checkpoint(layout, tmp_path)
    model = create_backbone("resnet18", weights=path)
    assert model.state_dict().keys() == weights.keys()
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name]), name


@pytest.mark.parametrize(
    ("layout", "name", "ignored"),
    [
        ("torchvision", "torchvision or torchreid", {"fc.weight", "fc.bias"}),
        ("torchreid", "torchvision or torchreid", {"module.classifier.weight", "module.classifier.bias"}),
        ("fastreid", "FastReID", {"heads.bottleneck.0.weight", "pixel_mean"}),
        ("bare", "torchvision or torchreid", set()),
    ],
)
def test_report_names_layout_and_left_out_weights(layout: str, name: str, ignored: set[str], tmp_path: Path) -> None:
    path, weights = write_checkpoint(layout, tmp_path)
    match = match_state_dict(read_state_dict(path), backbone())
    assert match.layout == name
    assert set(match.ignored) == ignored
    assert match.missing == ()
    assert match.state.keys() == weights.keys()


def test_official_ecn_checkpoint_fits_the_whole_network() -> None:
    source, target = network(seed=1), network(seed=2)
    source.embedding_norm.running_var.fill_(2.5)
    match = match_state_dict(prefixed(official_ecn(source), "module."), target)
    assert match.layout == "official ECN"
    assert set(match.ignored) == {"module.base.fc.weight", "module.base.fc.bias"}
    target.load_state_dict(match.state)
    for name, value in target.state_dict().items():
        assert torch.equal(value, source.state_dict()[name]), name


def test_own_network_survives_a_round_trip(tmp_path: Path) -> None:
    source, target = network(seed=1), network(seed=2)
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    assert load_weights(target, tmp_path / "model.safetensors").layout == "reid-da"
    for name, value in target.state_dict().items():
        assert torch.equal(value, source.state_dict()[name]), name


def test_fastreid_features_are_said_to_differ(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_weights(backbone(), write_checkpoint("fastreid", tmp_path)[0])
    assert "differ from those of FastReID" in caplog.text
    caplog.clear()
    load_weights(backbone(), write_checkpoint("torchreid", tmp_path)[0])
    assert not caplog.records


def test_batch_counters_may_be_missing(tmp_path: Path) -> None:
    state = {name: value for name, value in backbone().state_dict().items() if "num_batches" not in name}
    torch.save(state, tmp_path / "old.pth")
    model = create_backbone("resnet18", weights=tmp_path / "old.pth")
    assert model.bn1.num_batches_tracked == 0
    match = match_state_dict(state, model)
    assert len(match.missing) == 20
    assert all(name.endswith("num_batches_tracked") for name in match.missing)


NETWORK = backbone()
NEEDED = sorted(name for name in NETWORK.state_dict() if not name.endswith("num_batches_tracked"))


@given(st.sets(st.sampled_from(NEEDED), min_size=1, max_size=len(NEEDED) - 1))
def test_no_weight_is_left_random(removed: set[str]) -> None:
    state = {name: value for name, value in NETWORK.state_dict().items() if name not in removed}
    with pytest.raises(InputError, match=rf"^weights.pth: does not fit.* {len(removed)} missing \(") as caught:
        match_state_dict(state, NETWORK, origin="weights.pth")
    assert next(name for name in NETWORK.state_dict() if name in removed) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"conv1.weight": torch.ones(64, 1, 7, 7)},
            r"1 of another shape \(conv1.weight 64x1x7x7 instead of 64x3x7x7\)",
        ),
        ({"bn1.weight": torch.tensor(1.0)}, r"\(bn1.weight scalar instead of 64\)"),
        ({"layer2.0.se.weight": torch.ones(1)}, r"1 not in the network \(layer2.0.se.weight\)"),
    ],
)
def test_weights_that_do_not_fit(change: State, message: str) -> None:
    with pytest.raises(InputError, match=message):
        match_state_dict(NETWORK.state_dict() | change, NETWORK)


def test_weights_of_another_depth() -> None:
    # 16 convolutions more, each with the five entries of a batch normalisation
    message = r"^state dict: does not fit this network; weights: 96 not in the network \(layer1.2.*, .* and 93 more\)$"
    with pytest.raises(InputError, match=message):
        match_state_dict(backbone("resnet34").state_dict(), NETWORK)


def test_weights_of_another_kind_of_network() -> None:
    state = {"conv1.conv.weight": torch.ones(1), "conv2.0.weight": torch.ones(1)}
    message = "osnet.pth: holds no weight of this network; found conv1.conv.weight, .* expected conv1.weight"
    with pytest.raises(InputError, match=message):
        match_state_dict(state, NETWORK, origin="osnet.pth")


def test_backbone_alone_does_not_fill_a_whole_network() -> None:
    with pytest.raises(InputError, match=r"8 missing \(embedding.weight, embedding.bias, embedding_norm.weight"):
        match_state_dict(NETWORK.state_dict(), network())


def test_network_is_unchanged_when_a_file_does_not_fit(tmp_path: Path) -> None:
    model = backbone()
    state = backbone(seed=9).state_dict() | {"conv1.weight": torch.ones(1)}
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(InputError, match=rf"{tmp_path}/weights.pth: does not fit"):
        load_weights(model, tmp_path / "weights.pth")
    assert torch.equal(model.bn1.weight, NETWORK.bn1.weight)
    assert torch.equal(model.layer1[0].conv1.weight, NETWORK.layer1[0].conv1.weight)


class _Command:
    """Pickles to a call of a function that leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.trace),)


def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    torch.save({"state_dict": {"conv1.weight": torch.ones(1)}, "extra": _Command(trace)}, tmp_path / "bad.pth")
    with pytest.raises(InputError, match=r"bad.pth: holds a Python object \(posix.mkdir\).*torch.save") as caught:
        read_state_dict(tmp_path / "bad.pth")
    assert not trace.exists()
    assert "\n" not in str(caught.value)


def test_whole_models_are_refused(tmp_path: Path) -> None:
    torch.save(backbone(), tmp_path / "model.pth")
    with pytest.raises(InputError, match=r"holds a Python object \(reid_da.models.resnet.ResNet\)"):
        read_state_dict(tmp_path / "model.pth")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.pth", b"", "damaged, or not a file that torch.save wrote"),
        ("text.pth", b"hello world", "damaged, or not a file that torch.save wrote"),
        ("random.pth", np.random.default_rng(0).bytes(500), "damaged, or not a file that torch.save wrote"),
        ("plain.pth", pickle.dumps({"a": 1}, protocol=4), "damaged, or not a file that torch.save wrote"),
        ("short.safetensors", b"{}", "damaged, or not a safetensors file"),
        ("empty.safetensors", b"", "damaged, or not a safetensors file"),
    ],
)
def test_files_that_hold_no_weights(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"^{tmp_path / name}: {message}") as caught:
        read_state_dict(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_truncated_file(tmp_path: Path) -> None:
    path, _ = write_checkpoint("bare", tmp_path)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(InputError, match="damaged, or not a file that torch.save wrote"):
        read_state_dict(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(1)], r"expected weights by name \(a state dict\), found list"),
        ({}, r"expected weights by name \(a state dict\), found nothing"),
        ({"state_dict": {}}, "found nothing"),
        ({"epoch": 3}, "expected weights by name, found int under 'epoch'"),
        ({0: torch.ones(1)}, "expected weights by name, found Tensor under 0"),
    ],
)
def test_files_of_torch_without_weights(content: object, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(InputError, match=message):
        read_state_dict(tmp_path / "other.pth")


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (tmp_path, tmp_path / "nothing.pth"):
        with pytest.raises(InputError, match=f"^{path}: no such weight file$"):
            read_state_dict(path)
    locked, _ = write_checkpoint("bare", tmp_path)

    def forbid(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    # the tests may run as root, whom no permission bits stop
    monkeypatch.setattr("torch.load", forbid)
    with pytest.raises(InputError, match=r"cannot be read \(Permission denied\)"):
        read_state_dict(locked)
