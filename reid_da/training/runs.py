"""Training runs from beginning to end: the stage before, the training, going on after an interruption."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from reid_da.atomic import write_text
from reid_da.config import ExperimentSettings, dump_settings, pretrain_settings
from reid_da.errors import InputError, first_few
from reid_da.training.loop import without_free
from reid_da.training.run_folder import RunFolder
from reid_da.training.setup import build_trainer

logger = logging.getLogger(__name__)


def train(settings: ExperimentSettings, folder: Path) -> RunFolder:
    """Train in a new run folder.

    Args:
        settings: of the experiment; with a ``pretrain``, that stage comes first, in a folder of its own inside.
        folder: the run folder, which must not hold a run.

    Raises:
        InputError: settings, data or folder do not fit, or a loss is not finite.
    """
    run = RunFolder.create(folder, settings)
    try:
        return _train(run, skip_damaged=False)
    except BaseException:
        # whatever it was: a folder with nothing but settings would block the next try
        run.discard_if_unused()
        raise


def resume(folder: Path, *, skip_damaged: bool = False) -> RunFolder:
    """Go on with a run where it was stopped; one that is complete stays as it is.

    Args:
        folder: the run folder.
        skip_damaged: pass over damaged checkpoints, to the newest one that is whole.

    Raises:
        InputError: there is no run, its checkpoint is damaged, or the data are not those that it was made with.
    """
    return _train(RunFolder.open(folder), skip_damaged=skip_damaged)


def train_or_resume(settings: ExperimentSettings, folder: Path) -> RunFolder:
    """Train in a run folder, from the beginning or from where it was stopped.

    Settings that do not decide the numbers, such as the device, may differ from those that the run was begun with.

    Raises:
        InputError: the folder holds a run with other settings.
    """
    run = RunFolder(folder)
    if not run.config_file.exists():
        return train(settings, folder)
    require_same(settings, folder)
    with run.training():
        if run.settings() != settings:
            write_text(run.config_file, dump_settings(settings))
        return _train(run, skip_damaged=False)


def require_same(settings: ExperimentSettings, folder: Path) -> None:
    """See to it that a training with these settings may go on in a folder, or begin in it.

    Raises:
        InputError: the folder holds a run with other settings; names the first of them.
    """
    run = RunFolder(folder)
    if not run.config_file.exists():
        return
    noted = run.settings()
    old, new = (dict(_leaves(without_free(each).model_dump(mode="json"))) for each in (noted, settings))
    if not _is_same_start(noted.init_from, settings.init_from, folder):
        old["init_from"], new["init_from"] = noted.init_from, settings.init_from
    different = [key for key in old | new if old.get(key) != new.get(key)]
    if different:
        texts = [f"{key} was {_shown(old.get(key))} and is {_shown(new.get(key))}" for key in different]
        raise InputError(
            f"{folder}: holds a run with other settings ({first_few(texts)}); name another folder, or remove it"
        )


def _is_same_start(old: Path | None, new: Path | None, folder: Path) -> bool:
    """Whether two ``init_from`` are one, if only because a run was moved together with what lies beside it."""
    if old is None or new is None:
        return old is new
    is_beside = new.resolve().parent == folder.resolve().parent
    return old.resolve() == new.resolve() or (is_beside and old.name == new.name)


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shown(value: object) -> str:
    return "null" if value is None else str(value)


def final_result(run: RunFolder) -> dict[str, float]:
    """Figures of the evaluation after the last epoch.

    Raises:
        InputError: the run is not complete, or its target has nothing to evaluate on.
    """
    settings = run.settings()
    last = [record for record in run.records("evaluation") if record["epoch"] == settings.epochs]
    if not last:
        raise InputError(f"{run.path}: no evaluation after epoch {settings.epochs}; is the run complete?")
    return {key: value for key, value in last[-1].items() if key not in ("kind", "epoch")}


def final_figures(run: RunFolder) -> dict[str, float]:
    """What tells after the last epoch how good a run is: the evaluation, if there is any, and a sign without labels.

    That sign is ``neighbors_agreement``, where the method has a memory: the share of nearest slots that were among the
    nearest an epoch before.

    Raises:
        InputError: the run is not complete.
    """
    epochs = run.settings().epochs
    last = [record for record in run.records("train") if record["epoch"] == epochs]
    if not last:
        raise InputError(f"{run.path}: epoch {epochs} is not done; is the run complete?")
    agreement = last[-1].get("neighbors_agreement")
    evaluation = final_result(run) if run.records("evaluation") else {}
    return evaluation if agreement is None else {**evaluation, "neighbors_agreement": agreement}


def _train(run: RunFolder, *, skip_damaged: bool) -> RunFolder:
    with run.training():
        return _train_owned(run, skip_damaged=skip_damaged)


def _train_owned(run: RunFolder, *, skip_damaged: bool) -> RunFolder:
    settings = run.settings()
    checkpoint = run.last_checkpoint(skip_damaged=skip_damaged)
    stage = pretrain_settings(settings)
    if stage is not None and checkpoint is None:
        logger.info("%s: the stage before the training", run.path)
        before = train_or_resume(stage, run.path / "pretrain")
        settings = settings.model_copy(update={"init_from": before.path})
    trainer = build_trainer(settings, run)
    trainer.resume(checkpoint)
    trainer.fit()
    return run
