"""Losses on pairs, triplets and centres against loops over Python numbers."""

import itertools
import math
import statistics
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reid_da.errors import InputError
from reid_da.losses import metric
from reid_da.losses.centers import ClassCenters
from reid_da.losses.metric import batch_hard_triplet_loss, pairwise_distance

# distance of an image to itself, where the square root is kept from its infinite slope
SELF_DISTANCE = 1e-6


def unit(vector):
    length = math.hypot(*vector)
    return [value / length for value in vector]


def angle(first, second):
    product = sum(a * b for a, b in zip(unit(first), unit(second), strict=True))
    return math.acos(max(-1.0, min(1.0, product)))


def triplets_hard(features, labels, measure, loss):
    total = 0.0
    for anchor, label in zip(features, labels, strict=True):
        found = [measure(anchor, other) for other in features]
        positive = max(d for d, other in zip(found, labels, strict=True) if other == label)
        negative = min(d for d, other in zip(found, labels, strict=True) if other != label)
        total += loss(positive - negative)
    return total / len(features)


def slow_triplet(features, labels, margin):
    hinge = (lambda gap: math.log1p(math.exp(gap))) if margin is None else (lambda gap: max(0.0, gap + margin))
    return triplets_hard(features, labels, math.dist, hinge)


def slow_angular_hard(features, labels, margin):
    return triplets_hard(features, labels, angle, lambda gap: max(0.0, gap + margin))


def slow_angular_semi_hard(features, labels, margin):
    return triplets_semi_hard(features, labels, margin, angle)


def slow_semi_hard(features, labels, margin):
    return triplets_semi_hard(features, labels, margin, lambda a, b: math.dist(unit(a), unit(b)) ** 2)


def triplets_semi_hard(points, labels, margin, measure):
    losses = []
    for a, p in itertools.permutations(range(len(points)), 2):
        if labels[a] != labels[p]:
            continue
        positive = measure(points[a], points[p])
        negatives = [measure(points[a], points[n]) for n in range(len(points)) if labels[n] != labels[a]]
        negatives = [d for d in negatives if positive < d < positive + margin]
        if negatives:
            losses.append(positive - min(negatives) + margin)
    return statistics.fmean(losses) if losses else 0.0


def slow_contrastive(features, labels, margin):
    losses = []
    for i, j in itertools.combinations(range(len(features)), 2):
        d = math.dist(features[i], features[j])
        losses.append(d**2 if labels[i] == labels[j] else max(0.0, margin - d) ** 2)
    return statistics.fmean(losses)


def slow_circle(features, labels, margin, scale=8.0):
    positive = negative = 0.0
    for i, j in itertools.combinations(range(len(features)), 2):
        s = math.cos(angle(features[i], features[j]))
        if labels[i] == labels[j]:
            positive += math.exp(-scale * max(0.0, 1 + margin - s) * (s - (1 - margin)))
        else:
            negative += math.exp(scale * max(0.0, s + margin) * (s - margin))
    return math.log1p(positive * negative)


def slow_marginal(features, labels, margin, threshold=1.2):
    points = [unit(feature) for feature in features]
    losses = []
    for i, j in itertools.permutations(range(len(points)), 2):
        y = 1 if labels[i] == labels[j] else -1
        losses.append(max(0.0, margin - y * (threshold - math.dist(points[i], points[j]) ** 2)))
    return statistics.fmean(losses)


def slow_range(features, labels, margin, k=2):
    groups = {label: [f for f, other in zip(features, labels, strict=True) if other == label] for label in labels}
    intra = 0.0
    for group in groups.values():
        distances = sorted((math.dist(a, b) for a, b in itertools.combinations(group, 2)), reverse=True)[:k]
        if distances:
            intra += statistics.harmonic_mean(distances)
    means = [[statistics.fmean(column) for column in zip(*group, strict=True)] for group in groups.values()]
    nearest = min(math.dist(a, b) for a, b in itertools.combinations(means, 2))
    return intra + max(0.0, margin - nearest)


LOSSES = {
    "batch_hard": (batch_hard_triplet_loss, slow_triplet, (0.3, 2.0, None)),
    "angular": (metric.angular_triplet_loss, slow_angular_semi_hard, (0.35, 1.0)),
    "angular_hard": (partial(metric.angular_triplet_loss, negatives="hard"), slow_angular_hard, (0.35, 1.0)),
    "semi_hard": (metric.semi_hard_triplet_loss, slow_semi_hard, (0.2, 1.0)),
    "contrastive": (metric.contrastive_loss, slow_contrastive, (1.0, 3.0)),
    "circle": (lambda x, y, margin: metric.circle_loss(x, y, margin=margin, scale=8.0), slow_circle, (0.25, 0.4)),
    "marginal": (metric.marginal_loss, slow_marginal, (0.3, 1.0)),
    "range": (metric.range_loss, slow_range, (0.5, 5.0)),
}
CASES = [(name, margin) for name, (_, _, margins) in LOSSES.items() for margin in margins]


