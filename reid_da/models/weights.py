"""Weight files: reading them without running code, and fitting them to a network."""

import logging
import os
import pickle
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from reid_da.errors import InputError, first_few

logger = logging.getLogger(__name__)

# Prefixes of what other networks put behind the pooled features: classifiers, other embeddings, pixel statistics.
_HEADS = ("classifier.", "fc.", "embedding.", "embedding_norm.", "heads.", "pixel_")


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """How a toolkit names the weights of a ResNet.

    Attributes:
        name: the toolkit, for messages.
        mark: prefix that some name of the file has; the first layout of :data:`_LAYOUTS` whose mark occurs is taken.
        prefixes: (prefix in the file, prefix in :class:`reid_da.models.ReIDNetwork`); the first that fits is replaced.
    """

    name: str
    mark: str
    prefixes: tuple[tuple[str, str], ...] = ()

    def rename(self, name: str) -> str:
        """Name of a weight in a :class:`reid_da.models.ReIDNetwork`."""
        for old, new in self.prefixes:
            if name.startswith(old):
                return new + name[len(old) :]
        return name


_LAYOUTS = (
    _Layout(
        name="official ECN",
        mark="base.",
        # the authors keep the unused ImageNet classifier inside the backbone
        prefixes=(
            ("base.fc.", "fc."),
            ("base.", "backbone."),
            ("feat.", "embedding."),
            ("feat_bn.", "embedding_norm."),
        ),
    ),
    _Layout(name="FastReID", mark="heads."),
    _Layout(name="reid-da", mark="backbone."),
    _Layout(
        name="torchvision or torchreid",
        mark="",
        prefixes=(("fc.", "fc."), ("classifier.", "classifier."), ("", "backbone.")),
    ),
)


@dataclass(frozen=True, kw_only=True)
class WeightMatch:
    """What a network takes from a weight file.

    Attributes:
        layout: toolkit whose names the file has.
        state: the weights by their names in the network, ready for ``load_state_dict(..., strict=False)``.
        ignored: names in the file that the network has no use for: classifiers and other heads.
        missing: names in the network that the file lacks: only batch counters, which no result depends on.
    """

    layout: str
    state: dict[str, Tensor] = field(repr=False)
    ignored: tuple[str, ...]
    missing: tuple[str, ...]


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Weights of a file by name, on the CPU.

    Reads ``.safetensors`` files and everything that ``torch.save`` writes: a state dict alone or a checkpoint with
    one under ``state_dict`` (torchreid, official ECN) or ``model`` (FastReID). Nothing in the file can run code.

    Raises:
        InputError: there is no such file, it is damaged or no weight file, it holds Python objects that would have to
            run code, or it holds no tensors by name.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{file}: no such weight file")
    content = _read_safetensors(file) if file.suffix == ".safetensors" else _read_torch(file)
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise InputError(f"{file}: expected weights by name (a state dict), found {_describe(content)}")
    for name, value in content.items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            raise InputError(f"{file}: expected weights by name, found {_describe(value)} under {name!r}")
    return dict(content)


