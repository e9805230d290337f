"""Do two images show the same person? Accuracy over folds, true accepts at a rate of false ones, identification.

The protocols of face recognition, which ArcFace's tables are stated in: ten folds of pairs (Huang et al., "Labeled
Faces in the Wild", 2007), and rank-1 among distractors (Kemelmacher-Shlizerman et al., "MegaFace", CVPR 2016).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from reid_da.errors import InputError
from reid_da.features import check_directions
from reid_da.finite import check_finite, check_rows

FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
"""False accept rates that are reported."""
FOLD_FAR = 1e-3
"""False accept rate of the rate over folds that InsightFace reports for LFW."""
_BLOCK = 4096
_COSINES = np.arange(-10_000, 10_001) / 10_000
"""Thresholds that SphereFace tries."""


@dataclass(frozen=True, kw_only=True)
class FoldAccuracy:
    """Share of pairs that are told right, by a threshold that was chosen on the other folds.

    Attributes:
        mean: over the folds.
        std: standard deviation over the folds, as published: divided by their number.
        threshold: mean of the thresholds.
    """

    mean: float
    std: float
    threshold: float


@dataclass(frozen=True, kw_only=True)
class AcceptRate:
    """Share of the pairs of one person that pass a threshold which few others pass.

    Attributes:
        far: false accept rate that was asked for.
        tar: share of the pairs of one person with a similarity above the threshold; None where there are fewer than
            1 / far pairs of two persons, which cannot tell.
        threshold: on the cosine similarity, or None.
    """

    far: float
    tar: float | None
    threshold: float | None


@dataclass(frozen=True, kw_only=True)
class FoldAcceptRate:
    """True accepts over folds, each at the threshold that the other folds give for a rate of false accepts.

    Attributes:
        far: false accept rate that was asked for.
        mean: share of the pairs of one person that pass, the mean over the folds; None where the other folds of some
            fold have fewer than 1 / far pairs of two persons, which cannot tell.
        std: its standard deviation over the folds, divided by their number, or None.
        measured_far: share of the pairs of two persons that pass, the mean over the folds, or None.
        threshold: mean of the thresholds on the squared distance of unit vectors, or None.
    """

    far: float
    mean: float | None
    std: float | None
    measured_far: float | None
    threshold: float | None


@dataclass(frozen=True, kw_only=True)
class VerificationResult:
    """What pairs of images tell about a model.

    Attributes:
        num_same: pairs of one person.
        num_different: pairs of two persons.
        num_folds: number of folds.
        by_distance: accuracy by the squared distance of unit vectors, the first of the best thresholds in steps of
            0.01, as InsightFace does.
        by_centred_cosine: accuracy by the cosine after the mean of the other folds was subtracted, by the mean of the
            best thresholds in steps of 0.0001, as SphereFace does.
        accept_rates: true accepts at several rates of false ones, over all pairs.
        fold_accept_rate: true accepts at a rate of false ones of 1e-3, over the folds, as InsightFace does.
        similarity: (P,) float64 cosine similarity of each pair.
        same: (P,) bool.
    """

    num_same: int
    num_different: int
    num_folds: int
    by_distance: FoldAccuracy
    by_centred_cosine: FoldAccuracy
    accept_rates: tuple[AcceptRate, ...]
    fold_accept_rate: FoldAcceptRate
    similarity: NDArray[np.float64] = field(repr=False)
    same: NDArray[np.bool_] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """All fields but those of single pairs, as values that JSON can hold."""
        record = asdict(self)
        del record["similarity"], record["same"]
        return record


def verify(
    first: Tensor, second: Tensor, same: NDArray[np.bool_], folds: NDArray[np.int64], *, mirrored: bool = False
) -> VerificationResult:
    """Verification of pairs of features.

    Args:
        first: (P, D) float features of the first images, not normalised; with ``mirrored`` (P, 2 D), those of the
            images and of their mirror images one behind the other.
        second: features of the second images.
        same: (P,) bool, whether a pair shows one person.
        folds: (P,) int64 fold of each pair, at least two different ones.
        mirrored: add up the two halves where distances are taken, as InsightFace does; where cosines are taken they
            stay one behind the other, as in SphereFace.

    Raises:
        InputError: there are no pairs of one of the two kinds, fewer than two folds, or features that are NaN,
            infinite or all zero.
    """
    check_pairs(same, folds)
    for name, features in (("first", first), ("second", second)):
        check_rows(features, f"{name} images of the pairs")
    whole = first.double(), second.double()
    summed = tuple(_summed(features) for features in whole) if mirrored else whole
    units = [functional.normalize(features) for features in summed]
    squared = (units[0] - units[1]).square().sum(dim=1).numpy()
    similarity = (units[0] * units[1]).sum(dim=1).numpy()
    return VerificationResult(
        num_same=int(same.sum()),
        num_different=int((~same).sum()),
        num_folds=len(np.unique(folds)),
        by_distance=_by_distance(squared, same, folds),
        by_centred_cosine=_by_centred_cosine(*whole, same, folds),
        accept_rates=accept_rates(similarity, same),
        fold_accept_rate=fold_accept_rate(squared, same, folds),
        similarity=similarity,
        same=same,
    )


def check_pairs(same: NDArray[np.bool_], folds: NDArray[np.int64], *, name: str = "pairs") -> None:
    """Refuse pairs that tell nothing.

    Args:
        same: (P,) bool, whether a pair shows one person.
        folds: (P,) int64 fold of each pair.
        name: where they come from, for messages.

    Raises:
        InputError: there are no pairs of one of the two kinds, or fewer than two folds.
    """
    if same.all() or not same.any():
        raise InputError(
            f"{name}: verification needs pairs of one person and of two; of {len(same)} pairs {same.sum()} show one"
        )
    if len(np.unique(folds)) < 2:
        raise InputError(
            f"{name}: all pairs are in one fold, but a threshold is chosen on the others; deal them out to at least"
            " two: FOLDS PAIRS in line 1 of a file in LFW's format, a column fold or two pairs of a kind in a CSV file"
        )


def accept_rates(
    similarity: NDArray[np.float64], same: NDArray[np.bool_], fars: Sequence[float] = FARS
) -> tuple[AcceptRate, ...]:
    """Share of the pairs of one person that pass, at each rate of false accepts; a pair passes above the threshold.

    Args:
        similarity: (P,) of the pairs.
        same: (P,) bool, whether a pair shows one person.
        fars: false accept rates.

    Raises:
        InputError: similarities that are NaN or infinite.
    """
    check_finite(torch.from_numpy(similarity), "similarity")
    negatives = np.sort(similarity[~same])[::-1]
    rates = []
    for far in fars:
        # the small addition: 0.1 * 30 is a little less than 3
        allowed = int(far * len(negatives) * (1 + 1e-12))
        if allowed < 1:
            rates.append(AcceptRate(far=far, tar=None, threshold=None))
            continue
        threshold = float(negatives[min(allowed, len(negatives) - 1)])
        rates.append(AcceptRate(far=far, tar=float((similarity[same] > threshold).mean()), threshold=threshold))
    return tuple(rates)


def fold_accept_rate(
    squared: NDArray[np.float64], same: NDArray[np.bool_], folds: NDArray[np.int64], *, far: float = FOLD_FAR
) -> FoldAcceptRate:
    """Share of the pairs of one person that pass, by folds: the rate that InsightFace calls VAL@FAR.

    The false accept rate of the other folds is a function of the threshold, at 0, 0.001, ..., 3.999. Between the last
    threshold whose rate is at most ``far`` and the next one the authors' code interpolates linearly.
    A pair passes below the threshold. Departure: too few pairs of two persons give None, not an interpolation between
    no false accept and the first.

    Args:
        squared: (P,) squared distances of unit vectors, from 0 to 4.
        same: (P,) bool, whether a pair shows one person.
        folds: (P,) int64 fold of each pair; there is no rate where one of them has no pairs of a kind.
        far: false accept rate, above 0 and below 1.

    Raises:
        InputError: distances that are NaN or infinite, or a rate out of its range.
    """
    check_finite(torch.from_numpy(squared), "squared distances")
    if not 0 < far < 1:
        raise InputError(f"far: expected a false accept rate above 0 and below 1, got {far}")
    thresholds = np.arange(0, 4, 0.001)
    passed, false_passed, chosen = [], [], []
    for fold in np.unique(folds):
        inside = folds == fold
        negatives = np.sort(squared[~inside & ~same])
        # the small addition: 0.001 * 3000 is not quite 3
        if far * len(negatives) * (1 + 1e-12) < 1 or not (inside & same).any() or not (inside & ~same).any():
            return FoldAcceptRate(far=far, mean=None, std=None, measured_far=None, threshold=None)
        rates = np.searchsorted(negatives, thresholds, side="left") / len(negatives)
        higher = int(np.searchsorted(rates, far, side="right"))
        if higher == len(rates):  # hardly any pair within a distance of 3.999
            threshold = float(thresholds[-1]) if rates[-1] == far else 0.0
        else:
            share = (far - rates[higher - 1]) / (rates[higher] - rates[higher - 1])
            threshold = float(thresholds[higher - 1] + share * (thresholds[higher] - thresholds[higher - 1]))
        passed.append(float((squared[inside & same] < threshold).mean()))
        false_passed.append(float((squared[inside & ~same] < threshold).mean()))
        chosen.append(threshold)
    means = [float(np.mean(values)) for values in (passed, false_passed, chosen)]
    return FoldAcceptRate(far=far, mean=means[0], std=float(np.std(passed)), measured_far=means[1], threshold=means[2])


def identification_rates(
    probes: Tensor, pids: Tensor, distractors: Tensor, *, counts: Sequence[int]
) -> dict[int, float]:
    """Rank-1 rate among distractors, by their number (MegaFace).

    Each image of a person looks for each other image of that person among that one and the distractors: right if no
    distractor is as similar. The rate is over all such pairs, streamed over blocks of the distractors.

    Args:
        probes: (P, D) float features.
        pids: (P,) int64 identities, at least one of them with two images.
        distractors: (N, D) float features of other people, in random order.
        counts: numbers of distractors, at most N; the first ones are taken.

    Raises:
        InputError: a number of distractors that there are not, no two images of one person, or features that are NaN,
            infinite or all zero.
    """
    check_directions(probes, "probes")
    check_directions(distractors, "distractors")
    if not counts or min(counts) < 1 or max(counts) > len(distractors):
        raise InputError(
            f"distractors: there are {len(distractors)}, so give numbers from 1 to that, not {list(counts)}"
        )
    probes, distractors = functional.normalize(probes.float()), functional.normalize(distractors.float())
    ends = sorted({*counts, *range(_BLOCK, max(counts), _BLOCK)})
    nearest = probes.new_full((len(probes),), -torch.inf)
    best_by_count, begin = {}, 0
    for end in ends:
        nearest = torch.maximum(nearest, (probes @ distractors[begin:end].T).amax(dim=1))
        best_by_count[end], begin = nearest, end
    right, total = dict.fromkeys(counts, 0), 0
    for rows in torch.split(torch.arange(len(probes)), _BLOCK):
        is_mate = pids[rows, None] == pids[None, :]
        is_mate[torch.arange(len(rows)), rows] = False
        row, column = is_mate.nonzero(as_tuple=True)
        similarity = (probes[rows[row]] * probes[column]).sum(dim=1)
        total += len(row)
        for count in counts:
            right[count] += int((similarity > best_by_count[count][rows[row]]).sum())
    if not total:
        raise InputError("identification needs two images of at least one person")
    return {count: number / total for count, number in right.items()}


def _summed(features: Tensor) -> Tensor:
    plain, mirrored = features.chunk(2, dim=1)
    return plain + mirrored


def _by_distance(squared: NDArray[np.float64], same: NDArray[np.bool_], folds: NDArray[np.int64]) -> FoldAccuracy:
    thresholds = np.arange(0, 4, 0.01)
    accuracies, chosen = [], []
    for fold in np.unique(folds):
        others = folds != fold
        threshold = thresholds[_shares_right(squared[others], same[others], thresholds).argmax()]
        accuracies.append(float(np.mean((squared[~others] < threshold) == same[~others])))
        chosen.append(float(threshold))
    return _fold_accuracy(accuracies, chosen)


def _by_centred_cosine(
    first: Tensor, second: Tensor, same: NDArray[np.bool_], folds: NDArray[np.int64]
) -> FoldAccuracy:
    accuracies, chosen = [], []
    for fold in np.unique(folds):
        others = folds != fold
        mean = torch.cat([first[others], second[others]]).mean(dim=0)
        cosine = functional.cosine_similarity(first - mean, second - mean).numpy()
        right = _numbers_right(cosine[others], same[others], _COSINES)
        threshold = _COSINES[right == right.max()].mean()
        accuracies.append(float(_numbers_right(cosine[~others], same[~others], threshold) / (~others).sum()))
        chosen.append(float(threshold))
    return _fold_accuracy(accuracies, chosen)


def _numbers_right(
    cosine: NDArray[np.float64], same: NDArray[np.bool_], thresholds: NDArray[np.float64] | np.float64
) -> NDArray[np.int64]:
    """Pairs that each threshold tells right: above it for one person, below for two; equal to it is never right."""
    accepted = same.sum() - np.searchsorted(np.sort(cosine[same]), thresholds, side="right")
    numbers: NDArray[np.int64] = accepted + np.searchsorted(np.sort(cosine[~same]), thresholds, side="left")
    return numbers


def _shares_right(
    distance: NDArray[np.float64], same: NDArray[np.bool_], thresholds: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(T,) share of the pairs that each threshold tells right: below it for one person, not below for two."""
    accepted = np.searchsorted(np.sort(distance[same]), thresholds, side="left")
    mistaken = np.searchsorted(np.sort(distance[~same]), thresholds, side="left")
    shares: NDArray[np.float64] = (accepted + (~same).sum() - mistaken) / len(same)
    return shares


def _fold_accuracy(accuracies: Sequence[float], thresholds: Sequence[float]) -> FoldAccuracy:
    return FoldAccuracy(
        mean=float(np.mean(accuracies)), std=float(np.std(accuracies)), threshold=float(np.mean(thresholds))
    )
