"""The nearest gallery images of every query, without a matrix over all pairs."""

from typing import NamedTuple

import torch
from torch import Tensor

from reid_da.errors import InputError
from reid_da.evaluation._streaming import whole_rows
from reid_da.evaluation.blocks import DistanceBlocks
from reid_da.features import Array
from reid_da.nearest import FeatureBlocks, best_columns


class Neighbors(NamedTuple):
    """The K nearest gallery images of Q queries, nearest first.

    Attributes:
        distances: (Q, K) distances, 1 - cosine similarity or Euclidean.
        indices: (Q, K) int64 rows of the gallery.
    """

    distances: Tensor
    indices: Tensor


def search(
    query_features: Array, gallery_features: Array, *, num_neighbors: int, distance: str = "cosine"
) -> Neighbors:
    """The nearest gallery images of every query and their distances, on the device of the features.

    Images at the same distance come in the order of the gallery. Features in float64 are compared in float64, others
    in float32, where Euclidean distances that are short beside the features themselves lose digits: an image need
    not be at distance 0 from itself.

    Args:
        query_features: (Q, D) array or tensor.
        gallery_features: (G, D), on the same device.
        num_neighbors: images K to find per query, at most G.
        distance: ``cosine`` or ``euclidean``.

    Raises:
        InputError: arrays that do not fit together, features that are NaN, infinite or all zero, an unknown
            distance, or more neighbours than the gallery has images.
    """
    blocks = FeatureBlocks(query_features, gallery_features, distance=distance)
    _check_number(num_neighbors, blocks.num_gallery)
    found = []
    for rows, values in whole_rows(blocks, "searching the gallery"):
        nearest, columns = best_columns(values, num_neighbors, largest=False)
        found.append((blocks.distances(nearest, rows), columns))
    distances, indices = zip(*found, strict=True)
    return Neighbors(torch.cat(distances), torch.cat(indices))


def search_distances(blocks: DistanceBlocks, *, num_neighbors: int) -> Neighbors:
    """The same for any distances that come block by block, such as re-ranked ones; see :func:`search`.

    Raises:
        InputError: more neighbours than the gallery has images.
    """
    _check_number(num_neighbors, blocks.num_gallery)
    found = [
        best_columns(values, num_neighbors, largest=False) for _, values in whole_rows(blocks, "searching the gallery")
    ]
    distances, indices = zip(*found, strict=True)
    return Neighbors(torch.cat(distances), torch.cat(indices))


def _check_number(num_neighbors: int, num_gallery: int) -> None:
    if not 1 <= num_neighbors <= num_gallery:
        raise InputError(f"num_neighbors: expected 1 to {num_gallery}, the size of the gallery, got {num_neighbors}")
