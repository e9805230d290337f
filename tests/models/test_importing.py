"""Weight files of other toolkits, imported: the same features as in the toolkit, without options."""

import json
import logging
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from reid_da import cli, load
from reid_da.errors import InputError
from reid_da.images.augment import IMAGENET_MEAN, IMAGENET_STD
from reid_da.methods import load_settings
from reid_da.models.backbones import create_backbone
from reid_da.models.building import build_network
from reid_da.models.importing import import_weights
from reid_da.models.weight_notes import KEY, read_note
from reid_da.models.weights import load_weights

SIZE = (64, 32)


def pixels() -> Tensor:
    """Two random images from 0 to 1."""
    return torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(1))


def normalised(mean: object, std: object) -> Tensor:
    mean, std = (torch.as_tensor(values).view(-1, 1, 1) for values in (mean, std))
    return (pixels() - mean) / std


def usual() -> Tensor:
    return normalised(IMAGENET_MEAN, IMAGENET_STD)


def trained(network: nn.Module) -> nn.Module:
    """A network with running statistics that are not those of a new one."""
    generator = torch.Generator().manual_seed(3)
    for name, value in network.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return network.eval()


@pytest.fixture(scope="module")
def bot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as the strong baseline writes it, of torchvision's ResNet-18 with its head."""
    file = tmp_path_factory.mktemp("bot") / "resnet18_model_120.pth"
    torch.manual_seed(0)
    network = trained(torchvision.models.resnet18())
    state = {f"base.{name}": value for name, value in network.state_dict().items() if not name.startswith("fc.")}
    head = {"classifier.weight": torch.ones(751, 512), "bottleneck.weight": torch.ones(512)}
    torch.save(state | head, file)
    return file


def test_a_strong_baseline_gives_its_features_from_the_file_alone(bot: Path, tmp_path: Path) -> None:
    note = import_weights(bot, tmp_path / "bot.safetensors")
    assert (note.backbone, note.last_stride, note.stem_relu) == ("resnet18", 1, False)
    network = torchvision.models.resnet18()
    state = torch.load(bot, weights_only=True)
    network.load_state_dict(
        {name.removeprefix("base."): value for name, value in state.items() if name.startswith("base.")}, strict=False
    )
    network.eval()
    for module in (network.layer4[0].conv1, network.layer4[0].downsample[0]):
        module.stride = (1, 1)
    with torch.no_grad():
        maps = network.maxpool(network.bn1(network.conv1(usual())))
        for layer in (network.layer1, network.layer2, network.layer3, network.layer4):
            maps = layer(maps)
        model = load(tmp_path / "bot.safetensors", device="cpu")
        torch.testing.assert_close(model.network(usual()), maps.mean((2, 3)))


def test_of_a_transreid_the_normalisation_of_pixels_is_taken_over(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=SIZE).eval()
    with torch.no_grad():
        vit.patch_embed.proj.bias.uniform_(-1, 1)
    torch.save({f"base.{name}": value for name, value in vit.state_dict().items()}, tmp_path / "vit.pth")
    note = import_weights(tmp_path / "vit.pth", tmp_path / "vit.safetensors", image_size=SIZE)
    assert (note.backbone, note.layout, note.image_size) == ("timm:vit_tiny_patch16_224", "TransReID", SIZE)
    assert any("normalises pixels" in remark for remark in note.remarks)
    model = load(tmp_path / "vit.safetensors", device="cpu")
    assert model.image_size == SIZE
    with torch.no_grad():
        torch.testing.assert_close(model.network(usual()), vit(normalised([0.5], [0.5])), atol=2e-5, rtol=1e-4)
        # a first layer as it was would not do
        original = create_backbone("timm:vit_tiny_patch16_224", weights=tmp_path / "vit.pth", image_size=SIZE).eval()
        assert (original(usual()) - vit(normalised([0.5], [0.5]))).abs().max() > 1e-2


