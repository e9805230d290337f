"""Where to compute."""

import torch

from reid_da.errors import InputError


def choose_device(name: str) -> str:
    """The device to use: the named one, or the best there is for ``auto``.

    Raises:
        InputError: torch does not know or does not have the device.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device: {name!r} is not to be had here: {str(error).splitlines()[0]}") from error
    return name
