"""Measures of camera styles against brute force in float64, scipy's matrix root and closed forms."""

from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from reid_da import features, nearest
from reid_da.errors import InputError
from reid_da.evaluation.style_quality import (
    Gaussian,
    camera_scores,
    content_ranks,
    content_scores,
    fit_gaussian,
    frechet_distance,
)


def signs(seed: int, rows: int, dim: int = 4) -> NDArray[np.float32]:
    """Features of equal length whose cosines are exact, so that many of them are equal."""
    return np.random.default_rng(seed).choice(np.array([-0.5, 0.5], dtype=np.float32), (rows, dim))


def slow_ranks(fakes: NDArray[Any], originals: NDArray[Any], own: list[int]) -> list[int]:
    ranks = []
    for fake, row in zip(fakes.astype(float), own, strict=True):
        distances = [1 - fake @ o / np.linalg.norm(fake) / np.linalg.norm(o) for o in originals.astype(float)]
        ranks.append(1 + sum(d <= distances[row] for other, d in enumerate(distances) if other != row))
    return ranks


def slow_frechet(first: NDArray[Any], second: NDArray[Any]) -> float:
    """As printed, with a general matrix root."""
    covariances = [np.atleast_2d(np.cov(features, rowvar=False)) for features in (first, second)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1])
    assert np.abs(root.imag).max() < 1e-6
    means = ((first.mean(axis=0) - second.mean(axis=0)) ** 2).sum()
    return float(means + np.trace(covariances[0] + covariances[1] - 2 * root.real))


def normal(seed: int, rows: int, dim: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, dim)) @ rng.standard_normal((dim, dim)) + 3 * rng.standard_normal(dim)


def test_camera_scores_by_hand() -> None:
    # three cameras, of which the last has no images: what is seen, what was wanted, where the image is from
    seen, wanted, own = torch.tensor([[1, 1, 0, 2], [1, 1, 1, 0], [0, 0, 0, 1]])

    scores = camera_scores(torch.eye(3)[seen], own, wanted)

    assert (scores.wanted, scores.own) == (0.5, 0.25)
    assert scores.by_wanted == (0.0, 2 / 3, None)
    assert scores.by_own == (1 / 3, 0.0, None)
    assert scores.predicted_by_wanted == ((0, 0, 1), (1, 2, 0), (0, 0, 0))
    assert scores.predicted_by_own == ((1, 2, 0), (0, 0, 1), (0, 0, 0))


def test_no_fakes() -> None:
    nothing = torch.zeros(0, dtype=torch.int64)
    with pytest.raises(InputError, match="no camera-style images"):
        camera_scores(torch.zeros(0, 3), nothing, nothing)


@given(seed=st.integers(0, 2**32 - 1))
def test_content_ranks_with_ties_equal_brute_force(seed: int) -> None:
    fakes, originals = signs(seed, 9), signs(seed + 1, 30)
    own = np.random.default_rng(seed).integers(0, 30, 9).tolist()
    assert content_ranks(fakes, originals, torch.tensor(own)).tolist() == slow_ranks(fakes, originals, own)


def test_content_ranks_of_features_of_any_length_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    originals = rng.standard_normal((61, 8))
    own = rng.integers(0, 61, 23)
    fakes = (originals[own] + rng.standard_normal((23, 8))) * rng.uniform(0.1, 10, (23, 1))
    monkeypatch.setattr(nearest, "_BLOCK_ROWS", (5, 5))
    monkeypatch.setattr(features, "PIECE_ROWS", 7)

    ranks = content_ranks(fakes, originals, torch.tensor(own))

    assert ranks.tolist() == slow_ranks(fakes, originals, own.tolist())
    assert ranks.dtype == torch.int64
    assert ranks.max() > 1


def test_a_style_that_makes_all_images_alike_is_last_everywhere() -> None:
    alike = np.ones((5, 3))
    assert content_ranks(alike, alike, torch.arange(5)).tolist() == [5] * 5


def test_content_scores_by_hand() -> None:
    scores = content_scores(torch.tensor([1, 2, 4, 1]))
    assert (scores.rank1, scores.mean_reciprocal_rank) == (0.5, 2.75 / 4)


@pytest.mark.parametrize(("rows", "dim"), [(50, 6), (7, 6), (6, 1)])
def test_frechet_distance_equals_the_formula(rows: int, dim: int) -> None:
    first, second = normal(0, rows, dim), normal(1, rows + 3, dim)
    found = frechet_distance(fit_gaussian(first), fit_gaussian(second))
    assert found == pytest.approx(slow_frechet(first, second), rel=1e-9)
    assert found == pytest.approx(frechet_distance(fit_gaussian(second), fit_gaussian(first)), rel=1e-12)


def test_frechet_distance_with_fewer_images_than_dimensions() -> None:
    # a constant on the diagonals, as the authors have it, makes the covariances regular
    first, second = normal(0, 5, 12), normal(1, 8, 12)
    fitted = [fit_gaussian(features) for features in (first, second)]
    covariances = [gaussian.covariance.numpy() + 1e-9 * np.eye(12) for gaussian in fitted]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    means = ((first.mean(axis=0) - second.mean(axis=0)) ** 2).sum()
    expected = means + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert frechet_distance(*fitted) == pytest.approx(expected, rel=1e-4)
    assert [len(gaussian.root) for gaussian in fitted] == [5, 8]


@given(seed=st.integers(0, 2**32 - 1))
def test_frechet_distance_of_diagonal_gaussians(seed: int) -> None:
    rng = np.random.default_rng(seed)
    means, deviations = rng.normal(size=(2, 5)), rng.uniform(0, 3, (2, 5))
    gaussians = [
        Gaussian(mean=torch.from_numpy(mean), root=torch.from_numpy(np.diag(deviation)))
        for mean, deviation in zip(means, deviations, strict=True)
    ]
    expected = ((means[0] - means[1]) ** 2).sum() + ((deviations[0] - deviations[1]) ** 2).sum()
    assert frechet_distance(*gaussians) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("rows", [4, 40])
def test_no_distance_from_itself(rows: int) -> None:
    gaussian = fit_gaussian(normal(2, rows, 10))
    assert 0 <= frechet_distance(gaussian, gaussian) < 1e-9 * gaussian.root.square().sum()


@pytest.mark.parametrize("rows", [3, 30])
def test_mean_and_covariance_agree_with_numpy(rows: int) -> None:
    features = normal(3, rows, 7)
    gaussian = fit_gaussian(features.astype(np.float32))
    np.testing.assert_allclose(gaussian.mean, features.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(gaussian.covariance, np.cov(features, rowvar=False), rtol=1e-4, atol=1e-4)
    assert gaussian.covariance.dtype == torch.float64


def test_features_that_have_no_covariance() -> None:
    with pytest.raises(InputError, match="a covariance needs at least two images, got 1"):
        fit_gaussian(np.ones((1, 3)))
    with pytest.raises(InputError, match="hold NaN or infinite values"):
        fit_gaussian(np.array([[1.0, np.nan], [1.0, 2.0]]))
