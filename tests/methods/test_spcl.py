"""SpCL against slow references, on known features."""

import copy
import logging

import numpy as np
import pytest
import torch
from known_features import DIM, around, batch_of, domain, method_on

from reid_da.config import merge
from reid_da.errors import InputError

# clusters in the order of their first images, with two outliers
LABELS = [0, 1, 0, 2, -1, 1, 2, 0, 1, 2, -1, 0]
CLASSES = [0, 1, 0, 2, 3, 1, 2, 0, 1, 2, 4, 0]
"""What the images are classified as: outliers are classes of their own."""
SOURCE_PIDS = [7, 3, 3, 7, 9, 9, 3, 7]
SOURCE_LABELS = [1, 0, 0, 1, 2, 2, 0, 1]


def unit(vector):
    return vector / vector.norm()


def target(**options):
    return domain("target", pids=[label if label >= 0 else 50 for label in LABELS], **options)


def spcl(*, changes=None, features=None, source=False, broken=()):
    with_source = {"data": {"source": "source"}, "batch": {"source": 4}} if source else {}
    domains = [target(broken=broken), domain("source", pids=SOURCE_PIDS)]
    method, context = method_on(domains, merge(merge({"method": "spcl"}, with_source), changes or {}))
    context.features["target"] = around(LABELS) if features is None else features
    context.features["source"] = around([10 + label for label in SOURCE_LABELS], seed=3)
    return method, context


def slow_loss(features, slots, classes, own, temperature=0.05):
    """In float64: the mean logit of every class, then the softmax, image by image."""
    losses = []
    for feature, label in zip(features.double(), own.tolist(), strict=True):
        logits = [float(feature @ slot) / temperature for slot in slots.double()]
        means = [np.mean([logits[slot] for slot, c in enumerate(classes) if c == k]) for k in range(max(classes) + 1)]
        losses.append(np.log(np.sum(np.exp(means))) - means[label])
    return float(np.mean(losses))


def of_class(label, *, source=0):
    return [slot for slot, c in enumerate(all_classes(source)) if c == label]


def all_classes(source):
    return [*range(source), *(label + source for label in CLASSES)]


# ------------------------------------------------------------------------------------------------------------ clusters


def test_the_memory_begins_with_the_features_and_its_clusters_and_single_images_are_classes():
    method, context = spcl()
    plan = method.begin_epoch(0)
    torch.testing.assert_close(method.memory.slots, context.features["target"])
    assert method.target.labels.tolist() == LABELS
    rows, labels = plan.streams["target"].chosen
    assert dict(zip(rows.tolist(), labels.tolist(), strict=True)) == dict(enumerate(CLASSES))
    for label in range(5):
        expected = context.features["target"][of_class(label)].mean(dim=0)
        torch.testing.assert_close(method.means[label], expected)
    assert plan.figures["clusters"] == 3
    assert plan.figures["clusters_outliers"] == pytest.approx(2 / 12)
    assert plan.figures["clusters_reliable"] == 1
    assert plan.steps == 400


def test_later_epochs_cluster_the_memory_and_not_what_the_network_says():
    method, context = spcl()
    method.begin_epoch(0)
    context.features["target"] = around([-1] * 12)
    method.memory.slots.copy_(around([0] * 6 + [1] * 6))
    method.begin_epoch(1)
    assert method.target.labels.tolist() == [0] * 6 + [1] * 6


def circle(*degrees):
    """(N, D) features on a circle, with angles in degrees."""
    angles = torch.tensor(degrees).deg2rad()
    return torch.cat([angles.cos()[:, None], angles.sin()[:, None], torch.zeros(len(degrees), DIM - 2)], dim=1)


