"""Features of a source of images against one forward pass over all of them."""

import copy
import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reid_da.errors import InputError
from reid_da.evaluation.image_features import extract_features
from reid_da.models.backbones import Backbone, create_backbone
from reid_da.models.reid_net import ReIDNetwork

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


class Images:
    """Random images in memory."""

    size = (64, 32)
    failed = ()

    def __init__(self, count: int = 7) -> None:
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (count, 64, 32, 3), dtype=torch.uint8, generator=generator)
        self.pixels = pixels.permute(0, 3, 1, 2)

    def __len__(self) -> int:
        return len(self.pixels)

    def gather(self, index: Tensor, views: Tensor | None = None) -> Tensor:
        assert index.dtype == torch.int64
        assert views is None
        return self.pixels[index]


@functools.cache
def backbone() -> Backbone:
    return create_backbone("resnet18", weights="none", generator=torch.Generator().manual_seed(0))


def network() -> ReIDNetwork:
    generator = torch.Generator().manual_seed(1)
    return ReIDNetwork(copy.deepcopy(backbone()), num_classes=3, embedding_dim=8, generator=generator)


@torch.no_grad()
def direct(model: nn.Module, source: Images, *, mirror: bool = False) -> Tensor:
    images = (source.pixels.float() / 255 - MEAN) / STD
    return model.eval()(images.flip(3) if mirror else images)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 256])
def test_features_do_not_depend_on_the_batches(batch_size: int) -> None:
    model, source = network(), Images()
    features = extract_features(model, source, batch_size=batch_size)
    assert features.dtype == torch.float32
    assert features.is_contiguous()
    torch.testing.assert_close(features, direct(model, source), rtol=0, atol=1e-5)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(7))


def test_raw_and_unit_length_features() -> None:
    model, source = backbone(), Images()
    expected = direct(model, source)
    raw = extract_features(model, source, normalize=False)
    torch.testing.assert_close(raw, expected, rtol=1e-4, atol=1e-5)
    assert (raw.norm(dim=1) - 1).abs().min() > 0.1
    unit = extract_features(model, source)
    torch.testing.assert_close(unit, expected / expected.norm(dim=1, keepdim=True), rtol=1e-4, atol=1e-5)


def test_mirror_images_are_averaged_before_the_length_is_set() -> None:
    model, source = backbone(), Images()
    mean = (direct(model, source) + direct(model, source, mirror=True)) / 2
    raw = extract_features(model, source, flip=True, normalize=False)
    torch.testing.assert_close(raw, mean, rtol=1e-4, atol=1e-5)
    unit = extract_features(model, source, flip=True)
    torch.testing.assert_close(unit, mean / mean.norm(dim=1, keepdim=True), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(unit, extract_features(model, source), atol=1e-4)


def test_own_transform() -> None:
    class Mean(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.mean((2, 3))

    source = Images()
    features = extract_features(
        Mean(), source, transform=lambda pixels: pixels.float() - 5, normalize=False, batch_size=2
    )
    torch.testing.assert_close(features, source.pixels.float().mean((2, 3)) - 5)
    assert torch.equal(extract_features(Mean(), source, device="cpu"), extract_features(Mean(), source))


def test_model_keeps_its_modes_and_statistics() -> None:
    model = network().train()
    modes = {name: module.training for name, module in model.named_modules()}
    assert len(set(modes.values())) == 2
    before = {name: value.clone() for name, value in model.state_dict().items()}
    extract_features(model, Images(), flip=True)
    assert {name: module.training for name, module in model.named_modules()} == modes
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_features_are_ordinary_tensors() -> None:
    features = extract_features(network(), Images(2))
    assert not features.requires_grad
    assert not features.is_inference()
    weight = torch.ones(512, requires_grad=True)
    (features * weight).sum().backward()
    torch.testing.assert_close(weight.grad, features.sum(0))


def cosine_in_bfloat16(model: nn.Module, source: Images) -> float:
    """What this processor makes of bfloat16: the lowest cosine with float32, without our guard."""
    exact = direct(model, source)
    images = ((source.pixels.float() / 255 - MEAN) / STD).contiguous(memory_format=torch.channels_last)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rough = model.eval()(images)
    return float(torch.nn.functional.cosine_similarity(exact, rough).min().nan_to_num(-1))


def test_autocast_is_close_to_float32() -> None:
    model, source = network(), Images()
    exact, rough = extract_features(model, source), extract_features(model, source, autocast=True)
    assert rough.dtype == torch.float32
    # bfloat16 is used where the processor computes it rightly, and float32 where it does not
    assert torch.equal(exact, rough) == (cosine_in_bfloat16(model, source) < 0.999)
    assert (exact * rough).sum(1).min() > 0.999


def test_autocast_with_right_and_wrong_kernels(kernels: Any) -> None:
    kernels.use(kernels.right)
    model, source = network(), Images()
    exact, rough = extract_features(model, source), extract_features(model, source, autocast=True)
    assert not torch.equal(exact, rough)
    assert (exact * rough).sum(1).min() > 0.999
    kernels.spoil(lambda inputs, weight: weight.shape[:3] == (512, 256, 3), 0.9)
    model = network()
    assert cosine_in_bfloat16(model, source) < 0.999
    for flip in (False, True):
        exact = extract_features(model, source, flip=flip, batch_size=3)
        assert torch.equal(extract_features(model, source, flip=flip, batch_size=3, autocast=True), exact)


def test_no_images() -> None:
    with pytest.raises(InputError, match="there are no images"):
        extract_features(network(), Images(0))


def with_nan(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        next(iter(model.parameters()))[0, 0, 1, 1] = torch.nan
    return model


def test_one_nan_in_the_weights_is_blamed_on_the_weights() -> None:
    model = with_nan(create_backbone("resnet18", width=0.125, weights="none"))
    with pytest.raises(InputError, match=r"the model: 1 of 120 weight tensors hold NaN .*\(conv1.weight\)"):
        extract_features(model, Images())


class ByBrightness(nn.Module):
    """Features that are not finite, or zero, for some images alone."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, images: Tensor) -> Tensor:
        means = images.mean((1, 2, 3))
        features = torch.ones(len(images), 2)
        features[means == 0] = self.value
        return features


@pytest.mark.parametrize("batch_size", [2, 256])
def test_images_whose_features_are_no_numbers_are_named(batch_size: int) -> None:
    source = Images()
    source.pixels[[2, 5]] = 0
    options = {"transform": Tensor.float, "batch_size": batch_size}
    number = 1 if batch_size == 2 else 2  # the first batch that has one ends it
    for value in (torch.nan, torch.inf):
        with pytest.raises(InputError, match=rf"though its weights are finite, for {number} images \(image 2"):
            extract_features(ByBrightness(value), source, **options, label="image {}".format)
    with pytest.raises(InputError, match=r"features: 2 rows are all zeros; .* \(image 2, image 5\)"):
        extract_features(ByBrightness(0.0), source, **options, label="image {}".format)
    assert not extract_features(ByBrightness(0.0), source, **options, normalize=False)[2].any()
    # the square of such a length is no number: scaled to unit length the feature would become 0
    with pytest.raises(InputError, match=r"2 rows are too large or too small to square .* \(image 2, image 5\)"):
        extract_features(ByBrightness(1e30), source, **options, label="image {}".format)
