"""The folder of a run: everything to understand it, or to resume it."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from reid_da.atomic import (
    LOCK_FILE,
    missing_folders,
    naming,
    open_own,
    own_folder,
    remove_empty,
    remove_leftovers,
    write_text,
)
from reid_da.config import ExperimentSettings, TrainingSettings, differences, dump_settings
from reid_da.errors import InputError, first_few
from reid_da.methods import load_settings
from reid_da.processes import agreed
from reid_da.training.checkpoint import (
    DESCRIPTION,
    Checkpoint,
    checkpoint_name,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from reid_da.training.metrics_lines import finite_or_none, is_report, metrics_line, parse_line
from reid_da.training.versions import software_versions
from reid_da.world import ALONE, World
from reid_da.yaml_files import read_yaml

logger = logging.getLogger(__name__)

_NOTED: dict[str, Any] = {"epoch": int, "settings": (str, dict), "fingerprints": dict, "metrics_bytes": int}
"""What the description of a run's checkpoint says; earlier versions noted a hash of the settings."""


class RunFolder:
    """A folder with ``config.yaml``, ``versions.json``, ``metrics.jsonl`` and ``checkpoints/``.

    Several processes may train in it together; the first of them locks it and writes to it.

    Attributes:
        path: the folder.
        world: the processes that train in it.
        listeners: called with each record that is logged.
    """

    def __init__(self, path: Path, *, world: World = ALONE) -> None:
        self.path = path
        self.world = world
        self.listeners: list[Callable[[Mapping[str, Any]], None]] = []
        self._made = [path]
        self._is_training = False

    @classmethod
    def create(cls, path: Path, settings: TrainingSettings, *, world: World = ALONE) -> "RunFolder":
        """A new run folder with the resolved settings and the versions of the software.

        Raises:
            InputError: there is a run already.
        """
        run = cls(path, world=world)
        agreed(world, lambda: run._begin(settings) if world.is_main else None)
        return run

    def _begin(self, settings: TrainingSettings) -> None:
        self._made = missing_folders(self.path) or [self.path]
        with self.training():
            if self.config_file.exists():
                raise InputError(f"{self.path}: {self._found()}, or name another folder")
            if foreign := self._foreign_files():
                raise InputError(
                    f"{self.path}: is not empty and holds no run (found {first_few(foreign)}); name a new folder"
                )
            write_text(self.path / "versions.json", json.dumps(software_versions(), indent=2) + "\n")
            write_text(self.config_file, dump_settings(settings))

    @classmethod
    def open(cls, path: Path, *, world: World = ALONE) -> "RunFolder":
        """An existing run folder, to read it; to resume the training, open :meth:`training` too.

        Raises:
            InputError: the folder holds no run.
        """
        run = cls(path, world=world)
        if not run.config_file.is_file():
            raise InputError(f"{path}: not a run folder: it has no {run.config_file.name}")
        return run

    @contextmanager
    def training(self) -> Iterator[None]:
        """Own the run while the block trains it; inside such a block of the same object it does nothing more.

        Two processes that train one run would mix their metrics, and remove each other's checkpoints. What a killed
        process has left of a checkpoint is removed first.

        Raises:
            InputError: another process trains the run.
        """
        if self._is_training or not self.world.is_main:
            yield
            return
        with only_training(self.path):
            remove_leftovers(self.checkpoint_folder)
            self._is_training = True
            try:
                yield
            finally:
                self._is_training = False

    def _found(self) -> str:
        """What to do about the run that is in the folder already."""
        epochs = self._require_config().get("epochs")
        if isinstance(epochs, int) and self.has_checkpoint(epochs):
            return (
                f"holds a complete run of {epochs} epochs; train it on (reid-da train --resume {self.path} epochs=MORE)"
            )
        return f"there is a run already; resume it (reid-da train --resume {self.path})"

    def _foreign_files(self) -> list[str]:
        """Names of what is in a folder that holds no run, but for what a killed :meth:`create` leaves."""
        own = (LOCK_FILE, "versions.json", "pretrain")
        return sorted(
            path.name for path in self.path.iterdir() if path.name not in own and not path.name.endswith(".tmp")
        )

    def discard_if_unused(self) -> None:
        """Remove what :meth:`create` wrote, unless something was trained: a mistake must not block a second try."""
        if self.metrics_file.exists() or self.checkpoint_folder.exists() or self.runs_inside or not self.world.is_main:
            return
        for file in (self.config_file, self.path / "versions.json"):
            file.unlink(missing_ok=True)
        remove_empty(self._made)

    @property
    def config_file(self) -> Path:
        """The resolved settings."""
        return self.path / "config.yaml"

    @property
    def metrics_file(self) -> Path:
        """One JSON object a line: losses, evaluations, diagnostics."""
        return self.path / "metrics.jsonl"

    @property
    def events_folder(self) -> Path:
        """Folder of the TensorBoard events."""
        return self.path / "tensorboard"

    @property
    def checkpoint_folder(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def runs_inside(self) -> list[Path]:
        """Folders in this one that hold a run: a pretraining stage, or parts of the training."""
        return sorted(file.parent for file in self.path.glob("*/config.yaml"))

    def has_checkpoint(self, epoch: int) -> bool:
        """Whether there is a checkpoint after ``epoch`` epochs; whether it can be read is not looked at."""
        return (self.checkpoint_folder / checkpoint_name(epoch)).is_dir()

    @property
    def name(self) -> str:
        """Name of the experiment, whatever it trains.

        Raises:
            InputError: the settings cannot be read.
        """
        return str(self._require_config()["name"])

    def _require_config(self) -> dict[str, Any]:
        """The settings as they are in the file; what a damaged one lacks must not get the value of a default."""
        tree = read_yaml(self.config_file)
        if "name" not in tree:
            raise InputError(f"{self.config_file}: is empty or cut off; restore it, or name another run")
        return tree

    def settings(self) -> ExperimentSettings:
        """Settings that the run was started with.

        Raises:
            InputError: they cannot be read, or are not those of an experiment.
        """
        self._require_config()
        return load_settings(self.config_file)

    def log(self, record: Mapping[str, Any]) -> None:
        """Append a record with its checksum to the metrics; a value that is not finite becomes null, as JSON has it."""
        if not self.world.is_main:
            return
        record = {key: finite_or_none(value) for key, value in record.items()}
        with naming(self.metrics_file), open_own(self.metrics_file, "a", encoding="utf-8") as stream:
            stream.write(metrics_line(record))
        for listener in self.listeners:
            listener(record)

    def records(self, kind: str | None = None) -> list[dict[str, Any]]:
        """All records of the metrics, or those of one kind.

        Raises:
            InputError: a line is damaged.
        """
        if not self.metrics_file.exists():
            return []
        lines = self.metrics_file.read_bytes().splitlines()
        records = [self._record(line, number) for number, line in enumerate(lines, start=1) if line]
        return [record for record in records if kind is None or record.get("kind") == kind]

    def _record(self, line: bytes, number: int) -> dict[str, Any]:
        record = parse_line(line)
        if record is None:
            raise InputError(f"{self.metrics_file}: line {number} is damaged; restore the file, or remove the line")
        return record

    def save(self, epoch: int, checkpoint: Checkpoint, *, keep: int) -> Path:
        """Write the checkpoint after ``epoch`` epochs and remove all but the newest ``keep``.

        Length and checksum of the metrics go with it, so that a resumed run forgets what was logged after it. A
        checkpoint of that epoch that could not be read when the run was resumed is set aside under another name. Every
        process calls this.
        """
        folder = self.checkpoint_folder / checkpoint_name(epoch)
        if not self.world.is_main:
            save_checkpoint(folder, checkpoint, world=self.world)
            return folder
        metrics = self.metrics_file.read_bytes() if self.metrics_file.exists() else b""
        description = {
            **checkpoint.description,
            "epoch": epoch,
            "metrics_bytes": len(metrics),
            "metrics_sha256": hashlib.sha256(metrics).hexdigest(),
        }
        if folder.exists():
            _set_aside(folder)
        save_checkpoint(folder, replace(checkpoint, description=description), world=self.world)
        for old in list_checkpoints(self.checkpoint_folder, until=epoch)[:-keep]:
            _remove(old)
        return folder

    def last_checkpoint(self, *, skip_damaged: bool = False) -> Checkpoint | None:
        """The newest checkpoint, or None if there is none yet. Nothing is removed or changed.

        Args:
            skip_damaged: take the newest one that is intact, instead of refusing.

        Raises:
            InputError: the newest one is damaged, or all of them are.
        """
        passed: set[Path] = set()
        while True:
            # listed anew each time: a training beside may have replaced the one that could not be read
            folders = [folder for folder in list_checkpoints(self.checkpoint_folder) if folder not in passed]
            if not folders:
                break
            try:
                return _load(folders[-1])
            except InputError as error:
                passed.add(folders[-1])
                if not folders[-1].exists():
                    continue
                if not skip_damaged:
                    raise InputError(
                        f"{error}; resume the training with --skip-damaged to use the one before, or name a "
                        f"folder below {self.checkpoint_folder.name}/ to read that one"
                    ) from error
                logger.warning("skipped: %s", error)
        if passed:
            raise InputError(
                f"{self.checkpoint_folder}: no checkpoint can be read; remove this folder and {self.metrics_file.name}"
                " to train from the beginning"
            )
        return None

    def check_settings(self, checkpoint: Checkpoint, settings: TrainingSettings) -> None:
        """Refuse settings that are not those that a checkpoint was made with.

        Settings that are absent in the checkpoint, which an earlier version wrote, count as their defaults.

        Raises:
            InputError: names the first settings that differ.
        """
        noted = checkpoint.description.get("settings")
        if not isinstance(noted, dict):
            logger.info("%s: its checkpoint does not tell the settings that it was made with", self.path)
            return
        different = differences(noted, settings.model_dump(mode="json"), kind=type(settings))
        if settings.epochs >= int(checkpoint.description["epoch"]):
            different.pop("epochs", None)  # a run may be made longer
        if different:
            texts = [f"{key} was {shown(old)} and is {shown(new)}" for key, (old, new) in different.items()]
            raise InputError(
                f"{self.config_file}: its settings are not those that the checkpoint was made with"
                f" ({first_few(texts)}); undo the change"
            )

    def forget_metrics_after(self, checkpoint: Checkpoint | None) -> None:
        """Cut off what was logged after the checkpoint was written, but for evaluations of its epoch.

        Raises:
            InputError: the metrics are not those that were logged before the checkpoint, or the run has metrics of
                several epochs and no checkpoint.
        """
        if not self.world.is_main or not self.metrics_file.exists():
            return
        if checkpoint is None:
            # the first checkpoint is written between the figures of its epoch and their evaluation
            epochs = len(self.records("train"))
            measured = (*self.records("evaluation"), *self.records("label_free"))
            if epochs > 1 or any(record.get("epoch") != 0 for record in measured):
                raise InputError(
                    f"{self.metrics_file}: tells of {epochs} epochs that were trained, but there is no checkpoint in "
                    f"{self.checkpoint_folder}; restore that folder, or remove the metrics to train from the beginning"
                )
            os.truncate(self.metrics_file, 0)
            return
        metrics, size = self.metrics_file.read_bytes(), int(checkpoint.description["metrics_bytes"])
        checksum = checkpoint.description.get("metrics_sha256")
        if size > len(metrics) or (checksum and hashlib.sha256(metrics[:size]).hexdigest() != checksum):
            raise InputError(
                f"{self.metrics_file}: was cut off or changed since the checkpoint was written; restore it, or remove "
                "it to resume without what was logged before"
            )
        for line in metrics[size:].splitlines(keepends=True):
            if not is_report(line, epoch=int(checkpoint.description["epoch"])):
                break
            size += len(line)
        os.truncate(self.metrics_file, size)


@contextmanager
def only_training(folder: Path) -> Iterator[None]:
    """Keep other processes from training in a folder while the block runs; an empty one goes again.

    Raises:
        InputError: another process trains in it.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(own_folder(folder))
        except BlockingIOError:
            raise InputError(f"{folder}: is being trained by another process") from None
        yield


def shown(value: object) -> str:
    """A value of a setting as YAML has it."""
    return "null" if value is None else str(value)


def _load(folder: Path) -> Checkpoint:
    """A checkpoint that knows where in its run it belongs.

    Raises:
        InputError: it is damaged.
    """
    checkpoint = load_checkpoint(folder)
    for key, kind in _NOTED.items():
        if not isinstance(checkpoint.description.get(key), kind):
            raise InputError(f"{folder / DESCRIPTION}: damaged: {key} is missing")
    if folder.name != checkpoint_name(checkpoint.description["epoch"]):
        raise InputError(
            f"{folder / DESCRIPTION}: damaged: it is of epoch {checkpoint.description['epoch']}, and the folder is not"
        )
    return checkpoint


def _remove(folder: Path) -> None:
    # renamed first: a kill in the middle of the removal must not leave half a checkpoint under its name
    doomed = folder.with_name(f".{folder.name}.removed.tmp")
    folder.rename(doomed)
    remove_leftovers(folder.parent)


def _set_aside(folder: Path) -> None:
    numbers = range(1, 1000)
    names = (folder.with_name(f"{folder.name}.unreadable{number}") for number in numbers)
    aside = next(name for name in names if not name.exists())
    folder.rename(aside)
    logger.warning("%s: could not be read and is kept as %s", folder, aside.name)
