"""k-means against scikit-learn's and brute force."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from reid_da.clustering import adjusted_mutual_information, kmeans, unit_points
from reid_da.errors import InputError

from .conftest import identities, identity_pids


def inertia(points, labels):
    return sum(((points[labels == k] - points[labels == k].mean(dim=0)) ** 2).sum().item() for k in np.unique(labels))


def test_finds_separate_identities():
    points = unit_points(identities(90, 16, seed=2, noise=0.1))
    labels = kmeans(points, 15)
    assert labels.dtype == np.int64
    assert adjusted_mutual_information(labels, identity_pids(90, seed=2)) > 0.9


def test_as_good_as_scikit_learn():
    points = unit_points(identities(400, 8, seed=3, noise=1.0))
    ours = np.mean([inertia(points, kmeans(points, 30, seed=seed)) for seed in range(5)])
    theirs = np.mean([KMeans(30, n_init=1, random_state=seed).fit(points.numpy()).inertia_ for seed in range(5)])
    assert ours < 1.03 * theirs


def test_every_point_is_with_its_nearest_mean():
    points = unit_points(identities(100, 4, seed=4, noise=1.0))
    labels = kmeans(points, 7, num_iterations=1000, tolerance=1e-15)
    means = torch.stack([points[labels == k].mean(dim=0) for k in range(7)])
    np.testing.assert_array_equal(torch.cdist(points, means).argmin(dim=1), labels)


def test_same_seed_same_clusters():
    points = unit_points(identities(100, seed=5))
    np.testing.assert_array_equal(kmeans(points, 9, seed=1), kmeans(points, 9, seed=1))
    assert (kmeans(points, 9, seed=1) != kmeans(points, 9, seed=2)).any()


def test_fewer_different_points_than_centers():
    points = torch.eye(3).repeat(4, 1)
    labels = kmeans(points, 6)
    assert len(np.unique(labels)) == 3
    assert (labels.reshape(4, 3) == labels[:3]).all()
    assert kmeans(points[:1], 1).tolist() == [0]


@pytest.mark.parametrize("number", [0, 13])
def test_number_of_clusters(number):
    with pytest.raises(InputError, match=f"num_clusters: expected 1 to 12, the number of images, got {number}"):
        kmeans(torch.eye(12), number)
