"""Cluster-Contrast and pseudo-labels against slow references, on known features, and as trainings."""

import copy
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from known_features import DIM, around, batch_of, domain, method_on
from torch.nn import functional

from reid_da.config import merge
from reid_da.errors import InputError
from reid_da.experiments.setup import build_trainer
from reid_da.memory.exemplar import ExemplarMemory
from reid_da.methods import settings_of
from reid_da.methods.cluster_contrast import update_clusters
from reid_da.training.run_folder import RunFolder

# clusters in the order of their first images, with two outliers
LABELS = [0, 1, 0, 2, -1, 1, 2, 0, 1, 2, -1, 0]


def unit(vector):
    return vector / vector.norm()


def target(**options):
    return domain("target", pids=[label if label >= 0 else 50 for label in LABELS], **options)


def cluster_contrast(*, changes=None, domains=None, features=None):
    method, context = method_on(domains or [target()], merge({"method": "cluster-contrast"}, changes or {}))
    context.features["target"] = around(LABELS) if features is None else features
    return method, context


def slow_loss(features, vectors, labels, temperature):
    """The loss in float64, image by image and vector by vector."""
    losses = []
    for feature, label in zip(features.double(), labels.tolist(), strict=True):
        exponentials = [torch.exp(feature @ vector / temperature) for vector in vectors.double()]
        losses.append(-torch.log(exponentials[label] / sum(exponentials)))
    return torch.stack(losses).mean().item()


# ----------------------------------------------------------------------------------------------------- pseudo-labels


def test_clusters_vectors_and_stream_come_from_the_features():
    method, context = cluster_contrast()
    plan = method.begin_epoch(0)
    assert method.target.labels.tolist() == LABELS
    features = context.features["target"].double()
    for cluster in range(3):
        members = [row for row, label in enumerate(LABELS) if label == cluster]
        expected = unit(sum(features[row] for row in members))
        torch.testing.assert_close(method.memory.slots[cluster].double(), expected, atol=1e-6, rtol=0)
    rows, labels = plan.streams["target"].chosen
    assert [LABELS[row] for row in rows] == labels.tolist()
    assert set(rows.tolist()) == {row for row, label in enumerate(LABELS) if label >= 0}
    assert plan.steps == 1
    assert plan.figures["clusters"] == 3
    assert plan.figures["clusters_outliers"] == pytest.approx(2 / 12)
    assert plan.figures["clusters_ami_pids"] == pytest.approx(1)
    assert "clusters_agreement" not in plan.figures
    assert method.begin_epoch(1).figures["clusters_agreement"] == pytest.approx(1)


def test_images_that_cannot_be_decoded_have_no_cluster_and_no_say():
    """What their features are does not matter: here they are those of cluster 0."""
    broken = (1, 4)
    features = around(LABELS)
    features[list(broken)] = features[0].clone()
    method, _ = cluster_contrast(domains=[target(broken=broken)], features=features)
    plan = method.begin_epoch(0)
    expected = [-1 if row in broken else label for row, label in enumerate(LABELS)]
    # image 3 is now the second to come with a new cluster
    renumbered = [{1: 2, 2: 1}.get(label, label) for label in expected]
    assert method.target.labels.tolist() == renumbered
    assert not set(broken) & set(plan.streams["target"].chosen[0].tolist())
    members = [row for row, label in enumerate(LABELS) if label == 0]
    torch.testing.assert_close(method.memory.slots[0], unit(around(LABELS)[members].sum(0)), atol=1e-6, rtol=0)


def test_labels_are_kept_where_there_are_fewer_than_two_clusters(caplog):
    method, context = cluster_contrast()
    method.begin_epoch(0)
    one_cluster = around([0] * len(LABELS), seed=1)
    context.features["target"] = one_cluster
    with caplog.at_level(logging.WARNING):
        plan = method.begin_epoch(1)
    assert caplog.messages == [
        "epoch 2: clustering found 1 clusters; the labels of the epoch before are kept; "
        "lower clustering.eps (now 0.1); if that does not help, start from better weights",
    ]
    assert plan.figures == {"clusters_kept": 1.0}
    assert method.target.labels.tolist() == LABELS
    members = [row for row, label in enumerate(LABELS) if label == 2]
    torch.testing.assert_close(method.memory.slots[2], unit(one_cluster[members].sum(0)), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("labels", "found"), [([0] * 12, "1 clusters at eps"), ([-1] * 12, "0 clusters at eps")])
