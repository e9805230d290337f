"""What methods and reports ask of labelings: order, sizes, means, agreement of two of them, reliable images.

A labeling is (N,) int64 with clusters from 0 and -1 for outliers. Where two are compared, an outlier counts as a
cluster of its own.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import gammaln
from torch import Tensor

from reid_da.errors import InputError
from reid_da.features import Labels

Scores = NDArray[np.float64]
"""(N,) float64 scores."""


class Proxies(NamedTuple):
    """The parts of clusters that each camera saw: the camera-aware proxies of CAP.

    Attributes:
        labels: (N,) int64 proxy of every image, -1 for outliers; numbered by cluster, then by camera.
        clusters: (P,) int64 cluster of each proxy.
        camids: (P,) int64 camera of each proxy.
    """

    labels: Labels
    clusters: Labels
    camids: Labels


def ordered_labels(labels: Labels) -> Labels:
    """(N,) int64 the same clusters, numbered from 0 without gaps in the order in which they first occur; -1 stays."""
    return _renumbered(np.where(labels < 0, -1, labels))


def without_small_clusters(labels: Labels, least: int) -> Labels:
    """(N,) int64 ordered labels in which clusters of fewer than ``least`` images are outliers."""
    kept = ordered_labels(labels)
    small = cluster_sizes(kept) < least
    kept[(kept >= 0) & np.append(small, False)[kept]] = -1
    return ordered_labels(kept)


def cluster_sizes(labels: Labels) -> Labels:
    """(C,) int64 images of every cluster."""
    sizes: Labels = np.bincount(labels[labels >= 0]).astype(np.int64)
    return sizes


def outliers_as_clusters(labels: Labels) -> Labels:
    """(N,) int64 labels in which the outliers are clusters of one image, numbered after the others in their order."""
    outliers = labels < 0
    filled: Labels = labels.copy()
    filled[outliers] = labels.max(initial=-1) + 1 + np.arange(outliers.sum())
    return filled


def cluster_means(features: Tensor, labels: Labels, *, unit: bool = True) -> Tensor:
    """(C, D) mean feature of every cluster, on the device of the features.

    Args:
        features: (N, D).
        labels: (N,) int64 from 0 to C - 1 without gaps, -1 left out. Give it proxies for their means.
        unit: scale the means to unit length; a mean of zero stays.
    """
    labelled = torch.from_numpy(np.flatnonzero(labels >= 0)).to(features.device)
    of_image = torch.from_numpy(labels[labels >= 0]).to(features.device)
    counts = torch.bincount(of_image)
    means = features.new_zeros((len(counts), features.shape[1])).index_add_(0, of_image, features[labelled])
    means /= counts.unsqueeze(1)
    return torch.nn.functional.normalize(means) if unit else means


def camera_proxies(labels: Labels, camids: Labels) -> Proxies:
    """Every cluster divided by camera (Wang et al., AAAI 2021).

    Args:
        labels: (N,) int64.
        camids: (N,) int64.
    """
    proxies = np.full(len(labels), -1, dtype=np.int64)
    labelled = labels >= 0
    pairs, number = np.unique(np.stack([labels, camids])[:, labelled], axis=1, return_inverse=True)
    proxies[labelled] = number.reshape(-1)
    return Proxies(proxies, pairs[0], pairs[1])


def cluster_camera_entropy(labels: Labels, camids: Labels) -> float:
    """Mean entropy, over clusters, of the cameras in a cluster, in nats; NaN without clusters.

    Args:
        labels: (N,) int64.
        camids: (N,) int64.
    """
    proxies = camera_proxies(labels, camids)
    shares = cluster_sizes(proxies.labels) / cluster_sizes(labels)[proxies.clusters]
    num_clusters = len(cluster_sizes(labels))
    return float(-(shares * np.log(shares)).sum() / num_clusters) if num_clusters else float("nan")


def membership_iou(labels: Labels, others: Labels) -> Scores:
    """(N,) intersection over union of an image's clusters in two labelings, 1 where they are the same."""
    first, second = _renumbered(outliers_as_clusters(labels)), _renumbered(outliers_as_clusters(others))
    _, cell, shared = np.unique(first * (second.max(initial=0) + 1) + second, return_inverse=True, return_counts=True)
    intersection = shared[cell]
    union = np.bincount(first)[first] + np.bincount(second)[second] - intersection
    scores: Scores = intersection / union
    return scores


