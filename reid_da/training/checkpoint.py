"""Checkpoints: folders that are intact or absent, verified when they are read.

A checkpoint holds the weights as safetensors, everything else that a continued run needs as a file that torch loads
with ``weights_only=True``, rows that several processes hold as another safetensors file, and a description with the
checksums of all.
"""

import errno
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from reid_da.atomic import atomic_folder, recording
from reid_da.checksums import KEY as CHECKSUM
from reid_da.checksums import is_intact, json_digest
from reid_da.errors import InputError
from reid_da.finite import check_weights
from reid_da.processes import agreed
from reid_da.shards import ShardedTensor, StoredTensor, begin_file, write_own_rows
from reid_da.world import ALONE, World

WEIGHTS, STATE, ROWS, DESCRIPTION = "model.safetensors", "state.pt", "rows.safetensors", "checkpoint.json"
_STORED = "__stored__"
"""Key of the name that stands in a state for rows in a file of their own."""
FORMAT, FORMAT_WITH_ROWS = 1, 2
"""Earlier versions, which read the first alone, do not know that rows may lie in a file of their own."""
_NAME = re.compile("epoch_[0-9]{4,9}")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a run needs to resume.

    Attributes:
        weights: state of the network by name. On their way to the disk, rows that several processes hold are a
            :class:`ShardedTensor`.
        state: nested mappings of tensors, numbers and texts: optimiser, method. Sharded rows come back as a
            :class:`StoredTensor`.
        description: small facts as JSON: epoch, fingerprints of the data, digest of the settings.
    """

    weights: Mapping[str, Any]
    state: Mapping[str, Any]
    description: Mapping[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, world: World = ALONE) -> None:
    """Write a checkpoint as the folder ``folder``, complete or not at all; called by every process.

    The first process writes what all have, and each the rows that it alone holds. The files do not tell how many
    processes there were.

    Raises:
        InputError: the disk is full; nothing of the checkpoint is left on it.
    """
    rows: dict[str, ShardedTensor] = {}
    state = _without_rows(checkpoint.state, rows)
    if world.is_main:
        _write(folder, checkpoint, state, rows, world)
        return
    place = Path(world.tell(None)[0])
    agreed(world, lambda: _write_rows(place, checkpoint, rows))
    agreed(world, lambda: None)


def _write(folder: Path, checkpoint: Checkpoint, state: Any, rows: Mapping[str, ShardedTensor], world: World) -> None:
    try:
        with atomic_folder(folder) as temporary:
            if any(isinstance(tensor, ShardedTensor) for tensor in checkpoint.weights.values()):
                begin_file(temporary / WEIGHTS, checkpoint.weights)
            else:
                weights = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.weights.items()}
                save_file(weights, temporary / WEIGHTS)
            with recording(temporary / STATE) as stream:
                torch.save(dict(state), stream)
            files = [WEIGHTS, STATE]
            if rows:
                begin_file(temporary / ROWS, rows)
                files.append(ROWS)
            world.tell(str(temporary))
            agreed(world, lambda: _write_rows(temporary, checkpoint, rows))
            checksums = {name: _checksum(temporary / name) for name in files}
            description = {
                **checkpoint.description,
                "format": FORMAT_WITH_ROWS if rows else FORMAT,
                "checksums": checksums,
            }
            description[CHECKSUM] = json_digest(description)
            (temporary / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        agreed(world, lambda: None)
    except (OSError, RuntimeError, SafetensorError) as error:
        if not _is_disk_full(error):
            raise
        raise InputError(
            f"{folder}: the disk is full, the checkpoint was not written and the one before is kept; "
            "free some space, then resume"
        ) from error


def _write_rows(folder: Path, checkpoint: Checkpoint, rows: Mapping[str, ShardedTensor]) -> None:
    for file, tensors in ((WEIGHTS, checkpoint.weights), (ROWS, rows)):
        if any(isinstance(tensor, ShardedTensor) for tensor in tensors.values()):
            write_own_rows(folder / file, tensors)


def _without_rows(state: Any, rows: dict[str, ShardedTensor]) -> Any:
    """A state whose sharded rows are named instead; they are added to ``rows`` by these names."""
    if isinstance(state, Mapping):
        return {key: _without_rows(value, rows) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(_without_rows(value, rows) for value in state)
    if not isinstance(state, ShardedTensor):
        return state
    name = f"rows_{len(rows)}"
    rows[name] = state
    return {_STORED: name}


def _with_rows(state: Any, file: Path) -> Any:
    if isinstance(state, Mapping):
        if set(state) == {_STORED}:
            return StoredTensor(file, str(state[_STORED]))
        return {key: _with_rows(value, file) for key, value in state.items()}
    return type(state)(_with_rows(value, file) for value in state) if isinstance(state, list | tuple) else state


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint and verify that it is intact.

    Raises:
        InputError: a file is missing, cut off or changed, or weights are not finite.
    """
    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        _check_description(folder / DESCRIPTION, description)
        checksums = description["checksums"]
        for name in (WEIGHTS, STATE, *([ROWS] if ROWS in checksums else [])):
            if _checksum(folder / name) != checksums[name]:
                raise InputError(f"{folder / name}: damaged or cut off: its checksum is not the one noted at writing")
        weights = load_file(folder / WEIGHTS)
        state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
        if ROWS in checksums:
            state = _with_rows(state, folder / ROWS)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        if isinstance(error, InputError):
            raise
        reason = " ".join(str(error).split())
        raise InputError(f"{folder}: not a checkpoint, or a damaged one: {reason}") from error
    check_weights(weights, str(folder))
    return Checkpoint(weights=weights, state=state, description=description)


def checkpoint_name(epoch: int) -> str:
    """Name of the folder of the checkpoint after ``epoch`` epochs."""
    return f"epoch_{epoch:04d}"


def list_checkpoints(folder: Path, *, until: int | None = None) -> list[Path]:
    """The checkpoints in a folder, oldest first; other folders, such as copies with names of their own, do not count.

    Args:
        folder: of the checkpoints.
        until: the last epoch to list; None for all.
    """
    found = {
        int(path.name.removeprefix("epoch_")): path for path in folder.glob("epoch_*") if _NAME.fullmatch(path.name)
    }
    return [
        path
        for epoch, path in sorted(found.items())
        if path.name == checkpoint_name(epoch) and path.is_dir() and (until is None or epoch <= until)
    ]


def _check_description(file: Path, description: Mapping[str, Any]) -> None:
    """Refuse a description that was changed, or that a later version wrote.

    Raises:
        InputError: it is one of these.
    """
    if description["format"] not in (FORMAT, FORMAT_WITH_ROWS):
        raise InputError(
            f"{file}: has format {description['format']}, and this version reads formats 1 and 2; use the version of "
            "reid-da that wrote it"
        )
    if not is_intact(description):
        raise InputError(f"{file}: damaged or changed: its checksum is not the one noted at writing")


def _is_disk_full(error: Exception) -> bool:
    # torch and safetensors wrap the system's error in one of their own
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)


def _checksum(file: Path) -> str:
    with file.open("rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
