"""Trained camera styles, ready to make views."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reid_da.config import Family
from reid_da.device import choose_device
from reid_da.errors import InputError
from reid_da.styles.cycle_networks import CycleGenerator
from reid_da.styles.cyclegan import CycleGANSettings, GeneratorPair
from reid_da.styles.generator import GeneratorTransfer, PairTransfer
from reid_da.styles.settings import StyleSettings
from reid_da.styles.stargan import StarGANSettings, StarNetworks
from reid_da.training.checkpoint import Checkpoint
from reid_da.training.run_folder import RunFolder

STYLES: Family[StyleSettings] = Family(
    kinds={"cyclegan": CycleGANSettings, "stargan": StarGANSettings},
    default="stargan",
    command="reid-da camstyle settings",
    example="optimizer.lr=0.0001",
)
"""The settings of trainings of camera styles."""

logger = logging.getLogger(__name__)


def load_style_settings(file: str | Path | None, overrides: Sequence[str] = ()) -> StyleSettings:
    """Settings of a training of camera styles; see :meth:`reid_da.config.Family.load`."""
    return STYLES.load(file, overrides)


def settings_of_run(run: RunFolder) -> StyleSettings:
    """Settings that a training of camera styles was started with.

    Raises:
        InputError: they do not fit, or are those of another kind of training.
    """
    try:
        return load_style_settings(run.config_file)
    except InputError as error:
        try:
            run.settings()
        except InputError:
            raise error from None
        raise InputError(f"{run.path}: is a run of reid-da train, not of reid-da camstyle train") from error


@dataclass(frozen=True, kw_only=True)
class TrainedStyles:
    """The result of training camera styles.

    Attributes:
        folder: the run folder.
        settings: of the training.
        transfer: gives the styles.
        num_cameras: number of cameras of the data set that they were trained on.
        fingerprint: of its training images; None if it was not noted.
    """

    folder: Path
    settings: StyleSettings
    transfer: GeneratorTransfer | PairTransfer
    num_cameras: int
    fingerprint: str | None


def load_generator(folder: Path, *, device: str = "auto") -> TrainedStyles:
    """The styles of a run's last checkpoint.

    Of CycleGANs, all generators of the run are loaded, 46 MB each of the published size; those of pairs that have no
    checkpoint yet are missing.

    Raises:
        InputError: the folder holds no training of camera styles, or none that has got anywhere, or its settings were
            changed so that the weights do not fit any more.
    """
    run = RunFolder.open(folder)
    settings = settings_of_run(run)
    parts = [run]
    if isinstance(settings, CycleGANSettings) and settings.pair is None:
        parts = [RunFolder.open(path) for path in run.runs_inside]
    checkpoints = [checkpoint for part in parts if (checkpoint := part.last_checkpoint()) is not None]
    if not checkpoints:
        raise InputError(f"{folder}: the run has no checkpoint yet")
    trained_for = min(int(checkpoint.description["epoch"]) for checkpoint in checkpoints)
    if trained_for < settings.epochs:
        logger.warning(
            "%s: unfinished, trained for %d of %d epochs; to finish it: reid-da camstyle train --resume %s",
            folder,
            trained_for,
            settings.epochs,
            folder,
        )
    device = choose_device(device)
    # of the paths; the cameras, which are behind the dash, are compared by their number
    noted: str | None = checkpoints[0].description.get("fingerprints", {}).get("training")
    try:
        transfer, num_cameras = _load_transfer(settings, checkpoints, device)
    except (KeyError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "state_dict" not in str(error):
            raise  # the memory is full, a device fails
        raise InputError(
            f"{folder}: its checkpoints do not fit its config.yaml: they are of another kind of run, or the settings of"
            " the networks were changed; undo the change"
        ) from error
    return TrainedStyles(
        folder=folder,
        settings=settings,
        transfer=transfer,
        num_cameras=num_cameras,
        fingerprint=noted and noted.partition("-")[0],
    )


def _load_transfer(
    settings: StyleSettings, checkpoints: Sequence[Checkpoint], device: str
) -> tuple[GeneratorTransfer | PairTransfer, int]:
    """Styles by the weights of checkpoints, and the number of cameras that they were trained on."""
    if isinstance(settings, CycleGANSettings):
        return _load_pairs(settings, checkpoints, device), int(checkpoints[0].state["method"]["num_cameras"])
    assert isinstance(settings, StarGANSettings)
    num_cameras = len(checkpoints[0].weights["critic.camera.weight"])
    networks = StarNetworks(settings, num_cameras=num_cameras)
    networks.load_state_dict(dict(checkpoints[0].weights))
    return GeneratorTransfer(networks.best_generator.to(device)), num_cameras


def _load_pairs(settings: CycleGANSettings, checkpoints: Sequence[Checkpoint], device: str) -> PairTransfer:
    """Styles by the generators of all checkpoints, by their running means if there are any."""
    prefix = "average." if settings.average else "generator."
    ways: dict[tuple[int, int], CycleGenerator] = {}
    for checkpoint in checkpoints:
        weights = {name: value for name, value in checkpoint.weights.items() if name.startswith(prefix)}
        generators = GeneratorPair(settings)
        generators.load_state_dict({name.removeprefix(prefix): value for name, value in weights.items()})
        first, second = checkpoint.state["method"]["camids"]
        ways |= ways_of(generators.to(device), first, second)
    return PairTransfer(ways)


def ways_of(generators: GeneratorPair, first: int, second: int) -> dict[tuple[int, int], CycleGenerator]:
    """The generators by the camids from which and to which they lead."""
    return {(first, second): generators.to_second, (second, first): generators.to_first}
