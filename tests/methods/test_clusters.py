"""The strong clustering baseline against a slow reference, and its classifier from epoch to epoch."""

import copy
from math import exp, log, log1p

import pytest
import torch
from known_features import around, batch_of, domain, method_on
from torch.nn import functional

from reid_da.config import merge
from reid_da.errors import InputError

LABELS = [0, 1, 0, 2, -1, 1, 2, 0, 1, 2, -1, 0]
PIDS = [7, 3, 3, 7, 9, 9, 3, 7]
SOURCE = {"data": {"source": "source"}, "source_weight": 0.5, "batch": {"source": 4}}


def clusters(changes=None):
    target = domain("target", pids=[label if label >= 0 else 50 for label in LABELS])
    source = domain("source", pids=PIDS)
    method, context = method_on([target, source], merge({"method": "clusters"}, changes or {}))
    context.features["target"] = around(LABELS)
    context.features["source"] = around([pid + 20 for pid in PIDS], seed=3)
    return method, context


def slow_losses(network, batch, labels):
    """Cross-entropy with labels smoothed by 0.1, and the soft-margin triplet loss, image by image."""
    with torch.no_grad():
        pooled = network.backbone(batch.images)
        logits = (network.embed(pooled) @ network.classifier.weight.T).double().tolist()
    pooled, entropies, triplets = pooled.double(), [], []
    for row, label in enumerate(labels.tolist()):
        total = log(sum(exp(logit) for logit in logits[row]))
        smooth = 0.1 / len(logits[row])
        targets = [smooth + 0.9 * (other == label) for other in range(len(logits[row]))]
        entropies.append(-sum(share * (logit - total) for share, logit in zip(targets, logits[row], strict=True)))
        distances = [float((pooled[row] - other).norm()) for other in pooled]
        positive = max(distance for other, distance in enumerate(distances) if labels[other] == label)
        negative = min(distance for other, distance in enumerate(distances) if labels[other] != label)
        triplets.append(log1p(exp(positive - negative)))
    return sum(entropies) / len(entropies), sum(triplets) / len(triplets)


def test_class_centres_that_begin_at_random_differ_by_domain_epoch_and_seed():
    method, _ = clusters({**SOURCE, "source_loss": {"center_weight": 0.1, "center_rule": "sgd"}})
    found = {}
    for epoch in (0, 1):
        method.begin_epoch(epoch)
        for role, losses in method._losses.items():
            found[role, epoch] = losses.centers.centers[:3].clone()
    starts = list(found.values())
    assert len(starts) == 4
    assert not any(torch.equal(a, b) for number, a in enumerate(starts) for b in starts[:number])
    method.begin_epoch(1)
    assert torch.equal(method._losses["target"].centers.centers[:3], found["target", 1])


def test_a_step_on_the_target():
    method, context = clusters()
    plan = method.begin_epoch(0)
    assert plan.new_optimizer
    assert plan.steps == 400
    assert set(plan.streams) == {"target"}
    features = context.features["target"].double()
    for cluster in range(3):
        members = [row for row, label in enumerate(LABELS) if label == cluster]
        expected = functional.normalize(features[members].sum(dim=0), dim=0)
        torch.testing.assert_close(method.network.classifier.weight[cluster].double(), expected, atol=1e-6, rtol=0)
    batch = batch_of(plan, "target")
    entropy, triplet = slow_losses(copy.deepcopy(method.network).train(), batch, batch.labels)
    losses = method.step({"target": batch})
    assert losses.keys() == {"cross_entropy", "triplet"}
    assert losses["cross_entropy"].item() == pytest.approx(entropy, rel=1e-4)
    assert losses["triplet"].item() == pytest.approx(triplet, rel=1e-4)


def test_a_source_has_rows_behind_the_clusters_and_statistics_of_its_own():
    method, _ = clusters(SOURCE)
    plan = method.begin_epoch(0)
    batches = {name: batch_of(plan, name) for name in ("target", "source")}
    reference = copy.deepcopy(method.network).train()
    assert len(reference.classifier.weight) == 6
    # the source first: the running statistics of the target come last
    source = slow_losses(reference, batches["source"], batches["source"].labels + 3)
    target = slow_losses(reference, batches["target"], batches["target"].labels)
    losses = method.step(batches)
    found = [losses[name].item() for name in ("source_cross_entropy", "source_triplet", "cross_entropy", "triplet")]
    assert found == pytest.approx([0.5 * source[0], 0.5 * source[1], *target], rel=1e-4)
    for value, expected in zip(method.network.buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(value, expected)


def test_the_classifier_has_the_means_of_clusters_and_source_classes_as_a_new_parameter():
    method, context = clusters(SOURCE)
    method.begin_epoch(0)
    before = method.network.classifier.weight
    context.features["target"] = around([label % 2 if label >= 0 else label for label in LABELS], seed=5)
    method.begin_epoch(1)
    weight = method.network.classifier.weight
    assert len(before) == 3 + 3
    assert len(weight) == 2 + 3
    for number, pid in enumerate((3, 7, 9)):
        members = [row for row, of_image in enumerate(PIDS) if of_image == pid]
        expected = functional.normalize(context.features["source"][members].sum(dim=0), dim=0)
        torch.testing.assert_close(weight[2 + number], expected, atol=1e-6, rtol=0)
        torch.testing.assert_close(before[3 + number], expected, atol=1e-6, rtol=0)
    assert any(parameter is weight for group in method.parameter_groups() for parameter in group["params"])


def test_a_saved_state_sizes_the_classifier():
    method, _ = clusters(SOURCE)
    method.begin_epoch(0)
    other, _ = clusters(SOURCE)
    other.load_state_dict(method.state_dict())
    other.trained.load_state_dict(method.trained.state_dict())
    assert torch.equal(other.network.classifier.weight, method.network.classifier.weight)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": {"target": 2}}, "batch.target is 2: a triplet loss needs two classes in a batch; raise it to 4"),
        (merge(SOURCE, {"batch": {"source": 2}}), "batch.source is 2: a triplet loss needs two classes"),
        (merge(SOURCE, {"batch": {"source": 8}}), "there are 3 identities; lower the batch size"),
        ({"model": {"test_feature": "pooled"}}, "set model.test_feature=embedding"),
        (
            {"source_loss": {"classification_weight": 0, "triplet_weight": 0}},
            "source_loss: all weights are 0, nothing is left to train on",
        ),
    ],
)
def test_settings_that_do_not_fit_are_told_before_anything_is_computed(changes, message):
    with pytest.raises(InputError, match=message):
        clusters(changes)
