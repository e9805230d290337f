"""CMC with one gallery image per identity: by enumeration, and against the full gallery where both agree."""

import itertools

import numpy as np
import pytest

from reid_da import nearest
from reid_da.errors import InputError
from reid_da.evaluation.retrieval import evaluate_retrieval
from reid_da.evaluation.single_shot import single_gallery_shot_cmc


def scene(seed: int, pids: list[int]) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    query_pids = np.array([*sorted(set(pids)), 99, -1])  # 99 and junk have no match
    gallery = rng.standard_normal((len(pids), 4)), np.array(pids), rng.integers(1, 3, len(pids))
    return rng.standard_normal((len(query_pids), 4)), query_pids, np.zeros(len(query_pids), int), *gallery


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_one_image_per_identity_is_the_full_gallery(distance: str) -> None:
    case = scene(0, list(range(30)))
    cmc = single_gallery_shot_cmc(*case, generator=np.random.default_rng(0), num_repeats=2, distance=distance)
    np.testing.assert_allclose(cmc, evaluate_retrieval(*case, distance=distance).cmc)


def test_average_over_all_galleries() -> None:
    case = scene(1, [0, 0, 1, 1, 1, 2, 2, 3, -1, -1])
    query, query_pids, _, gallery, pids, _ = case
    images = [np.flatnonzero(pids == pid) for pid in range(4)]
    expected = np.zeros(4)
    galleries = list(itertools.product(*images))
    for shown in galleries:
        for pid in range(4):
            distances = [((query[query_pids == pid][0] - gallery[image]) ** 2).sum() for image in shown]
            expected[sorted(distances).index(distances[pid]) :] += 1 / (4 * len(galleries))
    cmc = single_gallery_shot_cmc(
        *case, generator=np.random.default_rng(0), num_repeats=4000, max_rank=4, distance="euclidean"
    )
    np.testing.assert_allclose(cmc, expected, atol=0.03)


def test_valid_images_only() -> None:
    # the nearer image of the query's identity is from its camera, and a wrong image lies between the two
    case = ([[1.0, 0.0]], [7], [0], [[1.0, 0.1], [1.0, 2.0], [1.0, 1.0], [1.0, 0.0]], [7, 7, 8, -1], [0, 1, 1, 1])
    cmc = single_gallery_shot_cmc(*case, generator=np.random.default_rng(0), max_rank=3)
    assert cmc.tolist() == [0, 1, 1]
    included = single_gallery_shot_cmc(
        *case, generator=np.random.default_rng(0), max_rank=3, num_repeats=400, same_camera="include"
    )
    assert 0.4 < included[0] < 0.6
    assert included[1] == 1


def test_seeds_and_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    case = scene(2, [pid for pid in range(12) for _ in range(4)])
    first, other = (single_gallery_shot_cmc(*case, generator=np.random.default_rng(seed)) for seed in (0, 1))
    assert (first != other).any()
    assert (np.diff(first) >= 0).all()
    monkeypatch.setattr(nearest, "_BLOCK_ROWS", (5, 5))
    np.testing.assert_array_equal(first, single_gallery_shot_cmc(*case, generator=np.random.default_rng(0)))


@pytest.mark.parametrize("option", ["num_repeats", "max_rank"])
def test_bad_options(option: str) -> None:
    with pytest.raises(InputError, match=f"{option}: expected at least 1, got 0"):
        single_gallery_shot_cmc(*scene(0, [0, 1]), generator=np.random.default_rng(0), **{option: 0})
