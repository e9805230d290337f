"""Twenty training steps against a literal float64 transcription of the published method.

The transcription follows the text of the method line by line and shares nothing with the package: dense soft
targets, a dense log-softmax differentiated by autograd, neighbours by sorting, the memory written one sample at a
time after the backward pass. Dropout is 0. Both sides train their own copy of a small embedding, so that a
difference in any gradient would show up in all later steps.
"""

import pytest
import torch
from torch.nn import functional

from reid_da.losses.invariance import fused_invariance_loss, invariance_loss, memory_logits
from reid_da.memory.exemplar import ExemplarMemory, momentum_schedule
from reid_da.nearest import top_neighbors

BETA = 0.05
NUM_IMAGES, NUM_CAMERAS, NUM_INPUTS, DIM = 40, 3, 12, 8
EPOCHS, STEPS, BATCH = 4, 5, 10
LAST_EPOCH_WITHOUT_NEIGHBORS = 1


def transcribed_loss(features, K, index, k):
    z = features @ K.T / BETA
    log_p = torch.log_softmax(z, dim=1)
    w = torch.zeros_like(z)
    for row, i in enumerate(index.tolist()):
        if k > 0:
            scores = z[row].tolist()
            for j in sorted(range(len(scores)), key=lambda slot: (-scores[slot], slot))[:k]:
                w[row, j] = 1 / k
        w[row, i] = 1
    return -(w * log_p).sum(dim=1).mean()


def transcribed_update(K, index, features, a):
    for i, f in zip(index.tolist(), features, strict=True):
        K[i] = a * K[i] + (1 - a) * f
        norm = K[i].norm()
        if norm > 0:
            K[i] = K[i] / norm


def package_loss(features, memory, index, k, fused):
    if fused:
        return fused_invariance_loss(
            features, memory.slots, index, temperature=BETA, num_neighbors=k, chunk_size=13
        ).total
    logits = memory_logits(features, memory.slots, temperature=BETA)
    return invariance_loss(logits, index, neighbors=top_neighbors(logits, k)).total


def training_data(styled):
    """Views (N, C, inputs) of all images, and per step the slots and the cameras of the views."""
    generator = torch.Generator().manual_seed(3)
    views = torch.randn(NUM_IMAGES, 1, NUM_INPUTS, generator=generator, dtype=torch.float64)
    views = views + 0.3 * torch.randn(NUM_IMAGES, NUM_CAMERAS, NUM_INPUTS, generator=generator, dtype=torch.float64)
    # the last six images are never seen: their slots stay zero
    batches = torch.randint(NUM_IMAGES - 6, (EPOCHS * STEPS, BATCH), generator=generator)
    batches[2, :4] = batches[2, 0]
    cameras = torch.randint(NUM_CAMERAS, batches.shape, generator=generator)
    weight = torch.randn(NUM_INPUTS, DIM, generator=generator, dtype=torch.float64)
    return views, batches, cameras if styled else torch.zeros_like(cameras), weight


def embed(inputs, weight):
    features = functional.normalize(inputs @ weight, dim=1)
    features.retain_grad()
    return features


def descend(weight):
    with torch.no_grad():
        weight -= 0.5 * weight.grad
    weight.grad = None


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    ("styled", "num_neighbors"), [(False, 0), (True, 0), (False, 6), (True, 6)], ids=["E", "E+C", "E+N", "E+C+N"]
)
def test_twenty_steps(styled, num_neighbors, fused):
    views, batches, cameras, start = training_data(styled)
    weight, transcribed_weight = start.clone().requires_grad_(), start.clone().requires_grad_()
    memory = ExemplarMemory(NUM_IMAGES, DIM, dtype=torch.float64)
    K = torch.zeros(NUM_IMAGES, DIM, dtype=torch.float64)
    for step, (index, cameras_of_step) in enumerate(zip(batches, cameras, strict=True)):
        epoch = step // STEPS
        k = num_neighbors if epoch > LAST_EPOCH_WITHOUT_NEIGHBORS else 0
        inputs = views[index, cameras_of_step]

        features = embed(inputs, weight)
        loss = package_loss(features, memory, index, k, fused)
        loss.backward()
        memory.update(index, features.detach(), momentum=momentum_schedule(epoch))
        descend(weight)

        expected = embed(inputs, transcribed_weight)
        expected_loss = transcribed_loss(expected, K, index, k)
        expected_loss.backward()
        transcribed_update(K, index, expected.detach(), 0.01 * epoch)
        descend(transcribed_weight)

        assert abs(loss.item() - expected_loss.item()) < 1e-9
        assert (features.grad - expected.grad).abs().max() < 1e-9
        assert (memory.slots - K).abs().max() < 1e-9
    assert not memory.slots[-6:].any()
    assert (weight - start).abs().max() > 0.1, "nothing was learned, so nothing was compared"
