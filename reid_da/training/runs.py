"""Training runs from beginning to end: the stage before, the training, going on after an interruption."""

import logging
from pathlib import Path

from reid_da.config import ExperimentSettings, pretrain_settings
from reid_da.errors import InputError
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

    Raises:
        InputError: the folder holds a run with other settings.
    """
    if not (folder / "config.yaml").exists():
        return train(settings, folder)
    if RunFolder.open(folder).settings() != settings:
        raise InputError(f"{folder}: holds a run with other settings; name another folder, or remove it")
    return resume(folder)


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
