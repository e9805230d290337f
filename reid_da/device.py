"""Where to compute, and how much memory it takes."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from reid_da.errors import InputError


def choose_device(name: str) -> str:
    """The device to use: the named one, or the best there is for ``auto``.

    Raises:
        InputError: it is not one of auto, cpu, cuda, cuda:N and mps, or not available on this machine.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    match = re.fullmatch(r"cpu|mps|cuda(?::(?P<number>[0-9]{1,3}))?", name)
    if match is None:
        raise InputError(f"device: expected auto, cpu, cuda, cuda:N or mps, got {name!r}")
    reason = _missing(name, number=int(match["number"] or 0))
    if reason:
        raise InputError(f"device: {name!r} is not available: {reason}; device=auto chooses what is")
    return name


@contextmanager
def full_precision() -> Iterator[None]:
    """Matrix products and convolutions of float32 in float32: a GPU may take TF32 for them, which keeps three digits.

    For what is measured and not trained: distances, whose ranks need seven digits, and the features that they are
    between, which are then those of a CPU to rounding.
    """
    operations = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    allowed = [operation.fp32_precision for operation in operations]
    for operation in operations:
        operation.fp32_precision = "ieee"
    try:
        yield
    finally:
        for operation, precision in zip(operations, allowed, strict=True):
            operation.fp32_precision = precision


def reset_peak_memory(device: torch.device) -> None:
    """Let :func:`peak_memory` count from now on: on a GPU always, of the process on Linux; elsewhere from its start."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):  # no Linux, or a container that does not let a process do so
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory(device: torch.device) -> int | None:
    """Most bytes since :func:`reset_peak_memory`: allocated by torch on a GPU, else resident memory of this process.

    None where the system does not tell.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # getrusage counts what the parent had before it started this program too
    with suppress(OSError):
        found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
        if found:
            return 1024 * int(found[1])
    try:
        import resource  # Unix only
    except ImportError:
        return None
    # in KiB on other systems than macOS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def resident_memory() -> int:
    """Bytes of this process in memory now; 0 where the system does not tell."""
    with suppress(OSError):
        found = re.search(r"VmRSS:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
        if found:
            return 1024 * int(found[1])
    return 0


def _missing(name: str, *, number: int) -> str | None:
    """Why a device cannot be used, None if it can."""
    if name == "mps":
        return None if torch.backends.mps.is_available() else "PyTorch finds no Apple GPU"
    if name == "cpu":
        return None
    if not torch.cuda.is_available():
        return "PyTorch finds no CUDA device"
    count = torch.cuda.device_count()
    return None if number < count else f"there are {count} GPUs, counted from 0"
