"""Features to pseudo-labels: the front of the clustering."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from reid_da.clustering.agglomerative import average_linkage
from reid_da.clustering.dbscan import dbscan
from reid_da.clustering.distances import (
    camera_jaccard_encoding,
    cosine_distances,
    distance_quantile_mean,
    jaccard_distances,
    jaccard_encoding,
    jaccard_neighbors,
)
from reid_da.clustering.infomap import infomap_communities
from reid_da.clustering.kmeans import kmeans
from reid_da.clustering.labels import cluster_sizes, without_small_clusters
from reid_da.clustering.neighbors import camera_neighbor_lists, neighbor_lists
from reid_da.clustering.settings import ClusteringSettings
from reid_da.errors import InputError
from reid_da.features import Array, Labels, feature_tensor, label_array, row_squares, working_dtype
from reid_da.nearest import Indices, pair_distances
from reid_da.processes import agreed
from reid_da.reciprocal import Rows
from reid_da.world import ALONE, World


@dataclass(frozen=True, kw_only=True, eq=False)
class ClusterResult:
    """Clusters of N images.

    Attributes:
        labels: (N,) int64, clusters numbered from 0 in the order of their first images, -1 for outliers.
        eps: limit that was used; None for k-means.
    """

    labels: Labels = field(repr=False)
    eps: float | None = None

    @cached_property
    def sizes(self) -> Labels:
        """(C,) int64 images of every cluster."""
        return cluster_sizes(self.labels)

    @property
    def num_clusters(self) -> int:
        """Number of clusters C."""
        return len(self.sizes)

    @property
    def num_outliers(self) -> int:
        """Number of images without a cluster."""
        return int((self.labels < 0).sum())

    @property
    def outlier_share(self) -> float:
        """Share of the images that have no cluster, 0 to 1."""
        return self.num_outliers / len(self.labels)

    @property
    def largest_share(self) -> float:
        """Share of the images in a cluster that the largest one holds; 0 without clusters."""
        return int(self.sizes.max()) / int(self.sizes.sum()) if len(self.sizes) else 0.0

    def require_clusters(self, least: int = 1) -> "ClusterResult":
        """The result itself.

        Raises:
            InputError: there are fewer clusters than ``least``, which a method needs to go on.
        """
        if self.num_clusters < least:
            limit = "" if self.eps is None else f" at eps = {self.eps:g}"
            raise InputError(
                f"clustering found {self.num_clusters} clusters{limit} and {self.num_outliers} outliers among "
                f"{len(self.labels)} images, {least} are needed; try another eps, fewer min_samples or better features"
            )
        return self


def cluster(
    features: Array, camids: Array | None = None, *, settings: ClusteringSettings, seed: int = 0
) -> ClusterResult:
    """Clusters of images by their features, in memory that grows with the number of images times that of neighbours.

    Neighbours are found on the device of the features, the rest is done on the CPU. No random number decides, except in
    k-means and InfoMap. With fewer images than neighbours are asked for, all are neighbours.

    Args:
        features: (N, D) array or tensor; their lengths do not count.
        camids: (N,) whole numbers from 0; needed for ``camera_jaccard``.
        settings: algorithm, distance and their figures.
        seed: of k-means and InfoMap.

    Raises:
        InputError: features that are NaN, infinite or all zero, cameras that are missing, unknown or only one,
            settings that do not go together, or an optional package that is not installed.
    """
    return cluster_at_eps(features, camids, settings=settings, eps=(None,), seed=seed)[0]


def cluster_at_eps(
    features: Array,
    camids: Array | None = None,
    *,
    settings: ClusteringSettings,
    eps: Sequence[float | None],
    seed: int = 0,
    world: World = ALONE,
) -> tuple[ClusterResult, ...]:
    """Clusters at several values of eps, whose distances are computed once; SpCL compares three.

    Several processes look up neighbours together; the first one does the rest, in its memory, and tells the others.

    Args:
        features: (N, D) array or tensor.
        camids: (N,) whole numbers from 0.
        settings: as for :func:`cluster`.
        eps: one value for each result in place of ``settings.eps``, None for that.
        seed: of InfoMap.
        world: processes that have the same features.

    Raises:
        InputError: as :func:`cluster`.
    """
    points = unit_points(features)
    if world.size == 1:
        return _clusters(points, camids, settings=settings, eps=eps, seed=seed)
    neighbors = _neighbors(points, camids, settings=settings, world=world)
    found = agreed(
        world,
        lambda: (
            _clusters(points, camids, settings=settings, eps=eps, seed=seed, neighbors=neighbors)
            if world.is_main
            else ()
        ),
    )
    limits = world.tell([result.eps for result in found])[0]
    shape = (len(limits), len(points))
    labels = np.stack([result.labels for result in found]) if found else np.zeros(shape, dtype=np.int64)
    labels = world.broadcast(torch.from_numpy(labels)).numpy()
    return tuple(ClusterResult(labels=row, eps=limit) for row, limit in zip(labels, limits, strict=True))


def _neighbors(
    points: Tensor, camids: Array | None, *, settings: ClusteringSettings, world: World
) -> tuple[Indices, ...] | None:
    """Lists of neighbours that the distances are made of, found by all processes; None where there are none."""
    if settings.algorithm == "kmeans" or settings.metric == "cosine":
        return None
    if settings.metric == "camera_jaccard":
        camids = _known_cameras(camids, len(points))
        num_intra, num_inter = settings.k1_intra + 1, settings.k1_inter + 1
        return camera_neighbor_lists(points, camids, num_intra=num_intra, num_inter=num_inter, world=world)
    convention, search = settings.convention, settings.search
    return (jaccard_neighbors(points, k1=settings.k1, convention=convention, search=search, world=world),)


def _clusters(
    points: Tensor,
    camids: Array | None,
    *,
    settings: ClusteringSettings,
    eps: Sequence[float | None],
    seed: int,
    neighbors: tuple[Indices, ...] | None = None,
) -> tuple[ClusterResult, ...]:
    if settings.algorithm == "kmeans":
        labels = _kmeans_labels(points, settings, seed)
        return (ClusterResult(labels=without_small_clusters(labels, settings.min_cluster_size)),) * len(eps)
    limits = [settings.eps if limit is None else limit for limit in eps]
    if settings.metric != "cosine" and max(limits) >= 1:
        raise InputError(
            f"eps: images without a neighbour in common are at Jaccard distance 1; choose less, got {max(limits):g}"
        )
    distances = image_distances(points, camids, settings=settings, max_distance=max(limits), neighbors=neighbors)
    if settings.eps_share is not None:
        taken = distance_quantile_mean(distances, settings.eps_share)
        limits = [taken if limit is None else limit for limit in eps]
    return tuple(group(distances, settings=settings, eps=limit, seed=seed) for limit in limits)


def unit_points(features: Array) -> Tensor:
    """(N, D) float32 or float64 features at unit length, on their device.

    Raises:
        InputError: not a matrix of numbers, or rows that are NaN, infinite or all zero.
    """
    tensor = feature_tensor(features, "features")
    squares = row_squares(tensor, "features", dtype=working_dtype(tensor))
    return tensor.to(squares.dtype) * squares.rsqrt().unsqueeze(1)


def image_distances(
    points: Tensor,
    camids: Array | None = None,
    *,
    settings: ClusteringSettings,
    max_distance: float | None = None,
    neighbors: tuple[Indices, ...] | None = None,
) -> Rows:
    """(N, N) sparse distances by ``settings.metric``; pairs that are not stored are at distance 1, or beyond the limit.

    Args:
        points: (N, D) of :func:`unit_points`.
        camids: (N,) whole numbers from 0.
        settings: metric, neighbours and algorithm.
        max_distance: pairs farther apart may be left out, where the algorithm has no use for them.
        neighbors: lists of neighbours that were found before: one, or those within and across cameras.

    Raises:
        InputError: as :func:`cluster`.
    """
    if settings.metric == "cosine":
        return _cosine_graph(points, settings, max_distance)
    if settings.metric == "camera_jaccard":
        rows = camera_jaccard_encoding(
            points,
            _known_cameras(camids, len(points)),
            k1_intra=settings.k1_intra,
            k1_inter=settings.k1_inter,
            k2_intra=settings.k2_intra,
            k2_inter=settings.k2_inter,
            neighbors=None if neighbors is None else (neighbors[0], neighbors[1]),
        )
    else:
        rows = jaccard_encoding(
            points,
            k1=settings.k1,
            k2=settings.k2,
            convention=settings.convention,
            search=settings.search,
            neighbors=None if neighbors is None else neighbors[0],
        )
    # average linkage and a share of the smallest distances need the pairs beyond eps too
    if max_distance is None or settings.algorithm == "agglomerative" or settings.eps_share is not None:
        return jaccard_distances(rows)
    return jaccard_distances(rows, max_distance=max_distance)


def group(distances: Rows, *, settings: ClusteringSettings, eps: float | None = None, seed: int = 0) -> ClusterResult:
    """Clusters from sparse distances of :func:`image_distances`.

    Args:
        distances: (N, N).
        settings: algorithm (not k-means) and its figures.
        eps: in place of ``settings.eps``.
        seed: of InfoMap.
    """
    limit = settings.eps if eps is None else eps
    if settings.algorithm == "dbscan":
        labels = dbscan(distances, eps=limit, min_samples=settings.min_samples)
    elif settings.algorithm == "agglomerative":
        labels = average_linkage(distances, max_distance=limit, num_clusters=settings.num_clusters)
    else:
        labels = infomap_communities(distances, eps=limit, seed=seed)
    return ClusterResult(labels=without_small_clusters(labels, settings.min_cluster_size), eps=limit)


def _cosine_graph(points: Tensor, settings: ClusteringSettings, max_distance: float | None) -> Rows:
    if settings.algorithm == "agglomerative" or settings.eps_share is not None:
        raise InputError("metric: cosine fits dbscan and infomap with a fixed eps; choose jaccard or camera_jaccard")
    limit = settings.eps if max_distance is None else max_distance
    if settings.algorithm == "dbscan":
        return cosine_distances(points, max_distance=limit)
    neighbors = neighbor_lists(points, min(settings.k1, len(points)), search=settings.search)
    num_points, length = neighbors.shape
    columns = neighbors.ravel()
    squared = pair_distances(points.cpu().numpy(), np.repeat(np.arange(num_points), length), columns)
    ends = np.arange(0, len(columns) + 1, length)
    return csr_array(((squared / 2).astype(np.float32), columns, ends), shape=(num_points, num_points))


def _kmeans_labels(points: Tensor, settings: ClusteringSettings, seed: int) -> Labels:
    if settings.num_clusters is None:
        raise InputError("num_clusters: kmeans needs a number of clusters")
    return kmeans(
        points,
        settings.num_clusters,
        seed=seed,
        num_iterations=settings.kmeans_iterations,
        tolerance=settings.kmeans_tolerance,
    )


def _known_cameras(camids: Array | None, num_points: int) -> Labels:
    if camids is None:
        raise InputError("camids: camera_jaccard needs the camera of every image; use jaccard where it is unknown")
    known = label_array(camids, "camids", length=num_points)
    unknown = int((known < 0).sum())
    if unknown:
        raise InputError(f"camids: the camera of {unknown} images is unknown (below 0); use jaccard, or leave them out")
    return known
