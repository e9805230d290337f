"""k-reciprocal re-ranking without a matrix over all pairs (Zhong et al., CVPR 2017, arXiv 1701.08398)."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reid_da.errors import InputError
from reid_da.features import Array, feature_pair
from reid_da.nearest import Distances, FeatureBlocks
from reid_da.reciprocal import Rows, encoding, expanded_sets, local_query_expansion, minima, nearest_neighbors


@dataclass(frozen=True, kw_only=True)
class RerankSettings:
    """Settings of :func:`rerank`, those of the paper by default.

    Attributes:
        k1: number of neighbours among which reciprocity is asked for.
        k2: number of neighbours of the local query expansion, the image itself counted.
        lambda_value: share of the original distance, 0 to 1.
    """

    k1: int = 20
    k2: int = 6
    lambda_value: float = 0.3

    def check(self, *, num_points: int) -> None:
        """Refuse settings that do not fit the number of images, queries and gallery together.

        Raises:
            InputError: a setting is out of its range; says what to do.
        """
        if not 1 <= self.k1 < num_points:
            few = "; there are few images: lower k1 (--k1), or leave re-ranking out" if self.k1 >= num_points else ""
            raise InputError(
                f"k1: expected 1 to {num_points - 1}, fewer than the {num_points} images of query and gallery "
                f"together, got {self.k1}{few}"
            )
        if not 1 <= self.k2 <= self.k1:
            lower = "; lower k2 too (--k2)" if self.k2 > self.k1 else ""
            raise InputError(f"k2: expected 1 to k1 = {self.k1}, got {self.k2}{lower}")
        if not 0 <= self.lambda_value <= 1:
            raise InputError(f"lambda_value: expected a share from 0 to 1, got {self.lambda_value}")


def rerank(
    query_features: Array,
    gallery_features: Array,
    *,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    distance: str = "cosine",
) -> "KReciprocalDistances":
    """Re-ranked distances of every query to every gallery image, to be computed block by block.

    ``(1 - lambda) * Jaccard + lambda * original`` as the authors' code computes it. The original distance is the
    squared Euclidean one divided by the largest in its row, over queries and gallery together. R(i, k1) are the
    mutual neighbours among the k1 nearest of i and i itself; it grows by R(c, k1 / 2) of each member c that has
    more than 2/3 of these in it. The Jaccard distance compares the encodings of these sets after local query
    expansion with k2. An image is its own nearest neighbour even where another one coincides with it; equally
    distant ones come in the order of their rows, queries first.

    Beyond a copy of the features, memory grows with the number of neighbours, not with that of pairs.

    Args:
        query_features: (Q, D) numbers, one row per query.
        gallery_features: (G, D) numbers, one row per gallery image.
        k1: number of neighbours among which reciprocity is asked for, from 1 to Q + G - 1; 20 in the paper.
        k2: number of neighbours of the local query expansion, the image itself counted, from 1 (no expansion)
            to k1; 6 in the paper.
        lambda_value: share of the original distance, 0 to 1; 0.3 in the paper, 1 keeps the original ranking.
        distance: ``euclidean`` takes the features as they are. ``cosine`` scales them to unit length first; their
            squared Euclidean distance is then twice the cosine distance, and the factor of two falls out. Unit
            vectors thus give the same under both. Toolkits that square a cosine or an already squared distance
            get other values than the paper's.

    Returns:
        Distances for the streaming evaluation, on the device of the features; the sparse part stays on the CPU.

    Raises:
        InputError: a setting is out of its range, the features are not two matrices of the same width, or rows are
            not finite or all zero.
    """
    # refuses features that do not fit together or cannot be compared
    original = FeatureBlocks(query_features, gallery_features, distance=distance)
    num_queries, num_points = original.num_queries, original.num_queries + original.num_gallery
    RerankSettings(k1=k1, k2=k2, lambda_value=lambda_value).check(num_points=num_points)
    points = _points(query_features, gallery_features, unit=distance == "cosine")
    farthest = np.empty(num_points)
    neighbors = nearest_neighbors(points, k1 + 1, farthest=farthest)
    # where all images coincide, their distances are 0 rather than 0 / 0
    farthest[farthest == 0] = 1
    # round() and numpy.around, which the authors' code calls, both take a half to the even neighbour
    sets = expanded_sets(neighbors, neighbors[:, : round(k1 / 2) + 1])
    rows = local_query_expansion(encoding(points, sets, scale=farthest), neighbors[:, :k2])
    return KReciprocalDistances(points, rows, farthest=farthest, num_queries=num_queries, lambda_value=lambda_value)


class KReciprocalDistances:
    """Re-ranked distances, one block at a time (a :class:`~reid_da.evaluation.blocks.DistanceBlocks`).

    Made by :func:`rerank`.

    Attributes:
        num_queries: number of rows Q.
        num_gallery: number of columns G.

    Args:
        points: (Q + G, D) float32 or float64, queries before gallery; the original distance is the squared
            Euclidean one of these.
        rows: (Q + G, Q + G) float32, sparse encodings that sum to 1.
        farthest: (Q + G,) positive, what the original distances of each row are divided by.
        num_queries: number of queries Q.
        lambda_value: share of the original distance, 0 to 1.
    """

    def __init__(
        self, points: Tensor, rows: Rows, *, farthest: Distances, num_queries: int, lambda_value: float
    ) -> None:
        queries, gallery = points[:num_queries], points[num_queries:]
        self._original = FeatureBlocks(queries, gallery, distance="euclidean")
        self.num_queries, self.num_gallery = len(queries), len(gallery)
        self._query_encoding, self._gallery_encoding = rows[:num_queries], rows[num_queries:]
        self._scale = torch.from_numpy(lambda_value / farthest[:num_queries, None]).to(points)
        self._offset = self._scale * queries.square().sum(dim=1, keepdim=True)
        self._jaccard_share = 1 - lambda_value

    def block(self, query_rows: slice, gallery_rows: slice) -> Tensor:
        """(q, g) float32 re-ranked distances of the given queries to the given gallery images; lower is nearer."""
        # half the squared distances, less half the squared lengths of the queries
        values = self._original.block(query_rows, gallery_rows)
        distances = values.mul_(2 * self._scale[query_rows]).add_(self._offset[query_rows]).clamp_(min=0).float()
        shared = torch.from_numpy(
            _sums_of_minima(self._query_encoding[query_rows], self._gallery_encoding[gallery_rows])
        ).to(distances.device)
        # the maxima sum to 2 less the sum of the minima, since every row of the encoding sums to 1
        similarity = shared.div_(2 - shared)
        return distances.add_(self._jaccard_share).sub_(similarity, alpha=self._jaccard_share)


def _sums_of_minima(left: Rows, right: Rows) -> NDArray[np.float32]:
    """(L, R) float32, ``sum_j min(left[l, j], right[r, j])`` for sparse non-negative rows with L and R rows."""
    sums = np.empty((left.shape[0], right.shape[0]), dtype=np.float32)
    for rows, shared in minima(left, right.T.tocsr()):
        shared.toarray(out=sums[rows])
    return sums


def _points(query_features: Array, gallery_features: Array, *, unit: bool) -> Tensor:
    """(Q + G, D) copy of the features, queries first, scaled to unit length where asked for."""
    queries, gallery, dtype = feature_pair(query_features, gallery_features)
    points = torch.cat([queries.to(dtype), gallery.to(dtype)])
    return points.div_(points.norm(dim=1, keepdim=True)) if unit else points
