"""Clusters that collapse in training are one line of the log, in every method that clusters."""

import logging

import pytest
import torch
from known_features import around, domain, method_on

HEALTHY = [row % 30 for row in range(120)]
IN_ONE = [0 if row < 80 else (row - 78) // 2 for row in range(120)]
OUTLIERS = [row // 4 if row < 20 else -1 for row in range(120)]
METHODS = ["cluster-contrast", "cap", "clusters", "spcl", "mmt"]


def around_axes(labels):
    """Features near an axis for each label; those of outliers point in directions of their own."""
    features = around([max(label, 0) for label in labels], spread=0.01)
    alone = torch.tensor(labels) < 0
    features[alone] = torch.nn.functional.normalize(
        torch.randn(int(alone.sum()), features.shape[1], generator=torch.Generator().manual_seed(1))
    )
    return features


def on(name):
    domains = [domain("target", pids=HEALTHY)]
    tree = {"method": name, "clustering": {"eps": 0.1, "min_samples": 2, "eps_share": None}}
    method, context = method_on(domains, tree)
    return method, context


def let(method, context, labels):
    """Features that give these clusters, wherever the method takes them from."""
    context.features["target"] = around_axes(labels)
    if getattr(method, "threshold", None) is not None:
        method.memory.slots.copy_(context.features["target"])


@pytest.mark.parametrize("name", METHODS)
def test_a_collapse_is_said_once_until_it_is_over(name, caplog):
    method, context = on(name)
    said = []
    for epoch, labels in enumerate([HEALTHY, IN_ONE, IN_ONE, OUTLIERS, HEALTHY, IN_ONE]):
        let(method, context, labels)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            method.begin_epoch(epoch)
        said.append([text for text in caplog.messages if "clustering.eps" in text])
    assert [len(texts) for texts in said] == [0, 1, 0, 1, 0, 1]
    assert said[1][0].startswith("epoch 2: one of 21 clusters holds 67% of the 120 images that have one; ")
    assert "lower clustering.eps (now 0.1)" in said[1][0]
    assert said[3][0].startswith("epoch 4: 83% of 120 images have no cluster; raise clustering.eps (now 0.1) or lower")


def test_the_share_of_the_largest_cluster_is_a_figure_of_the_epoch():
    method, context = on("cluster-contrast")
    let(method, context, HEALTHY)
    assert method.begin_epoch(0).figures["clusters_largest"] == pytest.approx(4 / 120)