def match_state_dict(state: Mapping[str, Tensor], model: nn.Module, *, origin: str = "state dict") -> WeightMatch:
    """Weights of ``state`` under the names of ``model``, which they fit completely.

    Recognises the names of torchvision, torchreid, the official ECN code (Zhong et al., CVPR 2019), FastReID and this
    package, each with or without the ``module.`` of data-parallel training. Heads that ``model`` lacks are left out.

    Args:
        state: weights by name.
        model: a :class:`reid_da.models.Backbone` or a network that holds one as ``backbone``.
        origin: what ``state`` came from, for messages.

    Raises:
        InputError: none of the weights belongs to ``model``, or some are missing, not known or of another shape.
    """
    expected = model.state_dict()
    layout = _recognise(state)
    sources = {_name_in(expected, layout, name): name for name in state}
    matched = {new: state[old] for new, old in sources.items() if new in expected}
    if not matched:
        raise InputError(
            f"{origin}: holds no weight of this network; found {first_few(state)}, expected {first_few(expected)}"
        )
    missing = [name for name in expected if name not in matched]
    left_over = [(new, old) for new, old in sources.items() if new not in expected]
    faults = {
        "missing": [name for name in missing if not name.endswith("num_batches_tracked")],
        "not in the network": [old for new, old in left_over if not new.startswith(_HEADS)],
        "of another shape": [
            f"{sources[name]} {_shape(value)} instead of {_shape(expected[name])}"
            for name, value in matched.items()
            if value.shape != expected[name].shape
        ],
    }
    if any(faults.values()):
        texts = [f"{len(names)} {fault} ({first_few(names)})" for fault, names in faults.items() if names]
        raise InputError(f"{origin}: does not fit this network; weights: {'; '.join(texts)}")
    return WeightMatch(
        layout=layout.name,
        state=matched,
        ignored=tuple(old for _, old in left_over),
        missing=tuple(missing),
    )


def load_weights(model: nn.Module, path: str | os.PathLike[str]) -> WeightMatch:
    """Load a weight file into ``model`` and return what was taken from it; see :func:`match_state_dict`.

    Raises:
        InputError: the file cannot be read or does not fit; ``model`` is unchanged then.
    """
    match = match_state_dict(read_state_dict(path), model, origin=str(path))
    model.load_state_dict(match.state, strict=False)
    logger.info("%s: %d weights (%s), %d ignored", path, len(match.state), match.layout, len(match.ignored))
    if match.layout == "FastReID":
        logger.warning(
            "%s: FastReID pools the stem without padding and normalises features in its head; "
            "features of this network differ from those of FastReID",
            path,
        )
    return match


def cached_download(url: str) -> Path:
    """Path of the file behind ``url`` in the cache of ``torch.hub``, downloaded if it is not there yet.

    The eight digits at the end of the file's name are the start of its SHA-256 hash and are checked.

    Raises:
        InputError: the file is not in the cache and cannot be downloaded.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        hash_prefix = path.stem.rsplit("-", 1)[-1]
        torch.hub.download_url_to_file(url, str(path), hash_prefix, progress=sys.stderr.isatty())
    except (OSError, RuntimeError, HTTPException) as error:
        raise InputError(
            f"{url} cannot be downloaded ({error}): give the path of a local weight file, "
            f"or put {path.name} into {path.parent}"
        ) from error
    return path


def _recognise(state: Mapping[str, Tensor]) -> _Layout:
    names = [name.removeprefix("module.") for name in state]
    return next(layout for layout in _LAYOUTS if any(name.startswith(layout.mark) for name in names))


def _name_in(expected: Mapping[str, Tensor], layout: _Layout, name: str) -> str:
    """Name in the network with the state dict ``expected`` of what the file calls ``name``."""
    renamed = layout.rename(name.removeprefix("module."))
    is_bare_backbone = "conv1.weight" in expected
    return renamed.removeprefix("backbone.") if is_bare_backbone else renamed


def _read_safetensors(file: Path) -> object:
    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{file}: damaged, or not a safetensors file ({error})") from error


def _read_torch(file: Path) -> object:
    try:
        with torch.serialization.safe_globals(_numpy_scalars()):
            return torch.load(file, map_location="cpu", weights_only=True)
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


def _numpy_scalars() -> list[Any]:
    """Classes of a pickled numpy number: torchreid keeps the rank-1 of its test in the checkpoint as one."""
    function = np.float64(0).__reduce__()[0]
    # the same function has one name in files of numpy 1 and another in those of numpy 2
    functions = [(function, f"numpy.{module}.multiarray.scalar") for module in ("core", "_core")]
    return [*functions, np.dtype, *(type(np.dtype(kind)) for kind in ("float32", "float64", "int64"))]


def _describe(value: object) -> str:
    return "nothing" if isinstance(value, Mapping) and not value else type(value).__name__


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
