"""Streaming retrieval metrics against a walk down every ranking in float64."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from reid_da import features, nearest
from reid_da.errors import InputError
from reid_da.evaluation import _streaming
from reid_da.evaluation.retrieval import (
    RetrievalResult,
    evaluate_distances,
    evaluate_retrieval,
)
from reid_da.nearest import DISTANCES

Array = NDArray[Any]
Scene = tuple[Array, Array, Array, Array, Array, Array]


@dataclass
class Matrix:
    """A distance matrix that exists already, as a source of blocks."""

    values: Tensor

    @property
    def num_queries(self) -> int:
        return len(self.values)

    @property
    def num_gallery(self) -> int:
        return self.values.shape[1]

    def block(self, query_rows: slice, gallery_rows: slice) -> Tensor:
        return self.values[query_rows, gallery_rows]


def scene(seed: int, *, queries: int = 12, gallery: int = 40, pids: int = 5, dim: int = 3) -> Scene:
    """Features of small whole numbers: their products are exact in float32, and ties are frequent."""
    rng = np.random.default_rng(seed)
    sides = []
    for size, lowest in ((queries, 0), (gallery, -1)):
        features = rng.integers(-3, 4, (size, dim)).astype(np.float32)
        features[~features.any(axis=1)] = 1
        sides += [features, rng.integers(lowest, pids, size), rng.integers(0, 3, size)]
    sides[4][0], sides[5][0] = sides[1][0], sides[2][0] + 1  # at least one query has a match
    return tuple(sides)


def walk(hits: list[bool]) -> tuple[float, float, float, int]:
    """AP, trapezoidal AP, INP and first hit of one ranking, by walking down it."""
    total, found, plain, area, first = sum(hits), 0, 0.0, 0.0, 0
    precision_before, last = 1.0, 0
    for position, hit in enumerate(hits, start=1):
        found += hit
        precision = found / position
        if hit:
            plain += precision / total
            area += (precision_before + precision) / 2 / total
            first, last = first or position, position
        precision_before = precision
    return plain, area, total / last, first


def brute_force(distances: Array, case: Scene, *, same_camera: str = "exclude") -> dict[str, Any]:
    _, query_pids, query_camids, _, gallery_pids, gallery_camids = case
    rows = []
    for q, (pid, camid) in enumerate(zip(query_pids, query_camids, strict=True)):
        ranking = [
            (distances[q, g], gallery_pids[g] == pid)
            for g in range(len(gallery_pids))
            if gallery_pids[g] != -1
            and not (same_camera == "exclude" and gallery_pids[g] == pid and gallery_camids[g] == camid)
        ]
        hits = [bool(hit) for _, hit in sorted(ranking)]  # at equal distances False comes first
        rows.append(walk(hits) if any(hits) else (math.nan, math.nan, math.nan, 0))
    ap, area, inp, first = (np.array(column) for column in zip(*rows, strict=True))
    valid = first > 0
    return {
        "ap": ap,
        "ap_trapezoid": area,
        "inp": inp,
        "first_match_rank": first,
        "cmc": np.array([(first[valid] <= k).mean() for k in range(1, 51)]),
        "num_valid_queries": int(valid.sum()),
    }


def exact_distances(case: Scene, distance: str) -> Array:
    query, gallery = case[0].astype(np.float64), case[3].astype(np.float64)
    if distance == "euclidean":
        return np.array([[np.square(q - g).sum() for g in gallery] for q in query])
    return np.array([[1 - q @ g / math.sqrt((q @ q) * (g @ g)) for g in gallery] for q in query])


def assert_equals(result: RetrievalResult, expected: dict[str, Any]) -> None:
    for name in ("ap", "ap_trapezoid", "inp", "first_match_rank"):
        np.testing.assert_allclose(getattr(result.per_query, name), expected[name], rtol=1e-12, err_msg=name)
    valid = expected["first_match_rank"] > 0
    np.testing.assert_allclose(result.cmc, expected["cmc"], rtol=1e-12)
    assert result.mean_ap == pytest.approx(expected["ap"][valid].mean())
    assert result.mean_ap_trapezoid == pytest.approx(expected["ap_trapezoid"][valid].mean())
    assert result.mean_inp == pytest.approx(expected["inp"][valid].mean())
    assert result.num_valid_queries == expected["num_valid_queries"]
    assert result.num_queries == len(valid)


def assert_same(left: RetrievalResult, right: RetrievalResult) -> None:
    np.testing.assert_array_equal(left.cmc, right.cmc)
    for name in ("mean_ap", "mean_ap_trapezoid", "mean_inp", "num_valid_queries"):
        assert getattr(left, name) == getattr(right, name), name


@pytest.fixture
def tiny_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "_BLOCK_ROWS", (5, 5))
    monkeypatch.setattr(features, "PIECE_ROWS", 7)


@pytest.mark.parametrize("same_camera", ["exclude", "include"])
@given(seed=st.integers(0, 2**32 - 1))
def test_euclidean_equals_brute_force_with_ties(same_camera: str, seed: int) -> None:
    case = scene(seed)
    result = evaluate_retrieval(*case, distance="euclidean", same_camera=same_camera)
    assert_equals(result, brute_force(exact_distances(case, "euclidean"), case, same_camera=same_camera))


@given(seed=st.integers(0, 2**32 - 1), dim=st.integers(2, 40))
def test_cosine_equals_brute_force(seed: int, dim: int) -> None:
    case = list(scene(seed, dim=dim))
    rng = np.random.default_rng(seed)
    for side in (0, 3):
        case[side] = rng.standard_normal(case[side].shape)  # float64: no near-ties to fear
    assert_equals(evaluate_retrieval(*case), brute_force(exact_distances(tuple(case), "cosine"), tuple(case)))


@pytest.mark.parametrize("distance", DISTANCES)
def test_blocks_of_odd_sizes_equal_one_block(distance: str, request: pytest.FixtureRequest) -> None:
    case = scene(3, queries=23, gallery=61, dim=8)
    whole = evaluate_retrieval(*case, distance=distance)
    request.getfixturevalue("tiny_blocks")
    in_blocks = evaluate_retrieval(*case, distance=distance)
    assert_same(in_blocks, whole)
    np.testing.assert_array_equal(in_blocks.per_query.ap, whole.per_query.ap)


@pytest.mark.parametrize("distance", DISTANCES)
def test_what_other_devices_compute_with(distance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = scene(4, dim=8)
    expected = evaluate_retrieval(*case, distance=distance)
    for module in (features, nearest):
        monkeypatch.setattr(module, "native", lambda tensor: tensor)
    for module in (features, nearest, _streaming):
        monkeypatch.setattr(module, "native_library", lambda device: torch)
    allowed: list[str] = []
    product = torch.matmul

    def observed(*args: Any, **options: Any) -> Tensor:
        allowed.append(torch.backends.cuda.matmul.fp32_precision)
        return product(*args, **options)

    monkeypatch.setattr(torch, "matmul", observed)
    products = torch.backends.cuda.matmul
    before, products.fp32_precision = products.fp32_precision, "tf32"
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert_same(evaluate_retrieval(*case, distance=distance), expected)
        assert products.fp32_precision == "tf32"
    finally:
        products.fp32_precision = before
    assert set(allowed) == {"ieee"}


@given(seed=st.integers(0, 2**32 - 1), distance=st.sampled_from(DISTANCES))
def test_order_of_images_changes_nothing(seed: int, distance: str) -> None:
    case = scene(seed)
    rng = np.random.default_rng(seed)
    query, gallery = rng.permutation(len(case[0])), rng.permutation(len(case[3]))
    permuted = [column[query] for column in case[:3]] + [column[gallery] for column in case[3:]]
    before, after = (evaluate_retrieval(*arrays, distance=distance) for arrays in (case, permuted))
    assert_same(before, after)
    np.testing.assert_array_equal(before.per_query.ap[query], after.per_query.ap)


@given(seed=st.integers(0, 2**32 - 1), distance=st.sampled_from(DISTANCES))
def test_junk_changes_nothing(seed: int, distance: str) -> None:
    case = scene(seed)
    junk = scene(seed + 1)
    more = [
        np.concatenate([junk[3], case[3]]),
        np.concatenate([np.full(len(junk[3]), -1), case[4]]),
        np.concatenate([junk[5], case[5]]),
    ]
    queries = [np.concatenate([case[0], junk[0]]), np.append(case[1], np.full(len(junk[0]), -1))]
    queries.append(np.append(case[2], junk[2]))
    before = evaluate_retrieval(*case, distance=distance)
    after = evaluate_retrieval(*queries, *more, distance=distance)
    assert_same(before, after)
    assert after.num_queries == before.num_queries + len(junk[0])


@given(seed=st.integers(0, 2**32 - 1))
def test_monotone_map_of_the_distances_changes_nothing(seed: int) -> None:
    case = scene(seed)
    labels = (case[1], case[2], case[4], case[5])
    distances = torch.from_numpy(exact_distances(case, "euclidean"))
    shift = torch.from_numpy(np.random.default_rng(seed).uniform(-5, 5, (len(distances), 1)))
    before = evaluate_distances(Matrix(distances.float()), *labels)
    assert_same(before, evaluate_distances(Matrix((distances / 20).exp() + shift), *labels))
    assert_same(before, evaluate_retrieval(*case, distance="euclidean"))


@given(seed=st.integers(0, 2**32 - 1))
def test_bounds(seed: int) -> None:
    result = evaluate_retrieval(*scene(seed))
    assert (np.diff(result.cmc) >= 0).all()
    valid = result.per_query.first_match_rank > 0
    ap, area, inp = (getattr(result.per_query, name)[valid] for name in ("ap", "ap_trapezoid", "inp"))
    assert (area <= ap + 1e-12).all()
    assert (area > 0).all()
    assert (ap <= 1).all()
    assert (inp > 0).all()
    assert (inp <= 1).all()


def at_ranks(*hits: int, size: int = 6) -> RetrievalResult:
    """One query whose true matches are at the given ranks."""
    pids = [1 if rank in hits else 0 for rank in range(1, size + 1)]
    return evaluate_distances(Matrix(torch.arange(float(size))[None]), [1], [0], pids, [1] * size)


@pytest.mark.parametrize(
    ("hits", "plain", "trapezoid", "inp"),
    [
        ((2, 4), 0.5, 1 / 3, 0.5),
        ((1, 4), 0.75, 17 / 24, 0.5),
        ((1, 2), 1.0, 1.0, 1.0),
        ((6,), 1 / 6, 1 / 12, 1 / 6),
    ],
)
def test_by_hand(hits: tuple[int, ...], plain: float, trapezoid: float, inp: float) -> None:
    result = at_ranks(*hits)
    assert result.mean_ap == pytest.approx(plain)
    assert result.mean_ap_trapezoid == pytest.approx(trapezoid)
    assert result.mean_inp == pytest.approx(inp)
    assert [result.rank(k) for k in (hits[0], hits[0] + 1)] == [1, 1]
    assert hits[0] == 1 or result.rank(hits[0] - 1) == 0


def test_same_camera_and_junk_are_neither_right_nor_wrong() -> None:
    distances = Matrix(torch.tensor([[0.0, 1.0, 2.0, 3.0, 4.0]]))
    labels = ([7], [0], [7, -1, 8, 7, 7], [0, 1, 1, 1, 2])
    result = evaluate_distances(distances, *labels)  # wrong, right, right are left
    assert result.per_query.first_match_rank.tolist() == [2]
    assert result.mean_ap == pytest.approx((1 / 2 + 2 / 3) / 2)
    included = evaluate_distances(distances, *labels, same_camera="include")
    assert included.mean_ap == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)


def test_ties_count_against_the_match() -> None:
    result = evaluate_retrieval(np.ones((1, 2)), [1], [0], np.ones((10, 2)), [1, *range(10, 19)], [1] * 10)
    assert result.per_query.first_match_rank.tolist() == [10]


def test_source_of_distances_is_left_as_it_was() -> None:
    case = scene(0)
    distances = torch.from_numpy(exact_distances(case, "cosine"))
    before = distances.clone()
    evaluate_distances(Matrix(distances), case[1], case[2], case[4], case[5])
    assert torch.equal(distances, before)


def test_queries_without_a_match_are_skipped_and_counted() -> None:
    result = evaluate_distances(
        Matrix(torch.zeros(4, 2)), [1, 1, 5, -1], [0, 1, 0, 0], [1, -1], [1, 0], ranks=(1,), max_rank=3
    )
    assert (result.num_queries, result.num_valid_queries) == (4, 1)
    assert result.per_query.first_match_rank.tolist() == [1, 0, 0, 0]
    np.testing.assert_array_equal(result.per_query.ap, [1, math.nan, math.nan, math.nan])
    assert result.to_json() == {
        "rank1": 1.0,
        "mAP": 1.0,
        "mAP_trapezoid": 1.0,
        "mINP": 1.0,
        "num_queries": 4,
        "num_valid_queries": 1,
    }


def test_result_in_words_and_figures() -> None:
    result = evaluate_retrieval(*scene(1), distance="euclidean")
    assert list(result.to_json()) == [
        *("rank1", "rank5", "rank10", "rank20", "mAP", "mAP_trapezoid", "mINP", "num_queries", "num_valid_queries")
    ]
    assert "euclidean" in result.convention
    assert "identity and camera" in result.convention
    assert "identity and camera" not in evaluate_retrieval(*scene(1), same_camera="include").convention
    with pytest.raises(InputError, match=r"rank 51 .* max_rank \(50\)"):
        result.rank(51)


@pytest.mark.parametrize(
    ("dtype", "distance"),
    [
        *((dtype, distance) for dtype in (torch.float16, torch.bfloat16, torch.int32) for distance in DISTANCES),
        (torch.float64, "euclidean"),
    ],
)
def test_types_of_features(dtype: torch.dtype, distance: str) -> None:
    case = scene(5)  # small whole numbers are exact in every type
    tensors = [torch.from_numpy(column) for column in case]
    tensors[0], tensors[3] = tensors[0].to(dtype), tensors[3].to(dtype)
    assert_same(evaluate_retrieval(*tensors, distance=distance), evaluate_retrieval(*case, distance=distance))


def test_unusual_arrays() -> None:
    case = scene(6)
    expected = evaluate_retrieval(*case)
    frozen = case[0].copy()
    frozen.flags.writeable = False
    for query in (
        frozen,
        case[0].astype(">f4"),
        case[0][:, ::-1][:, ::-1],
        np.asfortranarray(case[0]),
        case[0].tolist(),
    ):
        assert_same(evaluate_retrieval(query, *case[1:]), expected)
    backwards = evaluate_retrieval(*(column[::-1] for column in case))
    assert_same(backwards, expected)
    learned = torch.from_numpy(case[0]).requires_grad_()
    assert_same(evaluate_retrieval(learned, *case[1:]), expected)
    assert_same(evaluate_retrieval(case[0], case[1].astype(float), *case[2:]), expected)
    longdouble = case[0].astype(np.longdouble)
    assert_same(evaluate_retrieval(longdouble, *case[1:]), expected)


def broken(column: int, value: Any) -> list[Any]:
    case: list[Any] = list(scene(7))
    case[column] = value(case[column])
    return case


def with_rows(rows: list[int], value: float) -> Any:
    def change(features: Array) -> Array:
        features[rows, 0 if value else slice(None)] = value
        return features

    return change


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (0, with_rows([2, 3, 5, 7], math.nan), r"query_features: 4 rows hold NaN .* 2, 3, 5 and 1 more\)"),
        (3, with_rows([39], -math.inf), r"gallery_features: 1 rows hold NaN or infinite .* 39\)"),
        (3, with_rows([0, 4], 0.0), r"gallery_features: 2 rows are all zeros.* 0, 4\)"),
        (0, with_rows([1], 1e30), r"query_features: 1 rows are too large or too small to square in float32"),
        (0, lambda x: x[:, :2], "differ in dimensions: 2 and 3"),
        (0, lambda x: x[0], r"query_features: expected a matrix .* \(3,\)"),
        (0, lambda x: x[:0], r"query_features: expected a matrix .* \(0, 3\)"),
        (0, lambda x: x.astype(complex), "query_features: expected real numbers, got the type complex128"),
        (3, lambda x: torch.from_numpy(x) > 0, "gallery_features: expected real numbers, got torch.bool"),
        (1, lambda x: x[:-1], r"query_pids: expected 12 values, .* \(11,\)"),
        (5, lambda x: x[:, None], r"gallery_camids: expected 40 values, .* \(40, 1\)"),
        (2, lambda x: x + 0.5, "query_camids: expected whole numbers"),
        (4, lambda x: np.where(x == 1, math.inf, x), "gallery_pids: expected whole numbers"),
        (2, lambda x: [f"c{camid}" for camid in x], "query_camids: expected whole numbers"),
        (4, lambda x: x * 0 - 2, r"gallery_pids: 40 images have no identity \(pid -2\)"),
        (1, lambda x: x * 0 - 1, r"no query has a true match .* all 12 queries are junk"),
        (1, lambda x: x + 100, r"no query has a true match .* none of their 5 identities occurs in the gallery"),
    ],
)
def test_bad_input(column: int, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluate_retrieval(*broken(column, value))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distance": "cosin"}, "unknown distance 'cosin' .did you mean 'cosine'"),
        ({"same_camera": "keep"}, "unknown same_camera 'keep'"),
        ({"max_rank": 0, "ranks": ()}, "max_rank: expected at least 1, got 0"),
        ({"max_rank": 10}, r"ranks: expected 1 to max_rank \(10\), got 20"),
        ({"ranks": (0,)}, "ranks: expected 1 to"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluate_retrieval(*scene(0), **options)


def test_every_match_in_the_camera_of_its_query() -> None:
    case = (np.ones((2, 2)), [1, 2], [0, 5], np.ones((2, 2)), [1, 3], [0, 5])
    with pytest.raises(InputError, match="from the query's own camera.*same_camera='include'"):
        evaluate_retrieval(*case)
    assert evaluate_retrieval(*case, same_camera="include").num_valid_queries == 1


@pytest.mark.parametrize(("column", "value"), [(0, math.nan), (0, math.inf), (2, math.nan)])
def test_distances_that_are_not_numbers(column: int, value: float) -> None:
    distances = torch.zeros(2, 3)
    distances[1, column] = value
    with pytest.raises(ValueError, match="NaN, or an infinite distance"):
        evaluate_distances(Matrix(distances), [1, 1], [0, 0], [1, 1, 2], [1, 1, 1])
