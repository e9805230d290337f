"""Ablations, sweeps and comparisons: variants of an experiment, or several, with several seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from reid_da.config import ExperimentSettings, merge, pretrain_settings, settings_of
from reid_da.errors import InputError, unknown_name
from reid_da.training.runs import final_figures, train_or_resume

ROWS: dict[str, dict[str, Any]] = {
    "source": {"invariance": {"exemplar": False, "camera": False, "neighborhood": False}},
    "e": {"invariance": {"exemplar": True, "camera": False, "neighborhood": False}},
    "e+c": {"invariance": {"exemplar": True, "camera": True, "neighborhood": False}},
    "e+n": {"invariance": {"exemplar": True, "camera": False, "neighborhood": True}},
    "e+c+n": {"invariance": {"exemplar": True, "camera": True, "neighborhood": True}},
    "camstyle": {"method": "camstyle"},
    "supervised": {"method": "supervised"},
}
"""The rows of the ablation table of Zhong et al. (CVPR 2019) as changes of the settings, and CamStyle, a comparator."""


Results: TypeAlias = tuple[Mapping[str, float], ...]
"""Figures of the last epoch, one mapping for each seed; see :func:`reid_da.training.runs.final_figures`."""


def ablate(
    settings: ExperimentSettings, folder: Path, *, rows: Sequence[str] = tuple(ROWS), seeds: int = 1
) -> dict[str, Results]:
    """Train the rows of the ablation, each with several seeds; what is done already in the folder is not done again.

    Of one seed, all rows start from the same weights: those of the stage before, trained once, where there is one.

    Args:
        settings: of the full experiment.
        folder: takes a run folder for each row and seed.
        rows: names in :data:`ROWS`.
        seeds: number of seeds, from that of the settings on.

    Raises:
        InputError: an unknown row, runs without any figures, or what :func:`reid_da.training.runs.train` raises.
    """
    for row in rows:
        if row not in ROWS:
            raise unknown_name("row", row, ROWS)
    results = {row: _results(settings, folder, name=row, changes=ROWS[row], seeds=seeds) for row in rows}
    return _comparable(results, folder)


def sweep(
    settings: ExperimentSettings, folder: Path, *, key: str, values: Sequence[Any], seeds: int = 1
) -> dict[str, Results]:
    """Train with several values of one setting, each with several seeds.

    Args:
        settings: of the experiment.
        folder: takes a run folder for each value and seed.
        key: dotted name of the setting.
        values: its values.
        seeds: number of seeds, from that of the settings on.

    Raises:
        InputError: an unknown key, a value out of range, runs without any figures, or what
            :func:`reid_da.training.runs.train` raises.
    """
    results = {}
    for value in values:
        changes: Any = value
        for part in reversed(key.split(".")):
            changes = {part: changes}
        results[str(value)] = _results(settings, folder, name=f"{key}={value}", changes=changes, seeds=seeds)
    return _comparable(results, folder)


def compare(experiments: Sequence[ExperimentSettings], folder: Path, *, seeds: int = 1) -> dict[str, Results]:
    """Train several experiments, each with several seeds; what is done already in the folder is not done again.

    Args:
        experiments: settings, each with a name of its own.
        folder: takes a folder for each experiment with a run folder for each seed.
        seeds: number of seeds, from that of the settings on.

    Raises:
        InputError: two experiments have one name, runs without any figures, or what
            :func:`reid_da.training.runs.train` raises.
    """
    names = [settings.name for settings in experiments]
    for name in names:
        if names.count(name) > 1:
            raise InputError(
                f"name: {names.count(name)} experiments are called {name!r}; a table needs different names"
            )
    results = {
        settings.name: _results(settings, folder / settings.name, name=settings.name, changes={}, seeds=seeds)
        for settings in experiments
    }
    return _comparable(results, folder)


def _comparable(results: dict[str, Results], folder: Path) -> dict[str, Results]:
    """The results, if there is a figure among them."""
    if any(figures for seeds in results.values() for figures in seeds):
        return results
    raise InputError(
        f"{folder}: the runs are complete, but nothing tells which is the better: their target has no query and gallery"
        " with identities, and without those only a memory tells, after two epochs"
    )


def _results(
    settings: ExperimentSettings, folder: Path, *, name: str, changes: Mapping[str, Any], seeds: int
) -> Results:
    results = []
    for seed in range(settings.seed, settings.seed + seeds):
        seeded = settings.model_copy(update={"seed": seed})
        tree = merge(seeded.model_dump(mode="json"), {**changes, "name": name})
        stage = pretrain_settings(seeded)
        if stage is not None and not _changes_stage(changes):
            before = train_or_resume(stage, folder / f"pretrain-seed{seed}")
            tree |= {"pretrain": None, "init_from": str(before.path)}
        run = train_or_resume(settings_of(tree, where=name), folder / f"{name}-seed{seed}")
        results.append(final_figures(run))
    return tuple(results)


def _changes_stage(changes: Mapping[str, Any]) -> bool:
    """Whether a change concerns the stage before the training too, so that it cannot be shared."""
    return "pretrain" in changes or "model" in changes or "data" in changes
