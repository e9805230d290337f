"""What the streaming evaluation needs to know of a distance: how to compute one block of it."""

from typing import Protocol

from torch import Tensor


class DistanceBlocks(Protocol):
    """Distances between queries and gallery images, computed block by block; the whole matrix never exists.

    Attributes:
        num_queries: number of rows Q.
        num_gallery: number of columns G.
    """

    @property
    def num_queries(self) -> int:
        """Number of rows Q."""
        ...

    @property
    def num_gallery(self) -> int:
        """Number of columns G."""
        ...

    def block(self, query_rows: slice, gallery_rows: slice) -> Tensor:
        """(q, g) float32 distances of the given queries to the given gallery images; lower is nearer."""
        ...
