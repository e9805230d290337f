"""Networks of timm as backbones: their own features, any image size, freezing by depth, weight files of ViTs."""

import importlib
import sys

import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from reid_da.errors import InputError
from reid_da.models.backbones import create_backbone
from reid_da.models.reid_net import ReIDNetwork
from reid_da.models.timm import TimmBackbone
from reid_da.models.weights import match_state_dict

VIT = "vit_tiny_patch16_224"
SIZE = (64, 32)


def backbone(name: str = VIT, **options: object) -> TimmBackbone:
    generator = torch.Generator().manual_seed(0)
    created = create_backbone(f"timm:{name}", weights="none", **{"image_size": SIZE, "generator": generator, **options})
    assert isinstance(created, TimmBackbone)
    return created


def images(size: tuple[int, int] = SIZE) -> Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", [VIT, "mobilenetv3_small_050", "swin_tiny_patch4_window7_224"])
def test_default_features_are_those_of_timm(name: str) -> None:
    ours = backbone(name).eval()
    sized = {"img_size": SIZE} if ours.image_size else {}
    reference = timm.create_model(name, num_classes=7, **sized).eval()
    match = match_state_dict(reference.state_dict(), ours)
    ours.load_state_dict(match.state)
    with torch.no_grad():
        expected = reference.forward_head(reference.forward_features(images()), pre_logits=True)
        assert torch.equal(ours(images()), expected)
    assert expected.shape == (2, ours.feature_dim)
    assert match.ignored


def test_patches_are_laid_out_as_maps() -> None:
    ours = backbone().eval()
    tokens = ours.network.forward_features(images())
    maps = ours.feature_map(images())
    assert maps.shape == (2, 192, 4, 2)
    # the class token comes first, the patches then row by row
    assert torch.equal(maps[:, :, 2, 1], tokens[:, 1 + 2 * 2 + 1])
    assert torch.equal(ours(images()), tokens[:, 0])
    ours.set_pooling("max")
    assert torch.equal(ours(images()), tokens[:, 1:].amax(1))


def test_random_weights_follow_the_generator_and_leave_torchs_own_alone() -> None:
    state = torch.get_rng_state()
    first, second = (backbone(generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))


@pytest.mark.parametrize(("freeze", "blocks"), [("official", 6), (3, 2), ("none", 0)])
def test_a_vit_is_frozen_by_blocks(freeze: str | int, blocks: int) -> None:
    network = ReIDNetwork(backbone(), num_classes=3, embedding="none", freeze=freeze)
    vit = network.backbone.network
    frozen = {name for name, weight in vit.named_parameters() if not weight.requires_grad}
    stem = ("cls_token", "pos_embed", "patch_embed.")
    expected = {
        name
        for name, _ in vit.named_parameters()
        if freeze != "none"
        and (name.startswith(stem) or (name.startswith("blocks.") and int(name.split(".")[1]) < blocks))
    }
    assert frozen == expected


def test_batch_norms_of_frozen_stages_are_held() -> None:
    network = ReIDNetwork(backbone("resnet18"), num_classes=3, embedding="none", freeze=2, bn_mode="frozen").train()
    held = {
        name
        for name, module in network.backbone.network.named_modules()
        if isinstance(module, nn.BatchNorm2d) and not module.training
    }
    assert held == {"bn1", *(f"layer1.{block}.bn{number}" for block in (0, 1) for number in (1, 2))}


def test_images_of_another_size_are_one_line() -> None:
    with pytest.raises(InputError, match=f"timm:{VIT}: built for images of 64x32, got 32x64; set the image size"):
        backbone()(images((32, 64)))
    assert backbone("mobilenetv3_small_050").image_size is None


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vit_tny_patch16_224", {}, "timm:vit_tny_patch16_224: timm .* has no network of this name"),
        (VIT, {"width": 0.5}, "leave width at 1 and last_stride at 2"),
        (VIT, {"last_stride": 1}, "leave width at 1 and last_stride at 2"),
        (VIT, {"image_size": (8, 8)}, r"cannot be built for images of 8x8|built for images"),
    ],
)
def test_networks_that_cannot_be_had(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        backbone(name, **options)(images((8, 9)))
    assert "\n" not in str(caught.value)


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match=rf"timm:{VIT}: timm is not installed; pip install 'reid-da\[timm\]'"):
        backbone()