def test_too_few_clusters_in_the_first_epoch_are_one_line(labels, found):
    method, _ = cluster_contrast(features=around(labels))
    with pytest.raises(InputError, match=f"^clustering found {found} = 0.1 .*2 are needed; try another eps") as raised:
        method.begin_epoch(0)
    assert "\n" not in str(raised.value)


def test_fewer_clusters_than_a_batch_wants_make_smaller_batches(caplog):
    method, _ = cluster_contrast(changes={"batch": {"target": 16, "instances": 2}})
    with caplog.at_level(logging.WARNING):
        plan = method.begin_epoch(0)
    assert caplog.messages == ["batch.target asks for 8 clusters, and there are 3: smaller batches"]
    batch = batch_of(plan, "target")
    assert sorted(batch.labels.tolist()) == [0, 0, 1, 1, 2, 2]
    assert torch.isfinite(method.step({"target": batch})["cluster"])


@pytest.mark.parametrize("metric", ["jaccard", "camera_jaccard"])
def test_a_camera_with_one_image(metric):
    camids = [5, *(row % 2 for row in range(1, len(LABELS)))]
    small = {"k1": 4, "k2": 1, "k1_intra": 2, "k1_inter": 2, "k2_intra": 1, "k2_inter": 1}
    changes = {"clustering": {"metric": metric, "eps": 0.5, **small}}
    method, _ = cluster_contrast(changes=changes, domains=[target(camids=camids)])
    assert method.begin_epoch(0).figures["clusters"] >= 2


def test_one_camera_is_too_few_for_a_distance_that_compares_cameras():
    message = "^target: has one camera or unknown ones, and .*camera_jaccard needs several; use .*metric=jaccard$"
    with pytest.raises(InputError, match=message):
        cluster_contrast(changes={"clustering": {"metric": "camera_jaccard"}}, domains=[target(camids=[0] * 12)])


def test_labels_are_all_that_is_saved():
    method, context = cluster_contrast()
    method.begin_epoch(0)
    other, _ = cluster_contrast()
    assert other.state_dict() == {"target": {}}
    other.load_state_dict(method.state_dict())
    assert torch.equal(other.target.labels, method.target.labels)
    # the resumed method falls back to the labels from before, as the other one does
    other.context.features["target"] = context.features["target"] = around([0] * 12)
    assert other.begin_epoch(1).figures == method.begin_epoch(1).figures == {"clusters_kept": 1.0}


# -------------------------------------------------------------------------------------------------------------- steps


def test_a_step_on_the_target_is_the_cross_entropy_of_the_own_cluster():
    method, _ = cluster_contrast()
    batch = batch_of(method.begin_epoch(0), "target")
    vectors = method.memory.slots.clone()
    with torch.no_grad():
        features = copy.deepcopy(method.network).train()(batch.images, "target")
    losses = method.step({"target": batch})
    assert losses.keys() == {"cluster"}
    assert losses["cluster"].item() == pytest.approx(slow_loss(features, vectors, batch.labels, 0.05), rel=1e-4)
    assert torch.equal(method.memory.slots, vectors)
    losses["cluster"].backward()
    assert all(value.grad is not None for name, value in method.network.named_parameters() if "classifier" not in name)
    method.after_backward()
    for label, feature in zip(batch.labels.tolist(), features.double(), strict=True):
        vectors[label] = unit(0.1 * vectors[label] + 0.9 * feature)
    torch.testing.assert_close(method.memory.slots, vectors, atol=1e-6, rtol=0)


