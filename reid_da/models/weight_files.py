"""Weight files: reading them without running code, and downloading them."""

import argparse
import os
import pickle
import re
import sys
import threading
import warnings
from collections.abc import Mapping
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from reid_da.errors import InputError

_WRAPPERS = ("state_dict", "model_state_dict", "model", "teacher", "net", "network")
"""Keys under which checkpoints keep their weights; of DINO's two networks, the teacher is the one to use."""
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32)


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Weights of a file by name, on the CPU.

    Reads ``.safetensors`` files and everything that ``torch.save`` writes, also under Python 2: a state dict alone or a
    checkpoint with one under ``state_dict`` (torchreid, official ECN), ``model`` (FastReID), ``teacher`` (DINO) and the
    like. Nothing in the file can run code.

    Raises:
        InputError: there is no such file, it is damaged or no weight file, it holds Python objects that would have to
            run code, it holds no tensors by name, or a tensor is no weight: not finite, or of a kind that no network
            here has.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{file}: no such weight file")
    content = _unwrapped(_read_safetensors(file) if file.suffix == ".safetensors" else _read_torch(file))
    if not isinstance(content, Mapping) or not content:
        raise InputError(f"{file}: expected weights by name (a state dict), found {_describe(content)}")
    for name, value in content.items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            raise InputError(f"{file}: expected weights by name, found {_describe(value)} under {name!r}")
        fault = _fault(value)
        if fault:
            raise InputError(f"{file}: {name} {fault}")
    return dict(content)


def is_cached_or_reachable(url: str, *, seconds: float = 3) -> bool:
    """Whether :func:`cached_download` would find the file in the cache, or a server that answers in time."""
    if _cached(url).is_file():
        return True
    answered: list[bool] = []

    def ask() -> None:
        with suppress(OSError, HTTPException, ValueError), urlopen(Request(url, method="HEAD"), timeout=seconds):
            answered.append(True)

    # looking up a name has a limit of its own, often minutes; a thread can be left behind
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(answered)


def _cached(url: str) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]


def cached_download(url: str) -> Path:
    """Path of the file behind ``url`` in the cache of ``torch.hub``, downloaded if it is not there yet.

    The eight digits at the end of the file's name are the start of its SHA-256 hash and are checked.

    Raises:
        InputError: the file is not in the cache and cannot be downloaded.
    """
    path = _cached(url)
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        hash_prefix = path.stem.rsplit("-", 1)[-1]
        torch.hub.download_url_to_file(url, str(path), hash_prefix, progress=sys.stderr.isatty())
    except (OSError, RuntimeError, HTTPException) as error:
        raise InputError(
            f"{url} cannot be downloaded ({error}): give a local weight file, model.weights=PATH, or start from random "
            f"weights, model.weights=none, or put {path.name} into {path.parent}"
        ) from error
    return path


def _unwrapped(content: object) -> object:
    """The innermost mapping that is reached by the keys of :data:`_WRAPPERS`."""
    while isinstance(content, Mapping):
        inner = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    return content


def _fault(value: Tensor) -> str | None:
    """What makes a tensor unfit to be a weight, if anything does."""
    if value.is_quantized or value.layout != torch.strided or value.dtype not in _DTYPES:
        kind = str(value.dtype if value.is_quantized or value.layout == torch.strided else value.layout)
        return f"is a tensor of a kind that no weight has ({kind.removeprefix('torch.')}); save it as dense float32"
    # a tensor that repeats its storage, or has none, can be huge in a file that is small
    if value.is_meta or value.untyped_storage().nbytes() < value.numel() * value.element_size():
        return "claims more values than the file holds"
    # a float64 that float32 cannot hold becomes infinite in the network
    if value.is_floating_point() and not torch.isfinite(value.to(torch.float32)).all():
        return "is not finite: it holds NaN or infinity; the training that wrote the file has failed"
    return None


def _read_safetensors(file: Path) -> object:
    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise InputError(f"{file}: damaged, or not a safetensors file ({error})") from error


def _read_torch(file: Path) -> object:
    try:
        return _unpickled(file)
    except PermissionError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from error
    # a damaged file can raise nearly anything, from the archive reader to the unpickler
    except Exception as error:
        refused = re.search(r"(?:GLOBAL |got <class ')([\w.]+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and refused:
            raise InputError(
                f"{file}: holds a Python object ({refused[1]}), which is not loaded since it can run code; "
                "save the weights alone: torch.save(model.state_dict(), path)"
            ) from error
        raise InputError(f"{file}: damaged, or not a file that torch.save wrote") from error


def _unpickled(file: Path) -> object:
    """Content of a file of ``torch.save``, by an unpickler that runs no code of the file's choice."""
    with torch.serialization.safe_globals(_harmless()):
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except UnicodeDecodeError:
            # Python 2 pickled the bytes of numpy's numbers as strings, which are no UTF-8. The unpickler for weights
            # heeds the encoding, although torch warns that it does not.
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="pickle_load_args only works")
                return torch.load(file, map_location="cpu", weights_only=True, encoding="latin1")


def _harmless() -> list[Any]:
    """Classes without code that checkpoints hold beside the weights.

    Numbers of numpy: torchreid keeps the rank-1 of its test as one. The options of the command line: DINO.
    """
    function = np.float64(0).__reduce__()[0]
    # the same function has one name in files of numpy 1 and another in those of numpy 2
    functions = [(function, f"numpy.{module}.multiarray.scalar") for module in ("core", "_core")]
    numbers = [type(np.dtype(kind)) for kind in ("float32", "float64", "int64")]
    return [*functions, np.dtype, *numbers, argparse.Namespace]


def _describe(value: object) -> str:
    return "nothing" if isinstance(value, Mapping) and not value else type(value).__name__