def test_weights_that_cannot_be_downloaded_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to host\nand more")

    monkeypatch.setattr(importlib.import_module("timm"), "create_model", unreachable)
    message = r"cannot be downloaded \(no route to host\).*model.weights=PATH.*model.weights=none$"
    with pytest.raises(InputError, match=message):
        create_backbone(f"timm:{VIT}", image_size=SIZE)


# --- files of ViTs ---


def transreid(source: TimmBackbone) -> dict[str, Tensor]:
    """Names as TransReID writes them: the ImageNet classifier stays in the backbone."""
    state = {f"base.{name}": value for name, value in source.network.state_dict().items()}
    state |= {"base.fc.weight": torch.ones(1000, 192), "base.fc.bias": torch.ones(1000)}
    norm = {"weight": 1, "bias": 0, "running_mean": 0, "running_var": 1}
    state |= {f"bottleneck.{name}": torch.full((192,), float(value)) for name, value in norm.items()}
    return state | {"classifier.weight": torch.ones(751, 192)}


def dino(source: TimmBackbone) -> dict[str, Tensor]:
    state = {f"module.backbone.{name}": value for name, value in source.network.state_dict().items()}
    return state | {"module.head.mlp.0.weight": torch.ones(8, 192), "module.head.last_layer.weight_g": torch.ones(8, 1)}


@pytest.mark.parametrize(("layout", "write"), [("TransReID", transreid), ("DINO", dino)])
def test_files_of_vits(layout: str, write, caplog: pytest.LogCaptureFixture) -> None:
    source, target = backbone(generator=torch.Generator().manual_seed(5)), backbone()
    match = match_state_dict(write(source), target)
    assert match.layout == layout
    assert match.missing == ()
    target.load_state_dict(match.state)
    assert torch.equal(target.eval()(images()), source.eval()(images()))


def test_position_embeddings_are_interpolated_as_timm_does() -> None:
    source, target = backbone(image_size=(224, 224)), backbone()
    match = match_state_dict(source.network.state_dict(), target)
    expected = resample_abs_pos_embed(source.network.pos_embed, new_size=[4, 2], old_size=[14, 14], num_prefix_tokens=1)
    torch.testing.assert_close(match.state["network.pos_embed"], expected)
    # re-ID images are tall: 32 patches are 8 by 4, whatever the square nearest to them
    source, target = backbone(image_size=(128, 64)), backbone()
    match = match_state_dict(source.network.state_dict(), target)
    expected = resample_abs_pos_embed(source.network.pos_embed, new_size=[4, 2], old_size=[8, 4], num_prefix_tokens=1)
    torch.testing.assert_close(match.state["network.pos_embed"], expected)


def test_position_embeddings_of_no_plausible_grid_are_refused() -> None:
    state = dict(backbone().network.state_dict())
    state["pos_embed"] = torch.zeros(1, 1 + 31, 192)
    with pytest.raises(InputError, match=r"of another shape \(pos_embed 1x32x192 instead of 1x9x192\)"):
        match_state_dict(state, backbone())


def test_of_a_jigsaw_transreid_the_global_branch_is_taken() -> None:
    source, target = backbone(), backbone()
    state = transreid(source)
    branch = {f"b1.0.{name}": value + 1 for name, value in source.network.blocks[-1].state_dict().items()}
    branch |= {f"b1.1.{name}": value + 2 for name, value in source.network.norm.state_dict().items()}
    local = {name.replace("b1.", "b2."): value for name, value in branch.items()}
    match = match_state_dict(state | branch | local, target)
    assert torch.equal(match.state["network.blocks.11.mlp.fc1.bias"], branch["b1.0.mlp.fc1.bias"])
    assert torch.equal(match.state["network.norm.weight"], branch["b1.1.weight"])
    assert match.state.keys() == target.state_dict().keys()
    assert {"base.blocks.11.mlp.fc1.bias", "base.norm.weight", "b2.1.weight"} <= set(match.ignored)


def test_convolutional_stems_do_not_fit() -> None:
    state = transreid(backbone()) | {"base.patch_embed.conv.0.weight": torch.ones(64, 3, 7, 7)}
    with pytest.raises(InputError, match=r"1 not in the network \(base.patch_embed.conv.0.weight\)"):
        match_state_dict(state, backbone())
