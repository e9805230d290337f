"""ECN++: what its graph network learns from, and what it decides."""

import copy

import pytest
import torch
from harness import EcnSteps
from torch.nn import functional

from reid_da.errors import InputError
from reid_da.models.pair_graph import PositivePrediction, positive_loss

LABELS = torch.tensor([0, 0, 1, 1, 2, 2, 0, 1])
NUM_SLOTS, DIM, K = 9, 32, 4
TEMPERATURE = 0.2


def random(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def source():
    return torch.tensor([5, 0, 3, 1]), random(4, 3, 32, 16, seed=1)


def target():
    return torch.tensor([7, 2, 8, 4]), 3 * random(4, 3, 32, 16, seed=2) + 2


def slots(count, seed):
    return functional.normalize(random(count, DIM, seed=seed))


def gpp(*, epoch=5, filled=True, memory=None, **changes):
    memory = {"num_neighbors": K, "neighbors_from_epoch": 2, **(memory or {})}
    changes = {"method": "ecn-gpp", "memory": memory, "positives": {"widths": [8, 6], "threshold": 0.5}, **changes}
    steps = EcnSteps.build(labels=LABELS, num_slots=NUM_SLOTS, changes=changes)
    steps.begin_epoch(epoch)
    if filled:
        steps.fill(slots(NUM_SLOTS, 3))
        steps.method.source_memory.slots.copy_(slots(len(LABELS), 4))
    return steps


def features(network, images):
    with torch.no_grad():
        return copy.deepcopy(network).train()(images, "target")


def nearest(values, memory, own):
    """K nearest slots of each feature beside its own."""
    order = (values @ memory.T).argsort(dim=1, descending=True).tolist()
    return torch.tensor([[slot for slot in row if slot != i][:K] for row, i in zip(order, own.tolist(), strict=True)])


def test_the_graph_network_learns_from_labelled_slots_of_the_source():
    steps = gpp()
    rows, images = source()
    values, memory = features(steps.network, images), slots(len(LABELS), 4)
    candidates = nearest(values, memory, rows)
    is_same = LABELS[candidates] == LABELS[rows][:, None]
    assert 0 < is_same.sum() < is_same.numel()
    logits = steps.method.prediction(values, memory[candidates], torch.ones_like(is_same))
    expected = positive_loss(logits, is_same, torch.ones_like(is_same))
    assert steps.losses(source(), target())["positives"].item() == pytest.approx(expected.item(), rel=1e-9)


def test_its_loss_stays_in_it_and_the_loss_of_the_target_out_of_it():
    steps = gpp(positives={"widths": [8], "threshold": 0.0})
    losses = steps.losses(source(), target())
    assert losses["neighborhood"].item() > 0
    losses["positives"].backward(retain_graph=True)
    assert all(value.grad is None for value in steps.network.parameters())
    assert any(value.grad.any() for value in steps.method.prediction.parameters())
    steps.method.prediction.zero_grad(set_to_none=True)
    (losses["exemplar"] + losses["neighborhood"] + losses["cross_entropy"]).backward()
    assert all(value.grad is None for value in steps.method.prediction.parameters())


@pytest.mark.parametrize("threshold", [0.0, 0.4, 0.5, 0.6, 1.0])
def test_sure_candidates_are_the_positives_of_the_target(threshold):
    steps = gpp(positives={"widths": [8, 6], "threshold": threshold})
    with torch.no_grad():
        # so that probabilities spread
        steps.method.prediction.classifier.weight.mul_(30)
    rows, images = target()
    values, memory = features(steps.network, images), slots(NUM_SLOTS, 3)
    candidates = nearest(values, memory, rows)
    logits = steps.method.prediction(values, memory[candidates], torch.ones_like(candidates, dtype=torch.bool))
    is_positive = logits.softmax(dim=2)[:, :, 1] > threshold
    costs = -(values @ memory.T / TEMPERATURE).log_softmax(dim=1)
    expected = sum(
        costs[row, candidates[row, is_positive[row]]].mean().item() for row in range(4) if is_positive[row].any()
    )
    losses = steps.losses(source(), target())
    assert losses["neighborhood"].item() == pytest.approx(0.3 * expected / 4, rel=1e-9)
    figures = steps.method.end_epoch()
    assert figures["positives_per_image"] == is_positive.sum().item() / 4
    assert figures["positives_images"] == is_positive.any(dim=1).sum().item() / 4
    # every target image of the test is a person of its own
    assert figures.get("positives_precision", 0.0) == 0.0


def test_positives_begin_with_their_epoch_and_the_training_of_the_graph_network_with_its_own():
    changes = {"positives": {"widths": [8], "train_from_epoch": 1}}
    names = [set(gpp(epoch=epoch, **changes).losses(source(), target())) for epoch in (0, 1, 2)]
    assert names[0] == {"cross_entropy", "exemplar"}
    assert names[1] == {"cross_entropy", "exemplar", "positives"}
    assert names[2] == {"cross_entropy", "exemplar", "positives", "neighborhood"}


def test_both_memories_move_after_the_backward_pass():
    steps = gpp(epoch=2, memory={"momentum_rate": 0.2})
    rows, images = source()
    values = features(steps.network, images)
    before = slots(len(LABELS), 4)
    sum(steps.losses(source(), target()).values()).backward()
    assert torch.equal(steps.method.source_memory.slots, before)
    steps.finish()
    before[rows] = functional.normalize(0.4 * before[rows] + 0.6 * values)
    torch.testing.assert_close(steps.method.source_memory.slots, before, atol=1e-12, rtol=0)
    assert not torch.equal(steps.slots, slots(NUM_SLOTS, 3))


def test_empty_memories_have_no_candidates_and_finite_gradients():
    steps = gpp(filled=False)
    losses = steps.losses(source(), target())
    assert losses["positives"].item() == losses["neighborhood"].item() == 0
    sum(losses.values()).backward()
    assert all(value.grad is None or value.grad.isfinite().all() for value in steps.method.trained.parameters())


def test_the_own_slot_may_be_a_candidate():
    steps = gpp(memory={"own_slot": "overwrite"}, positives={"widths": [8], "threshold": 0.0})
    rows, images = target()
    memory = slots(NUM_SLOTS, 3)
    memory[rows] = functional.normalize(features(steps.network, images))
    steps.fill(memory)
    losses = steps.losses(source(), target())
    costs = -(features(steps.network, images) @ memory.T / TEMPERATURE).log_softmax(dim=1)
    near = costs.argsort(dim=1)[:, :K].tolist()
    others = [[slot for slot in slots if slot != own] for slots, own in zip(near, rows.tolist(), strict=True)]
    assert all(len(found) == K - 1 for found in others)
    expected = sum(costs[row, found].mean().item() for row, found in enumerate(others)) / 4
    assert losses["neighborhood"].item() == pytest.approx(0.3 * expected, rel=1e-9)


def test_what_is_saved_is_what_goes_on():
    steps = gpp()
    sum(steps.losses(source(), target()).values()).backward()
    steps.finish()
    other = gpp(filled=False)
    other.method.load_state_dict(steps.method.state_dict())
    other.method.trained.load_state_dict(steps.method.trained.state_dict())
    expected, found = (made.losses(source(), target()) for made in (steps, other))
    assert {name: value.item() for name, value in found.items()} == {name: v.item() for name, v in expected.items()}


def test_the_graph_network_is_optimised_with_a_rate_of_its_own():
    groups = gpp(positives={"widths": [8], "lr": 0.5}).method.parameter_groups()
    assert [group["name"] for group in groups] == ["backbone", "new", "positives"]
    assert groups[2]["lr"] == 0.5
    assert gpp().method.parameter_groups()[2]["lr"] == gpp().method.parameter_groups()[1]["lr"]
    assert isinstance(gpp().method.trained["positives"], PositivePrediction)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"memory": {"num_neighbors": 8}}, "num_neighbors is 8, but a source image has 7 others"),
        ({"invariance": {"neighborhood": False}}, "ecn-gpp is about the neighbours; use method=ecn"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_the_training(changes, message):
    with pytest.raises(InputError, match=message):
        gpp(**changes)
