"""StarGAN's networks and losses."""

import pytest
import torch
from torch import nn

from reid_da.errors import InputError
from reid_da.styles.star_networks import StarCritic, StarGenerator, critic_loss, gradient_penalty


def seeded(module):
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return module


def images(count=3, size=(32, 16)):
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_published_sizes():
    generator = StarGenerator(6)
    kernels = [tuple(m.weight.shape) for m in generator.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert kernels[:3] == [(64, 9, 7, 7), (128, 64, 4, 4), (256, 128, 4, 4)]
    assert kernels[3:-3] == [(256, 256, 3, 3)] * 12
    assert kernels[-3:] == [(256, 128, 4, 4), (128, 64, 4, 4), (3, 64, 7, 7)]
    critic = StarCritic(6, image_size=(256, 128))
    assert [m.out_channels for m in critic.layers if isinstance(m, nn.Conv2d)] == [64, 128, 256, 512, 1024, 2048]
    assert critic.camera.weight.shape == (6, 2048, 4, 2)


@pytest.mark.parametrize("size", [(64, 32), (128, 64), (32, 16)])
@pytest.mark.parametrize("num_cameras", [2, 15])
def test_shapes_and_range(size, num_cameras):
    generator = seeded(StarGenerator(num_cameras, channels=4, num_blocks=1))
    styled = generator(images(size=size), torch.tensor([0, 1, num_cameras - 1]))
    assert styled.shape == (3, 3, *size)
    assert styled.abs().max() <= 1
    scores, logits = StarCritic(num_cameras, image_size=size, channels=4)(images(size=size))
    assert scores.shape == (3, 1, 4, 2)
    assert logits.shape == (3, num_cameras)


def test_the_style_follows_the_camera_and_each_image_stands_alone():
    generator = seeded(StarGenerator(3, channels=4, num_blocks=1))
    first, second = (generator(images(), torch.tensor(cameras)) for cameras in ([0, 1, 2], [0, 2, 2]))
    assert torch.allclose(first[0], second[0], atol=1e-6)
    assert torch.allclose(first[2], second[2], atol=1e-6)
    assert not torch.allclose(first[1], second[1], atol=1e-3)


def test_evaluation_mode_changes_nothing():
    generator = seeded(StarGenerator(3, channels=4, num_blocks=1))
    camids = torch.tensor([0, 1, 2])
    for _ in range(3):
        trained = generator(3 * images(), camids)
    assert torch.equal(generator.eval()(3 * images(), camids), trained)


def test_losses_of_the_critic():
    real, fake = torch.tensor([[1.0, 3.0]]), torch.tensor([[0.5, -0.5]])
    assert critic_loss(real, fake).item() == -2.0


def test_gradient_penalty_equals_finite_differences():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 3 * 4 * 2, dtype=torch.float64, generator=generator)

    def score(x):
        return torch.tanh(x.flatten(1) @ weight.T)

    real, fake = torch.randn(2, 3, 3, 4, 2, dtype=torch.float64, generator=generator)
    share = torch.rand(3, dtype=torch.float64, generator=generator)
    found = gradient_penalty(score, real, fake, share)
    penalties = []
    for r, f, s in zip(real, fake, share, strict=True):
        point = s * r + (1 - s) * f
        gradient = []
        for place in range(point.numel()):
            step = torch.zeros(point.numel(), dtype=torch.float64)
            step[place] = 1e-6
            step = step.view_as(point)
            gradient.append((score((point + step)[None]).sum() - score((point - step)[None]).sum()) / 2e-6)
        penalties.append((torch.stack(gradient).norm() - 1) ** 2)
    assert found.item() == pytest.approx(torch.stack(penalties).mean().item(), rel=1e-6)


def test_the_penalty_trains_the_critic_and_not_the_generator():
    critic = StarCritic(2, image_size=(32, 16), channels=4)
    fake = images().requires_grad_()
    gradient_penalty(lambda x: critic(x)[0], images(), fake, torch.rand(3)).backward()
    assert fake.grad is None
    assert critic.layers[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("size", [(60, 30), (64, 12)])
def test_images_that_cannot_be_halved(size):
    with pytest.raises(InputError, match=r"cannot be halved \d times"):
        StarCritic(2, image_size=size)