def test_osnet_in_half_precision_with_a_power_of_gem(tmp_path: Path) -> None:
    network = trained(create_backbone("osnet_x0_25", weights="none", pooling="gem"))
    state = {f"module.{name}": value.clone() for name, value in network.state_dict().items() if "pooling" not in name}
    state = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    torch.save({"state_dict": state | {"module.gap.p": torch.tensor([2.5])}}, tmp_path / "osnet.pth")
    note = import_weights(tmp_path / "osnet.pth", tmp_path / "osnet.safetensors")
    assert (note.backbone, note.pooling, note.last_stride) == ("osnet_x0_25", "gem", 2)
    written = load_file(tmp_path / "osnet.safetensors")
    assert {value.dtype for value in written.values()} == {torch.float32, torch.int64}
    assert written["pooling.p"].item() == 2.5
    assert written.keys() == network.state_dict().keys()


def test_the_line_of_yaml_is_one_that_a_training_reads(bot: Path, tmp_path: Path) -> None:
    note = import_weights(bot, tmp_path / "bot.safetensors")
    (tmp_path / "mine.yaml").write_text(f"base: small\n{note.yaml(tmp_path / 'bot.safetensors')}\n")
    settings = load_settings(tmp_path / "mine.yaml").model
    assert (settings.backbone, settings.width, settings.last_stride, settings.stem_relu) == ("resnet18", 1, 1, False)
    network = build_network(settings, num_classes=3, image_size=SIZE)
    assert torch.equal(network.backbone.conv1.weight, torch.load(bot, weights_only=True)["base.conv1.weight"])


def test_a_stem_that_does_not_fit_is_announced(bot: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import_weights(bot, tmp_path / "bot.safetensors")
    load_weights(create_backbone("resnet18", weights="none", stem_relu=False), tmp_path / "bot.safetensors")
    assert not caplog.records
    load_weights(create_backbone("resnet18", weights="none"), tmp_path / "bot.safetensors")
    assert "stem_relu=false" in caplog.text
    assert "strong baseline" in caplog.text


def call(*arguments: object) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["import-weights", *map(str, arguments)])
    assert not ended.value.code
    logging.getLogger("reid_da").setLevel(logging.NOTSET)


def test_the_command_says_what_was_taken_and_left(
    bot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "bot.safetensors"
    call(bot, "-o", output)
    shown = capsys.readouterr().out
    assert "resnet18, 120 tensors" in shown
    assert "left out: classifier.weight, bottleneck.weight" in shown
    assert "model: {backbone: resnet18, width: 1, last_stride: 1, stem_relu: false, weights: " in shown
    page = (tmp_path / "bot.safetensors.md").read_text()
    assert "`classifier.weight`" in page
    assert str(tmp_path) not in page
    with safe_open(output, framework="pt") as file:
        assert str(tmp_path) not in json.dumps(file.metadata())
    call(bot, "-o", output, "--json", "--last-stride", 2)
    assert json.loads(capsys.readouterr().out)["settings"]["last_stride"] == 2


def test_bad_input_is_one_line_and_leaves_nothing(bot: Path, tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.ones(1, 3, 7, 7)}, tmp_path / "odd.pth")
    with pytest.raises(InputError, match=r"odd\.pth: fits none of the backbones resnet18"):
        import_weights(tmp_path / "odd.pth", tmp_path / "odd.safetensors")
    with pytest.raises(InputError, match="weights are written as safetensors; name the file bot.safetensors"):
        import_weights(bot, tmp_path / "bot.pth")
    with pytest.raises(InputError, match="does not fit this network"):
        import_weights(bot, tmp_path / "bot.safetensors", backbone="resnet34")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["odd.pth"]


@pytest.mark.parametrize("text", ["no JSON", "{}", '{"image_size": [1], "ignored": [], "remarks": []}', "[]"])
def test_a_note_that_cannot_be_read_is_refused(text: str, tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "x.safetensors", metadata={KEY: text})
    with pytest.raises(InputError, match="its note on the weights cannot be read"):
        read_note(tmp_path / "x.safetensors")
