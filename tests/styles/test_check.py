"""Checks of camera styles on cameras that differ in their colours alone, with styles that are perfect and useless."""

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reid_da.datasets import SampleTable, load_dataset
from reid_da.errors import InputError
from reid_da.images import FailedImage, ImageSource, PackedImages, open_images
from reid_da.models.backbones import create_backbone
from reid_da.models.reid_net import ReIDNetwork
from reid_da.styles import TransferViews
from reid_da.styles.camera_classifier import CameraClassifier
from reid_da.styles.check import StyleCheck, check_styles, split_by_camera
from reid_da.training.trained import TrainedModel

COLOURS = torch.tensor([[200, 60, 60], [60, 60, 200]])
STEPS = 40


class ColourAndNoise(nn.Module):
    """A model whose fifteen features are the mean colour, and on a larger scale how the quarters of an image differ."""

    def forward(self, images: Tensor) -> Tensor:
        colour = images.mean(dim=(2, 3), keepdim=True)
        parts = F.adaptive_avg_pool2d(images, (2, 2)) - colour
        return torch.cat([colour.flatten(1), 100 * parts.flatten(1)], dim=1)


def oracle(images: Tensor, from_camids: Tensor, to_camids: Tensor) -> Tensor:
    """The noise of each image on the colour of the camera wanted."""
    shift = COLOURS[to_camids] - COLOURS[from_camids]
    return (images.int() + shift[:, :, None, None]).clamp(0, 255).to(torch.uint8)


def painted(images: Tensor, from_camids: Tensor, to_camids: Tensor) -> Tensor:
    """The colour of the camera wanted, and nothing else."""
    return COLOURS[to_camids].to(torch.uint8)[:, :, None, None].expand_as(images)


def make_table(camids: Sequence[int]) -> SampleTable:
    paths = tuple(f"{row:04d}.jpg" for row in range(len(camids)))
    return SampleTable(name="site/train", root=Path(), paths=paths, pids=np.zeros(len(camids)), camids=np.array(camids))


def make_source(count: int, *, size: tuple[int, int] = (16, 8), failed: Sequence[int] = ()) -> PackedImages:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 1, *size, 3), dtype=np.uint8)
    return PackedImages(pixels, failed=tuple(FailedImage(index=row, reason="cut off") for row in failed))


def views_of(source: ImageSource, table: SampleTable, transfer: Callable[..., Tensor]) -> TransferViews:
    return TransferViews(source, torch.tensor(table.camids), transfer, num_cameras=2)


def run(flat: Path, **changes: object) -> StyleCheck:
    table = load_dataset(flat).train
    source = open_images(table, size=(16, 8), cache="never")
    styles = {name.__name__: views_of(source, table, name) for name in (oracle, painted)}
    chosen = {"model": ColourAndNoise(), "steps": STEPS, "num_cameras": 2, "device": "cpu", **changes}
    return check_styles(source, table, styles, **chosen)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def check(flat: Path) -> StyleCheck:
    return run(flat)


def test_perfect_fakes_beat_the_real_images(check: StyleCheck) -> None:
    identity, perfect, _ = check.styles

    assert (check.num_trained, check.num_images, check.num_cameras) == (32, 32, 2)
    assert check.classifier_accuracy > 0.9
    assert check.guess_accuracy == 0.5
    assert [style.name for style in check.styles] == ["identity", "oracle", "painted"]
    assert [style.num_fakes for style in check.styles] == [32, 32, 32]
    assert identity.camera.own == check.classifier_accuracy
    assert perfect.camera.wanted > 0.9 > 0.1 > identity.camera.wanted
    assert perfect.camera.own < 0.1 < 0.9 < identity.camera.own


def test_fakes_without_content_do_not_find_their_originals(check: StyleCheck) -> None:
    identity, perfect, empty = (style.content for style in check.styles)
    assert identity is not None
    assert perfect is not None
    assert empty is not None

    assert (identity.rank1, identity.mean_reciprocal_rank) == (1, 1)
    assert perfect.rank1 > 0.9 > 0.2 > empty.rank1
    assert perfect.mean_reciprocal_rank > 0.9 > 0.3 > empty.mean_reciprocal_rank


def test_perfect_fakes_are_distributed_as_the_real_images_are(check: StyleCheck) -> None:
    identity, perfect, empty = (style.frechet for style in check.styles)
    assert identity is not None
    assert perfect is not None
    assert empty is not None

    # the noise is the same, and two channels of the colours differ by 2.4 deviations of ImageNet
    assert identity.mean - perfect.mean == pytest.approx(2 * 2.4**2, rel=0.1)
    # noise belongs to the distribution, too
    assert perfect.mean < empty.mean / 2
    assert len(perfect.by_camera) == 2


