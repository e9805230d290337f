"""The processes that train together; one process is a world of its own."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class World:
    """Which process this is, and of how many.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that prints, draws, locks and writes what all have in common."""
        return self.rank == 0

    def part(self, values: Tensor) -> Tensor:
        """This process's part of the rows of a global batch; parts differ in length by at most one row."""
        return values if self.size == 1 else values.tensor_split(self.size)[self.rank]

    def sum(self, values: Tensor) -> Tensor:
        """Sum over the processes, on each of them."""
        return values
