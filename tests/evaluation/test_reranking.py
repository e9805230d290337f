from math import exp

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from reid_da import nearest, reciprocal
from reid_da.errors import InputError
from reid_da.evaluation import reranking
from reid_da.evaluation.reranking import rerank
from reid_da.evaluation.retrieval import evaluate_distances

EVERYTHING = slice(None)


def dense_rerank(queries, gallery, *, k1, k2, lambda_value, distance="euclidean"):
    """Zhong et al., CVPR 2017, in float64 and one image at a time; ties go to the image itself, then by row."""
    points = np.concatenate([queries, gallery]).astype(np.float64)
    if distance == "cosine":
        points = np.stack([point / np.sqrt(np.sum(point * point)) for point in points])
    total = range(len(points))
    squared = np.array([[np.sum((points[i] - points[j]) ** 2) for j in total] for i in total])
    largest = squared.max(axis=1, keepdims=True)
    original = np.divide(squared, largest, out=np.zeros_like(squared), where=largest > 0)
    ranking = [sorted(total, key=lambda j, i=i: (j != i, original[i, j], j)) for i in total]

    def reciprocal(i, k):
        return {j for j in ranking[i][: k + 1] if i in ranking[j][: k + 1]}

    weights = np.zeros_like(original)
    for i in total:
        expanded = set(reciprocal(i, k1))
        for candidate in reciprocal(i, k1):
            others = reciprocal(candidate, int(np.around(k1 / 2)))
            if 3 * len(others & reciprocal(i, k1)) > 2 * len(others):
                expanded |= others
        for j in expanded:
            weights[i, j] = np.exp(-original[i, j])
        weights[i] /= weights[i].sum()
    averaged = np.array([np.mean([weights[j] for j in ranking[i][:k2]], axis=0) for i in total])
    minima = np.array([[np.minimum(averaged[i], averaged[j]).sum() for j in total] for i in total])
    final = (1 - lambda_value) * (1 - minima / (2 - minima)) + lambda_value * original
    return final[: len(queries), len(queries) :]


