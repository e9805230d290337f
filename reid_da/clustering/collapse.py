"""Whether a clustering has collapsed, in one sentence with the figure and the setting to change."""

from typing import NamedTuple

from reid_da.clustering.pseudo_labels import ClusterResult
from reid_da.clustering.settings import ClusteringSettings

MOST_OUTLIERS = 0.7
"""Share of images without a cluster beyond which training sees too few of them; healthy runs were below 0.51."""

MOST_IN_ONE = 0.5
"""Share of the images with a cluster that a single one may hold."""

LEAST_KEPT = 0.25
"""Share of the clusters of the epoch before that there have to be at least."""

FEW = 5
"""Fewer clusters than these are a collapse, unless their number was asked for."""

MANY = 100
"""Fewer images are not judged: a handful of people may well be in few clusters."""


class Collapse(NamedTuple):
    """A clustering that has little left to teach.

    Attributes:
        kind: ``outliers``, ``one cluster`` or ``few clusters``.
        message: the figure, and what to do.
    """

    kind: str
    message: str


def find_collapse(found: ClusterResult, *, settings: ClusteringSettings, before: int | None = None) -> Collapse | None:
    """What is wrong with clusters, or None.

    Args:
        found: the clusters, one at least.
        settings: that they were made with.
        before: number of clusters in the epoch before, if there was one.
    """
    if len(found.labels) < MANY:
        return None
    clustered = len(found.labels) - found.num_outliers
    if found.outlier_share > MOST_OUTLIERS:
        figure = f"{found.outlier_share:.0%} of {len(found.labels):,} images have no cluster"
        return Collapse("outliers", f"{figure}; {remedy(found, settings=settings, join=True)}")
    if found.largest_share > MOST_IN_ONE:
        share = f"{found.largest_share:.0%} of the {clustered:,} images that have one"
        figure = f"one of {found.num_clusters:,} clusters holds {share}"
        return Collapse("one cluster", f"{figure}; {remedy(found, settings=settings, join=False)}")
    has_lost = before is not None and found.num_clusters < LEAST_KEPT * before
    is_few = settings.num_clusters is None and found.num_clusters < FEW
    if has_lost or is_few:
        figure = f"only {found.num_clusters:,} clusters of {clustered:,} images"
        figure += f", after {before:,} in the epoch before" if before is not None else ""
        return Collapse("few clusters", f"{figure}; {remedy(found, settings=settings, join=False)}")
    return None


def remedy(found: ClusterResult, *, settings: ClusteringSettings, join: bool) -> str:
    """Which setting to change, with its value now.

    Args:
        found: the clusters.
        settings: that they were made with.
        join: let images join more readily; otherwise, keep them further apart.
    """
    verb = "raise" if join else "lower"
    if settings.algorithm == "kmeans" or (settings.algorithm == "agglomerative" and settings.num_clusters is not None):
        change = f"{'lower' if join else 'raise'} clustering.num_clusters (now {settings.num_clusters})"
        if join:
            change += f" or clustering.min_cluster_size (now {settings.min_cluster_size})"
    elif settings.eps_share is not None:
        change = f"{verb} clustering.eps_share (now {settings.eps_share:g})"
    else:
        change = f"{verb} clustering.eps (now {settings.eps if found.eps is None else found.eps:g})"
    if join and settings.algorithm == "dbscan":
        change += f" or lower clustering.min_samples (now {settings.min_samples})"
    return f"{change}; if that does not help, start from better weights"