# cosine distances 1 - cos: 24 degrees are 0.086, 26 are 0.101, 28 are 0.117
@pytest.mark.parametrize(
    ("degrees", "threshold", "expected"),
    [
        # neighbours at 10 degrees: the same at all three limits
        ((0, 10, 20, 90, 100, 110), 1.0, [0, 0, 0, 1, 1, 1]),
        # at 0.12 the first two clusters are one, at 0.1 they are not: they are not independent
        ((0, 10, 38, 48, 180, 190, 270, 280), 1.0, [-1, -1, -1, -1, 0, 0, 1, 1]),
        # independent enough for a low threshold
        ((0, 10, 38, 48, 180, 190), 0.5, [0, 0, 1, 1, 2, 2]),
        # at 0.08 the fourth image leaves its cluster: it is not compact in it
        ((0, 10, 20, 44.5, 180, 190), 1.0, [0, 0, 0, -1, 1, 1]),
    ],
)
def test_clusters_have_to_be_independent_and_images_compact(degrees, threshold, expected):
    changes = {"batch": {"target": 2}, "clustering": {"eps": 0.1}}
    domains = [domain("target", pids=[1] * len(degrees))]
    method, context = method_on(domains, merge({"method": "spcl"}, changes))
    context.features["target"] = circle(*degrees)
    method.threshold = threshold
    method._fill()
    figures = method.begin_epoch(0).figures
    assert method.target.labels.tolist() == expected
    assert figures["clusters_reliable"] == pytest.approx(np.mean(np.array(expected) >= 0))


def test_the_threshold_is_that_of_the_first_epoch():
    method, _ = spcl()
    method.begin_epoch(0)
    assert method.threshold == 1
    method.memory.slots.copy_(around(LABELS, spread=0.05, seed=8))
    method.threshold = 0.25
    method.begin_epoch(1)
    assert method.threshold == 0.25


def test_images_that_cannot_be_decoded_are_nowhere():
    method, context = spcl(broken=(1, 4))
    plan = method.begin_epoch(0)
    rows, labels = plan.streams["target"].chosen
    assert not {1, 4} & set(rows.tolist())
    assert sorted(set(labels.tolist())) == [0, 1, 2, 3]
    # image 3 is now the second to come with a new cluster
    torch.testing.assert_close(method.means[2], context.features["target"][[5, 8]].mean(dim=0))
    assert torch.isfinite(method.means).all()


# --------------------------------------------------------------------------------------------------------------- steps


def check_means(method, source=0):
    for label in range(source + 5):
        expected = method.memory.slots[of_class(label, source=source)].double().mean(dim=0)
        torch.testing.assert_close(method.means[label].double(), expected, atol=1e-6, rtol=0)


def test_a_step_is_the_cross_entropy_of_the_class_means_and_moves_the_slots():
    method, _ = spcl()
    plan = method.begin_epoch(0)
    slots = method.memory.slots.double()
    for seed in range(3):
        batch = batch_of(plan, "target", seed)
        with torch.no_grad():
            features = copy.deepcopy(method.network).train()(batch.images, "target")
        losses = method.step({"target": batch})
        assert losses.keys() == {"target"}
        assert losses["target"].item() == pytest.approx(slow_loss(features, slots, CLASSES, batch.labels), rel=1e-4)
        torch.testing.assert_close(method.memory.slots.double(), slots)
        losses["target"].backward()
        method.after_backward()
        for row, feature in zip(batch.rows.tolist(), features.double(), strict=True):
            slots[row] = unit(0.2 * slots[row] + 0.8 * feature)
        torch.testing.assert_close(method.memory.slots.double(), slots, atol=1e-6, rtol=0)
        check_means(method)