def identities(total, *, seed):
    """Pids of images in random order, about six of each."""
    return np.random.default_rng(seed).permutation(np.arange(total) % max(1, total // 6))


def clustered(num_queries, num_gallery, width, *, seed):
    """Features of the images of :func:`identities`, queries first."""
    generator = np.random.default_rng([seed, 1])
    total = num_queries + num_gallery
    centres = generator.normal(size=(total, width))
    features = 3 + centres[identities(total, seed=seed)] + 0.7 * generator.normal(size=(total, width))
    return features[:num_queries], features[num_queries:]


class DenseBlocks:
    def __init__(self, distances):
        self.distances = torch.tensor(distances).float()
        self.num_queries, self.num_gallery = distances.shape

    def block(self, query_rows, gallery_rows):
        return self.distances[query_rows, gallery_rows].clone()


@given(
    num_queries=st.integers(1, 8),
    num_gallery=st.integers(4, 30),
    width=st.integers(2, 12),
    k1=st.integers(1, 12),
    k2=st.integers(1, 12),
    lambda_value=st.floats(0, 1),
    distance=st.sampled_from(["cosine", "euclidean"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_equals_the_dense_reference(num_queries, num_gallery, width, k1, k2, lambda_value, distance, seed):
    k1 = min(k1, num_queries + num_gallery - 1)
    k2 = min(k2, k1)
    features = clustered(num_queries, num_gallery, width, seed=seed)
    settings = {"k1": k1, "k2": k2, "lambda_value": lambda_value, "distance": distance}
    ours = rerank(*features, **settings).block(EVERYTHING, EVERYTHING)
    assert ours.dtype == torch.float32
    np.testing.assert_allclose(ours.numpy(), dense_rerank(*features, **settings), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_equals_the_dense_reference_with_the_settings_of_the_paper(distance, dtype):
    features = [rows.astype(dtype) for rows in clustered(30, 120, 16, seed=3)]
    expected = dense_rerank(*features, k1=20, k2=6, lambda_value=0.3, distance=distance)
    ours = rerank(*features, distance=distance).block(EVERYTHING, EVERYTHING).numpy()
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)
    # the order is the same up to distances that float32 cannot tell apart
    np.testing.assert_allclose(np.take_along_axis(expected, np.argsort(ours), 1), np.sort(expected), rtol=0, atol=1e-6)


def test_evaluation_of_the_blocks_equals_that_of_the_dense_reference():
    features, pids = clustered(30, 120, 16, seed=3), identities(150, seed=3)
    camids = np.arange(150) % 3
    labels = pids[:30], camids[:30], pids[30:], camids[30:]
    expected = evaluate_distances(DenseBlocks(dense_rerank(*features, k1=20, k2=6, lambda_value=0.3)), *labels)
    plain = evaluate_distances(rerank(*features, lambda_value=1, distance="euclidean"), *labels)
    ours = evaluate_distances(rerank(*features, distance="euclidean"), *labels)
    assert ours.to_json() == expected.to_json()
    np.testing.assert_array_equal(ours.per_query.ap, expected.per_query.ap)
    assert ours.mean_ap > plain.mean_ap


def test_three_images_worked_by_hand():
    # on a line at 1 (the query), 2 and 4: the first two list each other, the third is listed by nobody
    distances = rerank([[1.0]], [[2.0], [4.0]], k1=1, k2=1, lambda_value=0.3, distance="euclidean")
    of_query, of_gallery = exp(-1 / 9), exp(-1 / 4)
    minima = min(1 / (1 + of_query), of_gallery / (1 + of_gallery)) + min(
        of_query / (1 + of_query), 1 / (1 + of_gallery)
    )
    expected = [[0.7 * (1 - minima / (2 - minima)) + 0.3 * 1 / 9, 0.7 + 0.3]]
    np.testing.assert_allclose(distances.block(EVERYTHING, EVERYTHING), expected, atol=1e-6)


def test_half_of_an_odd_k1_is_rounded_to_the_even_neighbour():
    # k1 = 5 looks for the expansion among 2 neighbours; 3 of them would give other sets here
    features = clustered(6, 30, 4, seed=0)
    settings = {"k1": 5, "k2": 1, "lambda_value": 0.0}
    expected = dense_rerank(*features, **settings)
    ours = rerank(*features, **settings, distance="euclidean").block(EVERYTHING, EVERYTHING).numpy()
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_lambda_one_keeps_the_original_distances():
    queries, gallery = clustered(7, 40, 8, seed=1)
    ours = rerank(queries, gallery, lambda_value=1, distance="euclidean").block(EVERYTHING, EVERYTHING).numpy()
    squared = ((queries[:, None] - np.concatenate([queries, gallery])) ** 2).sum(axis=2)
    expected = (squared / squared.max(axis=1, keepdims=True))[:, 7:]
    np.testing.assert_allclose(ours, expected, atol=1e-6)
    np.testing.assert_array_equal(np.argsort(ours), np.argsort(expected))


def test_reranking_lifts_a_match_that_shares_its_neighbours():
    # a chain 0, 1, 2, 3 of one person leads away from the query; an image of nobody is as near as its second link
    queries, gallery = [[1.0, 1.0]], [[2.0, 1.0], [3.0, 1.0], [4.0, 1.0], [1.0, 2.9], [10.0, 10.0]]
    settings = {"k1": 3, "k2": 2, "distance": "euclidean"}
    before = rerank(queries, gallery, lambda_value=1, **settings).block(EVERYTHING, EVERYTHING)[0]
    after = rerank(queries, gallery, lambda_value=0, **settings).block(EVERYTHING, EVERYTHING)[0]
    assert before[3] < before[1]
    assert after[1] < after[3]


def test_blocks_are_parts_of_the_whole():
    distances = rerank(*clustered(23, 61, 8, seed=2), k1=9)
    whole = distances.block(EVERYTHING, EVERYTHING)
    assert whole.shape == (distances.num_queries, distances.num_gallery) == (23, 61)
    for rows, columns in [(slice(0, 1), slice(60, 61)), (slice(5, 17), slice(11, 40)), (slice(20, 40), slice(0, 99))]:
        torch.testing.assert_close(distances.block(rows, columns), whole[rows, columns], rtol=0, atol=1e-6)
    assert distances.block(slice(3, 3), slice(4, 9)).shape == (0, 5)


def test_sizes_of_batches_do_not_show(monkeypatch):
    features = clustered(23, 61, 8, seed=2)
    expected = rerank(*features, k1=9)
    monkeypatch.setattr(
        reciprocal, "row_blocks", lambda rows, _: [slice(i, min(i + 5, rows)) for i in range(0, rows, 5)]
    )
    monkeypatch.setattr(nearest, "_PAIR_ELEMENTS", 8 * 3)
    monkeypatch.setattr(reciprocal, "_SPARSE_ROWS", 7)
    monkeypatch.setattr(reciprocal, "_OVERLAP_ELEMENTS", 50)
    ours = rerank(*features, k1=9)
    assert (ours._query_encoding != expected._query_encoding).nnz == 0
    assert (ours._gallery_encoding != expected._gallery_encoding).nnz == 0
    torch.testing.assert_close(
        ours.block(EVERYTHING, EVERYTHING), expected.block(EVERYTHING, EVERYTHING), rtol=0, atol=0
    )


@given(seed=st.integers(0, 2**32 - 1), density=st.floats(0, 1), budget=st.integers(1, 40))
def test_sums_of_minima_of_sparse_rows(seed, density, budget):
    generator = np.random.default_rng(seed)
    left, right = (
        (generator.random((rows, 9)) * (generator.random((rows, 9)) < density)).astype(np.float32) for rows in (7, 5)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reciprocal, "_OVERLAP_ELEMENTS", budget)
        sums = reranking._sums_of_minima(csr_array(left), csr_array(right))
    np.testing.assert_allclose(sums, [[np.minimum(a, b).sum() for b in right] for a in left], atol=1e-6)


def test_order_of_the_gallery_does_not_matter():
    queries, gallery = clustered(9, 50, 8, seed=4)
    order = np.random.default_rng(0).permutation(50)
    whole = rerank(queries, gallery, k1=8).block(EVERYTHING, EVERYTHING)
    permuted = rerank(queries, gallery[order], k1=8).block(EVERYTHING, EVERYTHING)
    torch.testing.assert_close(permuted, whole[:, order], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("factor", "shift"), [(1000.0, 0.0), (1e-3, 0.0), (1.0, 50.0)])
def test_scale_and_origin_do_not_matter_to_euclidean_features(factor, shift):
    queries, gallery = clustered(9, 50, 8, seed=5)
    plain = rerank(queries, gallery, k1=8, distance="euclidean")
    moved = rerank(queries * factor + shift, gallery * factor + shift, k1=8, distance="euclidean")
    torch.testing.assert_close(
        moved.block(EVERYTHING, EVERYTHING), plain.block(EVERYTHING, EVERYTHING), rtol=0, atol=1e-5
    )


def test_unit_vectors_give_the_same_with_both_distances():
    features = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in clustered(9, 50, 8, seed=6)]
    cosine, euclidean = (rerank(*features, k1=8, distance=name) for name in ("cosine", "euclidean"))
    torch.testing.assert_close(
        cosine.block(EVERYTHING, EVERYTHING), euclidean.block(EVERYTHING, EVERYTHING), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("k1", [7, 18])
def test_images_that_occur_twice(k1):
    queries, gallery = clustered(6, 24, 5, seed=7)
    queries, gallery = np.repeat(queries, 2, axis=0).astype(np.float32), np.tile(gallery, (2, 1)).astype(np.float32)
    gallery[:3] = queries[:3]
    settings = {"k1": k1, "k2": 3, "lambda_value": 0.3}
    ours = rerank(queries, gallery, **settings, distance="euclidean").block(EVERYTHING, EVERYTHING).numpy()
    np.testing.assert_allclose(ours, dense_rerank(queries, gallery, **settings), atol=1e-5)


def test_more_copies_of_an_image_than_neighbors():
    queries, gallery = clustered(2, 20, 5, seed=8)
    gallery = np.concatenate([gallery, np.repeat(queries[:1], 30, axis=0)])
    neighbors = reciprocal.nearest_neighbors(torch.tensor(np.concatenate([queries, gallery])).float(), 6)
    np.testing.assert_array_equal(neighbors[:, 0], np.arange(52))
    assert all(len(set(row)) == 6 for row in neighbors.tolist())
    ours = rerank(queries, gallery, k1=5, k2=2, distance="euclidean").block(EVERYTHING, EVERYTHING)
    assert ours.isfinite().all()
    assert ours[0, 20:].max() <= 0.7 + 1e-6


def test_an_image_is_never_nearer_than_itself():
    queries, _ = clustered(40, 1, 30, seed=9)
    ours = rerank(queries, queries, lambda_value=1).block(EVERYTHING, EVERYTHING)
    assert ours.min() >= 0
    assert ours.diagonal().max() < 1e-6


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_nothing_but_one_image(distance):
    ours = rerank(np.full((2, 3), 0.1), np.full((5, 3), 0.1), k1=6, k2=1, distance=distance)
    torch.testing.assert_close(ours.block(EVERYTHING, EVERYTHING), torch.zeros(2, 5), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", [np.float16, np.float64, torch.float16, torch.bfloat16, torch.float64])
def test_any_floating_type_and_both_libraries(kind):
    generator = np.random.default_rng(9)
    queries, gallery = (generator.integers(-8, 9, (rows, 6)) + 0.5 for rows in (4, 20))
    expected = rerank(queries.astype(np.float32), gallery.astype(np.float32), k1=4, k2=2)
    if isinstance(kind, torch.dtype):
        given_ = torch.tensor(queries).to(kind).requires_grad_(), torch.tensor(gallery).to(kind)
    else:
        given_ = queries.astype(kind), gallery.astype(kind)
        given_[1].flags.writeable = False
    before = [rows.detach().clone() if isinstance(rows, torch.Tensor) else rows.copy() for rows in given_]
    ours = rerank(*given_, k1=4, k2=2).block(EVERYTHING, EVERYTHING)
    assert not ours.requires_grad
    torch.testing.assert_close(ours, expected.block(EVERYTHING, EVERYTHING))
    assert all((rows == copy).all() for rows, copy in zip(given_, before, strict=True))


GOOD = np.random.default_rng(0).normal(size=(4, 3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"k1": 8},
            r"^k1: expected 1 to 7, fewer than the 8 images .*, got 8; there are few images: lower k1 \(--k1\), or",
        ),
        ({"k1": 0}, r"^k1: expected 1 to 7"),
        ({"k1": 3, "k2": 4}, r"^k2: expected 1 to k1 = 3, got 4; lower k2 too \(--k2\)$"),
        ({"k1": 3, "k2": 0}, r"^k2: expected 1 to k1 = 3, got 0$"),
        ({"k1": 3, "k2": 1, "lambda_value": 1.5}, r"^lambda_value: expected a share from 0 to 1, got 1.5$"),
        ({"k1": 3, "k2": 1, "lambda_value": float("nan")}, r"^lambda_value: .* got nan$"),
        ({"distance": "euclidian"}, r"^unknown distance 'euclidian' \(did you mean 'euclidean'\?\)"),
    ],
)
def test_settings_out_of_range(arguments, message):
    with pytest.raises(InputError, match=message):
        rerank(GOOD, GOOD + 1, **arguments)


def with_rows(value, *rows):
    features = GOOD.copy()
    features[list(rows)] = value
    return features


@pytest.mark.parametrize(
    ("queries", "gallery", "message"),
    [
        (GOOD, GOOD[:, :2], r"^query_features and gallery_features differ in dimensions: 3 and 2"),
        (GOOD[0], GOOD, r"^query_features: expected a matrix .* shape \(3,\)$"),
        (GOOD, GOOD[:0], r"^gallery_features: expected a matrix .* shape \(0, 3\)$"),
        (with_rows(np.nan, 1, 2), GOOD, r"^query_features: 2 rows hold NaN .* 1, 2\)$"),
        (GOOD, with_rows(-np.inf, 3), r"^gallery_features: 1 rows hold NaN or infinite .* 3\)$"),
        (GOOD, with_rows(0, 2), r"^gallery_features: 1 rows are all zeros.* 2\)$"),
    ],
)
def test_features_that_cannot_be_compared(queries, gallery, message):
    with pytest.raises(InputError, match=message):
        rerank(queries, gallery, k1=3, k2=1)
