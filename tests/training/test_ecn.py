"""ECN's own part: what a step computes from which memory, and what it does to the memory afterwards."""

import copy
import math

import pytest
import torch
from harness import EcnSteps, experiment, loss_curve
from torch.nn import functional

from reid_da.errors import InputError

LABELS = torch.tensor([0, 0, 1, 1, 2, 2])
NUM_SLOTS, DIM, K = 9, 32, 3
TEMPERATURE = 0.2


def random(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def source():
    return torch.tensor([5, 0, 3, 1]), random(4, 3, 32, 16, seed=1)


def target(seed=2):
    """A batch of another domain: brighter, with more contrast."""
    return torch.tensor([7, 2, 8, 4]), 3 * random(4, 3, 32, 16, seed=seed) + 2


def slots():
    return functional.normalize(random(NUM_SLOTS, DIM, seed=3))


def ecn(*, epoch=0, filled=True, **changes):
    steps = EcnSteps.build(labels=LABELS, num_slots=NUM_SLOTS, changes=changes)
    steps.begin_epoch(epoch)
    if filled:
        steps.fill(slots())
    return steps


def target_features(network, images):
    """What the target branch gives in training, with the statistics of these images alone."""
    with torch.no_grad():
        return copy.deepcopy(network).train()(images, "target")


def minus_log_p(features, memory):
    """(B, M) -log p(j|x) by the formula."""
    logits = features @ memory.T / TEMPERATURE
    return logits.exp().sum(dim=1, keepdim=True).log() - logits


def cross_entropy(network, batch):
    index, images = batch
    with torch.no_grad():
        log_p = copy.deepcopy(network).train()(images, "source").log_softmax(dim=1)
    return -log_p[torch.arange(len(index)), LABELS[index]].mean().item()


def exemplar(network, batch, memory):
    index, images = batch
    return minus_log_p(target_features(network, images), memory)[torch.arange(len(index)), index].mean().item()


def neighborhood(network, batch, memory):
    """Mean over the K nearest slots, of which the own one counts nothing: it has its weight in the exemplar term."""
    index, images = batch
    features = target_features(network, images)
    costs, total = minus_log_p(features, memory), 0.0
    for row, own in enumerate(index.tolist()):
        nearest = sorted(range(NUM_SLOTS), key=lambda slot: costs[row, slot].item())[:K]
        total += sum(costs[row, slot].item() / K for slot in nearest if slot != own)
    return total / len(index)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_lambda_weighs_the_target_against_the_source(weight):
    steps = ecn(epoch=5, loss_weight=weight)
    before = copy.deepcopy(steps.network)
    losses = steps.losses(source(), target())
    expected = {
        "cross_entropy": (1 - weight) * cross_entropy(before, source()),
        "exemplar": weight * exemplar(before, target(), slots()),
        "neighborhood": weight * neighborhood(before, target(), slots()),
    }
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(expected, rel=1e-9)


def test_without_any_invariance_the_source_has_all_the_weight():
    steps = ecn(filled=False, invariance={"exemplar": False, "camera": False, "neighborhood": False})
    before = copy.deepcopy(steps.network)
    losses = steps.losses(source(), target())
    steps.finish()
    assert set(losses) == {"cross_entropy"}
    assert losses["cross_entropy"].item() == pytest.approx(cross_entropy(before, source()), rel=1e-9)


@pytest.mark.parametrize("switch", ["camera", "neighborhood"])
def test_camera_and_neighbourhood_invariance_build_on_the_exemplars(switch):
    switches = {"exemplar": False, "camera": False, "neighborhood": False, switch: True}
    with pytest.raises(InputError, match="invariance.exemplar: camera and neighborhood build on it"):
        ecn(filled=False, invariance=switches)


@pytest.mark.parametrize(
    ("epoch", "memory", "momentum"),
    [
        (0, {"momentum_rate": 0.01}, 0.0),
        (1, {"momentum_rate": 0.01}, 0.01),
        (37, {"momentum_rate": 0.01}, 0.37),
        (3, {"momentum_rate": 0.2}, 0.6),
        (3, {"momentum_rate": 0.2, "momentum_cap": 0.5}, 0.5),
        # published for 60 epochs, here squeezed into 3
        (2, {"momentum_rate": 0.01, "momentum_stretch": True}, 0.4),
    ],
)
def test_slots_keep_a_share_that_grows_with_the_epoch(epoch, memory, momentum):
    steps = ecn(epoch=epoch, memory=memory)
    index, images = target()
    features = target_features(steps.network, images)
    sum(steps.losses(source(), target()).values()).backward()
    steps.finish()
    expected = slots()
    expected[index] = functional.normalize(momentum * expected[index] + (1 - momentum) * features)
    assert torch.allclose(steps.slots, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("epoch", [0, 2])
def test_a_step_looks_at_the_memory_before_it_moves_it(epoch):
    steps = ecn(epoch=epoch)
    first = copy.deepcopy(steps.network)
    losses = steps.losses(source(), target())
    assert losses["exemplar"].item() == pytest.approx(0.3 * exemplar(first, target(), slots()), rel=1e-9)
    sum(losses.values()).backward()
    assert torch.equal(steps.slots, slots())
    steps.finish()
    moved = steps.slots
    assert not torch.allclose(moved, slots())
    second = copy.deepcopy(steps.network)
    losses = steps.losses(source(), target(seed=4))
    assert losses["exemplar"].item() == pytest.approx(0.3 * exemplar(second, target(seed=4), moved), rel=1e-9)


def test_gradients_come_from_the_memory_before_the_step():
    steps = ecn(epoch=2, loss_weight=1.0, invariance={"neighborhood": False})
    twin = copy.deepcopy(steps.network).train()
    index, images = target()
    sum(steps.losses(source(), target()).values()).backward()
    steps.finish()
    cost = minus_log_p(twin(images, "target"), slots())[torch.arange(len(index)), index].mean()
    cost.backward()
    found, expected = steps.network.backbone.conv1.weight.grad, twin.backbone.conv1.weight.grad
    assert expected.abs().max() > 0
    assert torch.allclose(found, expected, rtol=1e-7, atol=1e-10 * expected.abs().max().item())


def test_the_memory_moves_once_for_each_step():
    steps = ecn(epoch=2)
    steps.losses(source(), target())
    steps.finish()
    moved = steps.slots
    steps.finish()
    assert torch.equal(steps.slots, moved)


@pytest.mark.parametrize(("epoch", "has_term"), [(0, False), (1, False), (2, True), (3, True)])
def test_the_neighbourhood_joins_at_its_epoch(epoch, has_term):
    steps = ecn(epoch=epoch, memory={"neighbors_from_epoch": 2})
    before = copy.deepcopy(steps.network)
    losses = steps.losses(source(), target())
    assert ("neighborhood" in losses) is has_term
    assert losses["exemplar"].item() == pytest.approx(0.3 * exemplar(before, target(), slots()), rel=1e-9)
    if has_term:
        assert losses["neighborhood"].item() == pytest.approx(0.3 * neighborhood(before, target(), slots()), rel=1e-9)


def test_the_neighbourhood_never_joins_where_it_is_switched_off():
    assert "neighborhood" not in ecn(epoch=9, invariance={"neighborhood": False}).losses(source(), target())


def test_source_and_target_pass_with_the_statistics_of_their_own_domain():
    steps = ecn()
    twin = copy.deepcopy(steps.network)
    losses = steps.losses(source(), target())
    other = ecn().losses(source(), target(seed=5))
    # neither branch sees the images of the other domain
    assert losses["cross_entropy"].item() == other["cross_entropy"].item()
    brighter = (source()[0], source()[1] + 4)
    assert losses["exemplar"].item() == ecn().losses(brighter, target())["exemplar"].item()
    # running statistics take over the source first and the target second
    with torch.no_grad():
        twin(source()[1], "source")
        twin(target()[1], "target")
    found, expected = dict(steps.network.named_buffers()), dict(twin.named_buffers())
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert found["backbone.bn1.num_batches_tracked"] == 2


def test_the_loop_lets_a_step_look_at_the_memory_that_the_step_before_left(coded_sites, tmp_path):
    changes = {"epochs": 1, "invariance": {"neighborhood": False}}
    settings = experiment(coded_sites / "source", coded_sites / "target", changes)
    first, second, _ = loss_curve(settings, tmp_path / "unused", dtype=torch.float64)
    # nothing but zeros in 18 slots: all have the same probability, whatever the network says
    assert first["exemplar"] == pytest.approx(0.3 * math.log(18), rel=1e-9)
    assert abs(second["exemplar"] - 0.3 * math.log(18)) > 1e-3
