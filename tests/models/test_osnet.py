"""OSNet against what torchreid's networks of the same names gave: counts, names, shapes and outputs."""

import hashlib
import math

import pytest
import torch
from torch import Tensor, nn

from reid_da.errors import InputError
from reid_da.models.backbones import create_backbone
from reid_da.models.weights import match_state_dict

# From torchreid's osnet.py and osnet_ain.py (public repository, 2026) with its classifier removed, its weights set by
# `fill` and in float64: number of parameters, start of the SHA-256 of all names and shapes, norm of the features of
# the first image, norm of the difference between the two images' features.
TORCHREID = {
    "osnet_x1_0": (2169508, "5f0d0f053f51a9b5", 688.4928971283126, 15.924972549506831),
    "osnet_x0_75": (1285754, "f76bb5964c9b16de", 7604696.397668777, 3116334.4346924275),
    "osnet_x0_5": (630034, "21c0959d7070420c", 686055.215046383, 25412.005900914493),
    "osnet_x0_25": (201864, "b516b249abfe3708", 33.70279529355106, 0.4946743360859466),
    "osnet_ibn_x1_0": (2170532, "71427fbff8b7bf06", 636.5010033654315, 25.876023308464603),
    "osnet_ain_x1_0": (2169508, "b05919ece0aa1681", 1016.9121413448618, 32.145830811899515),
}
# the model zoo of torchreid, in millions
PUBLISHED = {"osnet_x1_0": 2.2, "osnet_x0_75": 1.3, "osnet_x0_5": 0.6, "osnet_x0_25": 0.2}


def fill(state: dict[str, Tensor]) -> None:
    """Set weights by a rule that every implementation can follow: waves of a phase that is the name's rank."""
    for number, (name, value) in enumerate(sorted(state.items())):
        if not value.is_floating_point():
            continue
        wave = torch.sin(1.3 * torch.arange(value.numel(), dtype=torch.float64) + number).view(value.shape)
        if value.ndim > 1:
            wave = wave * math.sqrt(4 / value[0].numel())
        elif name.endswith(("running_var", ".weight")):
            wave = 1 + 0.3 * wave
        else:
            wave = 0.1 * wave
        value.copy_(wave)


@pytest.mark.parametrize("name", TORCHREID)
def test_names_shapes_and_outputs_are_those_of_torchreid(name: str) -> None:
    count, names_hash, norm, difference = TORCHREID[name]
    backbone = create_backbone(name, weights="none").double().eval()
    state = backbone.state_dict()
    assert sum(parameter.numel() for parameter in backbone.parameters()) == count
    assert round(count / 1e6, 1) == PUBLISHED.get(name, 2.2)
    listing = "\n".join(f"{key} {tuple(value.shape)}" for key, value in sorted(state.items()))
    assert hashlib.sha256(listing.encode()).hexdigest()[:16] == names_hash
    fill(state)
    images = torch.sin(0.1 * torch.arange(2 * 3 * 64 * 32, dtype=torch.float64)).view(2, 3, 64, 32)
    with torch.no_grad():
        first, second = backbone(images)
    assert first.shape == (512,)
    assert first.norm().item() == pytest.approx(norm, rel=1e-9)
    assert (first - second).norm().item() == pytest.approx(difference, rel=1e-7)


def test_maps_are_a_sixteenth_of_the_image() -> None:
    backbone = create_backbone("osnet_ain_x1_0", width=0.25, weights="none").eval()
    assert backbone.feature_map(torch.zeros(1, 3, 64, 32)).shape == (1, 128, 4, 2)


def test_weights_of_torchreid_leave_out_the_classifier_alone() -> None:
    source = create_backbone("osnet_x0_25", weights="none")
    state = {f"module.{name}": value for name, value in source.state_dict().items()}
    state |= {"module.classifier.weight": torch.ones(751, 512), "module.classifier.bias": torch.ones(751)}
    match = match_state_dict(state, create_backbone("osnet_x0_25", weights="none"))
    assert match.state.keys() == source.state_dict().keys()
    assert match.ignored == ("module.classifier.weight", "module.classifier.bias")


def test_widths_do_not_fit_each_other() -> None:
    state = create_backbone("osnet_x0_5", weights="none").state_dict()
    with pytest.raises(InputError, match=r"of another shape \(conv1.conv.weight 32x3x7x7 instead of 16x3x7x7"):
        match_state_dict(state, create_backbone("osnet_x0_25", weights="none"))


def test_random_weights_are_set_everywhere_and_follow_the_generator() -> None:
    first, second = (
        create_backbone("osnet_x0_25", weights="none", generator=torch.Generator().manual_seed(3)) for _ in range(2)
    )
    for (name, value), again in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(value, again), name
        assert torch.isfinite(value.float()).all(), name
    assert all(
        module.bias.eq(0).all()
        for module in first.modules()
        if isinstance(module, nn.Conv2d) and module.bias is not None
    )


def test_what_osnet_does_not_have() -> None:
    with pytest.raises(InputError, match="last_stride: OSNet does not halve the maps in its last stage"):
        create_backbone("osnet_x1_0", last_stride=1, weights="none")
    with pytest.raises(InputError, match=r"osnet_x1_0: no address.*model.weights=PATH.*model.weights=none$"):
        create_backbone("osnet_x1_0")
