"""The feature extractor: one answer for every way to give it the same images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms

from reid_da.errors import InputError
from reid_da.models.backbones import create_backbone
from reid_da.models.extractor import FeatureExtractor

SIZE = (64, 32)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="module")
def weight_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    backbone = create_backbone("resnet18", weights="none", generator=torch.Generator().manual_seed(0))
    torch.save(backbone.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three lossless images of the network's size."""
    folder = tmp_path_factory.mktemp("images")
    pixels = np.random.default_rng(0).integers(0, 256, (3, *SIZE, 3), dtype=np.uint8)
    paths = [folder / f"{number}.png" for number in range(3)]
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image).save(path)
    return paths


def extractor(weight_file: Path, **options: Any) -> FeatureExtractor:
    return FeatureExtractor("resnet18", weight_file, image_size=SIZE, **options)


def reference(weight_file: Path, images: list[Image.Image], *, mode: transforms.InterpolationMode) -> Tensor:
    """Features by torchvision's transforms, one image at a time."""
    backbone = create_backbone("resnet18", weights=weight_file).eval()
    steps = [transforms.Resize(SIZE, mode), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    transform = transforms.Compose(steps)
    with torch.no_grad():
        return torch.cat([backbone(transform(image)[None]) for image in images])


def test_every_kind_of_input_gives_the_same_features(weight_file: Path, files: list[Path]) -> None:
    arrays = [np.asarray(Image.open(path)) for path in files]
    pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)
    unit = pixels.float() / 255
    normalised = transforms.functional.normalize(unit, MEAN, STD)
    extract = extractor(weight_file)
    expected = reference(weight_file, [Image.open(path) for path in files], mode=transforms.InterpolationMode.BICUBIC)
    assert expected.std(0).mean() > 0.01
    inputs = {
        "paths": files,
        "names": [str(path) for path in files],
        "arrays": arrays,
        "array": np.stack(arrays),
        "uint8": pixels,
        "normalised": normalised,
        "float64": normalised.double(),
    }
    for kind, images in inputs.items():
        features = extract(images)
        assert features.shape == (3, 512), kind
        assert features.dtype == torch.float32, kind
        torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5, msg=kind)
    single = {"path": files[0], "name": str(files[0]), "array": arrays[0], "uint8": pixels[0], "float": normalised[0]}
    for kind, image in single.items():
        torch.testing.assert_close(extract(image), expected[:1], rtol=1e-4, atol=1e-5, msg=kind)
    from_unit = extractor(weight_file, float_tensors="unit")(unit)
    torch.testing.assert_close(from_unit, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_images_of_different_sizes(interpolation: str, weight_file: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    images = [
        Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in ((90, 50), (30, 70), SIZE)
    ]
    for number, image in enumerate(images):
        image.save(tmp_path / f"{number}.png")
    mode = transforms.InterpolationMode(interpolation)
    expected = reference(weight_file, images, mode=mode)
    extract = extractor(weight_file, interpolation=interpolation)
    by_path = extract(sorted(tmp_path.iterdir()))
    torch.testing.assert_close(by_path, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(extract([np.asarray(image) for image in images]), by_path)
    mixed = extract([tmp_path / "0.png", np.asarray(images[1]), str(tmp_path / "2.png")])
    torch.testing.assert_close(mixed, by_path)


def test_colour_order(weight_file: Path, files: list[Path]) -> None:
    array = np.asarray(Image.open(files[0]))
    rgb, bgr = extractor(weight_file), extractor(weight_file, color_order="bgr")
    expected = rgb(files[0])
    assert not torch.allclose(rgb(array[..., ::-1]), expected, rtol=1e-2)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    normalised = transforms.functional.normalize(tensor / 255, MEAN, STD)
    for image in (array[..., ::-1], tensor.flip(0), normalised.flip(0), files[0]):
        torch.testing.assert_close(bgr(image), expected, rtol=1e-4, atol=1e-5)


def test_pixel_statistics(weight_file: Path, files: list[Path]) -> None:
    extract = extractor(weight_file, pixel_mean=(0.5, 0.4, 0.3), pixel_std=(0.2, 0.3, 0.4))
    images = torch.stack([transforms.functional.to_tensor(Image.open(path)) for path in files])
    normalised = transforms.functional.normalize(images, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    torch.testing.assert_close(extract(files), extract(normalised), rtol=1e-4, atol=1e-5)


def test_batch_size_changes_nothing(weight_file: Path, files: list[Path]) -> None:
    one, many = (extractor(weight_file, batch_size=size)(files * 3) for size in (1, 4))
    torch.testing.assert_close(one, many, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(many, extractor(weight_file)(files).repeat(3, 1), rtol=1e-5, atol=1e-5)


def test_features_can_be_changed_in_place(weight_file: Path, files: list[Path]) -> None:
    features = extractor(weight_file)(files)
    assert not features.is_inference()
    features /= features.norm(dim=1, keepdim=True)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(3))


def test_autocast_is_close(weight_file: Path, files: list[Path]) -> None:
    extract = extractor(weight_file)
    exact, rough = extract(files), extractor(weight_file, autocast=True)(files)
    assert rough.dtype == torch.float32
    pixels = torch.stack([transforms.functional.to_tensor(Image.open(path)) for path in files])
    images = transforms.functional.normalize(pixels, MEAN, STD).contiguous(memory_format=torch.channels_last)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        unguarded = torch.nn.functional.cosine_similarity(extract.model(images), exact).min().nan_to_num(-1)
    # bfloat16 is used where the processor computes it rightly, and float32 where it does not
    assert torch.equal(exact, rough) == (unguarded < 0.999)
    assert torch.nn.functional.cosine_similarity(exact, rough).min() > 0.999


def test_autocast_with_right_and_wrong_kernels(weight_file: Path, files: list[Path], kernels: Any) -> None:
    kernels.use(kernels.right)
    exact, rough = extractor(weight_file)(files), extractor(weight_file, autocast=True)(files)
    assert not torch.equal(exact, rough)
    assert torch.nn.functional.cosine_similarity(exact, rough).min() > 0.999
    kernels.spoil(lambda inputs, weight: weight.shape[:3] == (512, 256, 3), float("nan"))
    guarded = extractor(weight_file, autocast=True)
    for _ in range(2):
        assert torch.equal(guarded(files), exact)


def test_last_stride_is_passed_on(weight_file: Path, files: list[Path]) -> None:
    dense = extractor(weight_file, last_stride=1)
    assert dense.model.feature_map(torch.zeros(1, 3, *SIZE)).shape[2:] == (4, 2)
    assert not torch.allclose(dense(files), extractor(weight_file)(files), rtol=1e-2)


def test_random_weights_must_be_asked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="resnet18: give its weight file"):
        FeatureExtractor("resnet18")
    with pytest.raises(InputError, match="absent.pth: no such weight file"):
        FeatureExtractor("resnet18", "absent.pth")
    with pytest.raises(InputError, match="resnet18: give its weight file"):
        FeatureExtractor("resnet18", tmp_path / "absent.pth", weights="none")
    assert FeatureExtractor("resnet18", weights="none", image_size=SIZE)(np.zeros((4, 4, 3), np.uint8)).isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"color_order": "rbg"}, "unknown color_order 'rbg'"),
        ({"float_tensors": "units"}, "unknown float_tensors 'units'.*did you mean 'unit'"),
        ({"interpolation": "nearest"}, "unknown interpolation 'nearest'"),
        ({"weights": "imagnet"}, "unknown weights 'imagnet'.*did you mean 'imagenet'"),
        ({"image_size": (0, 128)}, r"image_size: expected .* at least 1, got \(0, 128\)"),
        ({"device": "quantum"}, "device 'quantum' is not available"),
        ({"last_stride": 4}, "last_stride: expected 1 or 2"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        FeatureExtractor("resnet18", **({"weights": "none"} | options))


def test_wrong_batch_size(weight_file: Path, files: list[Path]) -> None:
    with pytest.raises(InputError, match="batch_size: expected at least 1, got 0"):
        extractor(weight_file, batch_size=0)(files)


def test_images_that_cannot_be_used(weight_file: Path, files: list[Path], tmp_path: Path) -> None:
    extract = extractor(weight_file, float_tensors="unit")
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    absent = tmp_path / "absent.jpg"
    pixels = r"expected uint8 pixels of shape \(H, W, 3\)"
    cases: list[tuple[Any, str]] = [
        ([*files, broken], f"^{broken}: cannot be decoded as an image"),
        (str(absent), f"^{absent}: cannot be decoded as an image"),
        ([], "no images"),
        (torch.zeros(0, 3, *SIZE), "no images"),
        (np.zeros((8, 8), np.uint8), rf"{pixels}, got uint8 of shape \(8, 8\)"),
        (np.zeros((3, 8, 8), np.uint8), pixels),
        (np.zeros((8, 8, 3)), rf"{pixels}, got float64"),
        ([np.zeros((8, 8, 4), np.uint8)], pixels),
        (torch.zeros(8, 8), r"expected a uint8 or floating-point tensor .* got torch.float32 of shape \(8, 8\)"),
        (torch.zeros(2, 8, 8, 3), "expected a uint8 or floating-point tensor"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), "got torch.int64"),
        (torch.full((3, *SIZE), 255.0), "float_tensors='unit': expected values from 0 to 1, got 255 to 255"),
        (torch.full((3, *SIZE), -0.5), "expected values from 0 to 1, got -0.5 to -0.5"),
    ]
    for images, message in cases:
        with pytest.raises(InputError, match=message):
            extract(images)


def test_things_that_are_no_images(weight_file: Path) -> None:
    with pytest.raises(TypeError, match="expected paths, arrays or a tensor, got int"):
        extractor(weight_file)(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="expected the path of an image or an array, got Tensor"):
        extractor(weight_file)([torch.zeros(3, 8, 8)])  # type: ignore[list-item]


@pytest.mark.parametrize("shape", [(0, 5, 3), (5, 0, 3)])
def test_an_empty_crop_is_no_black_image(shape):
    extractor = FeatureExtractor("resnet18", weights="none", image_size=(32, 16))
    crops = [np.full((9, 5, 3), 200, dtype=np.uint8), np.zeros(shape, dtype=np.uint8)]
    with pytest.raises(InputError, match=r"images\[1\]: the shape \(.*\) has no pixels; leave empty crops out"):
        extractor(crops)
    height, width, _ = shape
    for dtype in (torch.uint8, torch.float32):
        with pytest.raises(InputError, match="has no pixels"):
            extractor(torch.zeros(2, 3, height, width, dtype=dtype))


def test_pixels_that_are_no_numbers():
    extractor = FeatureExtractor("resnet18", weights="none", image_size=(32, 16))
    images = torch.rand(3, 3, 32, 16)
    images[1, 0, 4, 4] = torch.nan
    with pytest.raises(InputError, match=r"images: 1 of 3 hold NaN or infinite values \(1\)"):
        extractor(images)


def test_weights_that_are_no_numbers():
    extractor = FeatureExtractor("resnet18", weights="none", image_size=(32, 16))
    with torch.no_grad():
        extractor.model.layer4[0].conv1.weight[3, 0, 0, 0] = torch.inf
    with pytest.raises(InputError, match=r"weight tensors hold NaN or infinite values \(layer4.0.conv1.weight\)"):
        extractor(np.zeros((9, 5, 3), dtype=np.uint8))
