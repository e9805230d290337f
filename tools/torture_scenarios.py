"""Commands on a tiny part of the rendered data, and what must come out of them whatever happens on the way."""

import hashlib
import json
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torture_process import Outcome, run

from reid_da.gallery import index as indexing
from reid_da.gallery.store import Gallery

RENDERED = Path(__file__).parent.parent / "data" / "rendered"
NUM_PEOPLE = 4
EPOCHS = 3
INDEX_BATCH = 8
"""Images that an index adds together, so that a tiny one takes several batches."""

CONFIG = """
epochs: {epochs}
evaluate_every: 1
device: cpu
data: {{source: {data}/site-a, target: {data}/site-b, image_size: [32, 16], cache: always}}
model: {{backbone: resnet18, width: 0.125, weights: none, embedding_dim: 16, freeze: none, bn_mode: train}}
batch: {{source: 8, target: 8}}
steps_per_epoch: 2
memory: {{neighbors_from_epoch: 1, num_neighbors: 3}}
views: {{style: statistics}}
optimizer: {{lr: 0.01}}
"""


class Place:
    """Folders of the campaign: the data, states to begin with, and the one that everything happens in.

    Attributes:
        root: of all of them.
        data: of the images, which nobody changes.
        states: a folder for each state: ``empty``, ``half`` trained, ``finished``, and ``indexed``.
        work: a copy of one of them.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.data, self.states, self.work = root, root / "data", root / "states", root / "work"
        self.output = root / "output"
        self.config = root / "config.yaml"

    def build(self) -> None:
        """Make the data and the states.

        Raises:
            RuntimeError: a command fails with nothing done to it.
        """
        for folder in (self.states / "empty", self.work, self.output):
            folder.mkdir(parents=True)
        for site in ("site-a", "site-b"):
            for split in ("bounding_box_train", "query", "bounding_box_test"):
                files = sorted((RENDERED / site / split).glob("[0-9]*.jpg"))
                people = sorted({file.name[:4] for file in files} - {"0000"})[:NUM_PEOPLE]
                target = self.data / site / split
                target.mkdir(parents=True)
                for file in files:
                    if file.name[:4] in people:
                        shutil.copy(file, target)
        shutil.copytree(self.data / "site-b" / "bounding_box_train", self.data / "crops")
        self.config.write_text(CONFIG.format(epochs=EPOCHS, data=self.data), encoding="utf-8")
        self.restore("empty")
        self._train_half()
        shutil.copytree(self.work, self.states / "half")
        self.must(["train", "--resume", str(self.work / "run")])
        shutil.copytree(self.work, self.states / "finished")
        indexing.BATCH = INDEX_BATCH  # of forked processes, too
        self.must(_add(self))
        shutil.copytree(self.work, self.states / "indexed")

    def _train_half(self) -> None:
        """Kill a training after its first checkpoint."""
        checkpoints = self.work / "run" / "checkpoints"
        for _ in range(10):
            self.restore("empty")
            outcome = run(
                ["train", str(self.config), "-o", str(self.work / "run")],
                self.output,
                kill_when=lambda: any(checkpoints.glob("epoch_*")),
            )
            if outcome.status == -signal.SIGKILL:
                return
            if outcome.status:
                raise RuntimeError(outcome.err)
        raise RuntimeError("the training ended before it could be killed: set more epochs")

    def restore(self, state: str) -> None:
        """Begin with a state."""
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.states / state, self.work, symlinks=True)

    def run(self, arguments: list[str], **options: object) -> Outcome:
        """Run a command; see :func:`torture_process.run`."""
        return run(arguments, self.output, **options)  # type: ignore[arg-type]

    def must(self, arguments: list[str]) -> None:
        """Run a command that has no reason to fail.

        Raises:
            RuntimeError: it does.
        """
        outcome = self.run(arguments)
        if outcome.status:
            raise RuntimeError(f"reid-da {' '.join(arguments)}: {outcome.err}")


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A command, how to go on after it failed, and its result.

    Attributes:
        name: in messages.
        state: that it begins with.
        command: arguments.
        again: arguments that go on from what is left in the work folder.
        result: digest of what came out, or None if nothing did.
        is_killed: whether it is worth killing: it writes more than once.
    """

    name: str
    state: str
    command: Callable[[Place], list[str]]
    again: Callable[[Place], list[str]]
    result: Callable[[Place], str | None]
    is_killed: bool = False


def _train(place: Place) -> list[str]:
    return ["train", str(place.config), "-o", str(place.work / "run")]


def _resume(place: Place) -> list[str]:
    run_folder = place.work / "run"
    return ["train", "--resume", str(run_folder)] if (run_folder / "config.yaml").exists() else _train(place)


