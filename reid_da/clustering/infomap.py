"""Communities of a sparse graph by InfoMap (Rosvall and Bergstrom, PNAS 2008), an optional package."""

from typing import Any

import numpy as np

from reid_da.errors import InputError
from reid_da.features import Labels
from reid_da.reciprocal import Rows


def infomap_communities(distances: Rows, *, eps: float, seed: int = 0) -> Labels:
    """(N,) int64 community of every point, -1 for points without a link.

    Points within ``eps`` are linked with the weight 1 - distance, in the direction of the stored entry, as
    Cluster-Contrast does it (alibaba/cluster-contrast-reid@57b62e9).

    Args:
        distances: (N, N), row by row the points that a point is linked to.
        eps: largest distance that is a link.
        seed: of the search for communities.

    Raises:
        InputError: InfoMap is not installed.
    """
    package = _import_infomap()
    rows = np.repeat(np.arange(distances.shape[0]), np.diff(distances.indptr))
    weights = 1 - distances.data
    chosen = (distances.data <= eps) & (distances.indices != rows) & (weights > 0)
    labels = np.full(distances.shape[0], -1, dtype=np.int64)
    if chosen.any():
        search = package.Infomap(two_level=True, directed=True, silent=True, seed=seed + 1, num_trials=1)
        links = rows[chosen].tolist(), distances.indices[chosen].tolist(), weights[chosen].tolist()
        search.add_links(list(zip(*links, strict=True)))
        search.run()
        found = search.get_modules()
        labels[list(found)] = list(found.values())
    return labels


def _import_infomap() -> Any:
    try:
        import infomap
    except ImportError as error:
        raise InputError(
            "InfoMap is not installed: install reid-da[infomap] (licensed under the GPL), or choose algorithm=dbscan"
        ) from error
    return infomap
