"""Agreement with pytorch-metric-learning where its conventions are the published ones.

They are not for the contrastive loss (a linear hinge there, so only positive pairs can be compared), and its margins of
angles are degrees.
"""

import math

import pytest
import torch
from pytorch_metric_learning import distances, losses, miners, reducers
from torch.nn import functional

from reid_da.losses.margin import Margin
from reid_da.losses.margin_head import MarginHead
from reid_da.losses.metric import batch_hard_triplet_loss, contrastive_loss

NUM_CLASSES, DIM = 7, 5


def batch(seed):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(24, DIM, generator=generator, dtype=torch.float64)
    twice = torch.arange(NUM_CLASSES).repeat(2)  # theirs leaves out an image alone in its class
    labels = torch.cat([twice, torch.randint(0, NUM_CLASSES, (10,), generator=generator)])
    return features.requires_grad_(), labels


def agree(ours, theirs, inputs):
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    for mine, other in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs), strict=True):
        assert torch.allclose(mine, other, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("margin", "theirs"),
    [
        (Margin(m2=0.5, scale=16.0), losses.ArcFaceLoss(NUM_CLASSES, DIM, margin=math.degrees(0.5), scale=16)),
        (Margin(m3=0.35, scale=16.0), losses.CosFaceLoss(NUM_CLASSES, DIM, margin=0.35, scale=16)),
        (Margin(scale=16.0), losses.NormalizedSoftmaxLoss(NUM_CLASSES, DIM, temperature=1 / 16)),
    ],
)
def test_margin_heads(margin, theirs, seed):
    features, labels = batch(seed)
    head = MarginHead(DIM, NUM_CLASSES, margin=margin).double()
    generator = torch.Generator().manual_seed(seed + 10)
    centres = torch.randn(NUM_CLASSES, DIM, generator=generator, dtype=torch.float64)
    head.weight.data = centres
    theirs = theirs.double()
    theirs.W.data = centres.T.clone()
    agree(functional.cross_entropy(head(features, labels), labels), theirs(features, labels), [features])


@pytest.mark.parametrize("seed", range(3))
def test_hardest_triplets(seed):
    features, labels = batch(seed)
    distance = distances.LpDistance(normalize_embeddings=False)
    # theirs is by default the mean over the triplets that do not fulfil the margin alone
    loss = losses.TripletMarginLoss(margin=2.0, distance=distance, reducer=reducers.MeanReducer())
    triplets = miners.BatchHardMiner(distance=distance)(features, labels)
    agree(batch_hard_triplet_loss(features, labels, margin=2.0), loss(features, labels, triplets), [features])


@pytest.mark.parametrize("seed", range(3))
def test_positive_pairs_of_the_contrastive_loss(seed):
    features, labels = batch(seed)
    distance = distances.LpDistance(normalize_embeddings=False, power=2)
    theirs = losses.ContrastiveLoss(pos_margin=0, neg_margin=0, distance=distance, reducer=reducers.MeanReducer())
    same = (labels[:, None] == labels[None, :]).triu(1)
    pairs = len(labels) * (len(labels) - 1) / 2
    # theirs is the mean over the positive pairs, ours over all
    ours = contrastive_loss(features, labels, margin=1e-12)
    agree(ours, theirs(features, labels) * (same.sum() / pairs), [features])
