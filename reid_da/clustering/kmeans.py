"""k-means in blocks, on the device of the features."""

import torch
from torch import Tensor

from reid_da.errors import InputError
from reid_da.features import Labels, pieces
from reid_da.nearest import DEFAULT_CHUNK_SIZE


def kmeans(
    points: Tensor, num_clusters: int, *, seed: int = 0, num_iterations: int = 100, tolerance: float = 1e-4
) -> Labels:
    """(N,) int64 nearest centre of every point, after Lloyd's algorithm from centres drawn by k-means++.

    A centre that loses all its points moves to the point that is farthest from its own. On a CPU the same seed gives
    the same clusters.

    Args:
        points: (N, D) float32 or float64.
        num_clusters: number of centres, from 1 to N. Fewer clusters come out if fewer points differ.
        seed: of the first centres.
        num_iterations: most rounds.
        tolerance: stop when the mean squared distance falls by less than this share in a round.

    Raises:
        InputError: more clusters than points.
    """
    if not 1 <= num_clusters <= len(points):
        raise InputError(f"num_clusters: expected 1 to {len(points)}, the number of images, got {num_clusters}")
    centers = _first_centers(points, num_clusters, torch.Generator().manual_seed(seed))
    before = float("inf")
    for _ in range(num_iterations):
        labels, squared = _assign(points, centers)
        inertia = float(squared.double().mean())
        if inertia >= before * (1 - tolerance):
            break
        before = inertia
        centers = _means(points, labels, squared, centers)
    else:
        labels, _ = _assign(points, centers)
    found: Labels = labels.cpu().numpy()
    return found


def _first_centers(points: Tensor, num_clusters: int, generator: torch.Generator) -> Tensor:
    """Points drawn one by one with chances that grow with the squared distance from those already drawn."""
    index = int(torch.randint(len(points), (), generator=generator))
    centers = points.new_empty((num_clusters, points.shape[1]))
    nearest = points.new_full((len(points),), torch.inf)
    for number in range(num_clusters):
        centers[number] = points[index]
        for rows in pieces(len(points), DEFAULT_CHUNK_SIZE):
            torch.minimum(nearest[rows], (points[rows] - centers[number]).square().sum(dim=1), out=nearest[rows])
        total = nearest.double().cumsum(dim=0)
        drawn = torch.rand((), generator=generator, dtype=torch.float64).to(total.device) * total[-1]
        index = min(int(torch.searchsorted(total, drawn, right=True)), len(points) - 1)
    return centers


def _assign(points: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest centre (N,) of every point and the squared distance to it, (N,)."""
    lengths = centers.square().sum(dim=1)
    labels = torch.empty(len(points), dtype=torch.int64, device=points.device)
    squared = points.new_empty(len(points))
    step = max(1, 2**24 // len(centers))
    for rows in pieces(len(points), step):
        values, labels[rows] = torch.addmm(lengths, points[rows], centers.T, alpha=-2).min(dim=1)
        squared[rows] = (values + points[rows].square().sum(dim=1)).clamp(min=0)
    return labels, squared


def _means(points: Tensor, labels: Tensor, squared: Tensor, centers: Tensor) -> Tensor:
    """Mean of the points of every centre."""
    counts = torch.bincount(labels, minlength=len(centers))
    sums = torch.zeros_like(centers).index_add_(0, labels, points)
    empty = (counts == 0).nonzero().flatten()
    if len(empty):
        far = squared.sort(descending=True, stable=True).indices[: len(empty)]
        sums[empty], counts[empty] = points[far], 1
    return sums / counts.unsqueeze(1)
