"""The front: from features and settings to clusters, and what it says to bad input."""

import sys

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from reid_da.clustering import (
    ClusteringSettings,
    adjusted_mutual_information,
    cluster,
    cluster_at_eps,
    group,
    image_distances,
    unit_points,
)
from reid_da.errors import InputError

from .conftest import identities, identity_pids

FEATURES = identities(120, 16, seed=1, noise=0.3)
PIDS = identity_pids(120, seed=1)
CAMIDS = np.arange(120) % 3
SMALL = ClusteringSettings(k1=6, k2=3, k1_intra=2, k1_inter=4, k2_intra=2, k2_inter=2)


def settings(**values):
    return SMALL.model_copy(update=values)


def found(*, camids=None, features=FEATURES, **values):
    return cluster(features, camids, settings=settings(**values))


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"convention": "reranking"},
        {"search": "faiss"},
        {"metric": "camera_jaccard", "min_samples": 2},
        {"metric": "cosine", "eps": 0.2},
        {"algorithm": "agglomerative", "eps": 0.7},
        {"algorithm": "agglomerative", "num_clusters": 20},
        {"algorithm": "kmeans", "num_clusters": 20},
        {"eps_share": 0.04},
    ],
)
def test_identities_are_found(values):
    result = found(camids=CAMIDS, **values)
    assert adjusted_mutual_information(result.labels, PIDS) > 0.8
    assert 15 <= result.num_clusters <= 25
    assert result.labels.dtype == np.int64
    first = [np.flatnonzero(result.labels == k)[0] for k in range(result.num_clusters)]
    assert first == sorted(first)
    assert result.sizes.sum() + result.num_outliers == 120
    assert result.outlier_share == result.num_outliers / 120


def test_infomap_finds_them_too():
    pytest.importorskip("infomap", reason="InfoMap is an optional package under the GPL")
    for values in ({"eps": 0.8}, {"metric": "cosine", "eps": 0.5}):
        result = found(algorithm="infomap", **values)
        assert adjusted_mutual_information(result.labels, PIDS) > 0.8
        np.testing.assert_array_equal(result.labels, found(algorithm="infomap", **values).labels)


def test_infomap_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "infomap", None)
    with pytest.raises(InputError, match=r"install reid-da\[infomap\] \(licensed under the GPL\)"):
        found(algorithm="infomap")


def test_infomap_gets_the_links_within_eps(monkeypatch):
    class Package:
        class Infomap:
            def __init__(self, **options):
                assert options["two_level"]
                assert options["directed"]

            def add_links(self, links):
                self.links = links

            def run(self):
                pass

            def get_modules(self):
                assert {(0, 1), (1, 0)} == {link[:2] for link in self.links}
                assert all(0.6 <= link[2] <= 1 for link in self.links)
                return {0: 4, 1: 4}

    monkeypatch.setitem(sys.modules, "infomap", Package)
    features = np.array([[1, 0], [1, 0.1], [-1, 3], [-1, -3]])
    result = found(features=features, algorithm="infomap", metric="cosine", eps=0.4)
    assert result.labels.tolist() == [0, 0, -1, -1]


def test_order_of_the_images_does_not_matter():
    order = np.random.default_rng(0).permutation(120)
    for metric in ("jaccard", "camera_jaccard"):
        values = {"metric": metric, "min_samples": 2}
        plain = found(camids=CAMIDS, **values)
        permuted = found(features=FEATURES[order], camids=CAMIDS[order], **values)
        assert plain.num_clusters == permuted.num_clusters
        assert adjusted_mutual_information(plain.labels[order], permuted.labels) > 0.99


def test_length_and_kind_of_features_do_not_matter():
    expected = found().labels
    scaled = FEATURES * np.random.default_rng(0).uniform(0.1, 10, (120, 1))
    for features in (scaled, torch.tensor(FEATURES).float(), FEATURES.tolist()):
        np.testing.assert_array_equal(found(features=features).labels, expected)


def test_cameras_matter_to_camera_jaccard():
    # 15 identities, four images of each in three cameras, and every camera shifts its images
    generator = np.random.default_rng(0)
    pids, camids = np.repeat(np.arange(15), 12), np.tile(np.repeat(np.arange(3), 4), 15)
    features = generator.normal(size=(15, 16))[pids] + 0.5 * generator.normal(size=(180, 16))
    features += generator.normal(size=(3, 16))[camids]
    plain = found(features=features, k1=12, k2=4, eps=0.5)
    aware = found(
        features=features, camids=camids, metric="camera_jaccard", k1_intra=3, k1_inter=7, k2_inter=4, eps=0.5
    )
    assert adjusted_mutual_information(plain.labels, pids) < 0.75
    assert adjusted_mutual_information(aware.labels, pids) > 0.8