def test_the_same_seed_gives_the_same_figures(flat: Path, check: StyleCheck) -> None:
    assert run(flat) == check
    assert json.loads(json.dumps(check.to_json()))["styles"][1]["camera"]["wanted"] == check.styles[1].camera.wanted


def test_few_images_and_no_model(flat: Path) -> None:
    check = run(flat, model=None, max_images=5, steps=2)

    assert check.num_images == 5
    assert [style.num_fakes for style in check.styles] == [5, 5, 5]
    assert all(style.content is None and style.frechet is None for style in check.styles)
    # both cameras have their share
    assert sorted(map(sum, check.styles[0].camera.predicted_by_own)) == [2, 3]


def test_a_classifier_that_cannot_tell_cameras_is_told(flat: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check = run(flat, model=None, steps=1)
    assert not check.tells_cameras
    assert "by guessing: its cameras look alike, or more steps are needed" in caplog.text


def test_halves_by_camera_in_the_order_of_the_table() -> None:
    camids = torch.tensor([1, 0, 1, 3, 1, 0, 1, 1])
    first, second = split_by_camera(torch.tensor([0, 1, 2, 3, 5, 6, 7]), camids)
    assert first.tolist() == [1, 0, 2, 3]
    assert second.tolist() == [5, 6, 7]


def test_the_size_of_images_is_that_of_the_model_and_features_are_pooled() -> None:
    table, source = make_table([0, 1] * 6), make_source(12, size=(80, 40), failed=[3])
    backbone = create_backbone("resnet18", width=0.125, weights="none")
    network = ReIDNetwork(backbone, num_classes=3, embedding_dim=8)
    sizes = []

    def note_size_and_enlarge(_: nn.Module, images: tuple[Tensor], features: Tensor) -> Tensor:
        sizes.append(tuple(images[0].shape[2:]))
        return 1000 * features

    backbone.register_forward_hook(note_size_and_enlarge)

    check = check_styles(
        source,
        table,
        {"painted": views_of(source, table, painted)},
        num_cameras=2,
        model=TrainedModel(network=network, image_size=(32, 16)),
        steps=1,
        device="cpu",
    )

    assert set(sizes) == {(32, 16)}
    assert (check.num_trained, check.num_images) == (6, 5)
    # test features have unit length, and could be 4 apart at most
    assert check.styles[1].frechet is not None
    assert check.styles[1].frechet.mean > 4


def test_large_images_are_reduced_for_the_classifier() -> None:
    for size, expected in (((256, 128), (64, 32)), ((64, 32), (64, 32)), ((16, 8), (16, 8))):
        assert CameraClassifier(2, size=size, generator=torch.Generator()).size == expected


def test_cameras_with_one_image_are_wanted_but_have_no_distance() -> None:
    table, source = make_table([0, 0, 0, 0, 1]), make_source(5)
    check = check_styles(source, table, {}, num_cameras=4, model=ColourAndNoise(), steps=1, device="cpu")
    (identity,) = check.styles
    assert identity.camera.by_wanted[0] is identity.camera.by_wanted[3] is None
    assert identity.num_fakes == 2
    assert identity.content is not None
    assert identity.frechet is None


@pytest.mark.parametrize(
    ("camids", "message"),
    [
        ([], "site/train: 0 usable images of 0 cameras; a check of styles needs"),
        ([1, 1, 1], "site/train: 3 usable images of 1 cameras; a check of styles needs"),
        ([0, 1], "site/train: 2 usable images of 2 cameras; a check of styles needs"),
    ],
)
def test_tables_that_cannot_be_checked(camids: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_styles(make_source(len(camids)), make_table(camids), {}, num_cameras=2, device="cpu")


def test_arguments_that_do_not_fit() -> None:
    source, table = make_source(4), make_table([0, 0, 1, 1])
    with pytest.raises(InputError, match="max_images: expected at least 1, got 0"):
        check_styles(source, table, {}, num_cameras=2, max_images=0)
    with pytest.raises(InputError, match="steps: expected at least 1, got 0"):
        check_styles(source, table, {}, num_cameras=2, steps=0)
    with pytest.raises(InputError, match="'identity' is what the real images are called"):
        check_styles(source, table, {"identity": views_of(source, table, oracle)}, num_cameras=2)
    with pytest.raises(ValueError, match="camid 1 does not fit 1 cameras"):
        check_styles(source, table, {}, num_cameras=1)
    other = views_of(make_source(3), make_table([0, 0, 1]), oracle)
    with pytest.raises(ValueError, match="3 oracle, but 4 rows"):
        check_styles(source, table, {"oracle": other}, num_cameras=2)
