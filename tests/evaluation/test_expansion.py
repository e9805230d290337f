"""Multi-query pooling by hand, query expansion against its formula in float64."""

import numpy as np
import pytest
import torch

from reid_da.errors import InputError
from reid_da.evaluation import expansion
from reid_da.evaluation.expansion import alpha_query_expansion, pool_multi_query
from reid_da.evaluation.retrieval import evaluate_retrieval

RNG = np.random.default_rng(0)
QUERY, GALLERY = RNG.standard_normal((6, 5)) + 1, RNG.standard_normal((25, 5)) + 1


def expanded_one_by_one(features: np.ndarray, num_neighbors: int, alpha: float) -> np.ndarray:
    unit = [row / np.sqrt((row**2).sum()) for row in features]
    result = []
    for row in unit:
        similarity = [float(row @ other) for other in unit]
        nearest = sorted(range(len(unit)), key=lambda i: -similarity[i])[:num_neighbors]
        total = sum(max(similarity[i], 0) ** alpha * unit[i] for i in nearest)
        result.append(total / np.sqrt((total**2).sum()))
    return np.array(result)


@pytest.mark.parametrize(
    ("num_neighbors", "alpha", "num_rounds"), [(10, 3.0, 1), (4, 0.0, 1), (31, 2.5, 1), (5, 3.0, 3), (1, 3.0, 1)]
)
def test_expansion_equals_its_formula(
    num_neighbors: int, alpha: float, num_rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expansion, "_EXPANDED_ROWS", 4)
    expected = np.concatenate([QUERY, GALLERY])
    for _ in range(num_rounds):
        expected = expanded_one_by_one(expected, num_neighbors, alpha)
    query, gallery = alpha_query_expansion(
        QUERY, GALLERY, num_neighbors=num_neighbors, alpha=alpha, num_rounds=num_rounds
    )
    np.testing.assert_allclose(torch.cat([query, gallery]), expected, atol=1e-12)
    assert len(query) == len(QUERY)


def test_expansion_of_float32_leaves_its_arguments() -> None:
    query, gallery = torch.from_numpy(QUERY).float(), torch.from_numpy(GALLERY).half()
    copies = query.clone(), gallery.clone()
    expanded = alpha_query_expansion(query, gallery)
    assert all(side.dtype == torch.float32 for side in expanded)
    assert torch.equal(query, copies[0])
    assert torch.equal(gallery, copies[1])


def test_expansion_helps_where_neighbours_are_right() -> None:
    rng = np.random.default_rng(1)
    centres = rng.standard_normal((20, 32))
    pids, query_pids = np.repeat(np.arange(20), 12), np.arange(20)
    gallery = centres[pids] + 1.5 * rng.standard_normal((240, 32))
    query = centres + 1.5 * rng.standard_normal((20, 32))
    labels = (query_pids, np.zeros(20, int), pids, np.ones(240, int))
    before = evaluate_retrieval(query, *labels[:2], gallery, *labels[2:])
    query, gallery = alpha_query_expansion(query, gallery)
    after = evaluate_retrieval(query, *labels[:2], gallery, *labels[2:])
    assert after.mean_ap > before.mean_ap + 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": -1}, "alpha: expected at least 0, got -1"),
        ({"alpha": float("nan")}, "alpha: expected at least 0, got nan"),
        ({"num_rounds": 0}, "num_rounds: expected at least 1, got 0"),
        ({"num_neighbors": 32}, "num_neighbors: expected 1 to 31"),
    ],
)
def test_bad_options_of_expansion(options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        alpha_query_expansion(QUERY, GALLERY, **options)


def test_bad_features_of_expansion() -> None:
    with pytest.raises(InputError, match="query_features and gallery_features differ in dimensions: 5 and 4"):
        alpha_query_expansion(QUERY, GALLERY[:, :4])
    with pytest.raises(InputError, match="gallery_features: 25 rows are all zeros"):
        alpha_query_expansion(QUERY, GALLERY * 0)


@pytest.mark.parametrize("as_tensor", [False, True])
def test_pooling_by_hand(as_tensor: bool) -> None:
    features = np.array([[1, 2], [3, 4], [5, 6], [7, 8]], dtype=np.float32)
    pids, camids = np.array([4, 2, 4, 4]), np.array([1, 0, 1, 0])
    columns = [torch.from_numpy(column) if as_tensor else column for column in (features, pids, camids)]
    pooled = pool_multi_query(*columns)
    assert pooled.features.tolist() == [[3, 4], [7, 8], [3, 4]]
    assert pooled.features.dtype == torch.float32
    assert pooled.pids.tolist() == [2, 4, 4]
    assert pooled.camids.tolist() == [0, 0, 1]


def test_bad_input_of_pooling() -> None:
    with pytest.raises(InputError, match="camids: expected 2 values"):
        pool_multi_query(np.ones((2, 3)), [1, 2], [0])
    with pytest.raises(InputError, match="features: 1 rows are all zeros"):
        pool_multi_query([[0.0], [1.0]], [1, 2], [0, 0])
