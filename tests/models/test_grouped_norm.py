"""Batch normalisation by groups against networks that see one group at a time, as several GPUs do."""

import copy

import pytest
import torch
from torch import nn

from reid_da.config import ModelSettings
from reid_da.errors import InputError
from reid_da.models.building import build_network
from reid_da.models.grouped_norm import group_batch_norms


def images(count, *, seed=1):
    return torch.randn(count, 3, 32, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(**changes):
    model = ModelSettings(
        backbone="resnet18", width=0.125, weights="none", embedding_dim=16, target_dropout="none", **changes
    )
    generator = torch.Generator().manual_seed(5)
    built = build_network(model, num_classes=3, image_size=(32, 16), generator=generator)
    return built.double().train()


def twins(samples, **changes):
    """The network with groups, and as it is."""
    return network(samples_per_norm=samples, **changes), network(**changes)


@pytest.mark.parametrize("channels_last", [False, True])
def test_groups_are_what_devices_with_parts_of_the_batch_compute(channels_last):
    grouped, plain = twins(4, freeze="none", bn_mode="train")
    batch = images(12)
    if channels_last:
        batch = batch.contiguous(memory_format=torch.channels_last)
    devices = [copy.deepcopy(plain) for _ in range(3)]
    expected = [device(part, "target") for device, part in zip(devices, batch.split(4), strict=True)]
    found = grouped(batch, "target")
    torch.testing.assert_close(found, torch.cat(expected))
    assert (found - plain(batch, "target")).abs().max() > 0.01
    # the first device keeps its running statistics, the others lose theirs
    for (name, value), first in zip(grouped.named_buffers(), devices[0].buffers(), strict=True):
        torch.testing.assert_close(value, first, msg=name)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (found * weights).sum().backward()
    (torch.cat(expected) * weights).sum().backward()
    for (name, value), *parts in zip(
        grouped.named_parameters(), *(device.parameters() for device in devices), strict=True
    ):
        if not name.startswith("classifier"):
            torch.testing.assert_close(value.grad, sum(part.grad for part in parts), msg=name)


def test_the_whole_batch_is_one_group_unless_asked_otherwise():
    plain = network()
    assert group_batch_norms(plain, 0) is plain
    assert not any(hasattr(module, "samples") for module in plain.modules())
    grouped, plain = twins(8)
    torch.testing.assert_close(grouped(images(8), "target"), plain(images(8), "target"), atol=0, rtol=0)


@pytest.mark.parametrize(("count", "parts"), [(7, [4, 3]), (5, [5]), (2, [2]), (11, [4, 4, 3])])
def test_a_batch_that_is_no_multiple_has_groups_of_no_fewer(count, parts):
    grouped, plain = twins(3, freeze="none", bn_mode="train")
    expected = torch.cat([copy.deepcopy(plain)(part, "target") for part in images(count).split(parts)])
    torch.testing.assert_close(grouped(images(count), "target"), expected)


def test_weights_evaluation_and_what_is_held_are_those_of_the_plain_network():
    grouped, plain = twins(4)
    assert list(grouped.state_dict()) == list(plain.state_dict())
    frozen = [[name for name, p in net.named_parameters() if not p.requires_grad] for net in (grouped, plain)]
    assert frozen[0] == frozen[1] != []
    torch.testing.assert_close(grouped.eval()(images(12)), plain.eval()(images(12)), atol=0, rtol=0)
    held = [[name for name, m in net.train().named_modules() if not m.training] for net in (grouped, plain)]
    assert held[0] == held[1] != []
    before = grouped.backbone.bn1.running_mean.clone()
    grouped(images(12))
    assert torch.equal(grouped.backbone.bn1.running_mean, before)


def test_a_group_of_one_image_and_other_kinds_of_layers_are_one_line():
    with pytest.raises(InputError, match="^samples_per_norm: expected 0 or at least 2, got 1$"):
        network(samples_per_norm=1)
    with pytest.raises(InputError, match="^samples_per_norm: this network has BatchNorm3d layers, .*another backbone"):
        group_batch_norms(nn.Sequential(nn.BatchNorm3d(2)), 4)
