"""Features made of several images: multi-query pooling and alpha query expansion."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from reid_da.errors import InputError
from reid_da.evaluation.search import search
from reid_da.features import (
    Array,
    Labels,
    feature_pair,
    feature_tensor,
    label_array,
    pieces,
    row_squares,
    working_dtype,
)

_EXPANDED_ROWS = 256
"""Images whose neighbours' features are gathered at a time (21 MB for 10 neighbours in 2,048 dimensions)."""


class PooledQueries(NamedTuple):
    """One query per identity and camera, in the order of the identities, then of the cameras.

    Attributes:
        features: (P, D).
        pids: (P,) int64.
        camids: (P,) int64.
    """

    features: Tensor
    pids: Labels
    camids: Labels


def pool_multi_query(features: Array, pids: Array, camids: Array) -> PooledQueries:
    """The mean feature of all images of an identity in a camera: the multi-query setting of Market-1501.

    The features count as they are; scale them to unit length before where that is wanted.

    Args:
        features: (N, D) array or tensor of all query boxes (``gt_bbox`` in Market-1501).
        pids: (N,) identities.
        camids: (N,) cameras.

    Raises:
        InputError: arrays that do not fit together, or features that are NaN, infinite or all zero.
    """
    tensor = feature_tensor(features, "features")
    tensor = tensor.to(working_dtype(tensor))
    row_squares(tensor, "features", dtype=tensor.dtype)
    labels = [label_array(column, name, length=len(tensor)) for column, name in ((pids, "pids"), (camids, "camids"))]
    groups, group, counts = np.unique(np.stack(labels), axis=1, return_inverse=True, return_counts=True)
    means = tensor.new_zeros((len(counts), tensor.shape[1]))
    means.index_add_(0, torch.from_numpy(group.reshape(-1)).to(tensor.device), tensor)
    means /= torch.from_numpy(counts).to(tensor.device).unsqueeze(1)
    return PooledQueries(means, groups[0], groups[1])


def alpha_query_expansion(
    query_features: Array,
    gallery_features: Array,
    *,
    num_neighbors: int = 10,
    alpha: float = 3.0,
    num_rounds: int = 1,
) -> tuple[Tensor, Tensor]:
    """Features (Q, D) and (G, D) of unit length, each a weighted mean of the nearest ones, itself included.

    Neighbours are sought among queries and gallery together, so that an evaluation with this step is transductive:
    what is found for a query depends on the other queries. A neighbour counts with the power ``alpha`` of its cosine
    similarity (Radenovic et al., TPAMI 2019, arXiv 1711.02512), with nothing if that is negative.

    Args:
        query_features: (Q, D) array or tensor.
        gallery_features: (G, D), on the same device.
        num_neighbors: images that make up a new feature, itself included.
        alpha: exponent of the similarity; 0 weighs all neighbours alike.
        num_rounds: how often to repeat this.

    Raises:
        InputError: arrays that do not fit together, features that are NaN, infinite or all zero, or an option out of
            its range.
    """
    for name, value, least in (("alpha", alpha, 0), ("num_rounds", num_rounds, 1)):
        if not value >= least:
            raise InputError(f"{name}: expected at least {least}, got {value}")
    query, gallery, dtype = feature_pair(query_features, gallery_features)
    for name, side in (("query_features", query), ("gallery_features", gallery)):
        row_squares(side, name, dtype=dtype)
    features = torch.cat([query.to(dtype), gallery.to(dtype)])
    for _ in range(num_rounds):
        features = _expanded(features, num_neighbors, alpha)
    return features[: len(query)], features[len(query) :]


def _expanded(features: Tensor, num_neighbors: int, alpha: float) -> Tensor:
    """One round of expansion of ``features`` (N, D)."""
    features = F.normalize(features)
    distances, indices = search(features, features, num_neighbors=num_neighbors)
    weights = (1 - distances).clamp(min=0).pow(alpha).unsqueeze(2)
    expanded = torch.empty_like(features)
    for rows in pieces(len(features), _EXPANDED_ROWS):
        expanded[rows] = F.normalize((features[indices[rows]] * weights[rows]).sum(dim=1))
    return expanded
