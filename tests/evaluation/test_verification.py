"""Verification against transcriptions of the protocols that try every threshold in turn."""

import math
import statistics

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import interp1d

from reid_da.errors import InputError
from reid_da.evaluation.verification import (
    _numbers_right,
    accept_rates,
    fold_accept_rate,
    identification_rates,
    verify,
)


def pairs(seed, count=40, dim=6, num_folds=4):
    """Features of pairs of which the second is near the first where they show one person."""
    rng = np.random.default_rng(seed)
    first = rng.normal(size=(count, dim)) + 0.5
    same = np.arange(count) % 2 == 0
    second = np.where(same[:, None], first + rng.normal(size=(count, dim)), rng.normal(size=(count, dim)) + 0.5)
    return torch.from_numpy(first), torch.from_numpy(second), same, np.arange(count) * num_folds // count


def unit(vector):
    return vector / math.sqrt(sum(value**2 for value in vector))


def best_threshold(values, same, thresholds, is_same):
    right = [sum(is_same(v, t) == s for v, s in zip(values, same, strict=True)) for t in thresholds]
    return thresholds[right.index(max(right))]


def slow_by_distance(first, second, same, folds):
    distances = [float(sum((unit(a) - unit(b)) ** 2)) for a, b in zip(first, second, strict=True)]
    accuracies, chosen = [], []
    for fold in sorted(set(folds)):
        inside = [i for i, f in enumerate(folds) if f == fold]
        outside = [i for i, f in enumerate(folds) if f != fold]
        thresholds = [0.01 * step for step in range(400)]
        threshold = best_threshold(
            [distances[i] for i in outside], [same[i] for i in outside], thresholds, lambda d, t: d < t
        )
        accuracies.append(statistics.fmean((distances[i] < threshold) == same[i] for i in inside))
        chosen.append(threshold)
    return statistics.fmean(accuracies), statistics.pstdev(accuracies), statistics.fmean(chosen)


def slow_by_centred_cosine(first, second, same, folds):
    accuracies, chosen = [], []
    for fold in sorted(set(folds)):
        outside = [i for i, f in enumerate(folds) if f != fold]
        mean = np.mean([vector for i in outside for vector in (first[i], second[i])], axis=0)
        cosines = [float(unit(a - mean) @ unit(b - mean)) for a, b in zip(first, second, strict=True)]
        thresholds = np.arange(-10_000, 10_001) / 10_000
        right = sphereface_right([cosines[i] for i in outside], [same[i] for i in outside], thresholds)
        threshold = thresholds[right == right.max()].mean()
        inside = [i for i, f in enumerate(folds) if f == fold]
        number = sphereface_right([cosines[i] for i in inside], [same[i] for i in inside], threshold)
        accuracies.append(float(number) / len(inside))
        chosen.append(threshold)
    return statistics.fmean(accuracies), statistics.pstdev(accuracies), statistics.fmean(chosen)


def sphereface_right(cosines, same, thresholds):
    """Length of ``find(scores(flags==1)>threshold)`` and of ``find(scores(flags~=1)<threshold)``."""
    cosines, same, thresholds = np.array(cosines), np.array(same), np.asarray(thresholds)[..., None]
    return (cosines[same] > thresholds).sum(axis=-1) + (cosines[~same] < thresholds).sum(axis=-1)


@pytest.mark.parametrize("seed", range(3))
def test_accuracy_equals_the_protocols(seed):
    first, second, same, folds = pairs(seed)
    found = verify(first, second, same, folds)
    arguments = (first.numpy(), second.numpy(), same.tolist(), folds.tolist())
    for accuracy, slow in ((found.by_distance, slow_by_distance), (found.by_centred_cosine, slow_by_centred_cosine)):
        assert (accuracy.mean, accuracy.std, accuracy.threshold) == pytest.approx(slow(*arguments))
    assert (found.num_same, found.num_different, found.num_folds) == (20, 20, 4)
    assert "similarity" not in found.to_json()


