"""CMC, mean average precision and mean inverse negative penalty, without a matrix over all pairs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reid_da.errors import InputError
from reid_da.evaluation._relevance import BlockRelevance, Relevance
from reid_da.evaluation._streaming import sort_rows, whole_rows
from reid_da.evaluation.blocks import DistanceBlocks
from reid_da.features import Array
from reid_da.nearest import FeatureBlocks
from reid_da.world import ALONE, World


@dataclass(frozen=True, kw_only=True, eq=False)
class QueryScores:
    """How each query fared, in the order of the queries; NaN or rank 0 where a query has no true match.

    Attributes:
        ap: (Q,) float64, average precision as the mean of the precisions at the true matches.
        ap_trapezoid: (Q,) float64, average precision by the trapezoidal rule.
        inp: (Q,) float64, number of true matches over the rank of the last one.
        first_match_rank: (Q,) int64, rank of the nearest true match, from 1.
    """

    ap: NDArray[np.float64]
    ap_trapezoid: NDArray[np.float64]
    inp: NDArray[np.float64]
    first_match_rank: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class RetrievalResult:
    """Retrieval metrics as fractions from 0 to 1, averaged over the queries that have a true match.

    Attributes:
        cmc: (max_rank,) float64; ``cmc[k - 1]`` is the share of queries with a true match among the k nearest.
        mean_ap: mean of the average precisions ``(1/R) sum_i i/r_i``, the true matches being at the ranks r_i.
        mean_ap_trapezoid: the same with ``(i/r_i + (i-1)/(r_i - 1)) / 2`` for ``i/r_i`` (1 where r_i is 1 for the
            second term), as the first Market-1501 scripts have it; never above ``mean_ap``.
        mean_inp: mean of R / r_R (Ye et al., TPAMI 2021, arXiv 2001.04193).
        num_queries: number of queries.
        num_valid_queries: number of queries with a true match, over which everything is averaged.
        ranks: the ranks that :meth:`to_json` reports.
        convention: what was counted and how, in words.
        per_query: the figures of every query.
    """

    cmc: NDArray[np.float64] = field(repr=False)
    mean_ap: float
    mean_ap_trapezoid: float
    mean_inp: float
    num_queries: int
    num_valid_queries: int
    ranks: tuple[int, ...]
    convention: str = field(repr=False)
    per_query: QueryScores = field(repr=False)

    def rank(self, k: int) -> float:
        """Share of queries with a true match among the ``k`` nearest valid gallery images."""
        if not 1 <= k <= len(self.cmc):
            raise InputError(f"rank {k} was not computed: expected 1 to max_rank ({len(self.cmc)})")
        return float(self.cmc[k - 1])

    def to_json(self) -> dict[str, float | int]:
        """The figures under their usual names, as fractions: ``rank1``, ..., ``mAP``, ``mAP_trapezoid``, ``mINP``."""
        return {
            **{f"rank{k}": self.rank(k) for k in self.ranks},
            "mAP": self.mean_ap,
            "mAP_trapezoid": self.mean_ap_trapezoid,
            "mINP": self.mean_inp,
            "num_queries": self.num_queries,
            "num_valid_queries": self.num_valid_queries,
        }


def evaluate_retrieval(
    query_features: Array,
    query_pids: Array,
    query_camids: Array,
    gallery_features: Array,
    gallery_pids: Array,
    gallery_camids: Array,
    *,
    ranks: Sequence[int] = (1, 5, 10, 20),
    max_rank: int = 50,
    distance: str = "cosine",
    same_camera: str = "exclude",
    world: World = ALONE,
) -> RetrievalResult:
    """CMC, mAP and mINP of a search for every query among the gallery.

    Gallery images of the query's identity and camera are left out (see ``same_camera``), and so is junk (pid -1).
    Queries without a true match, junk queries among them, are skipped and counted. The rank of a true match is one
    plus the number of valid gallery images that are nearer. A wrong image at the same distance counts as nearer:
    ties never flatter a model, and the order of the gallery decides nothing.

    The distance matrix exists a block at a time. Features in float64 are compared in float64, others in float32,
    where distances are good to seven digits: which of two images is nearer is open if they differ by less, and
    copies of one image may differ by as much.

    Args:
        query_features: (Q, D) array or tensor; the gallery is on the same device, which does the work.
        query_pids: (Q,) identities, 0 or above, or -1 for junk.
        query_camids: (Q,) cameras.
        gallery_features: (G, D).
        gallery_pids: (G,) identities; distractors have one that no query has.
        gallery_camids: (G,) cameras.
        ranks: ranks to report.
        max_rank: length of the CMC curve.
        distance: ``cosine`` or ``euclidean``.
        same_camera: ``exclude`` or ``include`` gallery images of the query's identity from the query's camera.
        world: processes that have all features; each ranks the gallery for some queries, and all get the result.

    Raises:
        InputError: arrays that do not fit together, features that are NaN, infinite or all zero, an unknown option,
            or no query with a true match.
    """
    blocks = FeatureBlocks(query_features, gallery_features, distance=distance)
    return evaluate_distances(
        blocks,
        query_pids,
        query_camids,
        gallery_pids,
        gallery_camids,
        ranks=ranks,
        max_rank=max_rank,
        same_camera=same_camera,
        distance_name=distance,
        world=world,
    )


def evaluate_distances(
    blocks: DistanceBlocks,
    query_pids: Array,
    query_camids: Array,
    gallery_pids: Array,
    gallery_camids: Array,
    *,
    ranks: Sequence[int] = (1, 5, 10, 20),
    max_rank: int = 50,
    same_camera: str = "exclude",
    distance_name: str = "as given",
    world: World = ALONE,
) -> RetrievalResult:
    """CMC, mAP and mINP of any distances that come block by block; see :func:`evaluate_retrieval`.

    Args:
        blocks: the (Q, G) distances.
        query_pids: (Q,) identities.
        query_camids: (Q,) cameras.
        gallery_pids: (G,) identities.
        gallery_camids: (G,) cameras.
        ranks: ranks to report.
        max_rank: length of the CMC curve.
        same_camera: ``exclude`` or ``include`` gallery images of the query's identity from the query's camera.
        distance_name: what to call the distance in the description of the result.
        world: processes that share the queries.

    Raises:
        InputError: as :func:`evaluate_retrieval`.
        ValueError: a distance is NaN, or the one of a true match is infinite.
    """
    _check_ranks(ranks, max_rank)
    shape = (blocks.num_queries, blocks.num_gallery)
    relevance = Relevance(query_pids, query_camids, gallery_pids, gallery_camids, shape=shape, same_camera=same_camera)
    # zeros where another process fills in the figures, so that their sum is exact
    scores = torch.zeros(4, blocks.num_queries, dtype=torch.float64)
    for rows, distances in whole_rows(blocks, "ranking the gallery", world=world):
        of_block = relevance.block(rows, distances.device)
        scores[:, rows] = _scores(_match_ranks(distances, of_block), of_block).cpu()
    ap, ap_trapezoid, inp, first = world.sum(scores).numpy()
    if np.isnan(first).any():
        raise ValueError("the distance blocks hold NaN, or an infinite distance to a true match")
    per_query = QueryScores(ap=ap, ap_trapezoid=ap_trapezoid, inp=inp, first_match_rank=first.astype(np.int64))
    convention = _convention(distance_name, same_camera)
    return _result(per_query, ranks=tuple(ranks), max_rank=max_rank, convention=convention)


def _check_ranks(ranks: Sequence[int], max_rank: int) -> None:
    if max_rank < 1:
        raise InputError(f"max_rank: expected at least 1, got {max_rank}")
    for k in ranks:
        if not 1 <= k <= max_rank:
            raise InputError(f"ranks: expected 1 to max_rank ({max_rank}), got {k}")


def _match_ranks(distances: Tensor, relevance: BlockRelevance) -> Tensor:
    """(q, R) float64 ranks of the true matches of each query, nearest first; what follows the last one is void.

    Distances of matches and of others come from the same block: the least difference in rounding between two ways
    of computing them would move ranks. A rank is NaN where a distance is NaN, or infinite and a match's. The
    distances are overwritten.
    """
    matches = distances.new_full((len(distances), max(1, relevance.most_matches)), torch.inf)
    matches[relevance.match_rows, relevance.match_numbers] = distances[relevance.match_rows, relevance.match_columns]
    matches = matches.sort(dim=1).values
    farthest = matches.gather(1, _last(relevance))
    distances[relevance.rows, relevance.columns] = torch.inf
    distances.index_fill_(1, relevance.junk, torch.inf)
    # beyond the farthest match nothing counts
    others = sort_rows(distances, limits=farthest.nextafter(farthest.new_tensor(torch.inf)))
    numbers = torch.arange(1, matches.shape[1] + 1, device=distances.device)
    ranks = numbers + torch.searchsorted(others, matches, right=True)
    # NaN is sorted to the end of a row
    void = others[:, -1:].isnan() | (farthest.isinf() & (relevance.num_matches > 0).unsqueeze(1))
    return ranks.double().masked_fill(void, torch.nan)


def _last(relevance: BlockRelevance) -> Tensor:
    """(q, 1) int64 number of the last true match of each query, from 0; 0 where there is none."""
    return (relevance.num_matches - 1).clamp(min=0).unsqueeze(1)


def _scores(ranks: Tensor, relevance: BlockRelevance) -> Tensor:
    """(4, q) float64 from the ranks (q, R): AP, trapezoidal AP, INP, rank of the first match; without one, NaN, 0."""
    numbers = torch.arange(1, ranks.shape[1] + 1, dtype=torch.float64, device=ranks.device)
    counts = relevance.num_matches.double()
    is_match = (numbers <= counts.unsqueeze(1)).double()
    precision = numbers / ranks
    precision_before = torch.where(ranks == 1, 1.0, (numbers - 1) / (ranks - 1))
    last = ranks.gather(1, _last(relevance)).squeeze(1)
    scores = [
        (precision * is_match).sum(dim=1) / counts,
        ((precision + precision_before) / 2 * is_match).sum(dim=1) / counts,
        (counts / last).where(counts > 0, torch.nan),
        ranks[:, 0].where(counts > 0, 0.0),
    ]
    return torch.stack(scores)


def _result(per_query: QueryScores, *, ranks: tuple[int, ...], max_rank: int, convention: str) -> RetrievalResult:
    """The averages over the valid queries."""
    valid = per_query.first_match_rank > 0
    num_valid = int(valid.sum())
    hits = np.bincount(per_query.first_match_rank[valid].clip(max=max_rank + 1), minlength=max_rank + 2)

    def mean(values: NDArray[np.float64]) -> float:
        # an exact sum does not depend on the order of the queries
        return math.fsum(values[valid]) / num_valid

    return RetrievalResult(
        cmc=hits[1 : max_rank + 1].cumsum() / num_valid,
        mean_ap=mean(per_query.ap),
        mean_ap_trapezoid=mean(per_query.ap_trapezoid),
        mean_inp=mean(per_query.inp),
        num_queries=len(valid),
        num_valid_queries=num_valid,
        ranks=ranks,
        convention=convention,
        per_query=per_query,
    )


def _convention(distance: str, same_camera: str) -> str:
    left_out = "gallery images of the query's identity and camera, and junk (pid -1)"
    if same_camera == "include":
        left_out = "junk (pid -1); matches by the query's own camera count, which papers leave out"
    return (
        f"distance: {distance}; left out: {left_out}; queries without a true match are skipped; a wrong image at the "
        "distance of a match ranks before it; mAP averages the precisions at the matches, mAP_trapezoid takes the "
        "mean of the precisions at and before each match; every figure is a mean over the valid queries"
    )
