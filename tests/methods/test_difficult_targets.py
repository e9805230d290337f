"""Targets that no clustering likes: every method that makes or uses pseudo-labels says so in one line, or goes on."""

import logging

import pytest
import torch
from known_features import DIM, around, domain, method_on

from reid_da.config import merge
from reid_da.errors import InputError
from reid_da.images import Batch
from reid_da.methods import METHODS

PEOPLE = [0, 1, 0, 2, 2, 1, 2, 0, 1, 2, 1, 0]
CAMERAS = [0, 1, 2] * 4
CLUSTERING = {
    "cap": {"method": "cap", "proxies": {"inter_from_epoch": 0}},
    "o2cap": METHODS["cap"].rows["o2cap"],
    "cluster-contrast": {"method": "cluster-contrast"},
    "clusters": {"method": "clusters"},
    "spcl": {"method": "spcl"},
    "mmt": {"method": "mmt", "clustering": {"eps_share": None}},
}
OTHERS = {
    "npid": {"method": "npid"},
    "ecn-gpp": {
        "method": "ecn-gpp",
        "data": {"source": "source"},
        "batch": {"source": 4},
        "model": {"embedding_dim": 16},
        "memory": {"num_neighbors": 3, "neighbors_from_epoch": 0},
        "positives": {"widths": [4], "threshold": 0.4},
        "invariance": {"camera": False},
    },
}
EVERY = CLUSTERING | OTHERS
TOO_FEW_CLUSTERS = {
    # no two images are alike
    "all outliers": (
        torch.eye(DIM)[:12],
        "clustering found 0 clusters.* and 12 outliers among 12 images, 2 are needed",
    ),
    "one cluster": (around([0] * 12), "clustering found 1 clusters.* and 0 outliers among 12 images, 2 are needed"),
}


def made(changes, *, people=PEOPLE, camids=CAMERAS, features=None):
    domains = [domain("target", pids=people, camids=camids), domain("source", pids=[7, 3, 3, 7, 9, 9])]
    method, context = method_on(domains, changes)
    context.features["target"] = around(people) if features is None else features
    context.features["source"] = around([10, 11, 11, 10, 12, 12])
    return method, context


def train(method, epoch):
    """An epoch of one step; its losses."""
    plan = method.begin_epoch(epoch)
    assert plan.steps > 0
    batches = {}
    for name, stream in plan.streams.items():
        rows = next(stream.sampler.batches(*stream.chosen, 0))
        images = torch.randn(len(rows), 3, 32, 16, generator=torch.Generator().manual_seed(len(name)))
        batches[name] = Batch(rows=rows, images=images, labels=None if stream.labels is None else stream.labels[rows])
    losses = method.step(batches)
    sum(losses.values()).backward()
    method.after_backward()
    method.after_update()
    method.end_epoch()
    assert losses
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert all(value.isfinite().all() for value in method.trained.state_dict().values())
    return losses


def one_line(error):
    return "\n" not in str(error.value)


@pytest.mark.parametrize("case", TOO_FEW_CLUSTERS)
@pytest.mark.parametrize("name", CLUSTERING)
def test_too_few_clusters_stop_the_first_epoch_and_no_later_one(name, case, caplog):
    features, message = TOO_FEW_CLUSTERS[case]
    method, _ = made(CLUSTERING[name], features=features)
    with pytest.raises(InputError, match=message) as error:
        method.begin_epoch(0)
    assert one_line(error)
    method, context = made(CLUSTERING[name])
    train(method, 0)
    labels = method.target.labels.clone()
    context.features["target"] = features
    if name == "spcl":
        # clusters what its memory holds
        method.memory.slots.copy_(features)
    with caplog.at_level(logging.WARNING):
        train(method, 1)
    assert torch.equal(method.target.labels, labels)
    assert "the labels of the epoch before are kept" in caplog.text


@pytest.mark.parametrize("name", EVERY)
def test_a_batch_may_ask_for_more_identities_than_there_are_images(name, caplog):
    people, camids = [0, 1, 0, 1, 0], [0, 1, 2, 0, 1]
    changes = merge(EVERY[name], {"batch": {"target": 64, "instances": 2}})
    if name in ("npid", "ecn-gpp", "spcl"):
        with pytest.raises(InputError, match="batch.target is 64, but there are 5 target images; lower it") as error:
            made(changes, people=people, camids=camids)
        assert one_line(error)
        return
    method, _ = made(changes, people=people, camids=camids)
    with caplog.at_level(logging.WARNING):
        train(method, 0)
    assert "smaller batches" in caplog.text


@pytest.mark.parametrize("metric", ["cosine", "jaccard", "camera_jaccard"])
@pytest.mark.parametrize("name", CLUSTERING)
def test_a_camera_may_have_one_image(name, metric):
    clustering = {"metric": metric, "eps": 0.5, "k1": 4, "k2": 1, "k1_intra": 2, "k1_inter": 4, "k2_intra": 1}
    changes = merge(CLUSTERING[name], {"clustering": clustering, "hybrid": {"eps_gap": 0.02}})
    method, _ = made(changes, camids=[9] + [0, 1] * 5 + [0])
    train(method, 0)


@pytest.mark.parametrize("name", CLUSTERING)
def test_features_of_a_camera_with_one_image_may_be_centred(name):
    """The one image is the mean of its camera: nothing is left of its feature, and it is near to no other."""
    method, _ = made(
        merge(CLUSTERING[name], {"clustering": {"center_cameras": True, "eps": 0.5}}), camids=[9] + [0, 1] * 5 + [0]
    )
    train(method, 0)


@pytest.mark.parametrize("name", OTHERS)
def test_methods_without_clusters_do_not_mind_cameras(name):
    for camids in ([9] + [0, 1] * 5 + [0], [0] * 12):
        method, _ = made(OTHERS[name], camids=camids)
        train(method, 0)
        train(method, 1)


@pytest.mark.parametrize("name", CLUSTERING)
def test_unknown_cameras_are_refused_where_cameras_count_and_do_not_matter_elsewhere(name):
    if name in ("cap", "o2cap"):
        message = "^target: has one camera or unknown ones, and method cap needs several; use method=cluster-contrast$"
        with pytest.raises(InputError, match=message):
            made(CLUSTERING[name], camids=[0] * 12)
        return
    method, _ = made(CLUSTERING[name], camids=[0] * 12)
    train(method, 0)
    for changes, needs in (
        ({"metric": "camera_jaccard"}, "clustering.metric=camera_jaccard needs several; use clustering.metric=jaccard"),
        ({"center_cameras": True}, "clustering.center_cameras needs several; use clustering.center_cameras=false"),
    ):
        with pytest.raises(InputError, match=f"^target: has one camera or unknown ones, and {needs}$") as error:
            made(merge(CLUSTERING[name], {"clustering": changes}), camids=[0] * 12)
        assert one_line(error)


# spcl compares clusters at values of eps, and has no number of clusters
@pytest.mark.parametrize("name", [name for name in CLUSTERING if name != "spcl"])
def test_more_clusters_than_images_are_refused(name):
    changes = {"clustering": {"algorithm": "kmeans", "num_clusters": 13}}
    method, _ = made(merge(CLUSTERING[name], changes))
    with pytest.raises(InputError, match="13") as error:
        method.begin_epoch(0)
    assert one_line(error)
