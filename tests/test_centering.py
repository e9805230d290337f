"""Per-camera centring against loops in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reid_da.centering import camera_means, center_cameras, center_with
from reid_da.errors import InputError


def by_hand(features: np.ndarray, camids: np.ndarray) -> np.ndarray:
    """The slow, obvious way: one image after the other."""
    unit = [row / np.sqrt(sum(value**2 for value in row)) for row in features.astype(np.float64)]
    rows = []
    for number, camera in enumerate(camids):
        same = [row for row, other in zip(unit, camids, strict=True) if other == camera]
        shifted = unit[number] - np.mean(same if len(same) > 1 else unit, axis=0)
        length = np.linalg.norm(shifted)
        rows.append(shifted / length if length > 1e-6 else unit[number])
    return np.array(rows)


@given(seed=st.integers(0, 2**31), count=st.integers(1, 30), dim=st.integers(1, 6), cameras=st.integers(1, 5))
def test_each_feature_loses_the_mean_of_its_camera(seed: int, count: int, dim: int, cameras: int) -> None:
    random = np.random.default_rng(seed)
    features, camids = random.normal(size=(count, dim)), random.integers(0, cameras, count)
    np.testing.assert_allclose(center_cameras(features, camids).numpy(), by_hand(features, camids), atol=1e-9)
    single = center_cameras(features.astype(np.float32), camids * 7 - 3)
    assert single.dtype == torch.float32
    assert torch.allclose(single.norm(dim=1), torch.ones(count))


def test_a_shift_of_a_camera_is_gone() -> None:
    random = np.random.default_rng(0)
    people = random.normal(size=(6, 8))
    # everybody is seen once by each of two cameras, one of which adds the same to all
    unit = people / np.linalg.norm(people, axis=1, keepdims=True)
    first = np.concatenate([unit, -unit])
    features = center_cameras(np.concatenate([first, first]), np.repeat([0, 1], 12))
    torch.testing.assert_close(features[:12], features[12:])
    torch.testing.assert_close(features[:12], torch.from_numpy(first))


def test_stored_means_centre_a_new_image_alone() -> None:
    random = np.random.default_rng(1)
    features, camids = random.normal(size=(20_000, 4)).astype(np.float32), random.integers(2, 5, 20_000)
    means = camera_means(features, camids)
    assert means.camids.tolist() == [2, 3, 4]
    assert means.counts.sum() == 20_000
    together = center_cameras(features, camids)
    for row in (0, 9_000, 19_999):
        alone = center_with(features[row : row + 1], camids[row : row + 1], means)
        torch.testing.assert_close(alone[0], together[row])


def test_cameras_without_a_mean() -> None:
    features, camids = np.eye(3), [0, 0, 1]
    means = camera_means(features, camids)
    assert means.camids.tolist() == [0]
    expected = np.eye(3)[2] - np.full(3, 1 / 3)
    np.testing.assert_allclose(center_cameras(features, camids)[2], expected / np.linalg.norm(expected))
    with pytest.raises(InputError, match=r"no mean is known of the cameras 1$"):
        center_with(features, camids, means, unknown="raise")
    # nothing is left of equal features
    np.testing.assert_allclose(center_cameras(2 * np.ones((3, 2)), [0, 0, 1]), np.full((3, 2), 0.5**0.5))


def test_bad_input() -> None:
    with pytest.raises(InputError, match="camids: expected 2 values"):
        center_cameras(np.eye(2), [0])
    with pytest.raises(InputError, match="all zeros"):
        center_cameras(np.zeros((2, 2)), [0, 1])
    with pytest.raises(InputError, match="have 2 dimensions, the camera means 3"):
        center_with(np.eye(2), [0, 0], camera_means(np.eye(3), [0, 0, 0]))