def batch(seed, count=10):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, 4, generator=generator, dtype=torch.float64)
    labels = torch.cat([torch.arange(2), torch.randint(0, 4, (count - 2,), generator=generator)])
    return features, labels


@pytest.mark.parametrize(("name", "margin"), CASES)
@given(seed=st.integers(0, 1000))
def test_equals_the_loop(name, margin, seed):
    loss, slow, _ = LOSSES[name]
    features, labels = batch(seed)
    expected = slow(features.tolist(), labels.tolist(), margin)
    assert loss(features, labels, margin=margin).item() == pytest.approx(expected, abs=2 * SELF_DISTANCE)


@pytest.mark.parametrize(("name", "margin"), [case for case in CASES if case[0] != "circle"])
def test_gradient(name, margin):
    loss = LOSSES[name][0]
    features, labels = batch(3, count=7)
    if name == "angular_hard":  # the angle of an image to itself is 0, a kink of the arccosine
        labels = torch.tensor([0, 0, 0, 1, 1, 2, 2])
    assert torch.autograd.gradcheck(lambda x: loss(x, labels, margin=margin), (features.requires_grad_(),))


def test_gradient_of_the_circle_loss_leaves_its_weights_alone():
    features, labels = batch(0)
    features.requires_grad_()
    (gradient,) = torch.autograd.grad(metric.circle_loss(features, labels, margin=0.25, scale=8.0), features)
    points = features.detach()
    frozen = torch.nn.functional.normalize(points) @ torch.nn.functional.normalize(points).T

    def with_fixed_weights(x):
        cosine = torch.nn.functional.normalize(x) @ torch.nn.functional.normalize(x).T
        positive = negative = 0.0
        for i, j in itertools.combinations(range(len(x)), 2):
            s, fixed = cosine[i, j], frozen[i, j].item()
            if labels[i] == labels[j]:
                positive = positive + torch.exp(-8.0 * max(0.0, 1.25 - fixed) * (s - 0.75))
            else:
                negative = negative + torch.exp(8.0 * max(0.0, fixed + 0.25) * (s - 0.25))
        return torch.log1p(positive * negative)

    (expected,) = torch.autograd.grad(with_fixed_weights(features), features)
    assert torch.allclose(gradient, expected, atol=1e-10)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_finite_where_images_coincide(name):
    loss, _, margins = LOSSES[name]
    features = torch.ones(4, 3, requires_grad=True)
    loss(features, torch.tensor([0, 0, 1, 1]), margin=margins[0]).backward()
    assert torch.isfinite(features.grad).all()


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_changes_nothing(name):
    loss, _, margins = LOSSES[name]
    features, labels = batch(5)
    short = features.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(short, labels, margin=margins[0])
    assert found.dtype == torch.float32
    assert torch.equal(found, loss(short.float(), labels, margin=margins[0]))


def test_distances_of_far_points_keep_their_precision():
    features = 100 + torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        distance = pairwise_distance(features)
    expected = torch.cdist(features.double(), features.double())
    off_diagonal = ~torch.eye(5, dtype=torch.bool)
    assert torch.allclose(distance.double()[off_diagonal], expected[off_diagonal], rtol=0.02)


def test_one_identity_is_no_batch_for_hard_triplets():
    for loss in (batch_hard_triplet_loss, partial(metric.angular_triplet_loss, negatives="hard")):
        with pytest.raises(InputError, match="at least two identities"):
            loss(torch.ones(3, 2), torch.zeros(3, dtype=torch.int64))
    assert metric.semi_hard_triplet_loss(torch.randn(3, 2), torch.zeros(3, dtype=torch.int64)) == 0
    assert metric.angular_triplet_loss(torch.randn(3, 2), torch.zeros(3, dtype=torch.int64)) == 0
    assert metric.circle_loss(torch.randn(3, 2), torch.zeros(3, dtype=torch.int64)) == 0


def test_center_loss_and_the_rule_of_its_centres():
    features, labels = batch(2)
    centers = ClassCenters(5, 4).double()
    expected = torch.zeros(5, 4, dtype=torch.float64)
    for step in range(3):
        moved = features + step
        found = metric.center_loss(moved, labels, centers.centers)
        slow = sum(((x - expected[y]) ** 2).sum().item() for x, y in zip(moved, labels.tolist(), strict=True)) / 20
        assert found.item() == pytest.approx(slow)
        centers.update(moved, labels, rate=0.5)
        before = expected.clone()
        for j in range(5):
            own = [x for x, y in zip(moved, labels.tolist(), strict=True) if y == j]
            if own:
                expected[j] -= 0.5 * sum(before[j] - x for x in own) / (1 + len(own))
        assert torch.allclose(centers.centers, expected)
    assert (centers.centers[4] == 0).all()
    points = features.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: metric.center_loss(x, labels, centers.centers), (points,))