def test_a_gap_between_the_kinds_is_halved_and_a_cosine_equal_to_a_threshold_is_wrong():
    cosines = np.array([1, 0.6, 0.5, -0.2, -0.6, -0.8])
    same = np.array([True, True, True, False, False, False])
    right = _numbers_right(cosines, same, np.array([0.5, 0.4999, -0.2, -0.2001]))
    assert right.tolist() == [5, 6, 5, 5]
    # the mean of the features is 0 in every three folds, so that cosines stay what they are
    angles = np.tile([0.2, 0.2, 1.8, 1.8], 4)
    first = torch.tensor([[1.0, 0.0], [-1.0, 0.0]] * 8, dtype=torch.float64)
    second = first * torch.from_numpy(np.cos(angles))[:, None]
    second[:, 1] = first[:, 0] * torch.from_numpy(np.sin(angles))
    found = verify(first, second, angles < 1, np.repeat(range(4), 4)).by_centred_cosine
    assert found.mean == 1
    assert found.threshold == pytest.approx((math.cos(0.2) + math.cos(1.8)) / 2, abs=1e-4)


def test_mirrored_features_are_added_for_distances_and_kept_apart_for_cosines():
    first, second, same, folds = pairs(5, dim=8)
    found = verify(first, second, same, folds, mirrored=True)
    halves = [features[:, :4] + features[:, 4:] for features in (first, second)]
    assert found.by_distance == verify(*halves, same, folds).by_distance
    assert found.by_centred_cosine == verify(first, second, same, folds).by_centred_cosine


@given(st.integers(0, 1000))
def test_accept_rates_keep_what_they_promise(seed):
    rng = np.random.default_rng(seed)
    same = rng.random(200) < 0.4
    similarity = np.round(rng.normal(size=200) + same, 1)  # with ties
    for rate in accept_rates(similarity, same, (0.3, 0.1, 0.01, 0.001)):
        negatives = similarity[~same]
        if rate.far * len(negatives) < 1:
            assert (rate.tar, rate.threshold) == (None, None)
            continue
        assert (negatives > rate.threshold).mean() <= rate.far
        assert rate.tar == (similarity[same] > rate.threshold).mean()
        # any lower threshold that changes something would let too many through
        lower = negatives[negatives < rate.threshold]
        if len(lower):
            assert (negatives > lower.max()).mean() > rate.far


@pytest.mark.parametrize("block", [3, 4096])
def test_identification_equals_the_loop(monkeypatch, block):
    monkeypatch.setattr("reid_da.evaluation.verification._BLOCK", block)
    generator = torch.Generator().manual_seed(0)
    probes, distractors = torch.randn(11, 3, generator=generator), torch.randn(20, 3, generator=generator)
    pids = torch.tensor([0, 0, 0, 1, 1, 2, 3, 3, 3, 3, 4])
    found = identification_rates(probes, pids, distractors, counts=[1, 7, 20])
    for count in (1, 7, 20):
        hits = []
        for i in range(11):
            for j in range(11):
                if i != j and pids[i] == pids[j]:
                    own = float(unit(probes[i].numpy()) @ unit(probes[j].numpy()))
                    others = [float(unit(probes[i].numpy()) @ unit(d.numpy())) for d in distractors[:count]]
                    hits.append(own > max(others))
        assert found[count] == pytest.approx(statistics.fmean(hits))
    assert found[1] >= found[7] >= found[20]


def test_what_cannot_be_verified():
    first, second, same, folds = pairs(0)
    with pytest.raises(InputError, match="of 40 pairs 0 show one"):
        verify(first, second, np.zeros_like(same), folds)
    with pytest.raises(InputError, match="deal them out to at least two: FOLDS PAIRS in line 1"):
        verify(first, second, same, np.zeros_like(folds))
    with pytest.raises(InputError, match=r"there are 3, so give numbers from 1 to that, not \[4\]"):
        identification_rates(torch.randn(2, 2), torch.zeros(2), torch.randn(3, 2), counts=[4])
    with pytest.raises(InputError, match="two images of at least one person"):
        identification_rates(torch.randn(2, 2), torch.arange(2), torch.randn(3, 2), counts=[3])


