"""CMC with one gallery image per identity, the classic protocol of CUHK03."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reid_da.datasets.table import JUNK_PID
from reid_da.errors import InputError
from reid_da.evaluation._relevance import BlockRelevance, Relevance
from reid_da.evaluation._streaming import whole_rows
from reid_da.features import Array, Labels
from reid_da.nearest import FeatureBlocks


def single_gallery_shot_cmc(
    query_features: Array,
    query_pids: Array,
    query_camids: Array,
    gallery_features: Array,
    gallery_pids: Array,
    gallery_camids: Array,
    *,
    generator: np.random.Generator,
    num_repeats: int = 10,
    max_rank: int = 50,
    distance: str = "cosine",
    same_camera: str = "exclude",
) -> NDArray[np.float64]:
    """(max_rank,) CMC, averaged over galleries of one random valid image per identity (Li et al., CVPR 2014).

    Which images are valid, which queries count, and ties are as in :func:`evaluate_retrieval`. With one image per
    identity there is one true match and no mAP. The figures are not comparable with those of the full gallery.

    Args:
        query_features: (Q, D) array or tensor; the gallery is on the same device, which does the work.
        query_pids: (Q,) identities.
        query_camids: (Q,) cameras.
        gallery_features: (G, D).
        gallery_pids: (G,) identities.
        gallery_camids: (G,) cameras.
        generator: draws the galleries.
        num_repeats: number of galleries.
        max_rank: length of the CMC curve.
        distance: ``cosine`` or ``euclidean``.
        same_camera: ``exclude`` or ``include`` gallery images of the query's identity from the query's camera.

    Raises:
        InputError: as :func:`evaluate_retrieval`, or ``num_repeats`` below 1.
    """
    for name, value in (("num_repeats", num_repeats), ("max_rank", max_rank)):
        if value < 1:
            raise InputError(f"{name}: expected at least 1, got {value}")
    blocks = FeatureBlocks(query_features, gallery_features, distance=distance)
    shape = (blocks.num_queries, blocks.num_gallery)
    relevance = Relevance(query_pids, query_camids, gallery_pids, gallery_camids, shape=shape, same_camera=same_camera)
    galleries = [_random_gallery(generator, relevance.gallery_pids) for _ in range(num_repeats)]
    ranks = []
    for rows, distances in whole_rows(blocks, "ranking the galleries"):
        of_block = relevance.block(rows, distances.device)
        pids = torch.from_numpy(relevance.query_pids[rows]).to(distances.device)
        ranks.append(torch.stack([_ranks(distances, pids, of_block, gallery) for gallery in galleries]))
    counted = torch.cat(ranks, dim=1).cpu().numpy()
    counted = counted[counted > 0]
    hits = np.bincount(counted.clip(max=max_rank + 1), minlength=max_rank + 2)
    return hits[1 : max_rank + 1].cumsum() / len(counted)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Gallery:
    """A random order of the gallery, of which the first valid image of every identity is shown.

    Attributes:
        order: (G,) int64 gallery images in this order.
        position: (G,) int64 place of each gallery image in it.
        shown: (P,) int64 the first image of every identity.
        pids: (P,) int64 the identities.
    """

    order: Tensor
    position: Tensor
    shown: Tensor
    pids: Tensor


def _random_gallery(generator: np.random.Generator, gallery_pids: Labels) -> _Gallery:
    order = generator.permutation(len(gallery_pids))
    pids, first = np.unique(gallery_pids[order], return_index=True)
    wanted = pids != JUNK_PID
    arrays = {
        "order": order,
        "position": np.argsort(order),
        "shown": order[first[wanted]],
        "pids": pids[wanted],
    }
    return _Gallery(**{name: torch.from_numpy(array) for name, array in arrays.items()})


def _ranks(distances: Tensor, query_pids: Tensor, relevance: BlockRelevance, gallery: _Gallery) -> Tensor:
    """(q,) int64 rank of the true match that is shown to each query, 0 where there is none."""
    device = distances.device
    places = gallery.position.to(device)[relevance.match_columns]
    place = places.new_full((len(distances),), len(gallery.order))
    place.scatter_reduce_(0, relevance.match_rows, places, "amin")
    match = gallery.order.to(device)[place.clamp(max=len(gallery.order) - 1)]
    is_nearer = distances.index_select(1, gallery.shown.to(device)) <= distances.gather(1, match.unsqueeze(1))
    is_nearer &= gallery.pids.to(device) != query_pids.unsqueeze(1)
    return (1 + is_nearer.sum(dim=1)).where(relevance.num_matches > 0, 0)
