"""The processes that train together; one process is a world of its own.

Several processes minimise the sum of their losses. A loss that all of them compute alike counts 1/W on each of W, and
the backward pass of a collective operation is its adjoint: that of a sum over the processes is a sum of the gradients,
that of gathering parts is a sum of the gradients of the own part. So a gradient is that of the global batch, whichever
part of the work a process has done. The engine is torch.distributed: gloo on a CPU, NCCL on GPUs.
"""

import json
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class World:
    """Which process this is, and of how many. With one process every operation is free of cost.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes W.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that prints, draws, locks and writes what all have in common."""
        return self.rank == 0

    def span(self, count: int) -> slice:
        """Which of ``count`` rows this process has; where parts differ in length, the first have one more."""
        least, more = divmod(count, self.size)
        start = self.rank * least + min(self.rank, more)
        return slice(start, start + least + (self.rank < more))

    def part(self, values: Tensor) -> Tensor:
        """This process's part of the rows of a global batch; parts differ in length by at most one row."""
        return values if self.size == 1 else values[self.span(len(values))]

    def sum(self, values: Tensor) -> Tensor:
        """Sum over the processes, on each of them; the gradient is summed likewise."""
        if self.size == 1:
            return values
        total: Tensor = _Sum.apply(values)
        return total

    def max(self, values: Tensor) -> Tensor:
        """Elementwise maximum over the processes, on each of them; no gradient flows through it."""
        if self.size == 1:
            return values.detach()
        most = values.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(most, dist.ReduceOp.MAX)
        return most

    def sizes(self, count: int, device: torch.device) -> list[int]:
        """Lengths of the parts of all processes, of which this one has ``count`` rows."""
        if self.size == 1:
            return [count]
        counts = torch.zeros(self.size, dtype=torch.int64, device=device)
        counts[self.rank] = count
        dist.all_reduce(counts)
        return counts.tolist()

    def gather(self, values: Tensor) -> Tensor:
        """Rows of all processes in the order of their ranks, on each of them; a gradient goes back to the own rows.

        Args:
            values: (b, ...) of this process; parts may differ in length.
        """
        if self.size == 1:
            return values
        whole: Tensor = _Gather.apply(values, self.rank, self.sizes(len(values), values.device))
        return whole

    def broadcast(self, values: Tensor) -> Tensor:
        """The values of the first process, on each of them; others give a tensor of that shape and type."""
        if self.size > 1:
            values = values.detach().clone(memory_format=torch.contiguous_format)
            dist.broadcast(values, 0)
        return values

    def tell(self, facts: Any) -> list[Any]:
        """What each process has to say, in the order of their ranks: anything that JSON can hold."""
        if self.size == 1:
            return [facts]
        text = torch.tensor(list(json.dumps(facts).encode()), dtype=torch.uint8)
        lengths = self.sizes(len(text), torch.device("cpu"))
        padded = torch.zeros(max(lengths), dtype=torch.uint8)
        padded[: len(text)] = text
        every = torch.zeros(self.size, max(lengths), dtype=torch.uint8)
        every[self.rank] = padded
        dist.all_reduce(every)
        return [json.loads(bytes(row[:length].tolist())) for row, length in zip(every, lengths, strict=True)]

    def wait(self) -> None:
        """Return when all processes have come here."""
        if self.size > 1:
            self.sizes(0, torch.device("cpu"))


ALONE = World()
"""One process."""


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:  # noqa: ARG004
        total = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # noqa: ARG004
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, rank: int, sizes: list[int]) -> Tensor:
        ctx.own = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
        # parts of one length, which every backend can gather
        padded = values.new_zeros((max(sizes), *values.shape[1:]))
        padded[: len(values)] = values
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[ctx.own], None, None
