"""Where to compute."""

import re

import torch

from reid_da.errors import InputError


def choose_device(name: str) -> str:
    """The device to use: the named one, or the best there is for ``auto``.

    Raises:
        InputError: it is none of auto, cpu, cuda, cuda:N and mps, or this machine does not have it.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    match = re.fullmatch(r"cpu|mps|cuda(?::(?P<number>[0-9]{1,3}))?", name)
    if match is None:
        raise InputError(f"device: expected auto, cpu, cuda, cuda:N or mps, got {name!r}")
    reason = _missing(name, number=int(match["number"] or 0))
    if reason:
        raise InputError(f"device: {name!r} is not to be had here: {reason}; device=auto takes what there is")
    return name


def _missing(name: str, *, number: int) -> str | None:
    """Why a device cannot be used, None if it can."""
    if name == "mps":
        return None if torch.backends.mps.is_available() else "torch finds no GPU of Apple"
    if name == "cpu":
        return None
    if not torch.cuda.is_available():
        return "torch finds no CUDA"
    count = torch.cuda.device_count()
    return None if number < count else f"there are {count} GPUs, counted from 0"
