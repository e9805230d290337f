"""Distances between images that are near each other, as sparse matrices; all other pairs never exist.

A matrix of distances is (N, N), symmetric, float32, with the zeros of its diagonal stored. A pair that is not stored
is at distance 1 (Jaccard distances: the two share no neighbour), or farther apart than the limit that was asked for.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array, eye_array, vstack
from torch import Tensor

from reid_da.clustering.neighbors import Search, camera_neighbor_lists, neighbor_lists
from reid_da.errors import InputError
from reid_da.features import Labels, pieces
from reid_da.nearest import FeatureBlocks, Indices, row_blocks
from reid_da.progress import track
from reid_da.reciprocal import Rows, encoding, expanded_sets, local_query_expansion, minima, mutual_neighbors
from reid_da.world import ALONE, World

Convention = Literal["clustering", "reranking"]
"""Whose k-reciprocal neighbours: those of the clustering codes (SpCL, OpenUnReID), or of re-ranking (Zhong et al.)."""

_DECIMALS = 6
_DENSE_COLUMNS = 2**17
"""Columns up to which rows are added up in a dense piece of memory, which is faster if they fit in the cache."""
_DENSE_ELEMENTS = 2**23
"""Entries of that piece (32 MiB)."""
_MOST_NEIGHBORS = 1000
"""Images within the limit of an image, on average, from which a graph of cosine distances is refused."""


def jaccard_encoding(
    points: Tensor,
    *,
    k1: int = 30,
    k2: int = 6,
    convention: Convention = "clustering",
    search: Search = "exact",
    neighbors: Indices | None = None,
) -> Rows:
    """(N, N) float32 rows that sum to 1: the expanded k-reciprocal neighbours of every point, weighted by nearness.

    As in the code of SpCL (yxgeee/SpCL@01a486e) and Cluster-Contrast (alibaba/cluster-contrast-reid@57b62e9), after
    Zhong et al., CVPR 2017: a neighbour has the weight exp(-|a - b|^2), with squared distances as they are, where
    re-ranking divides them by the largest of the row. Lists for half of k1 have k1 / 2 + 1 points in both conventions.
    With fewer points than the lists are long, the lists hold all points.

    Args:
        points: (N, D) float32 or float64 unit vectors.
        k1: neighbours among which reciprocity is asked for.
        k2: nearest points, the point itself included, whose rows are averaged (local query expansion).
        convention: the lists hold k1 points, itself included (``clustering``), or k1 + 1 (``reranking``).
        search: how neighbours are found; see :func:`~reid_da.clustering.neighbors.neighbor_lists`.
        neighbors: (N, K) lists found before, of :func:`jaccard_neighbors`.

    Raises:
        InputError: k2 is larger than k1.
    """
    if k2 > k1:
        raise InputError(f"k2: expected 1 to k1 = {k1}, got {k2}")
    if neighbors is None:
        neighbors = jaccard_neighbors(points, k1=k1, convention=convention, search=search)
    # round() and numpy.around, which the authors' code calls, both take a half to the even neighbour
    sets = expanded_sets(neighbors, neighbors[:, : round(k1 / 2) + 1])
    return _sorted(local_query_expansion(encoding(points, sets), neighbors[:, :k2]))


def jaccard_neighbors(
    points: Tensor, *, k1: int, convention: Convention = "clustering", search: Search = "exact", world: World = ALONE
) -> Indices:
    """(N, K) int64 lists that :func:`jaccard_encoding` takes, found by all processes."""
    length = min(k1 + (convention == "reranking"), len(points))
    return neighbor_lists(points, length, search=search, world=world)


def camera_jaccard_encoding(
    points: Tensor,
    camids: Labels,
    *,
    k1_intra: int = 5,
    k1_inter: int = 20,
    k2_intra: int = 3,
    k2_inter: int = 3,
    neighbors: tuple[Indices, Indices] | None = None,
) -> Rows:
    """The same with neighbours found within and across cameras apart (Chen et al., CVPR 2024, arXiv 2311.10605v2).

    A point's neighbours are those that list each other within the camera, and those that do so across cameras; they
    are not expanded by their neighbours' sets. Query expansion averages the rows of the nearest points of both lists.
    As in the authors' code (chenyiyuu/CA-Jaccard@979a1f0) the lists have k1_intra + 1 points, itself included, and
    k1_inter + 1 points of other cameras. Two departures: where a camera has fewer images, their list goes on with
    images of the wrong cameras, ours ends; and they take k2_intra = k2_inter = 3 in the first epoch, which is left to
    the caller.

    Args:
        points: (N, D) float32 or float64 unit vectors.
        camids: (N,) int64 cameras.
        k1_intra: neighbours in the same camera, the point itself not counted.
        k1_inter: neighbours in other cameras, one more is taken.
        k2_intra: points of the list within the camera, the point itself included, whose rows are averaged.
        k2_inter: points of the list across cameras whose rows are averaged.
        neighbors: lists found before, with one more than ``k1_intra`` and ``k1_inter``.

    Raises:
        InputError: all images are from one camera, or a k2 is larger than its list.
    """
    for name, value, length in (("k2_intra", k2_intra, k1_intra + 1), ("k2_inter", k2_inter, k1_inter + 1)):
        if value > length:
            raise InputError(f"{name}: expected 1 to {length}, the neighbours that are looked for, got {value}")
    if (camids == camids[:1]).all():
        raise InputError("camera_jaccard needs images of two cameras at least, these are of one; use jaccard")
    if neighbors is None:
        neighbors = camera_neighbor_lists(points, camids, num_intra=k1_intra + 1, num_inter=k1_inter + 1)
    intra, inter = neighbors
    rows = encoding(points, mutual_neighbors(intra) + mutual_neighbors(inter))
    return _sorted(local_query_expansion(rows, np.concatenate([intra[:, :k2_intra], inter[:, :k2_inter]], axis=1)))


def jaccard_distances(rows: Rows, *, max_distance: float = 1.0) -> Rows:
    """(N, N) Jaccard distances of the pairs of ``rows`` that have an entry in common.

    ``1 - m / (2 - m)`` with m the sum of the minima of two rows, since every row sums to 1. Distances are rounded to
    six decimals, for float32 sums tell no more apart: one that equals ``max_distance``, as fractions of few neighbours
    often do, is within it whatever the order of the sum.

    Args:
        rows: (N, N) of :func:`jaccard_encoding` or :func:`camera_jaccard_encoding`.
        max_distance: pairs farther apart are left out.
    """
    # a little below what the limit asks for; distances decide after they are rounded
    least = max(2 * (1 - max_distance) / (2 - max_distance) - 1e-5, np.finfo(np.float32).tiny)
    parts = []
    for batch, shared in minima(rows, rows.T.tocsr()):
        part = _added_up(shared, least)
        part.data = np.round(np.maximum(1 - part.data / (2 - part.data), 0), _DECIMALS)
        part.data[part.indices == _row_numbers(part) + batch.start] = 0
        parts.append(_sorted(_kept(part, part.data <= max_distance)))
    return vstack(parts, format="csr")


def _added_up(matrix: Rows, least: float) -> Rows:
    """``matrix`` with its repeated columns added up, without what is below ``least``."""
    num_columns = matrix.shape[1]
    if num_columns > _DENSE_COLUMNS:
        # a product with the unit matrix adds up in time that does not depend on the number of columns
        sums = matrix @ eye_array(num_columns, dtype=np.float32, format="csr")
        return _kept(sums, sums.data >= least)
    parts = []
    for rows in pieces(matrix.shape[0], max(1, _DENSE_ELEMENTS // num_columns)):
        dense = matrix[rows].toarray()
        found = np.flatnonzero(dense >= least)
        ends = np.searchsorted(found, np.arange(0, dense.size + 1, num_columns))
        parts.append(csr_array((dense.ravel()[found], found % num_columns, ends), shape=dense.shape))
    return vstack(parts, format="csr")


def cosine_distances(points: Tensor, *, max_distance: float) -> Rows:
    """(N, N) cosine distances of all pairs that are no farther apart than ``max_distance``, found block by block.

    Args:
        points: (N, D) float32 or float64 unit vectors.
        max_distance: pairs farther apart are left out.

    Raises:
        InputError: so many pairs are within ``max_distance`` that the matrix would not be sparse.
    """
    num_points, found, num_found = len(points), [], 0
    blocks = FeatureBlocks(points, points, distance="cosine")
    for rows in track(row_blocks(num_points, num_points), "cosine distances"):
        # each pair once: a product may be rounded another way when its factors change places
        values = blocks.block(rows, slice(rows.start, None)).add_(1).clamp_(min=0)
        near = (values <= max_distance).triu_(diagonal=1).nonzero()
        num_found += len(near)
        if num_found > _MOST_NEIGHBORS * num_points / 2:
            raise InputError(
                f"more than {_MOST_NEIGHBORS:,} images on average are within cosine distance {max_distance:g} of an "
                "image; lower eps"
            )
        found.append((values[tuple(near.T)].cpu().numpy(), near.cpu().numpy() + rows.start))
    pairs = np.concatenate([pair for _, pair in found])
    values_of = np.concatenate([values for values, _ in found]).astype(np.float32)
    own, zeros = np.arange(num_points), np.zeros(num_points, dtype=np.float32)
    first, second = (np.concatenate([pairs[:, side], pairs[:, 1 - side], own]) for side in (0, 1))
    data = np.concatenate([values_of, values_of, zeros])
    return _sorted(coo_array((data, (first, second)), shape=(num_points, num_points)).tocsr())


def distance_quantile_mean(distances: Rows, share: float) -> float:
    """Mean of the given share of the smallest distances among all pairs: what MMT takes for eps (0.0016 there).

    Pairs at distance 0 do not count, as in the authors' code; those that are not stored are at distance 1.

    Args:
        distances: (N, N) of :func:`jaccard_distances`, without a limit.
        share: 0 to 1, of the N (N - 1) / 2 pairs.

    Raises:
        InputError: there is no pair, or the share holds none.
    """
    stored = distances.data[distances.indices > _row_numbers(distances)]
    num_pairs = distances.shape[0] * (distances.shape[0] - 1) // 2 - int((stored == 0).sum())
    wanted = round(share * num_pairs)
    if not wanted:
        raise InputError(
            f"eps_share: a share of {share:g} of {num_pairs:,} pairs is less than one pair; set eps instead"
        )
    positive = np.sort(stored[stored > 0].astype(np.float64))[:wanted]
    return float((positive.sum() + (wanted - len(positive))) / wanted)


def _row_numbers(matrix: Rows) -> Labels:
    """Row of every entry."""
    return np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))


def _kept(matrix: Rows, keep: NDArray[np.bool_]) -> Rows:
    """The entries of a sparse matrix where ``keep`` is true; explicit zeros stay."""
    ends = np.concatenate([[0], np.cumsum(keep)])[matrix.indptr]
    return csr_array((matrix.data[keep], matrix.indices[keep], ends), shape=matrix.shape)


def _sorted(matrix: Rows) -> Rows:
    """``matrix``, its columns in order: then sums over two rows run alike, and distances are symmetric to the bit."""
    matrix.sort_indices()
    return matrix
