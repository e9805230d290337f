"""One step of CycleGAN, and the styles that come of it."""

import copy

import pytest
import torch

from reid_da.errors import InputError
from reid_da.images import Batch
from reid_da.methods.protocol import RunContext
from reid_da.styles.cycle_networks import CycleGenerator
from reid_da.styles.cyclegan import CycleGAN
from reid_da.styles.generator import PairTransfer
from reid_da.styles.trained import load_style_settings
from reid_da.styles.training_images import StyleImages

SIZE = (16, 8)


def settings(*overrides):
    tiny = ["method=cyclegan", "pair=[1, 2]", "data.image_size=[16, 8]", "channels=4", "num_blocks=1"]
    tiny += ["batch=2", "dropout=0", "pool_size=3"]
    return load_style_settings(None, [*tiny, *overrides])


@pytest.fixture
def training(flat):
    def make(*overrides):
        torch.manual_seed(0)
        chosen = settings(f"data.dataset={flat}", *overrides)
        context = RunContext(run_seed=chosen.seed, device=torch.device("cpu"))
        method = CycleGAN(chosen, context, StyleImages.open(chosen))
        method.begin_epoch(0)
        return method

    return make


def batches(seed=1):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: Batch(rows=torch.arange(2), images=torch.rand(2, 3, *SIZE, generator=generator) * 2 - 1)
        for name in ("first", "second")
    }


def gradients(network):
    return {name: value.grad for name, value in network.named_parameters() if value.grad is not None}


def test_losses_are_those_of_the_paper_one_by_one(training):
    method = training("cycle_weight=3", "identity_weight=2")
    network, given = copy.deepcopy(method.networks), batches()
    losses = method.step(given)
    generator, discriminator = network.generator, network.discriminator
    first, second = given["first"].images, given["second"].images
    fake_first, fake_second = generator.to_first(second), generator.to_second(first)
    expected = {
        "adversarial": (discriminator.first(fake_first) - 1).square().mean()
        + (discriminator.second(fake_second) - 1).square().mean(),
        "cycle": 3 * (generator.to_first(fake_second) - first).abs().mean()
        + 3 * (generator.to_second(fake_first) - second).abs().mean(),
        "identity": 2 * (generator.to_first(first) - first).abs().mean()
        + 2 * (generator.to_second(second) - second).abs().mean(),
        # the pool has room, so that it passes the fakes on
        "discriminator": 0.5 * (discriminator.first(first) - 1).square().mean()
        + 0.5 * discriminator.first(fake_first).square().mean()
        + 0.5 * (discriminator.second(second) - 1).square().mean()
        + 0.5 * discriminator.second(fake_second).square().mean(),
    }
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value.item(), rel=1e-4), name


def moved_in_turns(network, given):
    """Weights after a step in the published order: the generators move first, then the discriminators."""
    generator, discriminator = network.generator, network.discriminator
    first, second = given["first"].images, given["second"].images
    of_generators, of_discriminators = (
        torch.optim.SGD(part.parameters(), lr=1.0) for part in (generator, discriminator)
    )
    fake_first, fake_second = generator.to_first(second), generator.to_second(first)
    loss = (discriminator.first(fake_first) - 1).square().mean() + (
        discriminator.second(fake_second) - 1
    ).square().mean()
    loss += 10 * (generator.to_first(fake_second) - first).abs().mean()
    loss += 10 * (generator.to_second(fake_first) - second).abs().mean()
    loss += 5 * (generator.to_first(first) - first).abs().mean()
    loss += 5 * (generator.to_second(second) - second).abs().mean()
    loss.backward()
    of_generators.step()
    of_discriminators.zero_grad()
    for judge, real, fake in ((discriminator.first, first, fake_first), (discriminator.second, second, fake_second)):
        (0.5 * (judge(real) - 1).square().mean() + 0.5 * judge(fake.detach()).square().mean()).backward()
    of_discriminators.step()
    return network.state_dict()


