"""Order, sizes, means and agreement of labelings, by hand and against scikit-learn."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import adjusted_mutual_info_score

from reid_da.clustering import (
    adjusted_mutual_information,
    camera_proxies,
    cluster_camera_entropy,
    cluster_means,
    cluster_sizes,
    independence_threshold,
    membership_iou,
    ordered_labels,
    outliers_as_clusters,
    reliable_images,
)
from reid_da.clustering.labels import without_small_clusters
from reid_da.errors import InputError

labelings = st.integers(1, 40).flatmap(
    lambda length: st.tuples(*(st.lists(st.integers(-1, 6), min_size=length, max_size=length).map(np.array),) * 3)
)


def test_order_by_first_appearance():
    assert ordered_labels(np.array([7, -1, 3, 7, -5, 0, 3])).tolist() == [0, -1, 1, 0, -1, 2, 1]
    assert ordered_labels(np.array([-1, -1])).tolist() == [-1, -1]
    assert ordered_labels(np.array([], dtype=np.int64)).tolist() == []


def test_sizes_and_outliers():
    labels = np.array([0, -1, 1, 0, -1, 0])
    assert cluster_sizes(labels).tolist() == [3, 1]
    assert cluster_sizes(np.array([-1])).tolist() == []
    assert outliers_as_clusters(labels).tolist() == [0, 2, 1, 0, 3, 0]
    assert without_small_clusters(labels, 2).tolist() == [0, -1, -1, 0, -1, 0]
    assert without_small_clusters(np.array([0, 1, 1, 2]), 2).tolist() == [-1, 0, 0, -1]
    assert without_small_clusters(np.array([0, 1, 1, 2]), 3).tolist() == [-1] * 4
    assert without_small_clusters(np.array([4, 4]), 1).tolist() == [0, 0]


def test_means():
    features = torch.tensor([[1.0, 0], [9, 9], [0, 1], [1, 1], [0, 2]], dtype=torch.float64)
    labels = np.array([0, -1, 1, 0, 1])
    assert cluster_means(features, labels, unit=False).tolist() == [[1, 0.5], [0, 1.5]]
    unit = cluster_means(features, labels)
    torch.testing.assert_close(unit, torch.tensor([[2 / 5**0.5, 1 / 5**0.5], [0, 1]], dtype=torch.float64))
    assert cluster_means(features, np.full(5, -1)).shape == (0, 2)


def test_proxies_and_camera_entropy():
    labels, camids = np.array([1, 0, 1, -1, 0, 1, 0]), np.array([2, 0, 0, 1, 0, 2, 0])
    proxies = camera_proxies(labels, camids)
    assert proxies.labels.tolist() == [2, 0, 1, -1, 0, 2, 0]
    assert proxies.clusters.tolist() == [0, 1, 1]
    assert proxies.camids.tolist() == [0, 0, 2]
    expected = (0 + math.log(3) / 3 + math.log(1.5) * 2 / 3) / 2
    assert cluster_camera_entropy(labels, camids) == pytest.approx(expected)
    assert math.isnan(cluster_camera_entropy(np.full(3, -1), camids[:3]))
    assert camera_proxies(np.full(3, -1), camids[:3]).clusters.tolist() == []


def brute_iou(labels, others, i):
    def mates(given):
        return {i} if given[i] < 0 else {j for j in range(len(given)) if given[j] == given[i]}

    return len(mates(labels) & mates(others)) / len(mates(labels) | mates(others))


@given(labelings)
def test_intersection_over_union(three):
    labels, others, _ = three
    expected = [brute_iou(labels, others, i) for i in range(len(labels))]
    np.testing.assert_allclose(membership_iou(labels, others), expected)


@given(three=labelings, share=st.floats(0, 1))
def test_reliable_images_equal_a_walk_through_the_published_rule(three, share):
    labels, tighter, looser = ordered_labels(three[0]), three[1], three[2]
    apart_loose = [1 - brute_iou(labels, looser, i) for i in range(len(labels))]
    apart_tight = [1 - brute_iou(labels, tighter, i) for i in range(len(labels))]
    members = {k: [i for i in range(len(labels)) if labels[i] == k] for k in range(labels.max() + 1)}
    independence = {k: min(apart_loose[i] for i in group) for k, group in members.items()}
    compactness = {k: min(apart_tight[i] for i in group) for k, group in members.items()}
    large = sorted(independence[k] for k, group in members.items() if len(group) > 1)
    if not large:
        with pytest.raises(InputError, match="no clusters of two images"):
            independence_threshold(labels, looser, share=share)
        return
    limit = large[min(len(large) - 1, int(np.round(len(large) * share)))]
    expected = [
        k >= 0 and independence[k] <= limit and apart_tight[i] <= compactness[k] for i, k in enumerate(labels.tolist())
    ]
    threshold = independence_threshold(labels, looser, share=share)
    assert threshold == pytest.approx(1 - limit)
    assert reliable_images(labels, tighter=tighter, looser=looser, threshold=threshold).tolist() == expected


@given(labelings)
def test_agreement_equals_that_of_scikit_learn(three):
    first, second = (outliers_as_clusters(labels) for labels in three[:2])
    assert adjusted_mutual_information(three[0], three[1]) == pytest.approx(
        adjusted_mutual_info_score(first, second), abs=1e-9
    )


def test_agreement_of_large_labelings():
    generator = np.random.default_rng(0)
    first, noise = generator.integers(0, 300, 3000), generator.integers(-1, 200, 3000)
    second = np.where(generator.random(3000) < 0.7, first, noise)
    assert adjusted_mutual_information(first, second) == pytest.approx(
        adjusted_mutual_info_score(first, outliers_as_clusters(second)), abs=1e-9
    )
    assert abs(adjusted_mutual_information(first, noise)) < 0.05
