"""The folder of a run: everything to understand it, or to go on with it."""

import json
import logging
import math
import os
import platform
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
import torchvision
import yaml

import reid_da
from reid_da.atomic import missing_folders, own_folder, remove_empty, remove_leftovers, write_text
from reid_da.config import ExperimentSettings, TrainingSettings, dump_settings, load_settings
from reid_da.errors import InputError
from reid_da.training.checkpoint import DESCRIPTION, Checkpoint, list_checkpoints, load_checkpoint, save_checkpoint

logger = logging.getLogger(__name__)

_NOTED = {"epoch": int, "settings": str, "fingerprints": dict, "metrics_bytes": int}
"""What the description of a run's checkpoint says beside the checksums, which do not cover it."""


class RunFolder:
    """A folder with ``config.yaml``, ``versions.json``, ``metrics.jsonl`` and ``checkpoints/``.

    Attributes:
        path: the folder.
        listeners: called with each record that is logged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.listeners: list[Callable[[Mapping[str, Any]], None]] = []
        self._made = [path]
        self._is_training = False

    @classmethod
    def create(cls, path: Path, settings: TrainingSettings) -> "RunFolder":
        """A new run folder with the resolved settings and the versions of the software.

        Raises:
            InputError: there is a run already.
        """
        run = cls(path)
        run._made = missing_folders(path) or [path]
        with run.training():
            if run.config_file.exists():
                raise InputError(f"{path}: there is a run already; resume it, or name another folder")
            write_text(path / "versions.json", json.dumps(software_versions(), indent=2) + "\n")
            write_text(run.config_file, dump_settings(settings))
        return run

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """An existing run folder, to read it; who goes on with the training opens :meth:`training` too.

        Raises:
            InputError: the folder holds no run.
        """
        run = cls(path)
        if not run.config_file.is_file():
            raise InputError(f"{path}: no run in it: looked for {run.config_file.name}")
        return run

    @contextmanager
    def training(self) -> Iterator[None]:
        """Own the run while the block trains it; inside such a block of the same object it does nothing more.

        Two processes that train one run would mix their metrics, and remove each other's checkpoints. What a killed
        process has left of a checkpoint is removed first.

        Raises:
            InputError: another process trains the run.
        """
        if self._is_training:
            yield
            return
        with only_training(self.path):
            remove_leftovers(self.checkpoint_folder)
            self._is_training = True
            try:
                yield
            finally:
                self._is_training = False

    def discard_if_unused(self) -> None:
        """Remove what :meth:`create` wrote, unless something was trained: a mistake must not block a second try."""
        if self.metrics_file.exists() or self.checkpoint_folder.exists() or self.runs_inside:
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
        """Folders in this one that hold a run: a stage before the training, or parts of it."""
        return sorted(file.parent for file in self.path.glob("*/config.yaml"))

    def has_checkpoint(self, epoch: int) -> bool:
        """Whether there is a checkpoint after ``epoch`` epochs; whether it can be read is not looked at."""
        return (self.checkpoint_folder / _checkpoint_name(epoch)).is_dir()

    @property
    def name(self) -> str:
        """Name of the experiment, whatever it trains.

        Raises:
            InputError: the settings cannot be read.
        """
        return str(self._require_config()["name"])

    def _require_config(self) -> dict[str, Any]:
        """The settings as they are in the file; what a damaged one lacks must not get the value of a default."""
        try:
            tree = yaml.safe_load(self.config_file.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InputError(f"{self.config_file}: is not YAML: {' '.join(str(error).split())}") from error
        if not isinstance(tree, dict) or "name" not in tree:
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
        """Append a record to the metrics; a value that is not finite becomes null, which JSON can hold."""
        record = {key: _finite(value) for key, value in record.items()}
        line = json.dumps(record, allow_nan=False)
        with self.metrics_file.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")
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
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise InputError(f"{self.metrics_file}: line {number} is damaged; restore the file, or remove the line")
        return record

    def save(self, epoch: int, checkpoint: Checkpoint, *, keep: int) -> Path:
        """Write the checkpoint after ``epoch`` epochs and remove all but the newest ``keep``.

        The length of the metrics goes with it, so that a resumed run forgets what was logged after it.
        """
        size = self.metrics_file.stat().st_size if self.metrics_file.exists() else 0
        description = {**checkpoint.description, "epoch": epoch, "metrics_bytes": size}
        folder = self.checkpoint_folder / _checkpoint_name(epoch)
        save_checkpoint(folder, Checkpoint(weights=checkpoint.weights, state=checkpoint.state, description=description))
        for old in list_checkpoints(self.checkpoint_folder)[:-keep]:
            _remove(old)
        return folder

    def last_checkpoint(self, *, skip_damaged: bool = False) -> Checkpoint | None:
        """The newest checkpoint, or None if there is none yet.

        Args:
            skip_damaged: take the newest one that is whole, instead of refusing, and remove those that came after it.

        Raises:
            InputError: the newest one is damaged, or all of them are.
        """
        damaged: list[Path] = []
        for folder in reversed(list_checkpoints(self.checkpoint_folder)):
            try:
                checkpoint = _load(folder)
            except InputError as error:
                if not skip_damaged:
                    raise InputError(
                        f"{error}; resume the training with --skip-damaged to go on from the one before, or name a "
                        f"folder below {self.checkpoint_folder.name}/ to read that one"
                    ) from error
                logger.warning("passed over: %s", error)
                damaged.append(folder)
                continue
            for later in damaged:
                _remove(later)
            return checkpoint
        if damaged:
            raise InputError(
                f"{self.checkpoint_folder}: all checkpoints are damaged; remove this folder to train from the beginning"
            )
        return None

    def forget_metrics_after(self, checkpoint: Checkpoint | None) -> None:
        """Cut the metrics off where they were when the checkpoint was written; all of them if it is None.

        Raises:
            InputError: they are shorter than they were then.
        """
        if not self.metrics_file.exists():
            return
        size = int(checkpoint.description["metrics_bytes"]) if checkpoint else 0
        if size > self.metrics_file.stat().st_size:
            raise InputError(
                f"{self.metrics_file}: is shorter than when the checkpoint was written; restore it, or remove it to go "
                "on without what was logged before"
            )
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


def software_versions() -> dict[str, str | None]:
    """Versions of what a result depends on."""
    return {
        "reid_da": reid_da.__version__,
        "git": _git_revision(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu",
    }


def _git_revision() -> str | None:
    """Commit of the working copy that the package runs from, or None if it was installed without one."""
    file = Path(__file__)
    git = ["git", "-C", str(file.parent)]
    try:
        # an environment may lie in a working copy of something else, which does not know this file
        subprocess.run([*git, "ls-files", "--error-unmatch", file.name], capture_output=True, check=True, timeout=10)
        describe = [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(describe, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _load(folder: Path) -> Checkpoint:
    """A checkpoint that knows where in its run it belongs.

    Raises:
        InputError: it is damaged.
    """
    checkpoint = load_checkpoint(folder)
    for key, kind in _NOTED.items():
        if not isinstance(checkpoint.description.get(key), kind):
            raise InputError(f"{folder / DESCRIPTION}: damaged: it does not tell {key}")
    return checkpoint


def _checkpoint_name(epoch: int) -> str:
    return f"epoch_{epoch:04d}"


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _remove(folder: Path) -> None:
    # renamed first: a kill in the middle of the removal must not leave half a checkpoint under its name
    doomed = folder.with_name(f".{folder.name}.removed.tmp")
    folder.rename(doomed)
    remove_leftovers(folder.parent)
