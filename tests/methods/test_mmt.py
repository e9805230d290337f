"""MMT against slow references, on known features."""

import copy
import math

import pytest
import torch
from known_features import DIM, around, batch_of, domain, method_on
from torch import nn
from torch.nn import functional

from reid_da.config import merge
from reid_da.errors import InputError
from reid_da.images import Batch
from reid_da.training.streams import epoch_batches

LABELS = [0, 1, 0, 2, -1, 1, 2, 0, 1, 2, -1, 0]
PLAIN = {"clustering": {"eps_share": None, "convention": "clustering"}}


def mmt(*, changes=None, features=None):
    domains = [domain("target", pids=[label if label >= 0 else 50 for label in LABELS])]
    method, context = method_on(domains, merge(merge({"method": "mmt"}, PLAIN), changes or {}))
    context.features["target"] = around(LABELS) if features is None else features
    return method, context


def views_of(plan, seed=0):
    """The same images with other pixels, as the two streams hold them."""
    first = batch_of(plan, "target_1", seed)
    generator = torch.Generator().manual_seed(seed + 100)
    second = Batch(rows=first.rows, images=torch.randn(first.images.shape, generator=generator), labels=first.labels)
    return {"target_1": first, "target_2": second}


def softmax(values):
    exponentials = [math.exp(value) for value in values]
    return [value / sum(exponentials) for value in exponentials]


def slow_losses(students, teachers, labels, *, smoothing=0.1):
    """Unweighted losses in float64, image by image; ``students`` and ``teachers`` are (pooled, logits)."""
    losses = dict.fromkeys(("cross_entropy", "triplet", "soft_cross_entropy", "soft_triplet"), 0.0)
    count = len(labels)
    for (pooled, logits), (other_pooled, other_logits) in zip(students, reversed(teachers), strict=True):
        for row, label in enumerate(labels):
            p, q = softmax(logits[row].tolist()), softmax(other_logits[row].tolist())
            wanted = [(1 - smoothing) * (k == label) + smoothing / len(p) for k in range(len(p))]
            losses["cross_entropy"] -= sum(w * math.log(v) for w, v in zip(wanted, p, strict=True)) / count
            losses["soft_cross_entropy"] -= sum(w * math.log(v) for w, v in zip(q, p, strict=True)) / count
            distances = [math.dist(pooled[row].tolist(), other.tolist()) for other in pooled]
            positive = max((i for i in range(count) if labels[i] == label), key=lambda i: distances[i])
            negative = min((i for i in range(count) if labels[i] != label), key=lambda i: distances[i])
            p = softmax([distances[positive], distances[negative]])
            q = softmax([math.dist(other_pooled[row].tolist(), other_pooled[i].tolist()) for i in (positive, negative)])
            losses["triplet"] -= math.log(p[1]) / count
            losses["soft_triplet"] -= sum(w * math.log(v) for w, v in zip(q, p, strict=True)) / count
    return losses


def outputs(network, images):
    """Pooled features and logits of a copy in training mode, in float64, put together layer by layer."""
    with torch.no_grad():
        network = copy.deepcopy(network).train().double()
        pooled = network.backbone(images.double())
        return pooled, functional.linear(network.embedding_norm(pooled), network.classifier.weight)


def different_networks(method):
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for value in method.trained.parameters():
            value.add_(0.05 * value.std(correction=0) * torch.randn(value.shape, generator=generator))


# -------------------------------------------------------------------------------------------------------------- epochs


def test_an_epoch_clusters_the_mean_features_of_the_teachers_into_rows_of_all_classifiers():
    method, context = mmt()
    of_teacher = {id(teacher): around(LABELS, seed=seed) for seed, teacher in enumerate(method.teachers)}
    object.__setattr__(context, "extract", lambda model, domain: of_teacher[id(model)])
    plan = method.begin_epoch(0)
    assert plan.new_optimizer
    assert method.target.labels.tolist() == LABELS
    mean = functional.normalize(sum(of_teacher.values()).double() / 2)
    for network in method.trained.values():
        assert network.classifier.weight.shape == (3, DIM)
        for label in range(3):
            members = [row for row, own in enumerate(LABELS) if own == label]
            expected = functional.normalize(mean[members].mean(dim=0), dim=0)
            torch.testing.assert_close(network.classifier.weight[label].double(), expected, atol=1e-6, rtol=0)
    weights = [network.classifier.weight.data_ptr() for network in method.trained.values()]
    assert len(set(weights)) == 4