def test_a_source_has_vectors_of_its_own_behind_the_clusters_and_statistics_of_its_own():
    source = domain("source", pids=[7, 3, 3, 7, 9, 9, 3, 7])
    changes = {"data": {"source": "source"}, "source_weight": 0.5, "batch": {"source": 4}}
    method, context = cluster_contrast(changes=changes, domains=[target(), source])
    context.features["source"] = around([10, 11, 11, 10, 12, 12, 11, 10], seed=3)
    plan = method.begin_epoch(0)
    assert set(plan.streams) == {"source", "target"}
    vectors = method.memory.slots.clone()
    assert vectors.shape == (6, DIM)
    for place, pid in enumerate([3, 7, 9]):
        expected = unit(context.features["source"][torch.tensor(source.table.pids) == pid].sum(dim=0))
        torch.testing.assert_close(vectors[3 + place], expected, atol=1e-6, rtol=0)

    batches = {name: batch_of(plan, name) for name in ("target", "source")}
    reference = copy.deepcopy(method.network).train()
    with torch.no_grad():
        # the source first: the running statistics of the target come last
        features = {name: reference(batches[name].images, "target") for name in ("source", "target")}
    losses = method.step(batches)
    own = batches["source"].labels + 3
    assert losses["source"].item() == pytest.approx(0.5 * slow_loss(features["source"], vectors, own, 0.05), rel=1e-4)
    own = batches["target"].labels
    assert losses["cluster"].item() == pytest.approx(slow_loss(features["target"], vectors, own, 0.05), rel=1e-4)
    for found, expected in zip(method.network.buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(found, expected)

    method.after_backward()
    for name, first in (("source", 3), ("target", 0)):
        for label, feature in zip(batches[name].labels.tolist(), features[name], strict=True):
            vectors[first + label] = unit(0.1 * vectors[first + label] + 0.9 * feature)
    torch.testing.assert_close(method.memory.slots, vectors, atol=1e-6, rtol=0)


def test_a_source_of_weight_0_is_left_out():
    method, _ = cluster_contrast(changes={"data": {"source": "source"}, "source_weight": 0})
    assert set(method.begin_epoch(0).streams) == {"target"}


@pytest.mark.parametrize("update", ["all", "hard", "mean"])
@pytest.mark.parametrize("seed", range(5))
def test_ways_to_move_the_vectors(update, seed):
    generator = torch.Generator().manual_seed(seed)
    vectors = functional.normalize(torch.randn(5, 8, generator=generator, dtype=torch.float64))
    features = functional.normalize(torch.randn(12, 8, generator=generator, dtype=torch.float64))
    labels = torch.randint(4, (12,), generator=generator)
    expected = vectors.clone()
    for label in set(labels.tolist()):
        of_label = [features[row] for row in range(12) if labels[row] == label]
        if update == "hard":
            of_label = [min(of_label, key=lambda feature: float(feature @ vectors[label]))]
        if update == "mean":
            of_label = [sum(of_label) / len(of_label)]
        for feature in of_label:
            expected[label] = unit(0.3 * expected[label] + 0.7 * feature)
    memory = ExemplarMemory(5, 8, dtype=torch.float64)
    memory.slots.copy_(vectors)
    update_clusters(memory, labels, features, settings=SimpleNamespace(momentum=0.3, update=update))
    torch.testing.assert_close(memory.slots, expected)
    assert torch.equal(memory.slots[4], vectors[4])


# ---------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": {"target": 7}}, "batch.target is 7: expected a multiple of batch.instances, 2, of at least 2"),
        ({"batch": {"instances": 1}}, "batch.target is 6: expected a multiple of batch.instances, 1, of at least 2"),
        ({"model": {"test_feature": "pooled"}}, "model.test_feature is pooled, .* set model.test_feature=embedding"),
        (
            {"data": {"source": "source"}, "batch": {"source": 8}},
            "a batch of 4 identities with 2 images each: there are 3 identities; lower the batch size",
        ),
    ],
)
def test_settings_that_do_not_fit_are_told_before_anything_is_computed(changes, message):
    source = domain("source", pids=[7, 3, 3, 7, 9, 9, 3, 7])
    with pytest.raises(InputError, match=message):
        cluster_contrast(changes=changes, domains=[target(), source])


# ---------------------------------------------------------------------------------------------------------- trainings


@pytest.fixture
def settings(small_settings):
    changes = {
        "method": "cluster-contrast",
        "model": {"embedding": "none", "dropout": 0.0, "target_dropout": "none", "test_feature": "embedding"},
        "batch": {"instances": 4},
        "clustering": {"k1": 5, "k2": 2, "min_samples": 2},
        "optimizer": {"kind": "adam", "lr": 1e-3},
        "steps_per_epoch": 2,
    }
    return settings_of(merge(small_settings.tree, changes), where="test")


def test_a_training_with_a_source_and_images_that_cannot_be_decoded(settings, small_sites, tmp_path):
    folder = tmp_path / "site"
    for split in ("bounding_box_train", "query", "bounding_box_test"):
        (folder / split).mkdir(parents=True)
        for file in sorted((small_sites / "site-b" / split).iterdir()):
            (folder / split / file.name).symlink_to(file)
    broken = sorted((folder / "bounding_box_train").iterdir())[3]
    broken.unlink()
    broken.write_bytes(b"no image")
    changes = {"epochs": 1, "data": {"target": str(folder), "on_error": "skip"}}
    trainer = build_trainer(settings_of(merge(settings.tree, changes), where="test"), RunFolder(tmp_path / "unused"))
    figures = trainer.train_epoch()
    assert np.isfinite([figures["loss_cluster"], figures["loss_source"]]).all()
    assert trainer.method.target.labels[3] == -1
    assert len(trainer.method.target.domain.rows) == len(trainer.method.target.domain) - 1
