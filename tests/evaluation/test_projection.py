"""Maps of features."""

import sys

import numpy as np
import pytest

from reid_da.errors import InputError
from reid_da.evaluation.projection import project


def test_pca_keeps_the_directions_of_the_largest_variance():
    random = np.random.default_rng(0)
    features = random.normal(size=(40, 5)) * [5, 3, 1, 1, 1]
    points, method = project(features, method="pca")
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    _, vectors = np.linalg.eigh(np.cov(unit.T))
    expected = (unit - unit.mean(axis=0)) @ vectors[:, ::-1][:, :2]
    assert method == "pca"
    np.testing.assert_allclose(np.abs(points), np.abs(expected), atol=1e-9)
    assert (points[np.abs(points).argmax(axis=0), [0, 1]] > 0).all()
    assert project(np.eye(2), method="pca")[0].shape == (2, 2)


def test_tsne_keeps_groups_together():
    random = np.random.default_rng(0)
    centers = np.eye(8)[:4]
    features = np.repeat(centers, 10, axis=0) + 0.05 * random.normal(size=(40, 8))
    points, method = project(features)
    assert method == "tsne"
    means = points.reshape(4, 10, 2).mean(axis=1)
    nearest = np.linalg.norm(points[:, None] - means, axis=2).argmin(axis=1)
    assert (nearest == np.repeat(range(4), 10)).all()


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    assert project(np.eye(6))[1] == "pca"
    with pytest.raises(InputError, match="scikit-learn is not installed"):
        project(np.eye(6), method="tsne")
    with pytest.raises(InputError, match="unknown method 'umap'"):
        project(np.eye(6), method="umap")
