"""bfloat16 is used where it agrees with float32, and only there: on any processor, with kernels made right or wrong."""

import logging
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reid_da.models import bfloat16
from reid_da.models.backbones import create_backbone
from reid_da.models.bfloat16 import (
    LAYER_AGREEMENT,
    compare_layer,
    features_in_bfloat16,
    first_wrong_layer,
    lowest_cosine,
    recording_layers,
)
from reid_da.models.inference import infer_in_batches

CPU = torch.device("cpu")


class Network(nn.Module):
    """Two convolutions of which the second strides, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.last = nn.Linear(16, 6)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.3, generator=generator)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.norm(self.second(F.relu(self.first(images))))
        features: Tensor = self.last(maps.mean((2, 3)))
        return features.float()


def images(count: int = 5) -> Tensor:
    return torch.randn(count, 3, 8, 4, generator=torch.Generator().manual_seed(1))


def network() -> Network:
    return Network().eval()


def test_right_kernels_are_used(kernels: Any, caplog: pytest.LogCaptureFixture) -> None:
    kernels.use(kernels.right)
    model = network()
    exact = model(images())
    for _ in range(2):
        rough = features_in_bfloat16(model, images())
        assert not torch.equal(rough, exact)
        assert F.cosine_similarity(rough, exact).min() > 0.999
    assert not caplog.records


@pytest.mark.parametrize("fault", [1.5, math.nan])
def test_wrong_kernels_are_not(fault: float, kernels: Any, caplog: pytest.LogCaptureFixture) -> None:
    kernels.spoil(lambda inputs, weight: weight.shape[1] == 8, fault)
    model = network()
    with torch.autocast("cpu", torch.bfloat16):
        unguarded = model(images())
    assert lowest_cosine(model(images()), unguarded) < 0.999
    for count in (5, 5, 3):
        assert torch.equal(features_in_bfloat16(model, images(count)), model(images(count)))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    message = record.getMessage()
    assert "\n" not in message
    assert "batch of 5x3x8x4: " + ("not finite" if math.isnan(fault) else "cosine 0.") in message
    assert "ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16" in message
    assert "precision.autocast=none" in message


def test_each_shape_is_judged_alone(kernels: Any) -> None:
    kernels.spoil(lambda inputs, weight: len(inputs) == 2, math.nan)
    model, all_images = network(), images(6)

    def infer(*, autocast: bool) -> Tensor:
        return infer_in_batches(
            model,
            lambda rows: all_images[rows],
            6,
            prepare=lambda x: x,
            batch_size=4,
            device=CPU,
            autocast=autocast,
            store_on=CPU,
        )

    exact, guarded = infer(autocast=False), infer(autocast=True)
    assert torch.equal(guarded[4:], exact[4:])
    assert not torch.equal(guarded[:4], exact[:4])
    assert F.cosine_similarity(guarded, exact).min() > 0.999


def test_a_shape_is_compared_once(kernels: Any) -> None:
    kernels.use(kernels.right)
    model, calls = network(), []
    model.first.register_forward_hook(lambda *_: calls.append(torch.is_autocast_enabled("cpu")))
    for count in (5, 5, 3, 5, 3):
        features_in_bfloat16(model, images(count))
    assert calls == [False, True, True, False, True, True, True]


def test_float32_is_float32_inside_autocast(kernels: Any) -> None:
    kernels.spoil(lambda inputs, weight: True, math.nan)
    model = network()
    expected = model(images())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(features_in_bfloat16(model, images()), expected)


def test_lowest_cosine() -> None:
    first = torch.tensor([[1.0, 0.0], [3.0, 4.0], [0.0, 0.0]])
    second = torch.tensor([[1.0, 1.0], [6.0, 8.0], [0.0, 0.0]])
    assert lowest_cosine(first, second) == pytest.approx(math.sqrt(0.5))
    assert lowest_cosine(first[1:], second[1:]) == pytest.approx(1)
    assert lowest_cosine(first[2:], second[1:2]) == 0
    for value in (math.nan, math.inf):
        assert lowest_cosine(first, torch.full_like(first, value)) == -1


def recorded(model: nn.Module, batch: Tensor) -> dict[bfloat16.LayerCall, nn.Module]:
    with recording_layers(model) as calls:
        model(batch)
    return calls


def test_recorded_layers() -> None:
    model = network()
    model.first.requires_grad_(False)
    calls = recorded(model, images())
    assert [str(call).partition("(")[0] for call in calls] == ["Conv2d", "Conv2d", "Linear"]
    first, second, last = calls
    assert (first.inputs.shape, second.inputs.shape, last.inputs.shape) == ((5, 3, 8, 4), (5, 8, 8, 4), (5, 16))
    assert [call.inputs.has_gradient for call in calls] == [False, False, True]
    assert [layout.has_gradient for _, layout in first.parameters] == [False, False]
    assert [name for name, _ in last.parameters] == ["weight", "bias"]
    with recording_layers(model) as again:
        model(images())
        model(images())
        model(images(4))
    assert len(again) == 6
    assert again.keys() > calls.keys()
    assert not any(module._forward_pre_hooks for module in model.modules())
    with torch.no_grad():
        assert all(call.inputs.has_gradient for call in recorded(model, images()))


def test_the_memory_format_is_seen() -> None:
    backbone = create_backbone("resnet18", weights="none", width=0.125).eval()
    images = torch.zeros(2, 3, 64, 32)
    dense = recorded(backbone, images)
    last = recorded(
        backbone.to(memory_format=torch.channels_last), images.contiguous(memory_format=torch.channels_last)
    )
    assert len(dense) == len(last)
    assert not dense.keys() & last.keys()
    (call, *_), (call_last, *_) = dense, last
    assert call.inputs.strides == (6144, 2048, 32, 1)
    assert call_last.inputs.strides == (6144, 1, 96, 3)
    generator = torch.Generator().manual_seed(0)
    assert call_last.inputs.draw(generator).is_contiguous(memory_format=torch.channels_last)


def test_layers_of_right_kernels_agree(kernels: Any) -> None:
    kernels.use(kernels.right)
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    calls = {call: layer for call, layer in recorded(model, images()).items() if isinstance(layer, nn.Conv2d)}
    assert first_wrong_layer(calls.items()) is None
    cosines = [compare_layer(layer, call) for call, layer in calls.items()]
    assert list(cosines[0]) == ["output", "gradient of weight", "gradient of bias"]
    assert list(cosines[1]) == ["output", "gradient of input", "gradient of weight"]
    # what is left is the rounding of the result: not nothing, and far above the threshold
    assert all(LAYER_AGREEMENT < min(each.values()) < 1 for each in cosines)
    assert all(1 - min(each.values()) < 1e-4 for each in cosines)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("fault", [0.1, math.nan])
def test_a_wrong_output_is_found(fault: float, kernels: Any) -> None:
    kernels.spoil(lambda inputs, weight: weight.shape[1] == 8, fault)
    found = first_wrong_layer(recorded(network(), images()).items())
    assert found is not None
    assert found.startswith("Conv2d(8, 16, kernel_size=(3, 3), stride=(2, 2)")
    assert "on 5x8x8x4: output, " + ("not finite" if math.isnan(fault) else "cosine 0.99") in found


class WrongGradient(torch.autograd.Function):
    """Identity whose gradient has a fault."""

    @staticmethod
    def forward(ctx: object, values: Tensor, fault: float) -> Tensor:
        ctx.fault = fault  # type: ignore[attr-defined]
        return values.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> tuple[Tensor, None]:
        spoilt = gradient.clone()
        spoilt[-1] += ctx.fault  # type: ignore[attr-defined]
        return spoilt, None


@pytest.mark.parametrize("fault", [1.0, math.nan])
@pytest.mark.parametrize("name", ["input", "weight"])
def test_a_wrong_gradient_is_found_behind_a_right_output(name: str, fault: float, kernels: Any) -> None:
    def conv2d(inputs: Tensor, weight: Tensor, *options: object) -> Tensor:
        if torch.is_autocast_enabled("cpu") and weight.shape[1] == 8:
            if name == "input":
                inputs = WrongGradient.apply(inputs, fault)
            else:
                weight = WrongGradient.apply(weight, fault)
        return kernels.right(inputs, weight, *options)

    kernels.use(conv2d)
    found = first_wrong_layer(recorded(network(), images()).items())
    assert found is not None
    assert f"on 5x8x8x4: gradient of {name}, " in found
    # a layer that is not trained needs no gradients
    assert first_wrong_layer(recorded(network().requires_grad_(False), images()).items()) is None


def test_the_shape_that_is_wrong_on_amx_is_looked_at_and_judged_by_its_values() -> None:
    layer = nn.Conv2d(256, 512, 3, stride=2, padding=1, bias=False).requires_grad_(False)
    inputs = torch.rand(8, 256, 4, 2)
    (call,) = recorded(layer, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        got = layer(inputs)
    is_right = lowest_cosine(layer(inputs)[None], got[None]) > 0.999
    assert (compare_layer(layer, call)["output"] > LAYER_AGREEMENT) == is_right
