"""Figures that need no labels, against plain float64 arithmetic and against features of known quality."""

import math

import numpy as np
import pytest
import torch

from reid_da.clustering import ClusteringSettings
from reid_da.errors import InputError
from reid_da.evaluation import label_free
from reid_da.evaluation.label_free import effective_rank, label_free_figures, neighborhood_density


def people(count: int, images: int, *, noise: float, seed: int = 0, dim: int = 32) -> np.ndarray:
    """(count * images, dim) features around one direction for each person."""
    generator = np.random.default_rng(seed)
    centers = np.repeat(generator.standard_normal((count, dim)), images, axis=0)
    return centers + noise * generator.standard_normal(centers.shape)


@pytest.mark.parametrize("block", [2**24, 100])
def test_density_is_the_mean_entropy_of_the_softmax(monkeypatch, block):
    monkeypatch.setattr(label_free, "_BLOCK_ELEMENTS", block)
    features = people(5, 4, noise=0.5)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    entropies = []
    for row in range(len(unit)):
        logits = np.delete(unit @ unit[row], row) / 0.05
        shares = np.exp(logits - logits.max())
        shares /= shares.sum()
        entropies.append(-(shares * np.log(shares)).sum())
    assert neighborhood_density(features) == pytest.approx(np.mean(entropies), rel=1e-9)
    # lengths do not count
    assert neighborhood_density(7 * features) == pytest.approx(np.mean(entropies), rel=1e-9)


def test_effective_rank_is_the_entropy_of_the_singular_values():
    features = people(6, 3, noise=0.3)
    values = np.linalg.svd(features / np.linalg.norm(features, axis=1, keepdims=True), compute_uv=False)
    shares = values / values.sum()
    assert effective_rank(features) == pytest.approx(math.exp(-(shares * np.log(shares)).sum()), rel=1e-6)
    assert effective_rank(np.eye(7)) == pytest.approx(7)
    assert effective_rank(np.ones((9, 4))) == pytest.approx(1)


def test_features_that_agree_with_their_mirror_images_are_stable():
    features, camids = people(10, 8, noise=0.1), np.arange(80) % 4
    same = label_free_figures(features, features, camids)
    assert (same["neighbors_stable"], same["clusters_stable"]) == pytest.approx((1, 1))
    assert same["clusters"] == 10
    # eight images of a person, two from each camera: of seven others six are of other cameras
    assert same["neighbors_cross_camera"] == pytest.approx(6 / 7, abs=0.1)
    assert same["clusters_camera_entropy"] == pytest.approx(math.log(4))
    unrelated = label_free_figures(features, people(10, 8, noise=0.1, seed=1)[::-1].copy()[:, ::-1], camids)
    other = label_free_figures(features, np.random.default_rng(2).standard_normal(features.shape), camids)
    assert unrelated["clusters_stable"] == pytest.approx(1)
    assert other["neighbors_stable"] < 0.2
    assert other["clusters_stable"] < 0.2


def test_better_features_have_better_figures():
    camids = np.arange(160) % 2
    figures = [
        label_free_figures(people(20, 8, noise=noise), people(20, 8, noise=noise) + noise / 4, camids)
        for noise in (0.2, 2.0)
    ]
    for name in ("density", "neighbors_stable", "clusters_stable"):
        assert figures[0][name] > figures[1][name], name


def test_one_camera_and_no_cluster_leave_figures_out(monkeypatch):
    features = np.eye(12)
    figures = label_free_figures(features, features, np.zeros(12, dtype=np.int64))
    assert "neighbors_cross_camera" not in figures
    monkeypatch.setattr(label_free, "CLUSTERING", ClusteringSettings(metric="cosine", eps=0.1))
    figures = label_free_figures(features, features, np.arange(12))
    assert figures["clusters"] == 0
    assert "clusters_camera_entropy" not in figures
    assert all(map(math.isfinite, figures.values()))


@pytest.mark.parametrize(
    ("features", "mirrored", "camids", "named"),
    [
        (np.eye(8), np.eye(9), np.zeros(8, int), "mirrored"),
        (np.eye(8), np.eye(8), np.zeros(7, int), "camids"),
        (np.eye(5), np.eye(5), np.zeros(5, int), "5 images"),
        (np.eye(8), np.full((8, 8), np.nan), np.zeros(8, int), "mirrored"),
        (torch.zeros(8, 4), torch.ones(8, 4), np.zeros(8, int), "features"),
    ],
)
def test_arrays_that_do_not_fit_are_named(features, mirrored, camids, named):
    with pytest.raises(InputError, match=named):
        label_free_figures(features, mirrored, camids)