def test_one_step_moves_all_networks_as_the_published_order_does(training):
    method = training()
    expected = moved_in_turns(copy.deepcopy(method.networks), batches())
    optimizer = torch.optim.SGD(method.networks.parameters(), lr=1.0)
    torch.stack(list(method.step(batches()).values())).sum().backward()
    optimizer.step()
    for name, value in method.networks.state_dict().items():
        assert torch.allclose(value, expected[name], atol=1e-4), name


@pytest.mark.parametrize("autocast", [False, True])
def test_no_loss_moves_the_networks_of_the_other_side(training, autocast):
    def losses():
        method = training()
        # its cache of weights must not lead to those that are frozen
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            return method, method.step(batches())

    for name in ("adversarial", "cycle", "identity"):
        method, given = losses()
        given[name].backward()
        assert all(key.startswith("generator.") for key in gradients(method.networks))
    method, given = losses()
    given["discriminator"].backward()
    names = gradients(method.networks)
    assert names.keys() == {name for name, _ in method.networks.named_parameters() if name.startswith("discriminator.")}


@pytest.mark.parametrize(("pool_size", "varies"), [(0, False), (2, True)])
def test_the_discriminators_are_shown_former_fakes(training, pool_size, varies):
    method = training(f"pool_size={pool_size}")
    method.step(batches(1))
    # nothing is trained, and the images are the same: the loss varies with what the pool gives
    values = {round(method.step(batches(2))["discriminator"].item(), 6) for _ in range(8)}
    assert (len(values) > 1) == varies


def test_without_identity_loss_there_is_none(training):
    assert training("identity_weight=0").step(batches()).keys() == {"adversarial", "cycle", "discriminator"}


def test_the_state_holds_the_pools_and_the_cameras(training):
    method, other = training(), training()
    for step in range(3):
        method.step(batches(step))
    state = method.state_dict()
    assert (state["camids"], state["num_cameras"]) == ([0, 1], 2)
    other.load_state_dict(state)
    for one in (method, other):
        one.begin_epoch(1)
    assert method.step(batches(9))["discriminator"] == other.step(batches(9))["discriminator"]


def test_the_running_mean_moves_once_for_each_step(training):
    method = training("average=0.75")
    begin = copy.deepcopy(method.networks.average)
    method.step(batches())
    with torch.no_grad():
        for value in method.networks.generator.parameters():
            value += 1
    method.after_update()
    for old, mean in zip(begin.parameters(), method.networks.average.parameters(), strict=True):
        assert torch.allclose(mean - old, torch.full_like(old, 0.25), atol=1e-6)


def test_each_way_has_its_generator_and_groups_do_not_disturb_each_other():
    torch.manual_seed(0)
    ways = {(0, 14): None, (14, 0): None, (0, 2): None}
    transfer = PairTransfer({way: CycleGenerator(channels=2, num_blocks=1) for way in ways})
    images = torch.randint(256, (5, 3, *SIZE), dtype=torch.uint8)
    own, wanted = torch.tensor([0, 14, 0, 0, 2]), torch.tensor([14, 0, 2, 14, 2])
    styled = transfer(images, own, wanted)
    assert styled.dtype == torch.uint8
    assert styled.is_contiguous(memory_format=torch.channels_last)
    for row in range(5):
        alone = transfer(images[row : row + 1], own[row : row + 1], wanted[row : row + 1])
        assert (styled[row].int() - alone[0].int()).abs().max() <= 1
    assert torch.equal(styled[4], images[4])
    assert not torch.equal(styled[0], images[0])
    assert torch.equal(transfer(images, own, wanted), styled)


def test_a_pair_without_a_generator_is_named():
    transfer = PairTransfer({(0, 14): CycleGenerator(channels=2, num_blocks=1)})
    images = torch.zeros(2, 3, *SIZE, dtype=torch.uint8)
    with pytest.raises(
        InputError, match=r"no generator from camera 15 to camera 2: .* pairs 1-15; train it with pairs=\[\[2, 15\]\]"
    ):
        transfer(images, torch.tensor([0, 14]), torch.tensor([14, 1]))
