"""Angle statistics against loops over Python numbers."""

import itertools
import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reid_da.errors import InputError
from reid_da.evaluation.angles import BINS, angle_statistics, mean_nearest_angle, pair_histograms


def angle(first, second):
    product = sum(a * b for a, b in zip(first, second, strict=True))
    cosine = product / (math.hypot(*first) * math.hypot(*second))
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine))))


def mean_of(vectors):
    units = [[value / math.hypot(*vector) for value in vector] for vector in vectors]
    return [statistics.fmean(column) for column in zip(*units, strict=True)]


def nearest(vectors):
    return statistics.fmean(min(angle(vector, other) for other in vectors if other is not vector) for vector in vectors)


@given(seed=st.integers(0, 1000))
def test_equals_the_loop(seed):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(12, 3, generator=generator)
    labels = torch.cat([torch.tensor([0, 2]), torch.randint(0, 5, (10,), generator=generator)])
    weight = torch.randn(6, 3, generator=generator)
    found = angle_statistics(features, labels, weight=weight)
    groups = {}
    for feature, label in zip(features.tolist(), labels.tolist(), strict=True):
        groups.setdefault(label, []).append(feature)
    means = {label: mean_of(group) for label, group in groups.items()}
    intra = [angle(feature, means[label]) for label, group in groups.items() for feature in group]
    # rounding to float32 shows at angles near 0
    assert found.intra == pytest.approx(statistics.fmean(intra), abs=0.02)
    assert found.inter == pytest.approx(nearest(list(means.values())), abs=0.05)
    rows = weight.tolist()
    assert found.w_ec == pytest.approx(statistics.fmean(angle(rows[label], means[label]) for label in means), abs=0.02)
    assert found.w_inter == pytest.approx(nearest(rows), abs=0.05)
    assert (found.num_features, found.num_classes) == (12, len(groups))
    assert found.num_singletons == sum(len(group) == 1 for group in groups.values())
    without = angle_statistics(features, labels)
    assert (without.w_ec, without.w_inter, without.intra) == (None, None, found.intra)


@pytest.mark.parametrize("block", [1, 4, 7, 100])
def test_blocks_change_nothing(block):
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(23, 5, generator=generator)
    labels = torch.randint(0, 4, (23,), generator=generator)
    assert mean_nearest_angle(vectors, block=block) == pytest.approx(nearest(vectors.tolist()), abs=0.01)
    positive, negative = pair_histograms(vectors, labels, block=block)
    expected = torch.zeros(2, BINS, dtype=torch.int64)
    for i, j in itertools.combinations(range(23), 2):
        expected[int(labels[i] != labels[j]), int(angle(vectors[i].tolist(), vectors[j].tolist()))] += 1
    assert torch.equal(torch.stack([positive, negative]), expected)


def test_opposite_and_equal_vectors_have_a_bin():
    vectors = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    positive, negative = pair_histograms(vectors, torch.tensor([0, 0, 1]))
    assert (positive[0], positive.sum()) == (1, 1)
    assert (negative[BINS - 1], negative.sum()) == (2, 2)


def test_what_has_no_angles():
    with pytest.raises(InputError, match="at least two identities, these have 1"):
        angle_statistics(torch.randn(3, 2), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(InputError, match="a label 5, but the classifier has 2 classes"):
        angle_statistics(torch.randn(2, 2), torch.tensor([0, 5]), weight=torch.randn(2, 2))


@pytest.mark.parametrize(("value", "message"), [(math.nan, "1 rows hold NaN"), (0.0, "1 rows are all zeros")])
def test_features_without_a_direction_have_no_angle(value, message):
    features, labels, weight = torch.randn(4, 3), torch.tensor([0, 0, 1, 1]), torch.randn(2, 3)
    features[2], weight[1] = value, value
    with pytest.raises(InputError, match=f"features: {message}"):
        angle_statistics(features, labels)
    with pytest.raises(InputError, match=f"class centres: {message}"):
        angle_statistics(torch.randn(4, 3), labels, weight=weight)
