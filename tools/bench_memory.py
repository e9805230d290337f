"""Time and memory of the invariance loss, the memory update and the neighbour search, as a Markdown table.

    python tools/bench_memory.py                        # 10,000 and 100,000 slots of 512 values
    python tools/bench_memory.py --dim 4096 --large     # the published length, and 1,000,000 slots
    python tools/bench_memory.py --device cuda --storage bfloat16
    python tools/bench_memory.py --slots 200000 --faiss ivf ivf_pq --search-only

Times are the shortest of several runs. "products" is what no implementation can save: features times memory, and a
(B, M) matrix times memory. "x" is a time divided by that. "peak" is what a step allocates beyond memory and
features; on a processor it is read from the kernel, and is NaN where that is not Linux. Of an index it is what it is
large, and "recall" the share of the true neighbours that it finds for the batch.
"""

import argparse
import ctypes
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor
from torch.nn import functional

from reid_da.errors import InputError
from reid_da.losses.invariance import InvarianceLoss, fused_invariance_loss, invariance_loss, memory_logits
from reid_da.memory.exemplar import ExemplarMemory
from reid_da.memory.neighbors import (
    ExactNeighbors,
    FaissNeighbors,
    neighbor_recall,
)
from reid_da.memory.quantized import FaissKind
from reid_da.nearest import DEFAULT_CHUNK_SIZE, top_neighbors

NUM_NEIGHBORS = 6
TEMPERATURE = 0.05
MEBIBYTE = 2**20
ROWS_PER_BLOCK = 100_000


