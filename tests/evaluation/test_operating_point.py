"""Operating points from streamed histograms against counting every pair."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from reid_da import nearest
from reid_da.errors import InputError
from reid_da.evaluation.operating_point import RESOLUTION, operating_points

Scene = tuple[NDArray[Any], ...]


def scene(seed: int, queries: int = 30, gallery: int = 200) -> Scene:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((12, 8))
    sides: list[NDArray[Any]] = []
    for size in (queries, gallery):
        pids = rng.integers(-1, 12, size)
        features = centres[pids] + rng.standard_normal((size, 8))
        sides += [features.astype(np.float32), pids, rng.integers(0, 4, size)]
    return tuple(sides)


def pairs(case: Scene, *, across: bool = True) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Similarities of the positive and of the negative pairs across cameras, one pair after another."""
    found: tuple[list[float], list[float]] = ([], [])
    for q, query_pid, query_camid in zip(*case[:3], strict=True):
        for g, pid, camid in zip(*case[3:], strict=True):
            if (camid != query_camid or not across) and -1 not in (pid, query_pid):
                q64, g64 = q.astype(float), g.astype(float)
                found[int(pid != query_pid)].append(q64 @ g64 / math.sqrt((q64 @ q64) * (g64 @ g64)))
    return np.array(found[0]), np.array(found[1])


@pytest.mark.parametrize("block_rows", [7, 512])
@pytest.mark.parametrize("seed", range(3))
def test_points_equal_counts_over_all_pairs(seed: int, block_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "_BLOCK_ROWS", (block_rows, block_rows))
    case = scene(seed)
    positives, negatives = pairs(case)
    result = operating_points(*case, fprs=(1.0, 0.3, 0.1, 0.01, 1e-3))
    assert (result.num_positive_pairs, result.num_negative_pairs) == (len(positives), len(negatives))
    for point in result.points:
        assert point.threshold is not None
        assert point.measured_fpr == np.mean(negatives >= point.threshold)
        assert point.tpr == np.mean(positives >= point.threshold)
        # within the rate, and a threshold one step lower would not be
        assert point.measured_fpr <= point.fpr
        assert point.fpr == 1 or np.mean(negatives >= point.threshold - RESOLUTION) > point.fpr
    assert result.points[0].threshold == -1


def test_pairs_within_a_camera_count_if_asked_for() -> None:
    case = scene(0)
    positives, negatives = pairs(case, across=False)
    result = operating_points(*case, fprs=(0.1,), same_camera="include")
    assert (result.num_positive_pairs, result.num_negative_pairs) == (len(positives), len(negatives))
    assert result.points[0].threshold is not None
    assert result.points[0].tpr == np.mean(positives >= result.points[0].threshold)


def test_rates_that_the_pairs_cannot_resolve() -> None:
    case = scene(0)
    result = operating_points(*case, fprs=(0.1, 1e-4))
    assert result.num_negative_pairs < 1e4
    assert result.points[0].tpr is not None
    unresolved = {"fpr": 1e-4, "threshold": None, "tpr": None, "measured_fpr": None}
    record = json.loads(json.dumps(result.to_json()))
    assert record["operating_points"][1] == unresolved
    assert record["similarity_resolution"] == RESOLUTION
    assert set(record) == {"operating_points", "num_positive_pairs", "num_negative_pairs", "similarity_resolution"}


def test_negatives_that_are_all_alike() -> None:
    case = (np.ones((1, 2)), [1], [0], np.ones((40, 2)), [1, *range(2, 41)], [1] * 40)
    assert operating_points(*case, fprs=(0.5,)).points[0].threshold is None
    assert operating_points(*case, fprs=(1.0,)).points[0].tpr == 1


def test_opposite_and_equal_directions() -> None:
    query = torch.tensor([[0.6, 0.8]])
    gallery = torch.stack([query[0] * 3, -query[0] * 7])
    point = operating_points(query, [1], [0], gallery, [1, 2], [1, 1], fprs=(1.0,)).points[0]
    assert (point.tpr, point.measured_fpr, point.threshold) == (1, 1, -1)


@pytest.mark.parametrize("fpr", [0.0, -0.1, 1.5, math.nan])
def test_bad_rates(fpr: float) -> None:
    with pytest.raises(InputError, match="fpr: expected a false positive rate above 0 and at most 1"):
        operating_points(*scene(0), fprs=(fpr,))


def test_no_positive_pair() -> None:
    case = list(scene(0))
    case[1] = case[1] + 100
    with pytest.raises(InputError, match="no query has a true match"):
        operating_points(*case)
