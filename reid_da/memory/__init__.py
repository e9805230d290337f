"""Exemplar memory and its neighbours."""

from reid_da.memory.exemplar import ExemplarMemory, momentum_schedule
from reid_da.memory.neighbors import (
    ExactNeighbors,
    FaissNeighbors,
    NeighborIndex,
    check_neighbors,
    empty_slots,
    neighbor_recall,
    top_neighbors,
)

__all__ = [
    "ExactNeighbors",
    "ExemplarMemory",
    "FaissNeighbors",
    "NeighborIndex",
    "check_neighbors",
    "empty_slots",
    "momentum_schedule",
    "neighbor_recall",
    "top_neighbors",
]
