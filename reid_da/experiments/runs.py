"""Training runs from beginning to end: pretraining, training, resuming after an interruption."""

import logging
from pathlib import Path
from typing import Any

from reid_da.atomic import write_text
from reid_da.config import ExperimentSettings, Overrides, differences, dump_settings
from reid_da.datasets.loading import split_path
from reid_da.errors import InputError, first_few
from reid_da.evaluation.camera_norms import FILE_NAME as NORMS_FILE
from reid_da.evaluation.camera_norms import save_norms
from reid_da.experiments.setup import build_trainer, check_possible, warn_if_slow
from reid_da.methods import EXPERIMENTS
from reid_da.processes import agreed, require_equal
from reid_da.training.run_folder import RunFolder, shown
from reid_da.training.trained import load_trained
from reid_da.training.versions import software_versions
from reid_da.world import ALONE, World

logger = logging.getLogger(__name__)


def train(settings: ExperimentSettings, folder: Path, *, stages_after: int = 0, world: World = ALONE) -> RunFolder:
    """Train in a new run folder.

    Args:
        settings: of the experiment; with a ``pretrain``, that stage comes first, in a folder of its own inside.
        folder: the run folder, which must not hold a run.
        stages_after: number of stages that will follow, for the log.
        world: the processes that train together, all of which call this.

    Raises:
        InputError: settings, data or folder do not fit, or a loss is not finite.
    """
    require_equal(world, {**_versions(), "the settings": settings.model_dump(mode="json")})
    run = RunFolder.create(folder, settings, world=world)
    try:
        return _train(run, skip_damaged=False, stages_after=stages_after)
    except BaseException:
        # whatever it was: a folder with nothing but settings would block the next try
        run.discard_if_unused()
        raise


def resume(folder: Path, overrides: Overrides = (), *, skip_damaged: bool = False, world: World = ALONE) -> RunFolder:
    """Resume a run; one that is complete stays as it is.

    Args:
        folder: the run folder.
        overrides: settings to change: those that do not decide the numbers of what is done, such as
            paths and device; the number of epochs; and, before the stage after pretraining has a checkpoint, those of
            that stage.
        skip_damaged: pass over damaged checkpoints, to the newest one that is intact.
        world: the processes that train together, whatever the number of those that have begun the run.

    Raises:
        InputError: there is no run, its checkpoint is damaged, the data are not those that it was made with, or a
            change of settings would invalidate what is done.
    """
    require_equal(world, _versions())
    run = agreed(world, lambda: RunFolder.open(folder, world=world))
    with run.training():
        if overrides:
            agreed(world, lambda: _change_settings(run, overrides) if world.is_main else None)
        agreed(world, lambda: _check_places(run))
        return _train(run, skip_damaged=skip_damaged)


def _check_places(run: RunFolder) -> None:
    """Say how to name the new place of a data set that was moved.

    Raises:
        InputError: one is not where the run has it.
    """
    data = run.settings().data
    for key, value in (("source", data.source), ("target", data.target), ("test", data.test)):
        for path in value if isinstance(value, tuple) else () if value is None else (value,):
            if not split_path(path)[0].exists():
                raise InputError(
                    f"{path}: no such file or folder; where data.{key} has moved to, say: reid-da train --resume "
                    f"{run.path} data.{key}=PATH"
                )


def _change_settings(run: RunFolder, overrides: Overrides) -> None:
    """Write changed settings into a run folder.

    Raises:
        InputError: they would invalidate what is done.
    """
    old = run.settings()
    new = EXPERIMENTS.load(old.tree, overrides)
    checkpoint = run.last_checkpoint(skip_damaged=True) if run.checkpoint_folder.exists() else None
    if checkpoint is not None:
        changed = differences(old.model_dump(mode="json"), new.model_dump(mode="json"), kind=type(new))
        refused = [key for key in changed if key != "epochs"]
        if old.method != new.method or refused:
            raise InputError(
                f"{run.path}: {first_few(refused or ['method'])} cannot be changed, epoch "
                f"{checkpoint.description['epoch']} is trained with the old value; start a new run, or leave it out"
            )
        if new.epochs < int(checkpoint.description["epoch"]):
            raise InputError(f"epochs: {run.path} is trained for {checkpoint.description['epoch']} epochs already")
    write_text(run.config_file, dump_settings(new))


