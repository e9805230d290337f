"""Ablations, sweeps and comparisons: variants of an experiment, or several, with several seeds."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from reid_da.config import ExperimentSettings, merge, nested
from reid_da.errors import InputError, unknown_name
from reid_da.experiments.runs import final_figures, require_same, train_or_resume
from reid_da.experiments.setup import check_possible
from reid_da.methods import EXPERIMENTS, METHODS, settings_of
from reid_da.training.run_folder import RunFolder, only_training

logger = logging.getLogger(__name__)

ROWS: Mapping[str, Mapping[str, Any]] = {
    row: changes for method in METHODS.values() for row, changes in method.rows.items()
}
"""The rows of tables of results, as changes of the settings; each method brings its own."""


def row_of(settings: ExperimentSettings) -> str | None:
    """Name of the row of :data:`ROWS` that an experiment is, by the settings that the row changes; None if it is none.

    Of several rows it is the one with the most changes: ``o2cap`` rather than ``cap``.
    """
    rows = METHODS[settings.method].rows
    tree = settings.model_dump(mode="json")
    fitting = [name for name, changes in rows.items() if merge(tree, changes) == tree]
    return max(fitting, key=lambda name: len(_leaves(rows[name])), default=None)


def _leaves(changes: Mapping[str, Any]) -> list[Any]:
    """Values of nested mappings."""
    return [leaf for value in changes.values() for leaf in (_leaves(value) if isinstance(value, Mapping) else [value])]


NOT_SWEPT = {
    "seed": "--seeds repeats every value with several seeds",
    "name": "it only names the run",
    "device": "it does not change the numbers",
    "tensorboard": "it does not change the numbers",
    "keep_checkpoints": "it does not change the numbers",
}
"""Settings that a sweep refuses, and why."""


Results: TypeAlias = tuple[Mapping[str, float], ...]
"""Figures of the last epoch, one mapping for each seed; see :func:`reid_da.experiments.runs.final_figures`."""


def ablate(
    settings: ExperimentSettings, folder: Path, *, rows: Sequence[str] = (), seeds: int = 1
) -> dict[str, Results]:
    """Train the rows of the ablation, each with several seeds; what is done already in the folder is not done again.

    Of one seed, all rows start from the same weights: those of the pretraining stage, trained once, if there is one.

    Args:
        settings: of the full experiment.
        folder: takes a run folder for each row and seed.
        rows: names in :data:`ROWS`; the usual ones of the method, :attr:`Method.table`, if empty.
        seeds: number of seeds, from that of the settings on.

    Returns:
        The results of these rows, and of others of :data:`ROWS` that the folder holds complete, with the same settings:
        a table may be made row by row. Their order is that of the usual table of the method; other rows follow.

    Raises:
        InputError: an unknown row, runs without any figures, or what :func:`reid_da.experiments.runs.train` raises.
    """
    usual = METHODS[settings.method].table
    rows = rows or usual
    for row in rows:
        if row not in ROWS:
            raise unknown_name("row", row, ROWS)
    order = [row for row in usual if row in ROWS] + [row for row in ROWS if row not in usual]
    planned = {}
    for row in order:
        if row in rows or any(folder.glob(f"{row}-seed*")):
            planned[row] = _variants(settings, folder, name=row, changes=ROWS[row], seeds=seeds)
    wanted = {row: variants for row, variants in planned.items() if row in rows or _are_done(variants)}
    return _train_all(wanted, folder)


def sweep(
    settings: ExperimentSettings, folder: Path, *, key: str, values: Sequence[Any], seeds: int = 1
) -> dict[str, Results]:
    """Train with several values of one setting, each with several seeds.

    Args:
        settings: settings of the experiment.
        folder: takes a run folder for each value and seed.
        key: dotted name of the setting.
        values: its values.
        seeds: number of seeds, from that of the settings on.

    Raises:
        InputError: what :func:`sweep_values` raises, runs without any figures, or what
            :func:`reid_da.experiments.runs.train` raises.
    """
    planned = {}
    for value in sweep_values(settings, key=key, values=values):
        changes = nested({key: value})
        planned[str(value)] = _variants(settings, folder, name=f"{key}={value}", changes=changes, seeds=seeds)
    return _train_all(planned, folder)


def sweep_values(settings: ExperimentSettings, *, key: str, values: Sequence[Any]) -> list[Any]:
    """The values of a setting as the settings have them, 0.1 for ``"1e-1"``.

    Args:
        settings: settings of the experiment.
        key: dotted name of the setting.
        values: its values.

    Raises:
        InputError: an unknown key, one that makes no sense in a sweep, a value that is out of range or given twice.
    """
    if key in NOT_SWEPT:
        raise InputError(f"{key}: cannot be swept, {NOT_SWEPT[key]}")
    taken: list[Any] = []
    for value in values:
        tree = merge(settings.tree, nested({key: value}))
        found: Any = settings_of(tree, where=f"{key}={value}").model_dump(mode="json")
        for part in key.split("."):
            found = found[part]
        if isinstance(found, Mapping):
            raise InputError(f"{key}: is a group of settings; sweep one of them, such as {key}.{next(iter(found))}")
        if found in taken:
            raise InputError(f"{key}: the value {found} is given twice; leave one out")
        taken.append(found)
    return taken


def compare(experiments: Sequence[ExperimentSettings], folder: Path, *, seeds: int = 1) -> dict[str, Results]:
    """Train several experiments, each with several seeds; what is done already in the folder is not done again.

    Args:
        experiments: settings, each with a name of its own.
        folder: takes a folder for each experiment with a run folder for each seed.
        seeds: number of seeds, from that of the settings on.

    Raises:
        InputError: two experiments have one name, runs without any figures, or what
            :func:`reid_da.experiments.runs.train` raises.
    """
    names = [settings.name for settings in experiments]
    for name in names:
        if names.count(name) > 1:
            raise InputError(
                f"name: {names.count(name)} experiments are called {name!r}; a table needs different names"
            )
    planned = {
        settings.name: _variants(settings, folder / settings.name, name=settings.name, changes={}, seeds=seeds)
        for settings in experiments
    }
    return _train_all(planned, folder)


@dataclass(frozen=True, kw_only=True)
class _Variant:
    """A training of a row of a table, with one seed.

    Attributes:
        settings: of it.
        folder: its run folder.
        stage: settings of the pretraining stage that it shares with other rows; None without one.
        stage_folder: the run folder of that.
    """

    settings: ExperimentSettings
    folder: Path
    stage: ExperimentSettings | None
    stage_folder: Path

    def check(self) -> None:
        """Raise InputError if there are runs with other settings in the folders."""
        if self.stage is not None:
            require_same(self.stage, self.stage_folder)
        require_same(self.settings, self.folder)

    def train(self) -> dict[str, float]:
        """Train what is not done yet; figures of the last epoch."""
        if self.stage is not None:
            train_or_resume(self.stage, self.stage_folder)
        return final_figures(train_or_resume(self.settings, self.folder))


def _variants(
    settings: ExperimentSettings, folder: Path, *, name: str, changes: Mapping[str, Any], seeds: int
) -> list[_Variant]:
    """The trainings of a row, one for each seed.

    Raises:
        InputError: the changes do not fit the settings.
    """
    # a value may be a path, and a name may not
    name = name.replace("/", "-").replace("\\", "-")
    variants = []
    for seed in range(settings.seed, settings.seed + seeds):
        seeded = settings.model_copy(update={"seed": seed})
        tree = merge(seeded.tree, {**changes, "name": name})
        stage, stage_folder = EXPERIMENTS.stage(seeded), folder / f"pretrain-seed{seed}"
        if _changes_stage(changes):
            stage = None
        if stage is not None:
            tree |= {"pretrain": None, "init_from": str(stage_folder)}
        variants.append(
            _Variant(
                settings=settings_of(tree, where=name),
                folder=folder / f"{name}-seed{seed}",
                stage=stage,
                stage_folder=stage_folder,
            )
        )
    return variants


def _are_done(variants: Sequence[_Variant]) -> bool:
    """Whether the trainings of a row are complete, with the same settings; nothing is wrong if they are not."""
    try:
        for variant in variants:
            variant.check()
            final_figures(RunFolder.open(variant.folder))
    except InputError:
        return False
    return all(RunFolder(variant.folder).has_checkpoint(variant.settings.epochs) for variant in variants)


def _train_all(planned: Mapping[str, Sequence[_Variant]], folder: Path) -> dict[str, Results]:
    """The results of each row, none of which is begun before all of them are known to be possible.

    Raises:
        InputError: there is a run with other settings, another process trains in the folder, or no run has figures.
    """
    for variants in planned.values():
        for variant in variants:
            variant.check()
    for variants in planned.values():
        if not _are_done(variants):
            check_possible(variants[0].settings)
    with only_training(folder):
        results: dict[str, Results] = {}
        count, total = 0, sum(map(len, planned.values()))
        for row, variants in planned.items():
            trained = []
            for variant in variants:
                count += 1
                logger.info("run %d of %d: %s, seed %d", count, total, variant.settings.name, variant.settings.seed)
                trained.append(variant.train())
            results[row] = tuple(trained)
    if any(figures for seeds in results.values() for figures in seeds):
        return results
    raise InputError(
        f"{folder}: the runs are complete, but they cannot be compared: their target has no query and gallery"
        " with identities, and without those only a memory tells, after two epochs"
    )


def _changes_stage(changes: Mapping[str, Any]) -> bool:
    """Whether a change concerns the pretraining stage too, so that it cannot be shared."""
    return "pretrain" in changes or "model" in changes or "data" in changes