def test_three_limits_at_once_equal_three_runs():
    limits = (0.6, 0.5, 0.65)
    for result, eps in zip(cluster_at_eps(FEATURES, settings=SMALL, eps=limits), limits, strict=True):
        assert result.eps == eps
        np.testing.assert_array_equal(result.labels, found(eps=eps).labels)
    distances = image_distances(unit_points(FEATURES), settings=SMALL)
    np.testing.assert_array_equal(group(distances, settings=SMALL, eps=0.5).labels, found(eps=0.5).labels)


def test_share_of_the_smallest_distances_gives_the_limit():
    result = found(eps_share=0.02)
    assert 0 < result.eps < 0.6
    np.testing.assert_array_equal(result.labels, found(eps=result.eps).labels)


def test_small_clusters_are_outliers():
    for least in (2, 6, 7):
        assert found(algorithm="agglomerative", min_cluster_size=least).sizes.min(initial=99) >= least


def test_all_images_outliers():
    result = found(min_samples=30)
    assert (result.num_clusters, result.num_outliers, result.outlier_share) == (0, 120, 1)
    with pytest.raises(InputError, match="found 0 clusters at eps = 0.6 and 120 outliers .*, 2 are needed"):
        result.require_clusters(2)


def test_one_cluster():
    result = found(features=np.ones((40, 4)))
    assert result.labels.tolist() == [0] * 40
    assert result.require_clusters() is result
    with pytest.raises(InputError, match=r"found 1 clusters"):
        result.require_clusters(2)


@pytest.mark.parametrize("metric", ["jaccard", "cosine"])
@pytest.mark.parametrize("num_images", [1, 2, 5])
def test_fewer_images_than_neighbors(metric, num_images):
    alike = np.ones((num_images, 3)) + np.eye(5, 3)[:num_images] * 1e-3
    for algorithm, values in (("dbscan", {"min_samples": 2}), ("kmeans", {"num_clusters": 1})):
        result = cluster(alike, settings=ClusteringSettings(algorithm=algorithm, metric=metric, **values))
        assert result.labels.tolist() == ([-1] if num_images == 1 else [0] * num_images)


def test_a_camera_with_one_image():
    camids = CAMIDS.copy()
    camids[7] = 9
    result = found(camids=camids, metric="camera_jaccard", min_samples=2)
    assert adjusted_mutual_information(result.labels, PIDS) > 0.8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"features": np.ones(3)}, r"^features: expected a matrix .* shape \(3,\)$"),
        ({"features": np.ones((0, 3))}, r"^features: expected a matrix"),
        ({"features": np.array([[1, np.nan], [1, 2]])}, r"^features: 1 rows hold NaN .* 0\)$"),
        ({"features": np.array([[1, 2], [0, 0]])}, r"^features: 1 rows are all zeros"),
        ({"metric": "camera_jaccard"}, r"^camids: camera_jaccard needs the camera of every image; use jaccard"),
        ({"metric": "camera_jaccard", "camids": CAMIDS[1:]}, r"^camids: expected 120 values.*\(119,\)"),
        ({"metric": "camera_jaccard", "camids": CAMIDS - 1}, r"^camids: the camera of 40 images is unknown"),
        ({"metric": "camera_jaccard", "camids": CAMIDS * 0}, r"needs images of two cameras"),
        ({"eps": 1.0}, r"^eps: .* are at Jaccard distance 1; choose less, got 1$"),
        ({"k1": 2}, r"^k2: expected 1 to k1 = 2, got 3$"),
        ({"algorithm": "kmeans"}, r"^num_clusters: kmeans needs a number of clusters$"),
        ({"algorithm": "kmeans", "num_clusters": 121}, r"^num_clusters: expected 1 to 120"),
        ({"algorithm": "agglomerative", "metric": "cosine"}, r"^metric: cosine fits dbscan and infomap"),
        ({"metric": "cosine", "eps_share": 0.1}, r"^metric: cosine fits dbscan and infomap with a fixed eps"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(InputError, match=message):
        found(**arguments)


@pytest.mark.parametrize("values", [{"eps": 0}, {"eps": 2.1}, {"k1": 0}, {"algorithm": "db"}, {"eps_share": 2}])
def test_settings_out_of_range(values):
    with pytest.raises(ValidationError):
        ClusteringSettings(**values)