def insightface_val(squared, same, folds, far):
    """Its calculation, threshold by threshold, with scipy's interpolation."""
    thresholds = np.arange(0, 4, 0.001)
    val, measured, chosen = [], [], []
    for fold in sorted(set(folds.tolist())):
        train, test = folds != fold, folds == fold
        rates = np.array([np.mean(squared[train & ~same] < threshold) for threshold in thresholds])
        threshold = (
            float(interp1d(rates, thresholds, kind="linear", assume_sorted=True)(far)) if rates.max() >= far else 0.0
        )
        val.append(np.mean(squared[test & same] < threshold))
        measured.append(np.mean(squared[test & ~same] < threshold))
        chosen.append(threshold)
    return np.mean(val), np.std(val), np.mean(measured), np.mean(chosen)


@pytest.mark.parametrize("far", [0.01, 0.03, 0.1])
@pytest.mark.parametrize("seed", range(3))
def test_true_accepts_over_folds_equal_the_published_calculation(seed, far):
    rng = np.random.default_rng(seed)
    same = np.arange(600) % 2 == 0
    squared = np.clip(np.where(same, rng.normal(0.8, 0.4, 600), rng.normal(1.8, 0.4, 600)), 0, 4)
    folds = np.arange(600) * 10 // 600
    found = fold_accept_rate(squared, same, folds, far=far)
    expected = insightface_val(squared, same, folds, far)
    assert (found.mean, found.std, found.measured_far, found.threshold) == pytest.approx(expected)
    assert 0 < found.mean < 1


def test_true_accepts_over_folds_by_hand():
    same = np.array([True, True, False, False, False, False] * 2)
    squared = np.array([0.5, 1.1003, 1.2005, 1.4005, 3, 3.5, 0.5, 0.5, 1.0005, 1.1005, 2, 3])
    folds = np.repeat([0, 1], 6)
    found = fold_accept_rate(squared, same, folds, far=0.3)
    # fold 0 takes its threshold from fold 1: the rate is 0.25 at 1.100 and 0.5 at 1.101, so 0.3 at 1.1002
    assert found.threshold == pytest.approx((1.1002 + 1.4002) / 2)
    assert (found.mean, found.std, found.measured_far) == (0.75, 0.25, 0.25)
    # a rate that is met is met up to the next pair
    assert fold_accept_rate(squared, same, folds, far=0.5).threshold == pytest.approx((2 + 3) / 2)
    few = fold_accept_rate(squared, same, folds, far=0.2)
    assert (few.mean, few.std, few.measured_far, few.threshold) == (None, None, None, None)
    with pytest.raises(InputError, match="far: expected"):
        fold_accept_rate(squared, same, folds, far=0)


@pytest.mark.parametrize(
    ("value", "message"),
    [(math.nan, "1 rows hold NaN or infinite"), (math.inf, "1 rows hold NaN"), (0, "1 rows are all zeros")],
)
def test_features_that_tell_nothing_are_refused(value, message):
    first, second, same, folds = pairs(0)
    broken = second.clone()
    broken[3] = value
    with pytest.raises(InputError, match=rf"second images of the pairs: {message}.*counted from 0: 3"):
        verify(first, broken, same, folds)
    with pytest.raises(InputError, match=f"probes: {message}"):
        identification_rates(broken, torch.zeros(40), first, counts=[3])
    with pytest.raises(InputError, match=f"distractors: {message}"):
        identification_rates(first, torch.zeros(40), broken, counts=[3])
    if value:
        with pytest.raises(InputError, match="similarity: 1 of 4 values are NaN or infinite"):
            accept_rates(np.array([1, value, 0, 0]), np.array([True, True, False, False]))
