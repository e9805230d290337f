"""The cross-entropy that keeps the own class apart, against that of the head's logits; and Partial FC."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from reid_da.errors import InputError
from reid_da.losses._unit import SHORTEST
from reid_da.losses.margin import MARGINS, Margin
from reid_da.losses.margin_head import MarginHead, margin_cross_entropy
from reid_da.losses.margin_softmax import other_classes, sampled_classes
from reid_da.shards import Shard
from reid_da.world import World

MEMBERS = {
    **MARGINS,
    "straight_through": Margin(m2=0.5, straight_through=True),
    "easy": Margin(m2=0.5, scale=8.0, beyond="easy"),
    "rising": Margin(m1=1.35, m2=0.3, m3=0.1, scale=8.0, beyond="none"),
}


def problem(seed, *, samples=6, classes=7, dim=3, dtype=torch.float64):
    """Features, centres of all lengths and labels; some of each are nearly zero, and one sample has no class."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(samples, dim, dtype=dtype, generator=generator)
    weight = torch.randn(classes, dim, dtype=dtype, generator=generator)
    features[0] *= 0.4 * SHORTEST
    features[1] = 0
    weight[0] *= 0.7 * SHORTEST
    weight[classes // 2] = 0
    label = torch.randint(classes, (samples,), generator=generator)
    label[2], label[3] = classes // 2, -1
    return features.requires_grad_(), weight.requires_grad_(), label


def by_logits(features, weight, label, *, margin, step=1, **options):
    """The loss as torch computes it from the logits of a head."""
    head = MarginHead(weight.shape[1], len(weight), margin=margin).to(weight.dtype)
    head.steps.fill_(step - 1)
    logits = torch.func.functional_call(head, {"weight": weight}, (features, label))
    return functional.cross_entropy(logits, label, ignore_index=-1, **options)


def gradients(value, inputs):
    """By the inputs, for unequal gradients of the values."""
    upstream = torch.linspace(0.5, 2.0, value.numel(), dtype=value.dtype).view_as(value)
    return torch.autograd.grad(value, inputs, upstream, retain_graph=True, materialize_grads=True)


def assert_equal(found, expected, inputs):
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for rows, ours, theirs in zip(inputs, gradients(found, inputs), gradients(expected, inputs), strict=True):
        # a change by a share of its length changes the loss by up to 64 of it, the scale: so large is the rounding
        length = rows.detach().norm(dim=1, keepdim=True).clamp_min(SHORTEST)
        torch.testing.assert_close(ours * length, theirs * length, rtol=1e-12, atol=64e-12)


@pytest.mark.parametrize("name", MEMBERS)
@settings(max_examples=30)
@given(
    seed=st.integers(0, 10**6),
    smoothing=st.sampled_from([0.0, 0.1]),
    step=st.sampled_from([1, 50, 10**6]),
    reduction=st.sampled_from(["mean", "none"]),
)
def test_value_and_gradients_are_those_of_the_logits(name, seed, smoothing, step, reduction):
    features, weight, label = problem(seed)
    options = {"margin": MEMBERS[name], "step": step, "label_smoothing": smoothing, "reduction": reduction}
    found = margin_cross_entropy(features, weight, label, **options)
    assert_equal(found, by_logits(features, weight, label, **options), (features, weight))


@pytest.mark.parametrize("name", ["sphereface", "combined"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradient_by_differences(name, smoothing):
    features, weight, label = problem(1)
    # away from zero, where a difference of 1e-6 is not small; no feature along a centre, where the margin has a kink
    others = torch.tensor([0.3, -0.2, 0.5]), torch.tensor([0.3, 0.4, -0.1])
    features, weight = (
        torch.where(rows.norm(dim=1, keepdim=True) < 0.01, other, rows).detach()
        for rows, other in zip((features, weight), others, strict=True)
    )
    margin = Margin(**{**vars(MARGINS[name]), "scale": 4.0 if MARGINS[name].scale else None})
    assert torch.autograd.gradcheck(
        lambda x, w: margin_cross_entropy(
            x, w, label, margin=margin, step=10**6, label_smoothing=smoothing, reduction="none"
        ),
        (features.requires_grad_(), weight.requires_grad_()),
    )


@pytest.mark.parametrize("sampled", [None, [0, 2, 3, 6], []])
@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), chunk_size=st.sampled_from([1, 2, 3, 7, 100]))
def test_blocks_and_rows_that_are_left_out(sampled, seed, chunk_size):
    """Against the whole matrix; the backward pass runs several times."""
    generator = torch.Generator().manual_seed(seed)
    rows = (5 * torch.randn(4, 3, dtype=torch.float64, generator=generator)).requires_grad_()
    weight = torch.randn(7, 3, dtype=torch.float64, generator=generator).requires_grad_()
    place = torch.tensor([0, 3, -1, 6])
    takes_part = torch.ones(7, dtype=torch.bool)
    if sampled is not None:
        takes_part = functional.one_hot(torch.tensor(sampled, dtype=torch.int64), 7).sum(0).bool()
        sampled = torch.tensor(sampled, dtype=torch.int64)
    units = functional.normalize(weight)
    products = rows @ units.T
    has_class = (place >= 0)[:, None]
    is_own = functional.one_hot(place.clamp_min(0), 7).bool() & has_class
    expected = (
        products.masked_fill(is_own | ~takes_part, -torch.inf).logsumexp(1),
        torch.where(has_class, units[place.clamp_min(0)], 0),
        (products * takes_part).sum(1),
    )
    found = other_classes(rows, weight, place, sampled=sampled, with_total=True, chunk_size=chunk_size)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
        if torch.isfinite(theirs).all():  # torch's own gradient of a log-sum-exp of nothing is NaN
            for mine, other in zip(gradients(ours, (rows, weight)), gradients(theirs, (rows, weight)), strict=True):
                torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("name", MARGINS)
def test_float32_and_lower_precision_inside_autocast(name):
    features, weight, label = problem(3, samples=16, classes=40, dim=8, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = margin_cross_entropy(features, weight, label, margin=MARGINS[name])
        of_inside = torch.autograd.grad(inside, (features, weight))
    outside = margin_cross_entropy(features, weight, label, margin=MARGINS[name])
    assert inside.dtype == torch.float32
    assert torch.equal(inside, outside)
    for found, expected in zip(of_inside, torch.autograd.grad(outside, (features, weight)), strict=True):
        assert torch.equal(found, expected)
    wide = [tensor.detach().double().requires_grad_() for tensor in (features, weight)]
    exact = by_logits(*wide, label, margin=MARGINS[name])
    assert outside.item() == pytest.approx(exact.item(), rel=1e-5)


def test_a_head_with_one_class_has_no_loss():
    features, weight = torch.randn(3, 2, requires_grad=True), torch.randn(1, 2, requires_grad=True)
    loss = margin_cross_entropy(features, weight, torch.zeros(3, dtype=torch.int64), margin=MARGINS["arcface"])
    assert loss.item() == 0
    assert not any(gradient.any() for gradient in torch.autograd.grad(loss, (features, weight)))


def test_confident_samples_keep_their_loss():
    """Where the difference of two logits is beyond the precision of the larger one."""
    weight = torch.eye(2)
    loss = margin_cross_entropy(
        torch.tensor([[1.0, -1.0]]), weight, torch.tensor([0]), margin=Margin(scale=40.0), reduction="none"
    )
    assert loss.item() == pytest.approx(torch.tensor(-40 * 2**0.5).exp().item(), rel=1e-4)


def test_labels_beyond_the_classes():
    features, weight, _ = problem(0)
    with pytest.raises(ValueError, match="label: expected -1 to 6, got 7"):
        margin_cross_entropy(features, weight, torch.full((6,), 7), margin=Margin())


RATE, TOTAL = 0.1, 150_000
"""Rate and number of classes, which have three seeds."""


def drawn(label, *, processes=1, **changes):
    """Numbers of the classes that so many processes sample together."""
    options = {"rate": RATE, "seed": 3, "step": 7, **changes}
    shards = [Shard(TOTAL, World(rank, processes)) for rank in range(processes)]
    parts = [sampled_classes(label, shard, **options) + shard.rows.start for shard in shards]
    return torch.cat(parts)


def test_a_sample_has_the_classes_of_the_batch_and_a_share_of_the_others():
    label = torch.tensor([5, 149_999, -1, 5, 77_000])
    rows = drawn(label)
    assert set(rows.tolist()) >= {5, 77_000, 149_999}
    assert (rows.diff() > 0).all()
    deviation = (TOTAL * RATE * (1 - RATE)) ** 0.5
    assert abs(len(rows) - TOTAL * RATE) < 5 * deviation
    assert sampled_classes(label, Shard(TOTAL), rate=1.0, seed=0, step=1) is None


def test_a_sample_depends_on_seed_and_step_alone():
    label = torch.tensor([1, 2, 149_998])
    torch.manual_seed(0)
    before, state = drawn(label), torch.get_rng_state()
    assert torch.equal(before, drawn(label))
    assert torch.equal(state, torch.get_rng_state())
    for processes in (2, 3, 4):
        assert torch.equal(before, drawn(label, processes=processes))
    for changes in ({"seed": 4}, {"step": 8}):
        # two independent draws have a hundredth of the classes in common
        both = len(set(before.tolist()) & set(drawn(label, **changes).tolist()))
        assert both < 1.2 * TOTAL * RATE**2


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_partial_fc_is_the_loss_of_a_head_with_the_sampled_classes(smoothing):
    features, weight, _ = problem(5, samples=4, classes=200, dim=4)
    label = torch.tensor([3, 199, 50, 3])
    head = MarginHead(4, 200, margin=MARGINS["arcface"], sample_rate=0.2).double()
    head.weight = torch.nn.Parameter(weight.detach())
    head.count_step()
    kept = sampled_classes(label, head.shard, rate=0.2, seed=9, step=2)
    assert 4 < len(kept) < 100
    part = weight.detach()[kept].requires_grad_()
    of_part = by_logits(
        features, part, torch.searchsorted(kept, label), margin=MARGINS["arcface"], label_smoothing=smoothing
    )
    found = head.cross_entropy(features, label, label_smoothing=smoothing, seed=9)
    assert found.item() == pytest.approx(of_part.item(), rel=1e-12)
    of_features, of_weight = torch.autograd.grad(found, (features, head.weight))
    expected = torch.autograd.grad(of_part, (features, part))
    torch.testing.assert_close(of_features, expected[0], rtol=1e-12, atol=1e-11)
    torch.testing.assert_close(of_weight[kept], expected[1], rtol=1e-12, atol=1e-11)
    left_out = torch.ones(200, dtype=torch.bool)
    left_out[kept] = False
    assert not of_weight[left_out].any()
    head.count_step()
    assert head.cross_entropy(features, label, seed=9).item() != pytest.approx(found.item(), rel=1e-6)


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1])
def test_rates_that_make_no_sense(rate):
    with pytest.raises(InputError, match="sample_rate: expected a share above 0 and at most 1"):
        MarginHead(2, 2, margin=Margin(), sample_rate=rate)


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
@pytest.mark.parametrize("num_classes", [3, 9001])
def test_processes_draw_the_centres_that_one_would_draw(processes, num_classes):
    def weight(world):
        generator = torch.Generator().manual_seed(0)
        head = MarginHead(2, num_classes, margin=Margin(), init="xavier", generator=generator, world=world)
        return head.weight, generator.get_state()

    (whole, state), parts = weight(World()), [weight(World(rank, processes)) for rank in range(processes)]
    assert torch.equal(torch.cat([rows for rows, _ in parts]), whole)
    assert all(torch.equal(state, other) for _, other in parts)
    assert whole.std().item() == pytest.approx((2 / (2 + num_classes)) ** 0.5, rel=0.2 if num_classes > 3 else 1)


def test_copies_know_which_classes_they_have():
    head = copy.deepcopy(MarginHead(2, 9, margin=Margin(), world=World(1, 2))).double()
    assert head.weight.shard == Shard(9, World(1, 2))
    assert len(head.weight) == 4
