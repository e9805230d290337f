"""Memory and traffic of a sharded exemplar memory by the number of processes, and the time of a step.

    python tools/bench_distributed.py --slots 100000 --dim 512 --processes 1 2 4

Counts the bytes that a process gives to collective operations in a step of the memory loss and compares them with the
formula of docs/scaling.md, which knows nothing of the number of slots. Times on one machine tell little: its cores are
shared.
"""

import argparse
import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn import functional

from reid_da.losses.invariance import fused_invariance_loss
from reid_da.memory.exemplar import ExemplarMemory
from reid_da.world import World


def main() -> None:
    """Print a line for each number of processes and slots."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slots", type=int, nargs="+", default=[20_000, 100_000])
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--neighbors", type=int, default=6)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    options = parser.parse_args()
    print("processes    slots   slots of a process   bytes sent   by the formula   seconds a step")
    for slots in options.slots:
        for size in options.processes:
            found = _run(size, slots, options)
            print(
                f"{size:9d} {slots:8d} {found['bytes'] / 1e6:17.1f} MB {found['sent']:12d} "
                f"{_formula(options, size):16d} {found['seconds']:16.3f}"
            )


def _formula(options: argparse.Namespace, size: int) -> int:
    """Bytes that a process gives away in a step of the memory loss; docs/scaling.md."""
    if size == 1:
        return 0
    batch, count, dim = int(options.batch), int(options.neighbors), int(options.dim)
    part = -(-batch // size)
    features = 8 * size + 4 * part * dim + 4 * batch * dim
    lists = 2 * 8 * size + (4 + 8) * batch * count
    return features + lists + 4 * batch * (2 + count + 1) + 4 * batch * (count + 2)


def _run(size: int, slots: int, options: argparse.Namespace) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            context.Process(target=_work, args=(rank, size, Path(folder), slots, options)) for rank in range(size)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        found: dict[str, Any] = torch.load(Path(folder) / "found.pt", weights_only=True)
        return found


def _work(rank: int, size: int, folder: Path, slots: int, options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=size)
    world, generator = World(rank, size), torch.Generator().manual_seed(0)
    memory = ExemplarMemory(slots, options.dim, world=world)
    memory.fill(lambda rows: rows.copy_(functional.normalize(torch.randn(rows.shape, generator=generator))))
    features = functional.normalize(torch.randn(options.batch, options.dim, generator=generator))
    index = torch.randint(slots, (options.batch,), generator=generator)
    sent = _count_bytes()
    seconds = []
    for step in range(options.steps + 1):
        sent[0] = 0
        begin = time.perf_counter()
        part = world.part(features).clone().requires_grad_()
        loss = fused_invariance_loss(
            world.gather(part),
            memory.slots,
            index,
            temperature=0.05,
            num_neighbors=options.neighbors,
            shard=memory.shard,
        )
        torch.autograd.backward(loss.total / world.size)
        memory.update(index, features, momentum=0.5)
        if step:
            seconds.append(time.perf_counter() - begin)
    if rank == 0:
        found = {"bytes": memory.slots.nbytes, "sent": sent[0], "seconds": sorted(seconds)[len(seconds) // 2]}
        torch.save(found, folder / "found.pt")
    dist.barrier()
    dist.destroy_process_group()


def _count_bytes() -> list[int]:
    """A counter of the bytes given to collective operations from now on."""
    sent, reduce, gather = [0], dist.all_reduce, dist.all_gather

    def all_reduce(values: torch.Tensor, *arguments: Any) -> Any:
        sent[0] += values.nbytes
        return reduce(values, *arguments)

    def all_gather(parts: Any, values: torch.Tensor) -> Any:
        sent[0] += values.nbytes
        return gather(parts, values)

    for function in (all_reduce, all_gather):
        setattr(dist, function.__name__, function)
    return sent


if __name__ == "__main__":
    main()
