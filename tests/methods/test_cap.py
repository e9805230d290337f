"""CAP against slow references, and on known features."""

import copy
import logging

import pytest
import slow_proxies
import torch
from known_features import around, batch_of, domain, method_on
from torch.nn import functional

from reid_da.config import merge
from reid_da.errors import InputError
from reid_da.methods import METHODS

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


def test_a_step_of_o2cap_and_the_epoch_it_begins_with():
    rows = METHODS["cap"].rows["o2cap"]
    method, _ = cap(merge(rows, {"online": {"from_epoch": 1}}))
    assert method.step({"target": batch_of(method.begin_epoch(0), "target")}).keys() == {"inter"}
    batch = batch_of(method.begin_epoch(1), "target")
    with torch.no_grad():
        features = copy.deepcopy(method.network).train()(batch.images, "target")
    _, camids = zip(*PROXIES, strict=True)
    expected, _ = slow_proxies.online_loss(
        features,
        method.memory.slots.double(),
        batch.labels.tolist(),
        camids,
        temperature=0.07,
        **method.settings.online.model_dump(exclude={"weight", "from_epoch"}),
    )
    losses = method.step({"target": batch})
    assert losses.keys() == {"inter", "online"}
    assert losses["online"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_an_epoch_without_a_loss_is_refused_before_the_training():
    with pytest.raises(InputError, match="nothing is trained in the first epoch: set proxies.intra_weight above 0"):
        cap({"proxies": {"intra_weight": 0.0}})


@pytest.mark.parametrize(
    ("proxies", "warned"), [({}, True), ({"inter_from_epoch": 4}, False), ({"inter_weight": 0.0}, False)]
)
def test_a_loss_that_never_starts_is_told(proxies, warned, caplog):
    cap({"epochs": 5, "proxies": proxies})
    told = ["the loss across cameras never starts: proxies.inter_from_epoch is 5, and there are 5 epochs"]
    assert [record.getMessage() for record in caplog.records if "never" in record.getMessage()] == told * warned


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
    intra, inter, *_ = slow_proxies.losses(
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
