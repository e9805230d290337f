"""Exemplar memory and its neighbours."""

from reid_da.memory.exemplar import ExemplarMemory, momentum_schedule
from reid_da.memory.neighbors import (
    ExactNeighbors,
    FaissNeighbors,
    NeighborIndex,
    check_neighbors,
    neighbor_recall,
)

__all__ = [
    "ExactNeighbors",
    "ExemplarMemory",
    "FaissNeighbors",
    "NeighborIndex",
    "check_neighbors",
    "momentum_schedule",
    "neighbor_recall",
]
