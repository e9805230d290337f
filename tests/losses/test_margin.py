"""Margin softmax against the definitions, one sample and one class at a time in float64."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from reid_da.errors import InputError
from reid_da.losses._unit import SHORTEST
from reid_da.losses.margin import MARGINS, Margin, margin_logits, sphereface_annealing
from reid_da.losses.margin_head import MarginHead

FAMILY = {
    "norm_softmax": (1.0, 0.0, 0.0),
    "sphereface": (4.0, 0.0, 0.0),
    "cosface": (1.0, 0.0, 0.35),
    "arcface": (1.0, 0.5, 0.0),
    "combined": (1.0, 0.3, 0.2),
    "multiplicative": (1.35, 0.0, 0.0),
}


def slow_target(cosine, m1, m2, m3, beyond):
    """The target logit by the text of the papers."""
    theta = math.acos(cosine)
    phi = m1 * theta + m2
    if (m1, m2) == (1.0, 0.0) or (beyond == "easy" and cosine <= 0):
        return cosine - m3
    if beyond == "hard" and m1 == 1.0:
        return (math.cos(phi) if cosine >= math.cos(math.pi - m2) else cosine - m2 * math.sin(math.pi - m2)) - m3
    if beyond == "hard":
        k = math.floor(phi / math.pi)
        return (-1) ** k * math.cos(phi) - 2 * k - m3
    return math.cos(phi) - m3


def cosines(seed, rows=6, classes=5):
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.rand(rows, classes, dtype=torch.float64, generator=generator) - 1


@pytest.mark.parametrize("beyond", ["hard", "easy", "none"])
@pytest.mark.parametrize("name", FAMILY)
@given(seed=st.integers(0, 1000))
def test_equals_the_definition(name, beyond, seed):
    m1, m2, m3 = FAMILY[name]
    cosine = cosines(seed)
    label = torch.tensor([0, 1, 2, 3, 4, -1])
    logits = margin_logits(cosine, label, m1=m1, m2=m2, m3=m3, beyond=beyond)
    for row, target in enumerate(label.tolist()):
        for column in range(5):
            value = cosine[row, column].item()
            expected = slow_target(value, m1, m2, m3, beyond) if column == target else value
            assert logits[row, column].item() == pytest.approx(expected, abs=1e-12)


def test_a_multiplied_angle_equals_the_polynomial_of_sphereface():
    cosine = torch.linspace(-1, 1, 401, dtype=torch.float64)[:, None]
    found = margin_logits(cosine, torch.zeros(401, dtype=torch.int64), m1=4.0).squeeze(1)
    c = cosine.squeeze(1)
    quarter = 8 * c**4 - 8 * c**2 + 1
    sign_0, sign_3 = torch.sign(c), torch.sign(c) * torch.sign(2 * c**2 - 1)
    sign_4 = 2 * sign_0 + sign_3 - 3
    inside = (c.abs() > 1e-9) & ((2 * c**2 - 1).abs() > 1e-9)
    assert torch.allclose(found[inside], (sign_3 * quarter + sign_4)[inside], atol=1e-12)


@pytest.mark.parametrize("name", FAMILY)
def test_hard_targets_fall_with_the_angle(name):
    m1, m2, m3 = FAMILY[name]
    cosine = torch.linspace(-1, 1, 5001, dtype=torch.float64)[:, None]
    label = torch.zeros(5001, dtype=torch.int64)
    logits = margin_logits(cosine, label, m1=m1, m2=m2, m3=m3).squeeze(1)
    assert (logits.diff() > 0).all()
    assert (logits <= cosine.squeeze(1) + 1e-12).all()


@pytest.mark.parametrize("beyond", ["hard", "easy", "none"])
@pytest.mark.parametrize("name", FAMILY)
def test_gradient(name, beyond):
    m1, m2, m3 = FAMILY[name]
    values = torch.tensor([-0.99, -0.95, -0.6, -0.1, 0.1, 0.45, 0.9, 0.99], dtype=torch.float64)
    cosine = torch.stack([values, values.flip(0)], dim=1).requires_grad_()
    label = torch.zeros(len(values), dtype=torch.int64)
    assert torch.autograd.gradcheck(
        lambda c: margin_logits(c, label, m1=m1, m2=m2, m3=m3, beyond=beyond), (cosine,), eps=1e-7
    )


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("edge", [1 - 1e-7, -1 + 1e-7])
def test_gradient_next_to_plus_and_minus_one(name, edge):
    m1, m2, m3 = FAMILY[name]
    cosine = torch.tensor([[edge]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda c: margin_logits(c, torch.tensor([0]), m1=m1, m2=m2, m3=m3), (cosine,), eps=1e-11, atol=1e-2, rtol=1e-3
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", FAMILY)
def test_value_and_gradient_are_finite_everywhere(name, dtype):
    m1, m2, m3 = FAMILY[name]
    eps = torch.finfo(dtype).eps
    values = [-1 - eps, -1.0, -1 + eps, -1e-30, 0.0, 1 - eps, 1.0, 1 + eps]
    cosine = torch.tensor(values, dtype=dtype)[:, None].requires_grad_()
    logits = margin_logits(cosine, torch.zeros(len(values), dtype=torch.int64), m1=m1, m2=m2, m3=m3)
    logits.sum().backward()
    assert logits.dtype == torch.promote_types(dtype, torch.float32)
    assert torch.isfinite(logits).all()
    assert torch.isfinite(cosine.grad).all()
    # the margin pushes towards the centre, never away from it; a multiplied angle has flat points
    assert (cosine.grad > -1e-6).all()


def test_without_a_margin_it_is_the_plain_softmax():
    cosine, label = cosines(0), torch.tensor([0, 1, 2, 3, 4, 0])
    assert torch.equal(margin_logits(cosine, label), cosine)


def test_straight_through_leaves_the_value_and_drops_the_factor():
    cosine = cosines(1).requires_grad_()
    label = torch.tensor([0, 1, 2, 3, 4, 0])
    exact = margin_logits(cosine, label, m2=0.5)
    passed = margin_logits(cosine, label, m2=0.5, straight_through=True)
    assert torch.equal(exact, passed)
    (gradient,) = torch.autograd.grad(passed.sum(), cosine)
    assert torch.equal(gradient, torch.ones_like(gradient))
    (gradient,) = torch.autograd.grad(exact.sum(), cosine)
    assert not torch.allclose(gradient[range(6), label], torch.ones(6, dtype=torch.float64))


def test_annealing_follows_the_published_schedule():
    # the authors' layer counts before it takes the weight: the first step is step 1
    assert sphereface_annealing(1) == pytest.approx(1000 / 1.12)
    assert sphereface_annealing(10**6) == 5
    assert sphereface_annealing(100, base=10, gamma=1, power=2, minimum=0) == pytest.approx(10 / 101**2)


def head(margin, *, classes=4, dim=3):
    return MarginHead(dim, classes, margin=margin, generator=torch.Generator().manual_seed(0)).double()


def test_head_gives_scaled_cosines_whatever_the_lengths():
    layer = head(Margin(m2=0.5, scale=16.0))
    features = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    label = torch.tensor([0, 1, 2, 3, -1])
    logits = layer(features, label)
    for row in range(5):
        for column in range(4):
            cosine = functional.cosine_similarity(features[row], layer.weight[column], dim=0).item()
            expected = slow_target(cosine, 1.0, 0.5, 0.0, "hard") if column == label[row] else cosine
            assert logits[row, column].item() == pytest.approx(16 * expected, abs=1e-9)
    with torch.no_grad():
        layer.weight.mul_(7)
    assert torch.allclose(layer(3 * features, label), logits)
    assert torch.allclose(layer(features)[4], logits[4])


def test_shards_give_the_columns_of_the_whole():
    whole = head(Margin(m3=0.35, scale=30.0), classes=6)
    features = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    label = torch.tensor([0, 2, 3, 5])
    parts = []
    for first in (0, 3):
        shard = head(Margin(m3=0.35, scale=30.0), classes=3)
        with torch.no_grad():
            shard.weight.copy_(whole.weight[first : first + 3])
        own = (label >= first) & (label < first + 3)
        parts.append(shard(features, torch.where(own, label - first, -1)))
    assert torch.allclose(torch.cat(parts, dim=1), whole(features, label))


def test_sphereface_scales_by_the_features_and_anneals():
    layer = head(Margin(m1=4.0, scale=None, annealed=True))
    features = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    label = torch.tensor([0, 1, 2])
    for step in range(1, 4):
        weight = sphereface_annealing(step)
        assert step > 1 or weight == pytest.approx(892.857, abs=1e-3)
        for _ in range(2):  # as where a step has a batch of real images and one of restyled ones
            logits = layer(features, label)
            for row in range(3):
                cosine = functional.cosine_similarity(features[row], layer.weight[label[row]], dim=0).item()
                mixed = (weight * cosine + slow_target(cosine, 4.0, 0.0, 0.0, "hard")) / (1 + weight)
                assert logits[row, label[row]].item() == pytest.approx(mixed * features[row].norm().item(), abs=1e-9)
        layer.count_step()
    assert layer.state_dict()["steps"] == 3


NEARLY_ZERO = [0.0, 0.3, 0.9, 1.0, 1.5]
"""Lengths in units of the shortest that is stretched to 1."""


@pytest.mark.parametrize("name", ["norm_softmax", "cosface", "arcface"])
def test_a_feature_or_centre_of_length_zero_has_a_small_gradient(name):
    """The usual normalisation gives it one of 1e12 and more."""
    layer = MarginHead(3, 4, margin=MARGINS[name], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        layer.weight[2] = 0
    features = torch.zeros(2, 3, requires_grad=True)
    logits = layer(features, torch.tensor([0, 2]))
    functional.cross_entropy(logits, torch.tensor([0, 2])).backward()
    assert torch.isfinite(logits).all()
    assert not logits[0, 1:].any()
    assert features.grad.abs().max() < 1
    assert layer.weight.grad.abs().max() < 1


@pytest.mark.parametrize("length", NEARLY_ZERO)
def test_gradient_of_features_that_are_nearly_zero(length):
    layer = head(Margin(m3=0.35, scale=1.0))
    layer.weight.requires_grad_(False)
    direction = functional.normalize(torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64))
    features = (length * SHORTEST * direction).requires_grad_()
    step = 1e-4 * SHORTEST
    assert torch.autograd.gradcheck(
        lambda x: layer(x, torch.tensor([1])), (features,), eps=step, atol=5e-4 / SHORTEST, rtol=1e-3
    )
    (gradient,) = torch.autograd.grad(layer(features, torch.tensor([1]))[0, 1], features)
    assert gradient.norm() <= 1.5 / SHORTEST
    found = functional.normalize(features) @ functional.normalize(layer.weight).T
    if length >= 1:
        torch.testing.assert_close(layer(features), found)


def test_margins_of_small_angles_under_autocast():
    """At 2 degrees the cosine is 0.9994, which bfloat16 rounds to 1."""
    layer = MarginHead(2, 2, margin=Margin(m2=0.5, scale=1.0))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    theta = math.radians(2)
    features = torch.tensor([[math.cos(theta), math.sin(theta)]], requires_grad=True)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype=dtype):
            logits = layer(features, torch.tensor([0]))
        assert logits[0, 0].item() == pytest.approx(math.cos(theta + 0.5), abs=1e-6)
        (gradient,) = torch.autograd.grad(logits[0, 0], features)
        # along the circle the angle grows by 1, so that the logit falls by sin(theta + m)
        along = gradient[0, 1] * math.cos(theta) - gradient[0, 0] * math.sin(theta)
        assert along.item() == pytest.approx(-math.sin(theta + 0.5), rel=1e-3)


def test_head_is_float32_inside_autocast():
    layer = MarginHead(8, 3, margin=Margin(m2=0.5), generator=torch.Generator().manual_seed(0))
    features = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = layer(features, torch.tensor([0, 1, 2, 0]))
    assert inside.dtype == torch.float32
    assert torch.equal(inside, layer(features, torch.tensor([0, 1, 2, 0])))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"m1": 0.0}, "expected m1 > 0"),
        ({"m2": 28.6}, "m2 < pi .radians."),
        ({"m3": -0.1}, "m3 >= 0"),
        ({"scale": 0.0}, "scale: expected a number above 0"),
    ],
)
def test_margins_that_make_no_sense(arguments, message):
    with pytest.raises(InputError, match=message):
        Margin(**arguments)
    with pytest.raises(InputError, match="unknown beyond 'soft'"):
        margin_logits(torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64), beyond="soft")
