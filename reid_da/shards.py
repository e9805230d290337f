"""Rows of a large tensor that several processes hold together, in memory and in files.

A file has all rows in their order, whatever the number of processes: each writes its own at their place, and reads
those that it needs. No process holds more.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from reid_da.world import ALONE, World

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_BLOCK = 2**26
"""Bytes that are copied to a file at a time."""
_BLOCK_ROWS = 8192
"""Rows of all processes that exist at a time where each keeps its own."""


@dataclass(frozen=True)
class Shard:
    """Which of the rows 0..total-1 a process holds: those of :meth:`World.span`.

    Attributes:
        total: number of rows of all processes.
        world: the processes.
    """

    total: int
    world: World = ALONE

    @property
    def rows(self) -> slice:
        """The own rows."""
        return self.world.span(self.total)

    @property
    def is_whole(self) -> bool:
        """Whether there is one process, which holds all."""
        return self.world.size == 1

    def __len__(self) -> int:
        """Number of own rows."""
        rows = self.rows
        return int(rows.stop - rows.start)

    def find(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Places of rows among the own ones, 0 for those of other processes, and which are own.

        Args:
            rows: int64 of any shape, in 0..total-1.

        Returns:
            int64 and bool of that shape.
        """
        own = self.rows
        is_own = (rows >= own.start) & (rows < own.stop)
        return torch.where(is_own, rows - own.start, 0), is_own

    def fill(self, values: Tensor, write: Callable[[Tensor], Any], *, block_rows: int) -> None:
        """Let a function write all rows, block by block in their order, and keep the own ones; it may draw numbers.

        Args:
            values: (m, D) the own rows, written in place.
            write: called with (b, D) rows of all processes, to be written in place.
            block_rows: most rows of a block.
        """
        for start in range(0, self.total, block_rows):
            block = values.new_empty(min(block_rows, self.total - start), *values.shape[1:])
            write(block)
            self._keep(values, block, start)

    def add_up(self, rows: Tensor, values: Tensor, place: Tensor, *, block_rows: int = _BLOCK_ROWS) -> Tensor:
        """(m, D) sums by row over all processes, of the own rows; a process holds a block of others beside them.

        Args:
            rows: (n,) int64 rows of all processes, in 0..total-1, to which this process adds something.
            values: (k, D) what it adds.
            place: (n,) int64 which of ``values`` it adds to each of ``rows``.
            block_rows: most rows of a block.
        """
        if self.is_whole:
            return values.new_zeros(self.total, values.shape[1]).index_add_(0, rows, values[place])
        sums = values.new_zeros(len(self), values.shape[1])
        for start in range(0, self.total, block_rows):
            stop = min(start + block_rows, self.total)
            chosen = (rows >= start) & (rows < stop)
            block = values.new_zeros(stop - start, values.shape[1])
            block = self.world.sum(block.index_add_(0, rows[chosen] - start, values[place[chosen]]))
            self._keep(sums, block, start)
        return sums

    def _keep(self, values: Tensor, block: Tensor, start: int) -> None:
        """Copy what is own of a block of all rows, which begins at ``start``, to its place among the own rows."""
        own = self.rows
        first, last = max(own.start, start), min(own.stop, start + len(block))
        if first < last:
            values[first - own.start : last - own.start] = block[first - start : last - start]

    def collect(self, values: Tensor, rows: Tensor) -> Tensor:
        """(..., D) rows of all processes by their numbers, on each of them, in float32 at least; no gradient.

        Args:
            values: (m, D) the own rows.
            rows: int64 of any shape, in 0..total-1.
        """
        # sums of narrower types are not what every backend can do
        wide = torch.promote_types(values.dtype, torch.float32) if values.is_floating_point() else values.dtype
        if self.is_whole:
            return values[rows].to(wide)
        found = torch.zeros(*rows.shape, *values.shape[1:], dtype=wide, device=values.device)
        place, is_own = self.find(rows)
        found[is_own] = values[place[is_own]].to(wide)
        return self.world.sum(found)


@dataclass(frozen=True, eq=False)
class ShardedTensor:
    """The own rows of a tensor, on their way into a file.

    Attributes:
        values: (m, ...) the own rows.
        shard: which they are.
    """

    values: Tensor = field(repr=False)
    shard: Shard

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole tensor."""
        return (self.shard.total, *self.values.shape[1:])


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file, of which each process reads its rows.

    Attributes:
        path: safetensors file.
        name: of the tensor.
    """

    path: Path
    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole tensor."""
        with safe_open(self.path, framework="pt") as stored:
            return tuple(stored.get_slice(self.name).get_shape())

    def read(self, rows: slice = slice(None)) -> Tensor:
        """Some rows, all by default, on the CPU."""
        with safe_open(self.path, framework="pt") as stored:
            values: Tensor = stored.get_slice(self.name)[rows] if self.shape else stored.get_tensor(self.name)
            return values


def begin_file(path: Path, tensors: Mapping[str, Tensor | ShardedTensor]) -> None:
    """Write a safetensors file with everything but the rows of shards, whose place is kept free; by one process.

    Raises:
        OSError: it cannot be written.
    """
    header, offset = _header(tensors)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("xb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        begin = stream.tell()
        for name, tensor in tensors.items():
            if isinstance(tensor, Tensor):
                stream.seek(begin + header[name]["data_offsets"][0])
                _copy(tensor, stream)
        # before anything is written into the holes: a full disk is found here
        stream.truncate(begin + offset)
        if hasattr(os, "posix_fallocate") and offset:
            os.posix_fallocate(stream.fileno(), begin, offset)
        stream.flush()
        os.fsync(stream.fileno())


def write_own_rows(path: Path, tensors: Mapping[str, Tensor | ShardedTensor]) -> None:
    """Write the own rows of shards into a file of :func:`begin_file`; by every process.

    Raises:
        OSError: it cannot be written.
    """
    header, _ = _header(tensors)
    # without a buffer: it would hold what others have not written yet, and write that back
    with path.open("r+b", buffering=0) as stream:
        begin = 8 + int.from_bytes(stream.read(8), "little")
        for name, tensor in tensors.items():
            if isinstance(tensor, ShardedTensor) and len(tensor.values):
                first, last = header[name]["data_offsets"]
                row = (last - first) // tensor.shard.total
                stream.seek(begin + first + tensor.shard.rows.start * row)
                _copy(tensor.values, stream)
        os.fsync(stream.fileno())


def _header(tensors: Mapping[str, Tensor | ShardedTensor]) -> tuple[dict[str, Any], int]:
    header, offset = {}, 0
    for name, tensor in tensors.items():
        values = tensor if isinstance(tensor, Tensor) else tensor.values
        shape = list(tensor.shape)
        size = values.element_size()
        for length in shape:
            size *= length
        header[name] = {"dtype": _DTYPES[values.dtype], "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    return header, offset


def _copy(tensor: Tensor, stream: Any) -> None:
    values = tensor.detach().reshape(-1)
    step = max(_BLOCK // values.element_size(), 1)
    for start in range(0, len(values), step):
        part = values[start : start + step].cpu().contiguous()
        left = memoryview(part.view(torch.uint8).numpy().tobytes())
        while len(left):
            left = left[stream.write(left) :]
