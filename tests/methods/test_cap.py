"""CAP against slow references, and on known features."""

import copy
import logging

import pytest
import torch
from known_features import around, batch_of, domain, method_on
from torch import Tensor
from torch.nn import functional

from reid_da.config import merge
from reid_da.errors import InputError
from reid_da.methods import METHODS
from reid_da.methods.cap import (
    OnlineSettings,
    inter_camera_loss,
    intra_camera_loss,
    online_loss,
    online_positives,
    online_similarity,
    proxy_logits,
)

LABELS = [0, 1, 0, 2, -1, 1, 2, 0, 1, 2, -1, 0]
CAMIDS = [4, 4, 1, 1, 1, 4, 7, 1, 1, 7, 7, 4]
# clusters in the order of their first images, and their cameras in increasing order
PROXIES = [(0, 1), (0, 4), (1, 1), (1, 4), (2, 1), (2, 7)]


def cap(changes=None, *, camids=CAMIDS, features=None, broken=()):
    pids = [label if label >= 0 else 50 for label in LABELS]
    target = domain("target", pids=pids, camids=camids, broken=broken)
    method, context = method_on([target], merge({"method": "cap"}, changes or {}))
    context.features["target"] = around(LABELS) if features is None else features
    return method, context


def slow_losses(features, vectors, proxies, camids, clusters, *, temperature, num_negatives):
    """Both losses in float64: camera by camera, image by image, proxy by proxy; and the gradients of the features."""
    features = features.double().requires_grad_()
    intra = inter = torch.zeros((), dtype=torch.float64)
    for camid in {camids[proxy] for proxy in proxies}:
        of_camera = [row for row, proxy in enumerate(proxies) if camids[proxy] == camid]
        for row in of_camera:
            weights = [torch.exp(features[row] @ vector.double() / temperature) for vector in vectors]
            within = [weight for weight, other in zip(weights, camids, strict=True) if other == camid]
            intra = intra - torch.log(weights[proxies[row]] / sum(within)) / len(of_camera)
            cluster = clusters[proxies[row]]
            own = [weight for weight, other in zip(weights, clusters, strict=True) if other == cluster]
            others = [weight for weight, other in zip(weights, clusters, strict=True) if other != cluster]
            rivals = sum(own) + sum(sorted(others, key=Tensor.item)[-num_negatives:])
            inter = inter - sum(torch.log(weight / rivals) for weight in own) / len(own) / len(of_camera)
    return intra, inter, *(torch.autograd.grad(loss, features, retain_graph=True)[0] for loss in (intra, inter))


