"""How good features are, judged without labels: figures to choose among epochs, settings and methods by.

None of them is accuracy. How far each follows it, and where it does not, is measured in ``experiments/RESULTS.md``.
"""

import math

import numpy as np
import torch
from torch import Tensor

from reid_da.clustering import ClusteringSettings, adjusted_mutual_information, cluster, cluster_camera_entropy
from reid_da.clustering.pseudo_labels import ClusterResult
from reid_da.errors import InputError
from reid_da.features import Array, Labels, check_directions, feature_tensor, label_array, pieces, working_dtype
from reid_da.memory.diagnostics import cross_camera_share, neighbor_agreement
from reid_da.nearest import RunningNeighbors, similarity_blocks

NUM_NEIGHBORS = 6
"""Nearest images that are looked at: k of ECN."""
TEMPERATURE = 0.05
"""Divides the cosines in :func:`neighborhood_density`; that of the paper."""
CLUSTERING = ClusteringSettings(k1=20, k2=6, eps=0.5)
"""One clustering for the features of every method, so that runs can be compared."""
_BLOCK_ELEMENTS = 2**24
"""Similarities that are held at a time."""


def label_free_figures(features: Array, mirrored: Array, camids: Array, *, seed: int = 0) -> dict[str, float]:
    """Figures about features of N images, higher better unless told otherwise.

    - ``density``: :func:`neighborhood_density`.
    - ``effective_rank``: :func:`effective_rank`.
    - ``neighbors_stable``: mean Jaccard index of the :data:`NUM_NEIGHBORS` nearest images of an image and of its mirror
      image, 0 to 1.
    - ``neighbors_cross_camera``: share of nearest images that another camera took, 0 to 1; absent with one camera.
    - ``clusters``, ``clusters_outliers``: number of clusters of :data:`CLUSTERING` and share of images without one;
      neither is good or bad by itself.
    - ``clusters_stable``: adjusted mutual information of the clusters of the images and those of their mirror images,
      at most 1.
    - ``clusters_camera_entropy``: of the cameras within a cluster, in nats; absent with one camera.

    Args:
        features: (N, D), of any lengths.
        mirrored: (N, D) those of the mirrored images.
        camids: (N,) cameras.
        seed: of the clustering.

    Raises:
        InputError: arrays that do not fit together, too few images, or features that are NaN, infinite or zero.
    """
    units = [_unit(array, name) for array, name in ((features, "features"), (mirrored, "mirrored"))]
    cameras = label_array(camids, "camids", length=len(units[0]))
    if units[0].shape != units[1].shape:
        raise InputError(f"mirrored: has shape {tuple(units[1].shape)}, features {tuple(units[0].shape)}")
    if len(cameras) <= NUM_NEIGHBORS:
        raise InputError(f"{len(cameras)} images: label-free figures need more than {NUM_NEIGHBORS}")
    neighbors, density = _neighbors_and_density(units[0])
    of_mirrored, _ = _neighbors_and_density(units[1])
    found, again = (cluster(unit, cameras, settings=CLUSTERING, seed=seed) for unit in units)
    figures = {
        "density": density,
        "effective_rank": effective_rank(units[0]),
        "neighbors_stable": neighbor_agreement(neighbors, of_mirrored),
        "clusters": float(found.num_clusters),
        "clusters_outliers": found.outlier_share,
        "clusters_stable": adjusted_mutual_information(found.labels, again.labels),
    }
    if len(np.unique(cameras)) > 1:
        figures |= _of_cameras(neighbors, found, cameras)
    # without a cluster there is no entropy to speak of
    return {name: value for name, value in figures.items() if math.isfinite(value)}


def neighborhood_density(features: Array, *, temperature: float = TEMPERATURE) -> float:
    """Soft neighbourhood density: mean entropy, in nats, of the softmax over the similarities to all other images.

    High where images have many neighbours that are about as near as each other, as those of one person should be, and
    near 0 where each image has but one. Saito et al., ICCV 2021, equation 2; there on class probabilities, here on
    features. At most log(N - 1), which features that are all equal reach too: see :func:`effective_rank`.

    Args:
        features: (N, D), N at least 2, of any lengths.
        temperature: divides the cosines.

    Raises:
        InputError: features that are NaN, infinite or zero.
    """
    return _neighbors_and_density(_unit(features, "features"), temperature=temperature, count=0)[1]


def effective_rank(features: Array) -> float:
    """RankMe: exp of the entropy of the singular values' shares, from 1 (all features parallel) to min(N, D).

    Garrido et al., ICML 2023, equation 1, without its offset of 1e-7. The singular values are those of the matrix of
    unit features, by way of its (D, D) Gram matrix, in float64.

    Args:
        features: (N, D), of any lengths.

    Raises:
        InputError: features that are NaN, infinite or zero.
    """
    unit = _unit(features, "features")
    gram = torch.zeros(unit.shape[1], unit.shape[1], dtype=torch.float64, device=unit.device)
    for rows in pieces(len(unit), 4096):
        part = unit[rows].double()
        gram += part.T @ part
    # rounding leaves about 1e-16 of the largest eigenvalue where there is 0, and its root would count
    values = torch.linalg.eigvalsh(gram)
    singular = values.clamp(min=0)[values > values.max() * 1e-12].sqrt()
    return float(torch.special.entr(singular / singular.sum()).sum().exp())


def _unit(features: Array, name: str) -> Tensor:
    tensor = feature_tensor(features, name)
    check_directions(tensor, name)
    return torch.nn.functional.normalize(tensor.to(working_dtype(tensor)))


def _neighbors_and_density(
    unit: Tensor, *, temperature: float = TEMPERATURE, count: int = NUM_NEIGHBORS
) -> tuple[Tensor, float]:
    """(N, count) nearest other images, and the density; a few rows of similarities at a time."""
    size = max(1, _BLOCK_ELEMENTS // len(unit))
    lists, total = [], 0.0
    index = torch.arange(len(unit), device=unit.device)
    for rows in (index[part] for part in pieces(len(unit), size)):
        nearest = RunningNeighbors(count, exclude=rows)
        ((_, similarity),) = similarity_blocks(unit[rows], unit, chunk_size=len(unit))
        if count:
            nearest.add(similarity)
            lists.append(nearest.slots())
        logits = similarity.double() / temperature
        logits[index[: len(rows)], rows] = -math.inf
        total += float(torch.special.entr(logits.softmax(dim=1)).sum())
    return torch.cat(lists) if lists else unit.new_zeros(len(unit), 0, dtype=torch.int64), total / len(unit)


def _of_cameras(neighbors: Tensor, found: ClusterResult, camids: Labels) -> dict[str, float]:
    index = torch.arange(len(camids))
    return {
        "neighbors_cross_camera": cross_camera_share(neighbors.cpu(), index, torch.from_numpy(camids)),
        "clusters_camera_entropy": cluster_camera_entropy(found.labels, camids),
    }
