"""Maps of features: a point in the plane for each image."""

import numpy as np
import torch
from numpy.typing import NDArray

from reid_da.errors import unknown_name
from reid_da.features import Array, check_directions, feature_tensor

METHODS = ("auto", "pca", "tsne")
"""How a map can be made."""
_MOST_FOR_TSNE = 3000


def project(features: Array, *, method: str = "auto", seed: int = 0) -> tuple[NDArray[np.float64], str]:
    """(N, 2) points of N features, and the method that made them.

    Args:
        features: (N, D) array or tensor; scaled to unit length first.
        method: ``pca``: the two directions of the largest variance; ``tsne``: neighbours stay near (van der Maaten and
            Hinton, JMLR 2008; needs scikit-learn), distances beyond them mean nothing; ``auto``: t-SNE of at most 3,000
            images if scikit-learn is installed.
        seed: of t-SNE.

    Raises:
        InputError: the method is unknown or not installed, or features are NaN, infinite or zero.
    """
    if method not in METHODS:
        raise unknown_name("method", method, METHODS)
    check_directions(feature_tensor(features, "features"), "features")
    points = torch.nn.functional.normalize(feature_tensor(features, "features").double().cpu())
    points = points - points.mean(dim=0)
    if len(points) < 5 or (method == "auto" and len(points) > _MOST_FOR_TSNE):
        method = "pca"
    if method == "pca":
        return _pca(points), "pca"
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        if method == "auto":
            return _pca(points), "pca"
        raise unknown_name("method (scikit-learn is not installed)", method, ("auto", "pca")) from error
    perplexity = min(30.0, (len(points) - 1) / 3)
    start = _pca(points, dims=min(30, *points.shape))
    plane = start[:, :2] / max(float(start[:, 0].std()), 1e-12) * 1e-4
    embedded = TSNE(n_components=2, perplexity=perplexity, init=plane, random_state=seed).fit_transform(start)
    return np.asarray(embedded, dtype=np.float64), "tsne"


def _pca(points: torch.Tensor, dims: int = 2) -> NDArray[np.float64]:
    """(N, dims) coordinates along the main directions, whose signs are fixed by the point that is farthest out."""
    left, values, _ = torch.linalg.svd(points, full_matrices=False)
    coordinates = (left * values)[:, :dims]
    if coordinates.shape[1] < dims:
        coordinates = torch.nn.functional.pad(coordinates, (0, dims - coordinates.shape[1]))
    farthest = coordinates.abs().argmax(dim=0)
    signs = torch.sign(coordinates[farthest, torch.arange(dims)])
    plane: NDArray[np.float64] = (coordinates * torch.where(signs == 0, 1, signs)).numpy()
    return plane