@pytest.mark.parametrize("num_negatives", [1, 3, 50])
@pytest.mark.parametrize("seed", range(3))
def test_losses_and_gradients_agree_with_slow_ones(num_negatives, seed):
    generator = torch.Generator().manual_seed(seed)
    camids = [0, 3, 5, 0, 3, 0, 3, 5]
    clusters = [0, 0, 0, 1, 1, 2, 3, 3]
    vectors = functional.normalize(torch.randn(8, 6, generator=generator))
    features = functional.normalize(torch.randn(9, 6, generator=generator)).requires_grad_()
    proxies = torch.randint(8, (9,), generator=generator)
    expected = slow_losses(
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


def slow_online_loss(features, vectors, proxies, camids, *, temperature, settings):
    """The online association in float64, proxy by proxy; and the gradient of the features."""
    features = features.double().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    of_image = [camids[proxy] for proxy in proxies]
    for row, proxy in enumerate(proxies):
        alike = [
            settings.balance * float(features[row].detach() @ other)
            + (1 - settings.balance) * float(vectors[proxy] @ other)
            for other in vectors
        ]
        best = [max((p for p in range(len(camids)) if camids[p] == c), key=lambda p: alike[p]) for c in set(camids)]
        positives = sorted(best, key=lambda p: -alike[p])[: settings.num_positives]
        others = sorted(set(range(len(camids))) - set(positives), key=lambda p: -alike[p])
        rivals = positives + others[: settings.num_negatives]
        weights = {p: torch.exp(features[row] @ vectors[p] / temperature) for p in rivals}
        log_p = [torch.log(weights[p] / sum(weights.values())) for p in positives]
        total = total - sum(log_p) / len(positives) / of_image.count(of_image[row])
    return total, torch.autograd.grad(total, features)[0]


@pytest.mark.parametrize("num_negatives", [1, 3, 50])
@pytest.mark.parametrize("num_positives", [1, 2, 5])
def test_the_online_loss_and_its_gradient_agree_with_slow_ones(num_positives, num_negatives):
    generator = torch.Generator().manual_seed(num_positives)
    camids = [0, 2, 1, 0, 2, 0, 2, 1, 2]
    vectors = functional.normalize(torch.randn(9, 6, generator=generator).double())
    features = functional.normalize(torch.randn(7, 6, generator=generator).double()).requires_grad_()
    proxies = torch.randint(9, (7,), generator=generator)
    settings = OnlineSettings(num_positives=num_positives, num_negatives=num_negatives, balance=0.4)
    expected = slow_online_loss(
        features.detach(), vectors, proxies.tolist(), camids, temperature=0.3, settings=settings
    )
    logits, cameras = proxy_logits(features, vectors, temperature=0.3), torch.tensor(camids)
    similarity = online_similarity(logits.detach() * 0.3, vectors, proxies, settings)
    positives = online_positives(similarity, cameras, num_cameras=3, num_positives=num_positives)
    assert positives.shape == (7, min(num_positives, 3))
    found = online_loss(logits, similarity, positives, cameras[proxies], num_negatives=num_negatives)
    torch.testing.assert_close(found, expected[0], atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(torch.autograd.grad(found, features)[0], expected[1], atol=1e-12, rtol=1e-12)


def test_a_step_of_o2cap_and_the_epoch_it_begins_with():
    rows = METHODS["cap"].rows["o2cap"]
    method, _ = cap(merge(rows, {"online": {"from_epoch": 1}}))
    assert method.step({"target": batch_of(method.begin_epoch(0), "target")}).keys() == {"inter"}
    batch = batch_of(method.begin_epoch(1), "target")
    with torch.no_grad():
        features = copy.deepcopy(method.network).train()(batch.images, "target")
    _, camids = zip(*PROXIES, strict=True)
    expected, _ = slow_online_loss(
        features,
        method.memory.slots.double(),
        batch.labels.tolist(),
        camids,
        temperature=0.07,
        settings=method.settings.online,
    )
    losses = method.step({"target": batch})
    assert losses.keys() == {"inter", "online"}
    assert losses["online"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_an_epoch_without_a_loss_is_refused_before_the_training():
    with pytest.raises(InputError, match="nothing is trained in the first epoch: set proxies.intra_weight above 0"):
        cap({"proxies": {"intra_weight": 0.0}})


def test_a_camera_with_one_proxy_has_nothing_to_tell_apart():
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = intra_camera_loss(logits, torch.tensor([2, 2, 2]), torch.tensor([0, 0, 1, 0]))
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert torch.autograd.grad(loss, logits)[0].abs().max() < 1e-6


def test_proxies_and_vectors_come_from_features_and_cameras():
    method, context = cap()
    plan = method.begin_epoch(0)
    assert method.target.labels.tolist() == LABELS
    assert plan.figures["proxies"] == len(PROXIES)
    for number, proxy in enumerate(PROXIES):
        members = [row for row, of_image in enumerate(zip(LABELS, CAMIDS, strict=True)) if of_image == proxy]
        expected = functional.normalize(context.features["target"][members].double().sum(dim=0), dim=0)
        torch.testing.assert_close(method.memory.slots[number].double(), expected, atol=1e-6, rtol=0)
    rows, labels = plan.streams["target"].chosen
    assert [PROXIES[label] for label in labels] == [(LABELS[row], CAMIDS[row]) for row in rows]
    # ten images with a cluster, six in a batch
    assert plan.steps == 1
    assert batch_of(plan, "target").labels.unique(return_counts=True)[1].tolist() == [2, 2, 2]


def test_a_pass_shows_every_proxy_once_and_an_epoch_as_many_images_as_have_one():
    labels, camids = [0] * 16 + [1] * 4 + [-1], [1] * 12 + [2] * 4 + [1, 1, 2, 2] + [1]
    target = domain("target", pids=[label + 1 for label in labels], camids=camids)
    method, context = method_on([target], {"method": "cap", "batch": {"target": 4, "instances": 2}})
    context.features["target"] = around(labels)
    plan = method.begin_epoch(0)
    stream = plan.streams["target"]
    assert plan.steps == 20 // 4
    order = stream.sampler.order(*stream.chosen, torch.Generator().manual_seed(0))
    assert sorted(stream.labels[order].tolist()) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_images_that_cannot_be_decoded_have_no_proxy():
    method, _ = cap(broken=(0, 6))
    rows, labels = method.begin_epoch(0).streams["target"].chosen
    assert rows.tolist() == [row for row, label in enumerate(LABELS) if label >= 0 and row not in (0, 6)]
    kept = sorted({(LABELS[row], CAMIDS[row]) for row in rows.tolist()})
    # without image 0 cluster 1 is seen first
    renumbered = sorted({({0: 1, 1: 0}.get(cluster, cluster), camid) for cluster, camid in kept})
    numbers = [({0: 1, 1: 0}.get(LABELS[row], LABELS[row]), CAMIDS[row]) for row in rows.tolist()]
    assert [renumbered[label] for label in labels] == numbers


@pytest.mark.parametrize(("epoch", "names"), [(0, {"intra"}), (4, {"intra"}), (5, {"intra", "inter"})])
def test_a_step_and_the_vectors_after_it(epoch, names):
    method, _ = cap()
    batch = batch_of(method.begin_epoch(epoch), "target")
    vectors = method.memory.slots.clone()
    with torch.no_grad():
        features = copy.deepcopy(method.network).train()(batch.images, "target")
    clusters, camids = zip(*PROXIES, strict=True)
    intra, inter, *_ = slow_losses(
        features, vectors, batch.labels.tolist(), camids, clusters, temperature=0.07, num_negatives=50
    )
    losses = method.step({"target": batch})
    assert losses.keys() == names
    assert losses["intra"].item() == pytest.approx(intra.item(), rel=1e-4)
    if "inter" in names:
        assert losses["inter"].item() == pytest.approx(0.5 * inter.item(), rel=1e-4)
    assert torch.equal(method.memory.slots, vectors)
    sum(losses.values()).backward()
    method.after_backward()
    for label, feature in zip(batch.labels.tolist(), features.double(), strict=True):
        vectors[label] = functional.normalize(0.2 * vectors[label] + 0.8 * feature, dim=0)
    torch.testing.assert_close(method.memory.slots, vectors, atol=1e-6, rtol=0)


def test_a_camera_with_one_image_and_fewer_proxies_than_a_batch_wants(caplog):
    with caplog.at_level(logging.WARNING):
        method, _ = cap({"batch": {"target": 32}}, camids=[9] + [1] * 11)
        plan = method.begin_epoch(5)
    assert caplog.messages == ["batch.target asks for 16 clusters, and there are 4: smaller batches"]
    batch = batch_of(plan, "target")
    assert len(batch.rows) == 8
    losses = method.step({"target": batch})
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_one_camera_is_refused_with_the_method_that_does_without():
    message = "^target: has one camera or unknown ones, and method cap needs several; use method=cluster-contrast$"
    with pytest.raises(InputError, match=message):
        cap(camids=[0] * 12)
