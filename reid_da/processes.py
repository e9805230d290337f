"""Starting several processes as one world, and ending them together when one of them fails.

``torchrun`` starts the processes and tells each its number. What one of them cannot do, none does: an error in one is
told to all, and one of them prints it.
"""

import contextlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from reid_da.errors import InputError, ProcessLostError
from reid_da.launch import number, started_rank, started_size
from reid_da.world import World

T = TypeVar("T")

TIMEOUT = timedelta(minutes=30)
"""How long a process waits for the others, such as for the first one to pack images."""
_SPOKEN = "reid-da: a process has said why it ends"
_LOST = re.compile(
    r"gloo|nccl|connection (?:closed|reset|refused)|timed? ?out|broken pipe|process group|tcpstore", re.IGNORECASE
)
"""What torch says where another process is gone."""


class AgreedError(InputError):
    """An error that all processes know of."""


@contextmanager
def joined(device: str = "auto") -> Iterator[World]:
    """The world that ``torchrun`` has started this process for; one process without it.

    Args:
        device: as in the settings; on GPUs each process takes the one of its local number.

    Raises:
        InputError: the processes cannot find each other, or there are fewer GPUs than processes on this machine; or,
            where another process has ended, the block cannot go on.
    """
    world = _join(device)
    try:
        yield world
    except RuntimeError as error:
        if world.size == 1 or not _LOST.search(str(error)):
            raise
        raise ProcessLostError(
            "another process has ended; see what it said, then resume with the same or another number of processes"
        ) from error
    if world.size > 1:
        # not after an error: it may wait for processes that are gone
        world.wait()
        dist.destroy_process_group()


def may_speak(*, patience: float = 0.0) -> bool:
    """Whether this process is the first that has something to say about the end; always, if it is alone.

    Args:
        patience: seconds for another process, which may know the cause, to say it.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return started_rank() == 0 or started_size() == 1
    store = dist.distributed_c10d._get_default_store()
    try:
        if patience:
            with contextlib.suppress(RuntimeError):
                store.wait([_SPOKEN], timedelta(seconds=patience))
        return bool(store.add(_SPOKEN, 1) == 1)
    except RuntimeError:
        # the process that keeps the store is gone, and with it whoever could have spoken
        return True


def agreed(world: World, function: Callable[[], T]) -> T:
    """What a function gives, unless it fails in any of the processes: then all of them fail alike.

    Inside of it processes may agree in turn, but not exchange anything else: one that fails is not there any more.

    Raises:
        InputError: of this or another process; that of the first one, with its number if not all have failed alike.
    """
    if world.size == 1:
        return function()
    try:
        result = function()
    except AgreedError:
        raise
    except InputError as error:
        _exchange(world, error=str(error))
        raise AssertionError("an error that nobody has") from error
    _exchange(world)
    return result


def main_first(world: World, function: Callable[[], T]) -> T:
    """What a function gives in each process, called in the first one before the others: it may leave files for them.

    Raises:
        InputError: of any process; see :func:`agreed`.
    """
    if world.size == 1:
        return function()
    if world.is_main:
        result = agreed(world, function)
        agreed(world, lambda: None)
        return result
    agreed(world, lambda: None)
    return agreed(world, function)


def require_equal(world: World, facts: dict[str, Any]) -> None:
    """See to it that all processes have the same versions, settings and data; may be called inside :func:`agreed`.

    Args:
        world: the processes.
        facts: what has to be equal, by name: anything that JSON can hold.

    Raises:
        InputError: a process differs from the first one; names both values.
    """
    every = _exchange(world, facts=facts)
    for rank, other in enumerate(every):
        for name, value in every[0].items():
            if other.get(name) != value:
                raise AgreedError(
                    f"process {rank} differs from process 0 in {name}: {other.get(name)} and {value}; give all "
                    "machines the same"
                )


def _exchange(world: World, *, facts: Any = None, error: str | None = None) -> list[Any]:
    """Facts of all processes, unless one of them has an error: whatever the others are about to exchange, they hear it.

    Raises:
        AgreedError: one has.
    """
    every = world.tell({"facts": facts, "error": error})
    failed = [(rank, told["error"]) for rank, told in enumerate(every) if told["error"] is not None]
    if failed:
        rank, text = failed[0]
        is_common = len(failed) == len(every)
        raise AgreedError(text if is_common else f"process {rank}: {text}")
    return [told["facts"] for told in every]


def _join(device: str) -> World:
    size = started_size()
    if size == 1:
        return World()
    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if on_gpu and torch.cuda.is_available():
        local, count = number("LOCAL_RANK", 0), torch.cuda.device_count()
        if local >= count:
            raise InputError(f"this machine has {count} GPUs, one for each process; start at most {count} on it")
        torch.cuda.set_device(local)
    backend = "cpu:gloo,cuda:nccl" if on_gpu and torch.cuda.is_available() else "gloo"
    try:
        dist.init_process_group(backend, timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"the {size} processes cannot find each other ({reason[:200]}); start them with torchrun, and give "
            "--master-port another one where it is in use"
        ) from error
    return World(rank=dist.get_rank(), size=size)
