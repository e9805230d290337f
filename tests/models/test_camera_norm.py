"""Batch normalisation by camera against networks that see one camera at a time."""

import copy
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from reid_da.config import ModelSettings, merge
from reid_da.errors import InputError
from reid_da.evaluation.image_features import camera_normed, extract_features, features_of_rows
from reid_da.experiments.domains import ExperimentContext
from reid_da.methods import load_settings
from reid_da.models.building import build_network
from reid_da.models.camera_norm import LEAST_FOR_STATISTICS, CameraNormed, camera_groups, normalize_by_camera
from reid_da.models.grouped_norm import GroupedBatchNorm2d

CAMERAS = torch.tensor([5, 2, 2, 5, 9, 2, 5, 5, 9, 9, 2, 9, 5])


def images(count, *, seed=1):
    return torch.randn(count, 3, 32, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(**changes):
    options = {"freeze": "none", "bn_mode": "train", "embedding": "none", "test_feature": "embedding", **changes}
    model = ModelSettings(backbone="resnet18", width=0.125, weights="none", target_dropout="none", **options)
    built = build_network(model, num_classes=3, image_size=(32, 16), generator=torch.Generator().manual_seed(5))
    return built.double().train()


def twins(**changes):
    """The network that normalises by camera, and as it is."""
    return network(camera_norm=True, **changes), network(**changes)


class Pixels:
    """Images of cameras that differ in brightness and contrast, in memory."""

    size = (32, 16)
    failed = ()

    def __init__(self, camids):
        generator = torch.Generator().manual_seed(0)
        noise = torch.rand(len(camids), 3, 32, 16, generator=generator)
        gain, shift = 0.2 + 0.15 * camids.float(), 10 + 20 * camids.float()
        self.pixels = (255 * noise * gain[:, None, None, None] + shift[:, None, None, None]).clamp(0, 255).byte()

    def __len__(self):
        return len(self.pixels)

    def gather(self, index, views=None):
        return self.pixels[index]


@given(cameras=st.lists(st.integers(0, 6), min_size=1, max_size=40), least=st.integers(1, 8))
def test_groups_are_of_cameras_and_large_enough(cameras, least):
    groups = camera_groups(torch.tensor(cameras), least=least).tolist()
    sizes, of_camera = Counter(groups), {}
    assert sorted(sizes) == list(range(len(sizes)))
    for camera, group in zip(cameras, groups, strict=True):
        assert of_camera.setdefault(camera, group) == group
    assert min(sizes.values()) >= min(least, len(cameras))
    # no more is merged than has to be: all cameras of a shared group but one are small
    for group in sizes:
        shared = [camera for camera, own in of_camera.items() if own == group]
        assert sum(cameras.count(camera) >= least for camera in shared) <= 1


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_pass_is_what_networks_with_one_camera_each_compute(channels_last):
    by_camera, plain = twins()
    batch = images(len(CAMERAS))
    if channels_last:
        batch = batch.contiguous(memory_format=torch.channels_last)
    weights = torch.randn(len(CAMERAS), plain.backbone.feature_dim, dtype=torch.float64)
    found = by_camera.pooled(batch, CAMERAS)
    (found * weights).sum().backward()
    expected, layers = torch.zeros_like(found), []
    for camera in CAMERAS.unique():
        own = copy.deepcopy(plain)
        mine = camera == CAMERAS
        expected[mine] = own.pooled(batch[mine])
        layers.append((int(mine.sum()), own))
    (expected * weights).sum().backward()
    torch.testing.assert_close(found, expected)
    assert (found - plain.pooled(batch)).abs().max() > 0.01
    for (name, value), *parts in zip(
        by_camera.backbone.named_parameters(), *(own.backbone.parameters() for _, own in layers), strict=True
    ):
        torch.testing.assert_close(value.grad, sum(part.grad for part in parts), msg=name)
    # running statistics follow all cameras, each counted by its images
    for (name, value), *parts in zip(
        by_camera.backbone.named_buffers(), *(own.backbone.buffers() for _, own in layers), strict=True
    ):
        if name.endswith(("mean", "var")):
            mean = sum(count * part for (count, _), part in zip(layers, parts, strict=True)) / len(CAMERAS)
            torch.testing.assert_close(value, mean, msg=name)


def test_weights_neck_and_evaluation_are_those_of_the_plain_network():
    by_camera, plain = twins()
    assert list(by_camera.state_dict()) == list(plain.state_dict())
    assert type(by_camera.embedding_norm) is nn.BatchNorm1d
    torch.testing.assert_close(by_camera.eval()(images(5)), plain.eval()(images(5)), atol=0, rtol=0)


def test_a_copy_has_groups_of_its_own():
    original = network(camera_norm=True)
    other = copy.deepcopy(original)
    layers = [module.groups for module in other.modules() if isinstance(module, GroupedBatchNorm2d)]
    assert layers
    assert all(groups is other.norm_groups for groups in layers)
    assert other.norm_groups is not original.norm_groups


def test_groups_of_a_pass_are_forgotten_after_an_error():
    broken = network(camera_norm=True)
    with pytest.raises(RuntimeError):
        broken.pooled(images(13)[:, :2], CAMERAS)
    assert (broken.norm_groups.owner, broken.norm_groups.sizes) == (None, ())


def test_training_without_cameras_is_a_mistake_of_the_caller():
    with pytest.raises(ValueError, match="has to know the cameras in training"):
        network(camera_norm=True)(images(4), "target")


@pytest.mark.parametrize("flip", [False, True])
def test_features_are_those_with_the_statistics_of_the_camera(flip):
    camids = torch.tensor([0, 1, 2] * 20 + [3] * (LEAST_FOR_STATISTICS - 1))
    rows = torch.arange(1, len(camids) + 1)
    source = Pixels(torch.cat([torch.tensor([0]), camids]))
    plain = network().float().eval()
    before = copy.deepcopy(plain.state_dict())
    model = camera_normed(plain, [(source, rows, camids)])
    assert isinstance(model, CameraNormed)
    assert list(model.statistics) == [0, 1, 2]
    found = features_of_rows(model, source, rows, camids, flip=flip)
    for camera in (0, 1, 2):
        mine = rows[camids == camera]
        # all images of the camera are one batch, whatever their order
        own = copy.deepcopy(plain)
        layers = [module for module in own.backbone.modules() if isinstance(module, nn.BatchNorm2d)]
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None
            layer.train()
        with torch.no_grad():
            own((source.pixels[mine].float() / 255 - MEAN) / STD)
        expected = extract_features(own.eval(), source, flip=flip)[mine]
        torch.testing.assert_close(found[camids == camera], expected, atol=2e-5, rtol=0)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not torch.allclose(found, extract_features(plain, source, flip=flip)[rows], atol=1e-3)


MEAN, STD = (torch.tensor(values)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def test_cameras_differ_less_with_statistics_of_their_own():
    camids = torch.tensor([0, 1, 2, 3] * 16)
    source, rows = Pixels(camids), torch.arange(64)
    plain = network().float().eval()

    def between(features):
        means = torch.stack([features[camids == camera].mean(dim=0) for camera in range(4)])
        return float(means.var(dim=0).sum() / features.var(dim=0).sum())

    model = camera_normed(plain, [(source, rows, camids)])
    assert between(features_of_rows(model, source, rows, camids)) < 0.1
    assert between(extract_features(plain, source)) > 0.3


def test_an_unknown_camera_has_the_statistics_of_all():
    camids = torch.tensor([0, 1] * 10)
    source, rows = Pixels(camids), torch.arange(20)
    model = camera_normed(network().float().eval(), [(source, rows, camids)])
    unknown = features_of_rows(model, source, rows[:4], torch.full((4,), 7))
    assert torch.equal(unknown, features_of_rows(model, source, rows[:4], torch.full((4,), 8)))
    torch.testing.assert_close(unknown, extract_features(model, source)[:4], atol=1e-5, rtol=0)


def test_images_may_be_those_of_several_sources():
    camids = torch.tensor([0, 1] * 16)
    source, rows = Pixels(camids), torch.arange(32)
    plain = network().float().eval()
    one = camera_normed(plain, [(source, rows, camids)])
    two = camera_normed(plain, [(source, rows[:20], camids[:20]), (source, rows[20:], camids[20:])])
    found, expected = (features_of_rows(model, source, rows, camids) for model in (two, one))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"samples_per_norm": 4},
            "model.camera_norm: batch norms are either by camera or by so many images;",
        ),
        ({"bn_mode": "frozen"}, "model.camera_norm: set model.bn_mode=train; layers that keep their statistics"),
    ],
)
def test_what_does_not_go_together(changes, message):
    with pytest.raises(InputError, match=message):
        network(camera_norm=True, **changes)


def test_a_backbone_without_batch_norms():
    with pytest.raises(InputError, match=r"model\.camera_norm: the backbone has no batch norms; set it to false"):
        normalize_by_camera(nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4)))


def test_no_compiled_training(small_tree):
    changes = {"model": {"camera_norm": True}, "precision": {"compile": True}}
    context = ExperimentContext(load_settings(merge(small_tree, changes)))
    with pytest.raises(InputError, match="precision.compile: with model.camera_norm each batch is divided"):
        context.network(num_classes=0)


@pytest.mark.parametrize("count", [0, 1])
def test_no_images_to_take_statistics_from(count):
    camids = torch.zeros(count, dtype=torch.int64)
    with pytest.raises(InputError, match="batch-norm statistics of cameras: there are no images"):
        camera_normed(network().float(), [(Pixels(camids), torch.arange(count), camids)])