def train_or_resume(
    settings: ExperimentSettings, folder: Path, *, stages_after: int = 0, world: World = ALONE
) -> RunFolder:
    """Train in a run folder, from the beginning or from where it was stopped.

    Settings that do not decide the numbers, such as the device, may differ from those that the run was begun with.

    Raises:
        InputError: the folder holds a run with other settings.
    """
    run = RunFolder(folder, world=world)
    if not world.tell(run.config_file.exists())[0]:
        return train(settings, folder, stages_after=stages_after, world=world)
    agreed(world, lambda: require_same(settings, folder))
    with run.training():
        if world.is_main and run.settings() != settings:
            write_text(run.config_file, dump_settings(settings))
        world.wait()
        return _train(run, skip_damaged=False, stages_after=stages_after)


def require_same(settings: ExperimentSettings, folder: Path) -> None:
    """Make sure that a training with these settings may resume, or begin, in a folder.

    Raises:
        InputError: the folder holds a run with other settings; names the first of them.
    """
    run = RunFolder(folder)
    if not run.config_file.exists():
        return
    noted = run.settings()
    old, new = noted.model_dump(mode="json"), settings.model_dump(mode="json")
    different: dict[str, tuple[Any, Any]] = differences(old, new, kind=type(settings))
    if noted.method != settings.method:
        # what only one of the methods has is no difference worth naming
        different = {key: values for key, values in different.items() if None not in values}
    if not _is_same_start(noted.init_from, settings.init_from, folder):
        different["init_from"] = (noted.init_from, settings.init_from)
    if different:
        texts = [f"{key} was {shown(old)} and is {shown(new)}" for key, (old, new) in different.items()]
        raise InputError(
            f"{folder}: holds a run with other settings ({first_few(texts)}); name another folder, or remove it"
        )


def _is_same_start(old: Path | None, new: Path | None, folder: Path) -> bool:
    """Whether two ``init_from`` are one, if only because a run was moved together with what lies beside it."""
    if old is None or new is None:
        return old is new
    is_beside = new.resolve().parent == folder.resolve().parent
    return old.resolve() == new.resolve() or (is_beside and old.name == new.name)


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
    """Figures after the last epoch: the evaluation, if there is any, and a label-free criterion.

    That criterion is ``neighbors_agreement``, where the method has a memory: the share of nearest slots that were among
    the nearest an epoch before.

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


def _train(run: RunFolder, *, skip_damaged: bool, stages_after: int = 0) -> RunFolder:
    world = run.world
    with run.training():
        settings = run.settings()
        checkpoint = agreed(world, lambda: run.last_checkpoint(skip_damaged=skip_damaged))
        if checkpoint is None or int(checkpoint.description["epoch"]) < settings.epochs:
            warn_if_slow(settings)
        stage = EXPERIMENTS.stage(settings)
        if stage is not None and checkpoint is None:
            # a mistake in the last stage must not be found after hours in the first
            check_possible(settings, world=world)
            number = _num_stages(stage)
            total = number + 1 + stages_after
            if number == 1:
                logger.info("stage 1 of %d: %s", total, _title(stage))
            before = train_or_resume(stage, run.path / "pretrain", stages_after=stages_after + 1, world=world)
            settings = settings.model_copy(update={"init_from": before.path})
            logger.info("stage %d of %d: %s", number + 1, total, _title(settings))
        trainer = build_trainer(settings, run, bare=checkpoint is not None, world=world)
        trainer.resume(checkpoint)
        trainer.fit()
        if settings.model.camera_norm and settings.data.target is not None and world.is_main:
            # so that single images can be normalised by camera, also where the training images are gone
            save_norms(run.path / NORMS_FILE, load_trained(run.path, device=settings.device).camera_norms())
        logger.info("%s: complete, %d of %d epochs", run.path, trainer.epoch, settings.epochs)
        # not before the first process has written the last figures
        world.wait()
    return run


def _versions() -> dict[str, str | None]:
    found = software_versions()
    return {f"the version of {name}": found[name] for name in ("reid_da", "git", "torch", "torchvision")}


def _num_stages(settings: ExperimentSettings) -> int:
    """Number of stages with which an experiment begins, itself the last of them."""
    stage = EXPERIMENTS.stage(settings)
    return 1 if stage is None else 1 + _num_stages(stage)


def _title(settings: ExperimentSettings) -> str:
    """What a stage does, for the log."""
    on = "the source" if settings.method in ("source", "camstyle") else "the target"
    return f"training on {on}, method {settings.method}, {settings.epochs} epochs"