def main() -> None:
    """Print the table."""
    options = parse_options()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {options.threads} thread(s)"
    print(f"{name}; batch {options.batch}, {options.dim} values per slot stored as {options.storage}")
    print(f"{NUM_NEIGHBORS} neighbours, blocks of {options.chunk_size} slots, torch {torch.__version__}\n")
    print("| slots | what | ms | x products | peak MiB | recall |")
    print("|---:|:---|---:|---:|---:|---:|")
    for num_slots in options.slots or (10_000, 100_000, *([1_000_000] if options.large else [])):
        measure_size(num_slots, options, device)


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--chunk-size", type=int, default=DEFAULT_CHUNK_SIZE, help="slots per block of the fused loss")
    parser.add_argument("--storage", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cpu-time", action="store_true", help="processor time, not elapsed time: on a busy machine")
    parser.add_argument("--large", action="store_true", help="also 1,000,000 slots, fused only")
    parser.add_argument("--slots", type=int, nargs="+", help="numbers of slots in place of these")
    parser.add_argument("--search-only", action="store_true", help="without the losses and the update")
    parser.add_argument(
        "--faiss", nargs="*", default=["flat"], metavar="KIND", help=f"of {', '.join(get_args(FaissKind))}"
    )
    return parser.parse_args()


def measure_size(num_slots: int, options: argparse.Namespace, device: torch.device) -> None:
    """Print the rows of one number of slots."""
    memory, index, features = clustered_memory(num_slots, options, device)
    ways = {} if options.search_only else losses(features, memory.slots, index, options)
    works: dict[str, Callable[[], object]] = {
        "products": partial(two_products, features, memory.slots),
        **{name: partial(train_step, loss, features) for name, loss in ways.items()},
    }
    if not options.search_only:
        works["update"] = partial(memory.update, index, features.detach(), momentum=0.3)
    indices = opened_indices(options.faiss)
    works |= searches(indices, features.detach(), memory.slots)
    clock = time.process_time if options.cpu_time else time.perf_counter
    times = shortest_times(works, options.repeats, device, clock)
    for name, milliseconds in times.items():
        mebibytes, recall = f"{peak(ways[name], features):,.0f}" if name in ways else "", ""
        kind, _, part = name.partition(": ")
        if part == "build":
            mebibytes = f"{size_of(indices[kind]) / MEBIBYTE:,.0f}"
        elif part:
            found = indices[kind].search(features.detach(), memory.slots, NUM_NEIGHBORS)
            recall = f"{neighbor_recall(found, features.detach(), memory.slots):.3f}"
        share = milliseconds / times["products"]
        print(f"| {num_slots:,} | {name} | {milliseconds:,.1f} | {share:.2f} | {mebibytes} | {recall} |", flush=True)


def clustered_memory(
    num_slots: int, options: argparse.Namespace, device: torch.device
) -> tuple[ExemplarMemory, Tensor, Tensor]:
    """A memory of 20 images per person (cosine about 0.7), and the slots and features of a batch."""
    generator = torch.Generator(device).manual_seed(0)

    def directions(count: int) -> Tensor:
        values = torch.randn(count, options.dim, generator=generator, device=device)
        return functional.normalize(values, dim=1)

    memory = ExemplarMemory(num_slots, options.dim, dtype=getattr(torch, options.storage)).to(device)
    people = directions(num_slots // 20)
    for start in range(0, num_slots, ROWS_PER_BLOCK):
        rows = memory.slots[start : start + ROWS_PER_BLOCK]
        people_of_rows = torch.randint(len(people), (len(rows),), generator=generator, device=device)
        rows.copy_(functional.normalize(people[people_of_rows] + 0.65 * directions(len(rows)), dim=1))
    index = torch.randperm(num_slots, generator=generator, device=device)[: options.batch]
    features = functional.normalize(memory.slots[index].float() + 0.65 * directions(options.batch), dim=1)
    return memory, index, features.requires_grad_()


def losses(
    features: Tensor, slots: Tensor, index: Tensor, options: argparse.Namespace
) -> dict[str, Callable[[], InvarianceLoss]]:
    """The ways to compute the loss, by name; the plain one only where its (B, M) matrices are affordable."""

    def plain() -> InvarianceLoss:
        logits = memory_logits(features, slots, temperature=TEMPERATURE)
        return invariance_loss(logits, index, neighbors=top_neighbors(logits, NUM_NEIGHBORS))

    def fused(num_neighbors: int) -> InvarianceLoss:
        return fused_invariance_loss(
            features,
            slots,
            index,
            temperature=TEMPERATURE,
            num_neighbors=num_neighbors,
            chunk_size=options.chunk_size,
        )

    ways = {"fused, E and C only": lambda: fused(0), "fused, with N": lambda: fused(NUM_NEIGHBORS)}
    return {"plain, with N": plain, **ways} if len(slots) <= 100_000 else ways


def opened_indices(kinds: list[FaissKind]) -> dict[str, FaissNeighbors]:
    """Indices that are empty, by name; none where FAISS is not installed."""
    try:
        return {f"FAISS {kind}": FaissNeighbors(kind=kind) for kind in kinds}
    except InputError as error:
        print(f"(no FAISS rows: {error})")
        return {}


def searches(indices: dict[str, FaissNeighbors], features: Tensor, slots: Tensor) -> dict[str, Callable[[], object]]:
    """Neighbour searches by name, and for FAISS what building the index costs."""
    exact = ExactNeighbors()
    ways: dict[str, Callable[[], object]] = {"exact search": partial(exact.search, features, slots, NUM_NEIGHBORS)}
    for name, index in indices.items():
        ways[f"{name}: build"] = partial(index.rebuild, slots)
        ways[f"{name}: search"] = partial(index.search, features, slots, NUM_NEIGHBORS)
    return ways


def size_of(index: FaissNeighbors) -> int:
    """Bytes of an index, as FAISS writes it."""
    import faiss

    return len(faiss.serialize_index(index._index))


@torch.no_grad()
def two_products(features: Tensor, slots: Tensor) -> None:
    """Features times memory, and the result times memory, in float32 and at most 100,000 slots at once."""
    total = torch.zeros_like(features)
    for start in range(0, len(slots), ROWS_PER_BLOCK):
        rows = slots[start : start + ROWS_PER_BLOCK].float()
        total.addmm_(features @ rows.T, rows)


def train_step(loss: Callable[[], InvarianceLoss], features: Tensor) -> None:
    """Loss and gradient."""
    features.grad = None
    torch.autograd.backward(loss().total)


def shortest_times(
    works: dict[str, Callable[[], object]],
    repeats: int,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Shortest time of one call of each work in ms by ``clock``, after one call to warm up; of that one for 0 repeats.

    The works take turns, so that a machine that is busy for a while slows down all of them.
    """
    shortest = dict.fromkeys(works, math.inf)
    for round_ in range(repeats + 1):
        for name, work in works.items():
            synchronize(device)
            start = clock()
            work()
            synchronize(device)
            if round_ or not repeats:
                shortest[name] = min(shortest[name], 1000 * (clock() - start))
    return shortest


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak(loss: Callable[[], InvarianceLoss], features: Tensor) -> float:
    """MiB that one step allocates at most; NaN where the system does not tell."""
    return allocated_by(partial(train_step, loss, features), features.device) / MEBIBYTE


def allocated_by(work: Callable[[], object], device: torch.device) -> float:
    """Bytes that a call allocates at most; NaN where the system does not tell."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # else freed blocks would be used again and not be seen
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is resident now
        before = resident("VmRSS")
        work()
        return resident("VmHWM") - before
    except OSError:
        return math.nan


def resident(field: str) -> int:
    """Bytes in a field of the process's status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


if __name__ == "__main__":
    main()
