"""Generators that make changes of an image."""

import pytest
import torch

from reid_da.styles.cycle_networks import CycleGenerator
from reid_da.styles.output import to_image
from reid_da.styles.star_networks import StarGenerator


def images():
    """Random colours, black and white among them."""
    values = torch.rand(3, 3, 16, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    values[0, :, 0] = -1
    values[0, :, 1] = 1
    return values


def star():
    generator = StarGenerator(3, channels=4, num_blocks=1, residual=True)
    return generator, lambda x: generator(x, torch.tensor([0, 1, 2]))


def cycle():
    generator = CycleGenerator(channels=4, num_blocks=1, residual=True).eval()
    return generator, generator


@pytest.mark.parametrize("make", [star, cycle])
def test_they_begin_with_the_image_itself_and_can_learn(make):
    generator, apply = make()
    # half a grey level of 255
    assert (apply(images()) - images()).abs().max() < 1 / 255
    apply(images()).mean().backward()
    last = next(module for module in reversed(generator.layers) if list(module.parameters()))
    assert last.weight.grad.abs().sum() > 0
    with torch.no_grad():
        last.weight.add_(0.5 * torch.randn(last.weight.shape, generator=torch.Generator().manual_seed(1)))
    changed = apply(images())
    assert (changed - images()).abs().max() > 0.05
    assert changed.abs().max() <= 1


def test_a_change_moves_every_colour_the_same_way():
    base = images()
    brighter = to_image(torch.full_like(base, 0.3), base)
    assert (brighter > base - 2e-3).all()
    middle = base.abs() < 0.9
    assert (brighter[middle] > base[middle] + 0.01).all()
    assert torch.equal(to_image(base), base.tanh())
