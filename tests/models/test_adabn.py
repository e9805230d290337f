"""Batch-norm statistics of other images, against a layer worked out by hand."""

import pytest
import torch
from torch import nn

from reid_da.errors import InputError
from reid_da.models.adabn import with_batch_norms_of


def test_every_layer_has_the_mean_over_the_batches_of_their_statistics():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4), nn.Dropout(0.5)
    ).double()
    network[1].momentum = 0.3
    before = {name: value.clone() for name, value in network.state_dict().items()}
    batches = [2 + torch.randn(5, 3, 8, 6, dtype=torch.float64) for _ in range(3)]
    adapted = with_batch_norms_of(network, batches)
    means, variances = [], []
    for images in batches:
        maps = network[0](images).transpose(0, 1).flatten(1)
        means.append(maps.mean(dim=1))
        variances.append(maps.var(dim=1))
    torch.testing.assert_close(adapted[1].running_mean, torch.stack(means).mean(dim=0))
    torch.testing.assert_close(adapted[1].running_var, torch.stack(variances).mean(dim=0))
    # the second layer sees what the first one makes of each batch
    inputs = []
    for images in batches:
        maps = network[0](images)
        mean, var = maps.mean(dim=(0, 2, 3), keepdim=True), maps.var(dim=(0, 2, 3), keepdim=True, unbiased=False)
        inputs.append(((maps - mean) / (var + 1e-5).sqrt()).relu().mean(dim=(0, 2, 3)))
    torch.testing.assert_close(adapted[3].running_mean, torch.stack(inputs).mean(dim=0))
    assert adapted[1].momentum == 0.3
    assert not any(module.training for module in adapted.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(adapted[0].weight, network[0].weight)


def test_statistics_are_taken_in_float32():
    convolutions, seen = torch.backends.cudnn.conv, []

    class Look(nn.BatchNorm2d):
        def forward(self, maps):
            seen.append(convolutions.fp32_precision)
            return super().forward(maps)

    before, convolutions.fp32_precision = convolutions.fp32_precision, "tf32"
    try:
        with_batch_norms_of(Look(3), [torch.rand(2, 3, 4, 4)])
        assert convolutions.fp32_precision == "tf32"
    finally:
        convolutions.fp32_precision = before
    assert seen == ["ieee"]


def test_without_layers_or_images():
    with pytest.raises(InputError, match="no batch-norm layer"):
        with_batch_norms_of(nn.Linear(2, 2), [torch.zeros(2, 2)])
    with pytest.raises(InputError, match="there are no images"):
        with_batch_norms_of(nn.BatchNorm1d(2), [])
