"""What is said of clusters that have collapsed."""

import numpy as np
import pytest

from reid_da.clustering import ClusteringSettings, ClusterResult, find_collapse

BETTER_WEIGHTS = "; if that does not help, start from better weights"


def clusters(*sizes, outliers=0):
    labels = [number for number, size in enumerate(sizes) for _ in range(size)]
    return ClusterResult(labels=np.array([*labels, *[-1] * outliers]), eps=0.5)


@pytest.mark.parametrize(
    ("found", "before", "kind", "message"),
    [
        (
            clusters(*[4] * 5, outliers=180),
            None,
            "outliers",
            "90% of 200 images have no cluster; raise clustering.eps (now 0.5) or lower clustering.min_samples (now 4)",
        ),
        (
            clusters(900, *[10] * 10, outliers=100),
            None,
            "one cluster",
            "one of 11 clusters holds 90% of the 1,000 images that have one; lower clustering.eps (now 0.5)",
        ),
        (
            clusters(40, 30, 30, 30),
            None,
            "few clusters",
            "only 4 clusters of 130 images; lower clustering.eps (now 0.5)",
        ),
        (
            clusters(*[20] * 10),
            50,
            "few clusters",
            "only 10 clusters of 200 images, after 50 in the epoch before; lower clustering.eps (now 0.5)",
        ),
    ],
)
def test_a_collapse_names_the_figure_and_the_setting(found, before, kind, message):
    collapse = find_collapse(found, settings=ClusteringSettings(), before=before)
    assert collapse == (kind, message + BETTER_WEIGHTS)


@pytest.mark.parametrize(
    ("found", "before"),
    [
        (clusters(*[10] * 10), None),
        (clusters(*[10] * 10), 40),
        (clusters(*[10] * 10, outliers=200), 12),
        (clusters(60, *[10] * 6), None),
        (clusters(40, 30, outliers=29), None),  # 99 images
    ],
)
def test_other_clusters_are_not_remarked_on(found, before):
    assert find_collapse(found, settings=ClusteringSettings(), before=before) is None


@pytest.mark.parametrize(
    ("settings", "found", "advice"),
    [
        ({"eps_share": 0.0016}, clusters(900, 10), "lower clustering.eps_share (now 0.0016)"),
        ({"algorithm": "agglomerative"}, clusters(900, 10), "lower clustering.eps (now 0.5)"),
        ({"algorithm": "agglomerative", "num_clusters": 7}, clusters(900, 10), "raise clustering.num_clusters (now 7)"),
        (
            {"algorithm": "kmeans", "num_clusters": 7},
            clusters(900, 10),
            "raise clustering.num_clusters (now 7)",
        ),
        (
            {"algorithm": "kmeans", "num_clusters": 90, "min_cluster_size": 5},
            clusters(5, 5, outliers=90),
            "lower clustering.num_clusters (now 90) or clustering.min_cluster_size (now 5)",
        ),
        ({"algorithm": "infomap"}, clusters(5, 5, outliers=90), "raise clustering.eps (now 0.5)"),
    ],
)
def test_the_setting_is_one_that_the_algorithm_has(settings, found, advice):
    collapse = find_collapse(found, settings=ClusteringSettings(**settings))
    assert collapse.message.split("; ")[1] == advice


def test_a_number_of_clusters_that_was_asked_for_is_not_too_few():
    settings = ClusteringSettings(algorithm="kmeans", num_clusters=4)
    assert find_collapse(clusters(40, 30, 30, 30), settings=settings) is None
