"""Cases that several processes run together; each gives what has to be the same whatever their number.

The processes are forked from a server that has imported everything once, and meet through a file.
"""

import multiprocessing
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from reid_da.world import World

TIMEOUT = 300


def together(size: int, function: Callable[..., dict[str, Any]], folder: Path, *arguments: Any) -> dict[str, Any]:
    """What the first of ``size`` processes gets from ``function(world, *arguments)``.

    Raises:
        AssertionError: one of them has failed.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["reid_da.experiments.setup", "reid_da.memory.neighbors"])
    folder.mkdir(parents=True, exist_ok=True)
    run = (size, function, folder, arguments)
    processes = [context.Process(target=_run, args=(rank, *run), daemon=True) for rank in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(TIMEOUT)
    failed = {rank: process.exitcode for rank, process in enumerate(processes) if process.exitcode != 0}
    for process in processes:
        process.kill()
    assert not failed, "".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("error_*")))
    found: dict[str, Any] = torch.load(folder / "result.pt", weights_only=False)
    return found


def _run(rank: int, size: int, function: Callable[..., dict[str, Any]], folder: Path, arguments: Any) -> None:
    torch.set_num_threads(1)
    try:
        dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=size)
        found = function(World(rank=rank, size=size), *arguments)
        if rank == 0:
            torch.save(found, folder / "result.pt")
        dist.barrier()
        dist.destroy_process_group()
    except BaseException:
        (folder / f"error_{rank}.txt").write_text(f"process {rank}\n{traceback.format_exc()}", encoding="utf-8")
        sys.exit(1)