def test_losses_on_class_centres():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    features, labels = batch(4, count=6)
    rows, targets = weight.tolist(), labels.tolist()
    expected = statistics.fmean(angle(f, rows[y]) for f, y in zip(features.tolist(), targets, strict=True)) / math.pi
    assert metric.intra_loss(features, weight, labels).item() == pytest.approx(expected)
    pairs = [(y, j) for y in targets for j in range(5) if j != y]
    expected = -statistics.fmean(angle(rows[y], rows[j]) for y, j in pairs) / math.pi
    assert metric.inter_loss(weight, labels).item() == pytest.approx(expected)
    for power in (2.0, 1.0, 0.0):
        distances = [math.dist(unit(rows[y]), unit(rows[j])) for y, j in pairs]
        energies = [d**-power if power else -math.log(d) for d in distances]
        found = metric.hyperspherical_energy(weight, labels, power=power)
        assert found.item() == pytest.approx(statistics.fmean(energies))
        assert torch.autograd.gradcheck(lambda w: metric.hyperspherical_energy(w, labels, power=power), (weight,))  # noqa: B023
    assert torch.autograd.gradcheck(lambda w: metric.inter_loss(w, labels), (weight,))
    inputs = (features.requires_grad_(), weight)
    assert torch.autograd.gradcheck(lambda x, w: metric.intra_loss(x, w, labels), inputs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("degrees", [0.01, 2.0, 90.0, 179.99])
def test_angles_to_class_centres_under_autocast(degrees, dtype):
    """In sixteen bits the cosine of 2 degrees is 1, and the angle 0 without a gradient."""
    theta = math.radians(degrees)
    features = torch.tensor([[3 * math.cos(theta), 3 * math.sin(theta)]], requires_grad=True)
    weight = torch.tensor([[0.5, 0.0], [0.0, 2.0]], requires_grad=True)
    with torch.autocast("cpu", dtype=dtype):
        loss = metric.intra_loss(features, weight, torch.tensor([0]))
    assert loss.dtype == torch.float32
    assert 180 * loss.item() == pytest.approx(degrees, rel=1e-4)
    for gradient, length in zip(torch.autograd.grad(loss, [features, weight]), (3, 0.5), strict=True):
        assert gradient[0].norm().item() == pytest.approx(1 / (math.pi * length), rel=1e-3)


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "range"])
def test_features_of_length_zero_have_a_small_gradient(name):
    loss, _, margins = LOSSES[name]
    features = torch.zeros(4, 3)
    features[2:, 0] = 1
    features.requires_grad_()
    loss(features, torch.tensor([0, 0, 1, 1]), margin=margins[0]).backward()
    assert features.grad[:2].abs().max() < 10


def test_angles_of_zeros_are_right_angles_without_a_gradient():
    features, weight = torch.zeros(2, 3, requires_grad=True), torch.eye(2, 3)
    weight[1] = 0
    weight.requires_grad_()
    loss = metric.intra_loss(features, weight, torch.tensor([0, 1]))
    loss.backward()
    assert metric.intra_loss(features[:1], weight, torch.tensor([0])).item() == pytest.approx(0.5)
    assert not features.grad.any()
    assert torch.isfinite(weight.grad).all()


def test_unknown_negatives():
    with pytest.raises(InputError, match="unknown negatives 'soft'"):
        metric.angular_triplet_loss(torch.ones(2, 2), torch.tensor([0, 1]), negatives="soft")


def test_centres_by_sgd_go_down_the_squared_distance():
    centers = ClassCenters(4, 2, rule="sgd", generator=torch.Generator().manual_seed(0)).double()
    centers.centers[:] = torch.tensor([[0.0, 0.0], [1.0, 1.0], [5.0, 5.0], [0.0, 0.0]])
    features, labels = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 4.0]]).double(), torch.tensor([0, 0, 1])
    centers.update(features, labels, rate=0.5)
    # c_0 + 2 * 0.5 / 3 * (4, 0), c_1 + 2 * 0.5 / 3 * (-1, 3)
    expected = torch.tensor([[4 / 3, 0.0], [2 / 3, 2.0], [5.0, 5.0], [0.0, 0.0]]).double()
    torch.testing.assert_close(centers.centers, expected)


def test_centres_by_sgd_begin_with_normal_random_numbers():
    first, second = (ClassCenters(500, 8, rule="sgd", generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first.centers, second.centers)
    assert float(first.centers.mean()) == pytest.approx(0, abs=0.05)
    assert float(first.centers.std()) == pytest.approx(1, abs=0.05)
    assert not ClassCenters(5, 8).centers.any()
