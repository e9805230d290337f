import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reid_da.errors import InputError
from reid_da.losses.metric import batch_hard_triplet_loss, pairwise_distance


def slow_triplet(features, labels, margin):
    total = 0.0
    for anchor, label in zip(features, labels, strict=True):
        distances = [math.dist(anchor, other) for other in features]
        positive = max(d for d, other in zip(distances, labels, strict=True) if other == label)
        negative = min(d for d, other in zip(distances, labels, strict=True) if other != label)
        gap = positive - negative
        total += math.log1p(math.exp(gap)) if margin is None else max(0.0, gap + margin)
    return total / len(features)


@pytest.mark.parametrize("margin", [None, 0.3, 2.0])
@given(seed=st.integers(0, 1000))
def test_equals_the_loop_over_anchors(margin, seed):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(10, 4, generator=generator, dtype=torch.float64)
    labels = torch.cat([torch.arange(2), torch.randint(0, 4, (8,), generator=generator)])
    expected = slow_triplet(features.tolist(), labels.tolist(), margin)
    # 1e-6 is the distance of an image to itself, where the square root is kept from its infinite slope
    assert batch_hard_triplet_loss(features, labels, margin=margin).item() == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("margin", [None, 5.0])
def test_gradient(margin):
    features = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    assert torch.autograd.gradcheck(lambda x: batch_hard_triplet_loss(x, labels, margin=margin), (features,))


def test_gradient_is_finite_where_images_coincide():
    features = torch.ones(4, 3, requires_grad=True)
    batch_hard_triplet_loss(features, torch.tensor([0, 0, 1, 1])).backward()
    assert torch.isfinite(features.grad).all()


def test_distances_keep_their_precision_under_autocast():
    features = 100 + torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        distance = pairwise_distance(features.bfloat16().float())
    expected = torch.cdist(features.bfloat16().double(), features.bfloat16().double())
    off_diagonal = ~torch.eye(5, dtype=torch.bool)
    assert torch.allclose(distance.double()[off_diagonal], expected[off_diagonal], rtol=0.02)


def test_one_identity_is_no_batch():
    with pytest.raises(InputError, match="at least two identities"):
        batch_hard_triplet_loss(torch.ones(3, 2), torch.zeros(3, dtype=torch.int64))
