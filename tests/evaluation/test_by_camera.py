"""Evaluations by camera against loops over pairs of images."""

from dataclasses import replace

import numpy as np
import pytest

from reid_da.errors import InputError
from reid_da.evaluation import evaluate_retrieval
from reid_da.evaluation.by_camera import NUM_COARSE_BINS, camera_matrix, pair_histograms, threshold_at
from reid_da.evaluation.feature_files import FeatureSet


@pytest.fixture(scope="module")
def features():
    random = np.random.default_rng(0)

    def side(count):
        return random.normal(size=(count, 6)), random.integers(0, 6, count), random.integers(0, 3, count)

    (query, query_pids, query_camids), (gallery, gallery_pids, gallery_camids) = side(30), side(50)
    return FeatureSet(
        query_features=query, query_pids=query_pids, query_camids=query_camids,
        gallery_features=gallery, gallery_pids=gallery_pids, gallery_camids=gallery_camids,
    )  # fmt: skip


def test_a_cell_is_the_evaluation_of_its_two_cameras(features):
    matrix = camera_matrix(features)
    assert matrix.camids.tolist() == [0, 1, 2]
    assert np.isnan(np.diag(matrix.rank1)).all()
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in features.arrays[::3]]
    for first, second in ((0, 1), (2, 0), (1, 2)):
        aps, hits = [], []
        for row in np.flatnonzero(features.query_camids == first):
            columns = np.flatnonzero(features.gallery_camids == second)
            order = columns[np.argsort(-(unit[1][columns] @ unit[0][row]))]
            right = features.gallery_pids[order] == features.query_pids[row]
            if right.any():
                hits.append(right[0])
                aps.append(np.mean([right[: place + 1].mean() for place in np.flatnonzero(right)]))
        assert matrix.mean_ap[first, second] == pytest.approx(np.mean(aps))
        assert matrix.rank1[first, second] == pytest.approx(np.mean(hits))
        assert matrix.num_queries[first, second] == len(aps)


def test_pairs_are_counted_once_in_each_direction(features):
    pairs = pair_histograms(features)
    assert [pair.cameras for pair in pairs] == [(0, 1), (0, 2), (1, 2)]
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in features.arrays[::3]]
    similarities = unit[0] @ unit[1].T
    same = features.query_pids[:, None] == features.gallery_pids
    for pair in pairs:
        sides = [(features.query_camids == c)[:, None] & (features.gallery_camids == d) for c, d in
                 (pair.cameras, pair.cameras[::-1])]  # fmt: skip
        between = sides[0] | sides[1]
        for counts, chosen in ((pair.positives, between & same), (pair.negatives, between & ~same)):
            expected, _ = np.histogram(similarities[chosen], bins=NUM_COARSE_BINS, range=(-1, 1))
            np.testing.assert_array_equal(counts, expected)
        true, false = pair.rates(0.25)
        assert true == pytest.approx((similarities[between & same] >= 0.25).mean())
        assert false == pytest.approx((similarities[between & ~same] >= 0.25).mean())
    threshold = threshold_at(pairs, fpr=0.1)
    negatives = similarities[~same & (features.query_camids[:, None] != features.gallery_camids)]
    assert (negatives >= threshold).mean() <= 0.1 < (negatives >= threshold - 2 / NUM_COARSE_BINS).mean()
    with pytest.raises(InputError, match="no two cameras have a person in common"):
        threshold_at([], fpr=0.1)


def test_cameras_without_a_person_in_common(features):
    apart = replace(features, gallery_pids=features.gallery_pids + 10 * (features.gallery_camids == 2))
    matrix = camera_matrix(apart)
    assert np.isnan(matrix.mean_ap[:2, 2]).all()
    assert not np.isnan(matrix.mean_ap[2, :2]).any()
    assert evaluate_retrieval(*apart.arrays).num_valid_queries > 0