def test_the_optimiser_gets_the_parameters_of_the_students_alone():
    method, _ = mmt()
    method.begin_epoch(0)
    found = [id(value) for group in method.parameter_groups() for value in group["params"]]
    expected = [id(value) for student in method.students for value in student.parameters()]
    assert sorted(found) == sorted(expected)
    assert not any(value.requires_grad for teacher in method.teachers for value in teacher.parameters())
    assert [group["name"] for group in method.parameter_groups()] == ["backbone", "new"]


class Numbered:
    """Images whose upper left pixel is their row."""

    size, failed = (32, 16), ()

    def __init__(self, count):
        self._count = count

    def __len__(self):
        return self._count

    def gather(self, rows):
        return rows.byte()[:, None, None, None].expand(-1, 3, 32, 16).contiguous()


def test_both_students_get_the_same_images_in_augmentations_of_their_own():
    method, context = mmt(changes={"augment": {"crop": "none", "flip": 0.0, "erase": 1.0}, "steps_per_epoch": 4})
    object.__setattr__(context.domains["target"], "images", Numbered(len(LABELS)))
    plan = method.begin_epoch(0)
    steps = list(epoch_batches(plan, seed=lambda purpose: context.seed(purpose, 0), image_size=(32, 16), device="cpu"))
    assert len(steps) == 4
    for first, second in (step.values() for step in steps):
        assert torch.equal(first.rows, second.rows)
        assert torch.equal(first.labels, second.labels)
        assert (first.images != second.images).flatten(1).any(dim=1).all()


def test_the_limit_that_a_share_of_the_distances_gives_is_kept():
    changes = {"clustering": {"metric": "jaccard", "k1": 4, "k2": 1, "eps_share": 0.25}}
    method, context = mmt(changes=changes)
    method.begin_epoch(0)
    eps = method.eps
    assert 0 < eps < 1
    context.features["target"] = around(LABELS, spread=0.3, seed=9)
    method.begin_epoch(1)
    assert method.eps == eps == method.target.settings.eps
    fresh, _ = mmt(changes=changes, features=context.features["target"])
    fresh.begin_epoch(0)
    assert fresh.eps != eps


@pytest.mark.parametrize("algorithm", ["kmeans", "dbscan"])
def test_clusterings(algorithm):
    method, _ = mmt(changes={"clustering": {"algorithm": algorithm, "num_clusters": 5}})
    method.begin_epoch(0)
    assert method.target.num_clusters == 3 if algorithm == "dbscan" else method.target.num_clusters <= 5


# --------------------------------------------------------------------------------------------------------------- steps


def test_a_step_is_the_weighted_sum_of_labels_and_of_the_other_teacher():
    method, _ = mmt()
    plan = method.begin_epoch(0)
    different_networks(method)
    batches = views_of(plan)
    images = [batch.images for batch in batches.values()]
    students = [outputs(network, view) for network, view in zip(method.students, images, strict=True)]
    teachers = [outputs(network, view) for network, view in zip(method.teachers, images, strict=True)]
    slow = slow_losses(students, teachers, batches["target_1"].labels.tolist())
    statistics = [teacher.backbone.bn1.running_mean.clone() for teacher in method.teachers]
    losses = method.step(batches)
    weights = {"cross_entropy": 0.5, "triplet": 0.2, "soft_cross_entropy": 0.5, "soft_triplet": 0.8}
    for name, weight in weights.items():
        assert losses[name].item() == pytest.approx(weight * slow[name], rel=1e-3), name
    assert losses.keys() == weights.keys()
    # a teacher normalises with the statistics of its own images, and keeps them
    for teacher, before in zip(method.teachers, statistics, strict=True):
        assert not torch.equal(teacher.backbone.bn1.running_mean, before)
    sum(losses.values()).backward()
    assert all(value.grad is not None for student in method.students for value in student.parameters())
    assert all(value.grad is None for teacher in method.teachers for value in teacher.parameters())


