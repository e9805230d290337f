"""Evaluation by pairs of cameras: retrieval accuracy and similarities."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from reid_da.errors import InputError
from reid_da.evaluation.feature_files import FeatureSet
from reid_da.evaluation.operating_point import NUM_BINS, similarity_histograms
from reid_da.evaluation.retrieval import evaluate_retrieval

NUM_COARSE_BINS = 64
"""Bins of the histograms of a pair of cameras, over the cosine similarity from -1 to 1."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CameraMatrix:
    """Retrieval with the queries of one camera and the gallery of another.

    Attributes:
        camids: (C,) int64 cameras.
        rank1: (C, C) float64, row: camera of the queries, column: of the gallery; NaN where no query has a match.
        mean_ap: (C, C) float64, the same.
        num_queries: (C, C) int64 queries that have a true match.
    """

    camids: NDArray[np.int64]
    rank1: NDArray[np.float64]
    mean_ap: NDArray[np.float64]
    num_queries: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class PairHistogram:
    """Similarities of the images of two cameras.

    Attributes:
        cameras: the two camids.
        positives: (64,) int64 pairs of one person by cosine similarity, from -1 to 1.
        negatives: (64,) int64 pairs of two persons.
    """

    cameras: tuple[int, int]
    positives: NDArray[np.int64]
    negatives: NDArray[np.int64]

    def rates(self, threshold: float) -> tuple[float, float]:
        """Shares of the pairs of one person and of two whose bin begins at or above ``threshold``."""
        first = int(np.ceil(round((threshold + 1) / 2 * NUM_COARSE_BINS, 9)))
        shares = [counts[first:].sum() / max(counts.sum(), 1) for counts in (self.positives, self.negatives)]
        return float(shares[0]), float(shares[1])


def camera_matrix(features: FeatureSet) -> CameraMatrix:
    """Rank-1 and mAP of each camera's queries in each other camera's gallery; the diagonal is NaN.

    Every distance is computed once, so that this costs as much as one evaluation.

    Args:
        features: of query and gallery, with known identities.
    """
    camids = np.unique(np.concatenate([features.query_camids, features.gallery_camids]))
    shape = (len(camids), len(camids))
    rank1, mean_ap = np.full(shape, np.nan), np.full(shape, np.nan)
    num_queries = np.zeros(shape, dtype=np.int64)
    for row, first in enumerate(camids):
        for column, second in enumerate(camids):
            part = _between(features, int(first), int(second))
            if first == second or part is None:
                continue
            result = evaluate_retrieval(*part.arrays, ranks=(1,))
            rank1[row, column], mean_ap[row, column] = result.rank(1), result.mean_ap
            num_queries[row, column] = result.num_valid_queries
    return CameraMatrix(camids=camids, rank1=rank1, mean_ap=mean_ap, num_queries=num_queries)


def pair_histograms(features: FeatureSet) -> list[PairHistogram]:
    """Similarities of queries and gallery for each pair of cameras that have a person in common."""
    camids = np.unique(np.concatenate([features.query_camids, features.gallery_camids])).tolist()
    found = []
    for number, first in enumerate(camids):
        for second in camids[number + 1 :]:
            counts = np.zeros((2, NUM_COARSE_BINS), dtype=np.int64)
            for sides in ((first, second), (second, first)):
                part = _between(features, *sides)
                if part is not None:
                    histograms = similarity_histograms(*part.arrays)
                    counts += np.stack(
                        [
                            each.view(NUM_COARSE_BINS, NUM_BINS // NUM_COARSE_BINS).sum(dim=1).numpy()
                            for each in histograms
                        ]
                    )
            if counts[0].any():
                found.append(PairHistogram(cameras=(first, second), positives=counts[0], negatives=counts[1]))
    return found


def _between(features: FeatureSet, query_camera: int, gallery_camera: int) -> FeatureSet | None:
    """Queries of one camera and gallery of another; None where they have nobody in common."""
    query, gallery = features.query_camids == query_camera, features.gallery_camids == gallery_camera
    known = features.query_pids[query]
    if not np.isin(known[known >= 0], features.gallery_pids[gallery]).any():
        return None
    return replace(
        features,
        query_features=features.query_features[query],
        query_pids=known,
        query_camids=features.query_camids[query],
        gallery_features=features.gallery_features[gallery],
        gallery_pids=features.gallery_pids[gallery],
        gallery_camids=features.gallery_camids[gallery],
        query_paths=None,
        gallery_paths=None,
    )


def threshold_at(pairs: list[PairHistogram], *, fpr: float) -> float:
    """The lowest edge of a bin at which the pairs of two persons, over all cameras, are at most a share ``fpr``.

    Raises:
        InputError: there are no pairs.
    """
    if not pairs:
        raise InputError("no two cameras have a person in common")
    negatives = np.sum([pair.negatives for pair in pairs], axis=0)
    above = negatives[::-1].cumsum()[::-1] / max(int(negatives.sum()), 1)
    first = int(np.argmax(above <= fpr)) if (above <= fpr).any() else NUM_COARSE_BINS
    return 2 * first / NUM_COARSE_BINS - 1
