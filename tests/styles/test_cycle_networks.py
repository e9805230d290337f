"""CycleGAN's networks, losses and pool of former fakes."""

import pytest
import torch
from torch import nn

from reid_da.errors import InputError
from reid_da.styles.cycle_networks import (
    CycleGenerator,
    ImagePool,
    PatchDiscriminator,
    adversarial_loss,
    cycle_loss,
    discriminator_loss,
    identity_loss,
)


def images(count=2, size=(32, 16), seed=1):
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def halvings(discriminator):
    return sum(isinstance(layer, nn.Conv2d) and layer.stride == (2, 2) for layer in discriminator.layers)


def test_published_sizes():
    # the numbers that the published code prints: 11.378 and 2.765 million
    generator, discriminator = CycleGenerator(), PatchDiscriminator((256, 256))
    assert sum(weight.numel() for weight in generator.parameters()) == 11_378_179
    assert sum(weight.numel() for weight in discriminator.parameters()) == 2_764_737
    kernels = [tuple(m.weight.shape) for m in generator.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert kernels[:3] == [(64, 3, 7, 7), (128, 64, 3, 3), (256, 128, 3, 3)]
    assert kernels[3:-3] == [(256, 256, 3, 3)] * 18
    assert kernels[-3:] == [(256, 128, 3, 3), (128, 64, 3, 3), (3, 64, 7, 7)]
    assert not list(generator.buffers())


def test_a_published_score_sees_70_by_70_pixels():
    # without the normalisation, through which every pixel has a part in every score
    layers = [layer for layer in PatchDiscriminator((256, 256), channels=1).layers if isinstance(layer, nn.Conv2d)]
    discriminator = nn.Sequential(*layers)
    for layer in layers:
        nn.init.ones_(layer.weight)
    picture = torch.zeros(1, 3, 256, 256, requires_grad=True)
    discriminator(picture)[0, 0, 15, 15].backward()
    assert picture.grad[0, 0].any(dim=0).sum() == picture.grad[0, 0].any(dim=1).sum() == 70


@pytest.mark.parametrize(
    ("size", "layers", "patches"),
    [((128, 64), 3, (14, 6)), ((64, 32), 3, (6, 2)), ((32, 16), 2, (6, 2)), ((16, 8), 1, (6, 2)), ((8, 8), 1, (2, 2))],
)
def test_shapes_and_range(size, layers, patches):
    styled = CycleGenerator(channels=4, num_blocks=1)(images(size=size))
    assert styled.shape == (2, 3, *size)
    assert styled.abs().max() <= 1
    discriminator = PatchDiscriminator(size, channels=4)
    assert halvings(discriminator) == layers
    assert discriminator(images(size=size)).shape == (2, 1, *patches)


@pytest.mark.parametrize("size", [(62, 32), (4, 4), (64, 30)])
def test_images_that_do_not_fit(size):
    with pytest.raises(InputError, match=f"image_size: {size[0]}x{size[1]} does not fit .* such as 64x32"):
        PatchDiscriminator(size)


@pytest.mark.parametrize("num_layers", [0, 3])
def test_numbers_of_layers_that_do_not_fit(num_layers):
    assert halvings(PatchDiscriminator((32, 16), channels=2, num_layers=1)) == 1
    with pytest.raises(InputError, match=f"num_layers: should be 1 to 2 for images of 32x16, got {num_layers}"):
        PatchDiscriminator((32, 16), num_layers=num_layers)


def test_dropout_is_on_while_training_and_off_while_styles_are_made():
    generator = CycleGenerator(channels=4, num_blocks=1)
    picture = images()
    assert not torch.equal(generator(picture), generator(picture))
    assert torch.equal(generator.eval()(picture), generator(picture))


def test_each_image_stands_alone():
    generator = CycleGenerator(channels=4, num_blocks=1).eval()
    picture = images()
    assert torch.allclose(generator(picture)[1:], generator(picture[1:]), atol=1e-6)


def test_weights_begin_small_and_biases_at_zero():
    generator = CycleGenerator(channels=16, num_blocks=1)
    for name, value in generator.named_parameters():
        assert value.std().item() == pytest.approx(0.02, rel=0.1) if "weight" in name else not value.any()


def test_losses_by_hand():
    real, fake = torch.tensor([[1.0, 3.0]]), torch.tensor([[0.5, -0.5]])
    assert adversarial_loss(fake).item() == (0.25 + 2.25) / 2
    assert discriminator_loss(real, fake).item() == ((0 + 4) / 2 + 0.25) / 2
    ones, others = torch.ones(1, 3, 2, 1), torch.full((1, 3, 2, 1), -0.5)
    assert cycle_loss(ones, others).item() == identity_loss(others, ones).item() == 1.5


def test_gradients_of_the_losses():
    scores = [torch.randn(2, 1, 3, 2, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(adversarial_loss, scores[:1])
    assert torch.autograd.gradcheck(discriminator_loss, scores)
    assert torch.autograd.gradcheck(cycle_loss, scores)


def exchange_one_by_one(pool, size, numbers, batch):
    """The pool of the published code, with numbers that were drawn before."""
    given = []
    for wanted, slot, image in zip(*numbers, batch, strict=True):
        if len(pool) < size:
            pool.append(image)
        elif wanted and slot < size:
            pool[slot], image = image, pool[slot]
        given.append(image)
    return given


@pytest.mark.parametrize("size", [0, 1, 3, 5])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_pool_is_that_of_a_loop_over_images(size, count):
    pool, expected = ImagePool(size), []
    random_numbers, same_numbers = (torch.Generator().manual_seed(3) for _ in range(2))
    for step in range(20):
        batch = images(count, (2, 1), seed=step)
        wanted = torch.rand(count, generator=same_numbers) < 0.5
        slots = torch.randperm(max(size, count), generator=same_numbers)[:count]
        given = pool.exchange(batch, random_numbers)
        by_hand = exchange_one_by_one(expected, size, (wanted, slots.tolist()), batch)
        assert torch.equal(given, torch.stack(by_hand))
        assert len(pool.images) == len(expected) <= size
    if size:
        assert torch.equal(pool.images, torch.stack(expected))


def test_the_pool_shows_as_many_old_images_as_new_ones():
    pool, generator = ImagePool(50), torch.Generator().manual_seed(0)
    seen = [pool.exchange(torch.full((1, 3, 1, 1), float(step)), generator).max().item() for step in range(1000)]
    assert seen[:50] == list(range(50))
    new = sum(value == step for step, value in enumerate(seen[50:], start=50))
    assert 400 < new < 550
    # once full, none twice: an image is either shown at once or kept for later
    assert len(set(seen[50:])) == len(seen[50:])


def test_the_pool_leaves_its_arguments_alone_and_goes_on_from_its_state():
    first, second = ImagePool(3), ImagePool(3)
    second.load_state_dict(first.state_dict())
    generator = torch.Generator().manual_seed(0)
    for step in range(3):
        batch = images(2, seed=step)
        before = batch.clone()
        first.exchange(batch, generator)
        assert torch.equal(batch, before)
    second.load_state_dict(first.state_dict())
    state = generator.get_state()
    batch = images(2, seed=9)
    given = first.exchange(batch, generator)
    generator.set_state(state)
    assert torch.equal(second.exchange(batch, generator), given)
