"""Losses between a network and a teacher, against loops in float64."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reid_da.errors import InputError
from reid_da.losses.metric import batch_hard_triplet_loss
from reid_da.losses.mutual import soft_cross_entropy, soft_triplet_loss


def random(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(seed=st.integers(0, 10**6))
def test_soft_cross_entropy(seed):
    logits, teacher = 4 * random(5, 3, seed=seed), 4 * random(5, 3, seed=seed + 1)
    total = 0.0
    for own, other in zip(logits.tolist(), teacher.tolist(), strict=True):
        shares = [math.exp(value) / sum(map(math.exp, other)) for value in other]
        total -= sum(p * math.log(math.exp(v) / sum(map(math.exp, own))) for p, v in zip(shares, own, strict=True))
    assert soft_cross_entropy(logits, teacher).item() == pytest.approx(total / 5)


@given(seed=st.integers(0, 10**6), count=st.integers(4, 10))
def test_soft_triplets_are_those_of_the_student_with_the_distances_of_both(seed, count):
    features, teacher = random(count, 4, seed=seed), random(count, 6, seed=seed + 1)
    labels = torch.arange(count) % 3
    total = 0.0
    for anchor in range(count):
        distance = [math.dist(features[anchor].tolist(), other.tolist()) for other in features]
        positive = max((row for row in range(count) if labels[row] == labels[anchor]), key=lambda row: distance[row])
        negative = min((row for row in range(count) if labels[row] != labels[anchor]), key=lambda row: distance[row])
        shares = []
        for points in (features, teacher):
            ap, an = (math.dist(points[anchor].tolist(), points[row].tolist()) for row in (positive, negative))
            shares.append((math.exp(ap) / (math.exp(ap) + math.exp(an)), math.exp(an) / (math.exp(ap) + math.exp(an))))
        total -= sum(target * math.log(own) for own, target in zip(*shares, strict=True))
    assert soft_triplet_loss(features, teacher, labels).item() == pytest.approx(total / count, rel=1e-5)


def test_a_teacher_that_is_certain_leaves_the_batch_hard_triplet_loss():
    labels = torch.tensor([0, 0, 1, 1])
    teacher = 1000 * torch.eye(2, dtype=torch.float64)[labels]
    features = random(4, 3, seed=3)
    found = soft_triplet_loss(features, teacher, labels)
    torch.testing.assert_close(found, batch_hard_triplet_loss(features, labels))


def test_gradients_reach_the_student_alone():
    features, teacher = random(6, 4, seed=1).requires_grad_(), random(6, 4, seed=2).requires_grad_()
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    assert torch.autograd.gradcheck(lambda x: soft_triplet_loss(x, teacher.detach(), labels), features)
    assert torch.autograd.gradcheck(lambda x: soft_cross_entropy(x, teacher.detach()), features)
    (soft_triplet_loss(features, teacher, labels) + soft_cross_entropy(features, teacher)).backward()
    assert features.grad is not None
    assert teacher.grad is None


def test_one_class_has_no_triplets():
    with pytest.raises(InputError, match="images of at least two identities"):
        soft_triplet_loss(random(3, 2, seed=1), random(3, 2, seed=2), torch.zeros(3))
