"""Losses on proxies against slow references, and on what they must not react to."""

import pytest
import slow_proxies
import torch
from torch.nn import functional

from reid_da.losses.proxies import (
    inter_camera_loss,
    intra_camera_loss,
    online_loss,
    online_positives,
    online_similarity,
    proxy_logits,
)


@pytest.mark.parametrize("num_negatives", [1, 3, 50])
@pytest.mark.parametrize("seed", range(3))
def test_losses_and_gradients_agree_with_slow_ones(num_negatives, seed):
    generator = torch.Generator().manual_seed(seed)
    camids = [0, 3, 5, 0, 3, 0, 3, 5]
    clusters = [0, 0, 0, 1, 1, 2, 3, 3]
    vectors = functional.normalize(torch.randn(8, 6, generator=generator))
    features = functional.normalize(torch.randn(9, 6, generator=generator)).requires_grad_()
    proxies = torch.randint(8, (9,), generator=generator)
    expected = slow_proxies.losses(
        features.detach(), vectors, proxies.tolist(), camids, clusters, temperature=0.3, num_negatives=num_negatives
    )
    logits = proxy_logits(features, vectors, temperature=0.3)
    cameras, groups = torch.tensor(camids), torch.tensor(clusters)
    found = [
        intra_camera_loss(logits, proxies, cameras),
        inter_camera_loss(logits, proxies, cameras, groups, num_negatives=num_negatives),
    ]
    found += [torch.autograd.grad(loss, features, retain_graph=True)[0] for loss in found]
    for value, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(value.double(), wanted, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("num_negatives", [1, 3, 50])
@pytest.mark.parametrize("num_positives", [1, 2, 5])
def test_the_online_loss_and_its_gradient_agree_with_slow_ones(num_positives, num_negatives):
    generator = torch.Generator().manual_seed(num_positives)
    camids = [0, 2, 1, 0, 2, 0, 2, 1, 2]
    vectors = functional.normalize(torch.randn(9, 6, generator=generator).double())
    features = functional.normalize(torch.randn(7, 6, generator=generator).double()).requires_grad_()
    proxies = torch.randint(9, (7,), generator=generator)
    expected = slow_proxies.online_loss(
        features.detach(),
        vectors,
        proxies.tolist(),
        camids,
        temperature=0.3,
        num_positives=num_positives,
        num_negatives=num_negatives,
        balance=0.4,
    )
    logits, cameras = proxy_logits(features, vectors, temperature=0.3), torch.tensor(camids)
    similarity = online_similarity(logits.detach() * 0.3, vectors, proxies, balance=0.4)
    positives = online_positives(similarity, cameras, num_cameras=3, num_positives=num_positives)
    assert positives.shape == (7, min(num_positives, 3))
    found = online_loss(logits, similarity, positives, cameras[proxies], num_negatives=num_negatives)
    torch.testing.assert_close(found, expected[0], atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(torch.autograd.grad(found, features)[0], expected[1], atol=1e-12, rtol=1e-12)


def test_a_camera_with_one_proxy_has_nothing_to_tell_apart():
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = intra_camera_loss(logits, torch.tensor([2, 2, 2]), torch.tensor([0, 0, 1, 0]))
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert torch.autograd.grad(loss, logits)[0].abs().max() < 1e-6
