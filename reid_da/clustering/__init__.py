"""Features to pseudo-labels: sparse Jaccard distances, DBSCAN and others, and what is asked of labelings."""

from reid_da.clustering.agglomerative import average_linkage
from reid_da.clustering.collapse import Collapse, find_collapse, remedy
from reid_da.clustering.dbscan import dbscan
from reid_da.clustering.distances import (
    camera_jaccard_encoding,
    cosine_distances,
    distance_quantile_mean,
    jaccard_distances,
    jaccard_encoding,
)
from reid_da.clustering.infomap import infomap_communities
from reid_da.clustering.kmeans import kmeans
from reid_da.clustering.labels import (
    Proxies,
    adjusted_mutual_information,
    camera_proxies,
    cluster_camera_entropy,
    cluster_means,
    cluster_sizes,
    independence_threshold,
    membership_iou,
    ordered_labels,
    outliers_as_clusters,
    reliable_images,
)
from reid_da.clustering.pseudo_labels import (
    ClusterResult,
    cluster,
    cluster_at_eps,
    group,
    image_distances,
    unit_points,
)
from reid_da.clustering.settings import ClusteringSettings

__all__ = [
    "ClusterResult",
    "ClusteringSettings",
    "Collapse",
    "Proxies",
    "adjusted_mutual_information",
    "average_linkage",
    "camera_jaccard_encoding",
    "camera_proxies",
    "cluster",
    "cluster_at_eps",
    "cluster_camera_entropy",
    "cluster_means",
    "cluster_sizes",
    "cosine_distances",
    "dbscan",
    "distance_quantile_mean",
    "find_collapse",
    "group",
    "image_distances",
    "independence_threshold",
    "infomap_communities",
    "jaccard_distances",
    "jaccard_encoding",
    "kmeans",
    "membership_iou",
    "ordered_labels",
    "outliers_as_clusters",
    "reliable_images",
    "remedy",
    "unit_points",
]