@pytest.mark.parametrize("domain_norm", [True, False])
def test_a_source_has_slots_for_its_classes_and_batch_norms_of_its_own(domain_norm):
    method, context = spcl(source=True, changes={"domain_norm": domain_norm, "source_weight": 0.5})
    plan = method.begin_epoch(0)
    for label in range(3):
        members = [row for row, own in enumerate(SOURCE_LABELS) if own == label]
        torch.testing.assert_close(method.memory.slots[label], unit(context.features["source"][members].sum(dim=0)))
    torch.testing.assert_close(method.memory.slots[3:], context.features["target"])
    slots = method.memory.slots.double()
    reference = copy.deepcopy(method.network).train()
    of_source = copy.deepcopy(reference) if domain_norm else reference
    for seed in range(2):
        batches = {name: batch_of(plan, name, seed) for name in ("target", "source")}
        with torch.no_grad():
            features = {"source": of_source(batches["source"].images, "target")}
            features["target"] = reference(batches["target"].images, "target")
        losses = method.step(batches)
        for name, first, weight in (("source", 0, 0.5), ("target", 3, 1)):
            expected = weight * slow_loss(features[name], slots, all_classes(3), batches[name].labels + first)
            assert losses[name].item() == pytest.approx(expected, rel=1e-4)
        method.after_backward()
        for name in ("source", "target"):
            indices = batches[name].labels if name == "source" else batches[name].rows + 3
            for slot, feature in zip(indices.tolist(), features[name].double(), strict=True):
                slots[slot] = unit(0.2 * slots[slot] + 0.8 * feature)
        torch.testing.assert_close(method.memory.slots.double(), slots, atol=1e-6, rtol=0)
        check_means(method, source=3)
    for (name, found), expected in zip(method.inference.named_buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(found, expected, msg=name)
    if domain_norm:
        buffers, own = dict(of_source.named_buffers()), method.trained["source_norms"].named()
        for name, value in buffers.items():
            torch.testing.assert_close(own[name], value, msg=name)


def test_batch_norms_of_the_source_are_trained_and_left_out_of_inference():
    method, _ = spcl(source=True)
    batches = {name: batch_of(method.begin_epoch(0), name) for name in ("target", "source")}
    groups = {id(value) for group in method.parameter_groups() for value in group["params"]}
    assert groups == {id(value) for value in method.trained.parameters() if value.requires_grad}
    loss = method.step(batches)["source"]
    loss.backward()
    norms = dict(method.trained["source_norms"].named_parameters())
    assert all(value.grad is not None for value in norms.values())
    assert method.network.backbone.bn1.weight.grad is None
    assert method.network.backbone.conv1.weight.grad is not None
    restored = type(method).restore(method.settings, method.trained.state_dict())
    images = batches["target"].images
    assert torch.equal(restored.eval()(images), method.inference.eval()(images))


# ----------------------------------------------------------------------------------------------- what can go wrong


@pytest.mark.parametrize(("labels", "found"), [([0] * 12, "1 clusters at eps"), ([-1] * 12, "0 clusters at eps")])
def test_too_few_clusters_in_the_first_epoch_are_one_line(labels, found):
    method, _ = spcl(features=around(labels))
    with pytest.raises(InputError, match=f"^clustering found {found} = 0.1 .*2 are needed; try another eps") as raised:
        method.begin_epoch(0)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("labels", [[0] * 12, [-1] * 12])
def test_later_epochs_with_too_few_clusters_keep_the_labels(labels, caplog):
    method, _ = spcl()
    method.begin_epoch(0)
    method.memory.slots.copy_(around(labels))
    with caplog.at_level(logging.WARNING):
        plan = method.begin_epoch(1)
    assert "the labels of the epoch before are kept" in caplog.messages[0]
    assert plan.figures["clusters_kept"] == 1
    assert method.target.labels.tolist() == LABELS
    check_means(method)


def test_fewer_classes_than_a_batch_wants_make_smaller_batches(caplog):
    features = around([0] * 6 + [1] * 6)
    method, _ = spcl(changes={"batch": {"target": 12, "instances": 4}}, features=features)
    with caplog.at_level(logging.WARNING):
        plan = method.begin_epoch(0)
    assert caplog.messages == ["batch.target is 12, and the classes give 8 images: smaller batches"]
    batch = batch_of(plan, "target")
    assert sorted(batch.labels.tolist()) == [0] * 4 + [1] * 4
    assert torch.isfinite(method.step({"target": batch})["target"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clustering": {"algorithm": "kmeans", "num_clusters": 3}}, "clustering: spcl compares clusters at three"),
        ({"clustering": {"eps_share": 0.01}}, "clustering: spcl compares clusters at three values of eps"),
        ({"hybrid": {"eps_gap": 0.1}}, r"clustering.eps is 0.1: with hybrid.eps_gap=0.1 it must be above 0.1 and"),
        ({"clustering": {"metric": "jaccard", "eps": 0.99}}, "clustering.eps is 0.99: .* above 0.02 and below 0.98"),
        ({"model": {"test_feature": "pooled"}}, "model.test_feature is pooled, .* set model.test_feature=embedding"),
        ({"batch": {"target": 7}}, "batch.target is 7: expected a multiple of batch.instances, 2"),
        ({"batch": {"target": 20}}, "batch.target is 20, but there are 12 target images; lower it"),
        ({"batch": {"source": 8}}, "a batch of 4 identities with 2 images each: there are 3 identities"),
    ],
)
def test_settings_that_do_not_fit_are_told_before_anything_is_computed(changes, message):
    with pytest.raises(InputError, match=f"^{message}"):
        spcl(source=True, changes=changes)