def test_teachers_follow_with_a_ramp():
    method, _ = mmt(changes={"mutual": {"keep": 0.7}})
    method.begin_epoch(0)
    expected = None
    for update, keep in enumerate([0, 1 / 2, 2 / 3, 0.7, 0.7]):
        different_networks(method)
        before = [[value.double() for value in teacher.parameters()] for teacher in method.teachers]
        after = [[value.detach().double() for value in student.parameters()] for student in method.students]
        buffers = [value.clone() for teacher in method.teachers for value in teacher.buffers()]
        method.after_update()
        for old, new, teacher in zip(before, after, method.teachers, strict=True):
            for a, b, found in zip(old, new, teacher.parameters(), strict=True):
                expected = keep * a + (1 - keep) * b
                torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-5, msg=str(update))
        assert all(map(torch.equal, buffers, (value for teacher in method.teachers for value in teacher.buffers())))


def test_the_first_teacher_is_what_is_tested_and_restored():
    method, _ = mmt()
    method.begin_epoch(0)
    different_networks(method)
    images = torch.randn(2, 3, 32, 16)
    restored = type(method).restore(method.settings, method.trained.state_dict())
    assert method.inference is method.teachers[0]
    assert torch.equal(restored.eval()(images), method.teachers[0].eval()(images))


def test_the_second_network_may_start_elsewhere(tmp_path):
    method, context = mmt()
    first, second = (network.backbone.conv1.weight for network in method.students)
    assert not torch.equal(first, second)
    asked = []
    build = type(context).network
    object.__setattr__(context, "network", lambda **options: asked.append(options) or build(context, **options))
    type(method)(method.settings.model_copy(update={"init_second": tmp_path}), context)
    assert [options.get("start") for options in asked] == [None, tmp_path]


def test_a_saved_state_sizes_the_classifiers_and_goes_on_alike():
    method, context = mmt()
    method.begin_epoch(0)
    method.after_update()
    other, _ = mmt()
    other.load_state_dict(method.state_dict())
    other.trained.load_state_dict(method.trained.state_dict())
    assert other.updates == 1
    for one, two in zip(other.parameter_groups(), method.parameter_groups(), strict=True):
        assert [p.shape for p in one["params"]] == [p.shape for p in two["params"]]
    context.features["target"] = other.context.features["target"] = around([0] * 12)
    assert other.begin_epoch(1).figures == method.begin_epoch(1).figures == {"clusters_kept": 1.0}
    assert isinstance(other.students[0].classifier, nn.Linear)
    assert torch.equal(other.students[0].classifier.weight, method.students[0].classifier.weight)


# --------------------------------------------------------------------------------------------------- what can go wrong


@pytest.mark.parametrize(("labels", "found"), [([0] * 12, "1 clusters at eps"), ([-1] * 12, "0 clusters at eps")])
def test_too_few_clusters_in_the_first_epoch_are_one_line(labels, found):
    method, _ = mmt(features=around(labels))
    with pytest.raises(InputError, match=f"^clustering found {found} = 0.1 .*2 are needed; try another eps"):
        method.begin_epoch(0)


def test_fewer_clusters_than_a_batch_wants_make_smaller_batches(caplog):
    method, _ = mmt(changes={"batch": {"target": 16}})
    plan = method.begin_epoch(0)
    assert "batch.target asks for 8 clusters, and there are 3: smaller batches" in caplog.messages
    batches = views_of(plan)
    assert sorted(batches["target_1"].labels.tolist()) == [0, 0, 1, 1, 2, 2]
    assert all(torch.isfinite(loss) for loss in method.step(batches).values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"test_feature": "pooled"}}, "model.test_feature is pooled, .* set model.test_feature=embedding"),
        ({"batch": {"target": 7}}, "batch.target is 7: expected a multiple of batch.instances, 2"),
        ({"batch": {"target": 2}}, "batch.target is 2: a triplet loss needs two clusters in a batch; raise it to 4"),
    ],
)
def test_settings_that_do_not_fit_are_told_before_anything_is_computed(changes, message):
    with pytest.raises(InputError, match=f"^{message}"):
        mmt(changes=changes)