def _features(place: Place) -> str | None:
    """Digest of the features of the trained model, in which every difference of a weight shows."""
    output = place.output / "result.npz"
    output.unlink(missing_ok=True)
    arguments = ["extract", str(place.work / "run"), str(place.data / "site-b"), "-o", str(output), "--device", "cpu"]
    return _arrays(output) if place.run(arguments).status == 0 else None


def _arrays(file: Path) -> str | None:
    if not file.exists():
        return None
    digest = hashlib.sha256()
    with np.load(file) as archive:
        for name in sorted(archive.files):
            digest.update(name.encode() + archive[name].tobytes())
    return digest.hexdigest()


def _generate(place: Place) -> list[str]:
    fakes = place.work / "fakes"
    arguments = ["camstyle", "generate", str(place.data / "site-b"), "--method", "statistics", "--size", "32x16"]
    arguments += ["-o", str(place.work / "styles.pack"), "--device", "cpu"]
    return arguments if fakes.exists() else [*arguments, "--jpeg", "--folder", str(fakes)]


def _files(*names: str) -> Callable[[Place], str | None]:
    """Digest of files and of all files in folders; what hides begins with a dot."""

    def digest_of(place: Place) -> str | None:
        digest = hashlib.sha256()
        for name in names:
            path = place.work / name
            files = sorted(path.rglob("*")) if path.is_dir() else [path]
            for file in files:
                if not file.is_file():
                    return None
                digest.update(file.name.encode() + file.read_bytes())
        return digest.hexdigest()

    return digest_of


def _calibration(place: Place) -> str | None:
    """Digest of the thresholds, and whether there is a picture."""
    files = [place.work / "run" / f"calibration.{suffix}" for suffix in ("json", "png")]
    if not all(file.exists() for file in files):
        return None
    return hashlib.sha256(json.dumps(json.loads(files[0].read_text())).encode() + files[1].read_bytes()).hexdigest()


def _same(
    command: Callable[[Place], list[str]],
    state: str,
    name: str,
    result: Callable[[Place], str | None],
    *,
    is_killed: bool = False,
) -> Scenario:
    return Scenario(name=name, state=state, command=command, again=command, result=result, is_killed=is_killed)


def _add(place: Place) -> list[str]:
    folders = [str(place.data / "site-b" / split) for split in ("bounding_box_train", "query")]
    return ["index", "add", str(place.work / "index"), *folders, "--model", str(place.work / "run"), "--device", "cpu"]


def _index(place: Place) -> str | None:
    """Digest of the vectors and of what the index knows of its images; None if it is not sound."""
    if place.run(["index", "verify", str(place.work / "index")]).status:
        return None
    digest = hashlib.sha256()
    with Gallery(place.work / "index") as gallery:
        snapshot = gallery.snapshot()
        digest.update(repr([record[1:] for record in gallery.all_records()]).encode())
        digest.update(np.ascontiguousarray(snapshot.vectors(np.arange(len(snapshot)))).tobytes())
    return digest.hexdigest()


def _clustered(place: Place) -> str | None:
    files, index = _files("identities.csv", "sheets")(place), _index(place)
    return None if files is None or index is None else files + index


SCENARIOS = (
    Scenario(name="train", state="empty", command=_train, again=_resume, result=_features, is_killed=True),
    Scenario(name="resume", state="half", command=_resume, again=_resume, result=_features, is_killed=True),
    _same(_generate, "empty", "generate", _files("styles.pack", "fakes"), is_killed=True),
    _same(
        lambda place: [
            "data", "import", str(place.data / "crops"), "-o", str(place.work / "crops.csv"), "--split", "0.5",
            "--pattern", r"(?P<pid>\d+)_c(?P<camera>\d+)", "--overwrite",
        ],
        "empty", "import", _files("crops.csv"), is_killed=True,
    ),
    _same(_add, "finished", "index", _index, is_killed=True),
    _same(
        lambda place: [
            "cluster", str(place.work / "index"), "--eps", "0.9", "--min-samples", "2", "-o",
            str(place.work / "identities.csv"), "--sheets", str(place.work / "sheets"),
        ],
        "indexed", "cluster", _clustered, is_killed=True,
    ),
    _same(
        lambda place: [
            "report", str(place.work / "run"), "-o", str(place.work / "report.html"), "--map", "pca", "--device", "cpu"
        ],
        "finished", "report", _files("report.html"), is_killed=True,
    ),
    _same(
        lambda place: [
            "extract", str(place.work / "run"), str(place.data / "site-b"), "-o", str(place.work / "f.npz"), "--device",
            "cpu",
        ],
        "finished", "extract", lambda place: _arrays(place.work / "f.npz"),
    ),
    _same(
        lambda place: ["calibrate", str(place.work / "run"), "--device", "cpu", "--fpr", "0.1"],
        "finished", "calibrate", _calibration,
    ),
    _same(
        lambda place: ["data", "stats", str(place.data / "site-b"), "--picture", str(place.work / "stats.png")],
        "empty", "stats", _files("stats.png"),
    ),
)  # fmt: skip