def independence_threshold(labels: Labels, looser: Labels, *, share: float = 0.9) -> float:
    """Lowest independence that a cluster needs, so that the given share of the clusters has it.

    SpCL takes it from the first epoch's clusters of two images at least, and keeps it.

    Args:
        labels: (N,) int64.
        looser: (N,) int64 with a larger eps.
        share: of the clusters, 0 to 1.

    Raises:
        InputError: there are no clusters.
    """
    scores = np.sort(_best_of_cluster(membership_iou(labels, looser), labels)[cluster_sizes(labels) > 1])[::-1]
    if not len(scores):
        raise InputError("there are no clusters of two images, so that none is independent; raise eps")
    return float(scores[min(len(scores) - 1, round(len(scores) * share))])


def reliable_images(labels: Labels, *, tighter: Labels, looser: Labels, threshold: float) -> NDArray[np.bool_]:
    """(N,) whether an image keeps its cluster under the self-paced rule of SpCL (Ge et al., NeurIPS 2020, section 3.3).

    A cluster is independent if its overlap with the looser clustering reaches the threshold; an image is compact in it
    if no image of the cluster has a larger overlap with the tighter clustering. As in the authors' code
    (yxgeee/SpCL@01a486e) a cluster counts with its best image. Outliers are not reliable.

    Args:
        labels: (N,) int64.
        tighter: (N,) int64 with a smaller eps.
        looser: (N,) int64 with a larger eps.
        threshold: lowest independence, of :func:`independence_threshold`.
    """
    independence, compactness = membership_iou(labels, looser), membership_iou(labels, tighter)
    independent = np.append(_best_of_cluster(independence, labels) >= threshold, False)[labels]
    compact = compactness >= np.append(_best_of_cluster(compactness, labels), np.inf)[labels]
    reliable: NDArray[np.bool_] = independent & compact
    return reliable


def adjusted_mutual_information(first: Labels, second: Labels) -> float:
    """Agreement of two labelings beyond that of chance: 1 for the same clusters, about 0 for unrelated ones.

    Vinh et al., JMLR 2010, with the arithmetic mean of the entropies as the bound: scikit-learn's
    ``adjusted_mutual_info_score``. Outliers are clusters of one image.
    """
    first, second = _renumbered(outliers_as_clusters(first)), _renumbered(outliers_as_clusters(second))
    rows, columns = np.bincount(first), np.bincount(second)
    if len(rows) == len(columns) and len(rows) in (1, len(first), 0):
        return 1.0
    cells = np.unique(first * len(columns) + second, return_counts=True)
    expected_products = rows[cells[0] // len(columns)] * columns[cells[0] % len(columns)] / len(first)
    information = float((cells[1] * np.log(cells[1] / expected_products)).sum() / len(first))
    chance = _expected_information(rows, columns)
    bound = (_entropy(rows) + _entropy(columns)) / 2
    # a bound that equals what chance gives is no more than rounding away from it
    room = max(bound - chance, float(np.finfo(np.float64).eps))
    return (information - chance) / room


def _expected_information(rows: Labels, columns: Labels) -> float:
    """Mutual information that labelings of these sizes have by chance (hypergeometric), in nats."""
    total = int(rows.sum())
    expected = 0.0
    # clusters of equal size share their terms
    for (a, num_a), (b, num_b) in (
        (left, right)
        for left in zip(*(part.tolist() for part in np.unique(rows, return_counts=True)), strict=True)
        for right in zip(*(part.tolist() for part in np.unique(columns, return_counts=True)), strict=True)
    ):
        shared = np.arange(max(1, a + b - total), min(a, b) + 1)
        ways = sum(map(_log_factorial, (a, b, total - a, total - b))) - _log_factorial(total)
        ways = ways - sum(map(_log_factorial, (shared, a - shared, b - shared, total - a - b + shared)))
        terms = shared / total * np.log(total * shared / (a * b)) * np.exp(ways)
        expected += num_a * num_b * float(terms.sum())
    return expected


def _log_factorial(number: Labels | int) -> Any:
    return gammaln(np.asarray(number) + 1.0)


def _entropy(sizes: Labels) -> float:
    shares = sizes / sizes.sum()
    return float(-(shares * np.log(shares)).sum())


def _best_of_cluster(scores: Scores, labels: Labels) -> Scores:
    """(C,) highest score among the images of every cluster."""
    best = np.zeros(len(cluster_sizes(labels)))
    np.maximum.at(best, labels[labels >= 0], scores[labels >= 0])
    return best


def _renumbered(labels: Labels) -> Labels:
    """(N,) int64 from 0 in the order of first occurrence; negative ones stay."""
    ordered = np.full(len(labels), -1, dtype=np.int64)
    labelled = labels >= 0
    _, first, number = np.unique(labels[labelled], return_index=True, return_inverse=True)
    ordered[labelled] = np.argsort(np.argsort(first))[number]
    return ordered
