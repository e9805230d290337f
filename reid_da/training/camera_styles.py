"""Training of camera styles, from settings to generators.

A StarGAN is one run. CycleGANs are a run for each pair of cameras, in folders of the run that they are the parts of.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path

import torch
from torch import Tensor

from reid_da.camstyle import ColourTransfer
from reid_da.camstyle.cyclegan import CycleGenerator
from reid_da.camstyle.generator import GeneratorTransfer, PairTransfer
from reid_da.config import CycleGANSettings, StarGANSettings, StyleSettings, load_style_settings
from reid_da.errors import InputError, first_few
from reid_da.training.checkpoint import Checkpoint
from reid_da.training.device import choose_device
from reid_da.training.loop import Method, Trainer
from reid_da.training.methods.cyclegan import CycleGANTraining, CycleNetworks, GeneratorPair
from reid_da.training.methods.stargan import StarGANTraining, StarNetworks
from reid_da.training.optimizer import optimizer_of
from reid_da.training.run_folder import RunFolder
from reid_da.training.seeds import derived_seed
from reid_da.training.style_samples import DrawViews, StyleSamples
from reid_da.training.style_streams import StyleImages, StyleStreams

STARGAN_CROP_AREA = 1 / 1.125**2
"""Share of the area that a random crop keeps: published as resizing to 288x144 and cropping 256x128."""
CYCLEGAN_CROP_AREA = (256 / 286) ** 2
"""The same, published as resizing to 286x286 and cropping 256x256."""

logger = logging.getLogger(__name__)


def train_styles(settings: StyleSettings, folder: Path, *, draw: DrawViews | None = None) -> RunFolder:
    """Train camera styles in a new run folder.

    Args:
        settings: of the training.
        folder: the run folder, which must not hold a run.
        draw: draws samples, into the folder ``samples`` of a run; None for no pictures.

    Raises:
        InputError: settings or data do not fit, or a loss is not finite.
    """
    return _train_new(settings, folder, lambda run: _train(settings, run, draw, skip_damaged=False))


def resume_styles(folder: Path, *, skip_damaged: bool = False, draw: DrawViews | None = None) -> RunFolder:
    """Go on with a training of camera styles where it was stopped; what is complete stays as it is.

    Args:
        folder: the run folder.
        draw: draws samples; None for no pictures.
        skip_damaged: pass over damaged checkpoints, to the newest one that is whole.

    Raises:
        InputError: there is no such run, its checkpoint is damaged, or the data are not those that it was made with.
    """
    run = RunFolder.open(folder)
    _train(settings_of_run(run), run, draw, skip_damaged=skip_damaged)
    return run


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
    """What a training of camera styles has come to.

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
    device = choose_device(device)
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
        fingerprint=checkpoints[0].description.get("fingerprints", {}).get("training"),
    )


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """What one method of learning styles differs in from another.

    Attributes:
        method: of the training, with its networks.
        rows: (M,) int64 rows of the images of each of its streams.
        crop_area: share of the area that a random crop keeps.
        cameras: whose styles it learns, in increasing order.
        transfer: gives the styles as they are now.
    """

    method: Method
    rows: Mapping[str, Tensor]
    crop_area: float
    cameras: Sequence[int]
    transfer: Callable[[], ColourTransfer]


def _train_new(settings: StyleSettings, folder: Path, train: Callable[[RunFolder], None]) -> RunFolder:
    run = RunFolder.create(folder, settings)
    try:
        train(run)
    except Exception:
        run.discard_if_unused()
        raise
    return run


def _train(settings: StyleSettings, run: RunFolder, draw: DrawViews | None, *, skip_damaged: bool) -> None:
    if settings.precision.threads:
        torch.set_num_threads(settings.precision.threads)
    images = StyleImages.open(settings)
    if not isinstance(settings, CycleGANSettings) or settings.pair is not None:
        _train_run(settings, images, run, draw, skip_damaged=skip_damaged)
        return
    pairs = _pairs(settings, images)
    for number, pair in enumerate(pairs, start=1):
        part = settings.model_copy(update={"pair": pair, "pairs": None})
        folder = run.path / f"pair-{pair[0]}-{pair[1]}"
        title = f"cameras {pair[0]} and {pair[1]} (pair {number} of {len(pairs)})"
        train = partial(_train_run, part, images, draw=draw, skip_damaged=skip_damaged, title=title)
        if not (folder / "config.yaml").exists():
            _train_new(part, folder, train)
        elif _is_complete(RunFolder.open(folder), part, skip_damaged=skip_damaged):
            logger.info("%s: complete", title)
        else:
            train(RunFolder.open(folder))


def _is_complete(run: RunFolder, settings: StyleSettings, *, skip_damaged: bool) -> bool:
    """Whether a run has the checkpoint of its last epoch, whole: its name alone does not tell.

    Raises:
        InputError: it is damaged, and not to be skipped.
    """
    checkpoint = run.last_checkpoint(skip_damaged=skip_damaged)
    return checkpoint is not None and int(checkpoint.description["epoch"]) >= settings.epochs


def _train_run(
    settings: StyleSettings,
    images: StyleImages,
    run: RunFolder,
    draw: DrawViews | None,
    *,
    skip_damaged: bool,
    title: str = "",
) -> None:
    """Train what one run folder holds, from its last checkpoint on."""
    trainer = _trainer(settings, images, run, draw, title=title)
    trainer.resume(run.last_checkpoint(skip_damaged=skip_damaged))
    trainer.fit()


def _trainer(
    settings: StyleSettings, images: StyleImages, run: RunFolder, draw: DrawViews | None, *, title: str
) -> Trainer:
    device = torch.device(choose_device(settings.device))
    torch.manual_seed(derived_seed(settings.seed, "weights"))
    if isinstance(settings, CycleGANSettings):
        parts = _cyclegan(settings, images, device)
    else:
        assert isinstance(settings, StarGANSettings)
        parts = _stargan(settings, images, device)
    groups = [
        {"name": name, "params": list(network.parameters()), "lr": settings.optimizer.lr}
        for name, network in parts.method.network.named_children()
        if name != "average"
    ]
    samples = None
    if draw is not None:
        samples = StyleSamples(
            images=images,
            groups=list(parts.rows.values()),
            cameras=parts.cameras,
            transfer=parts.transfer,
            run=run,
            draw=draw,
        )
    batches = StyleStreams(settings, images, parts.rows, crop_area=parts.crop_area, device=device)
    if isinstance(settings, StarGANSettings):
        _check_steps(settings, batches.steps_per_epoch)
    return Trainer(
        settings=settings,
        run=run,
        method=parts.method,
        batches=batches,
        optimizer=optimizer_of(groups, settings.optimizer),
        device=device,
        evaluate=samples,
        title=title,
    )


def _check_steps(settings: StarGANSettings, steps_per_epoch: int) -> None:
    """Refuse a training that ends before the generator has made its first step, behind those of the critic."""
    total = settings.epochs * steps_per_epoch
    if total <= settings.critic_steps:
        raise InputError(
            f"epochs: {total} steps in all are steps of the critic, as critic_steps={settings.critic_steps} come before"
            " the first of the generator; raise epochs, or lower critic_steps or batch"
        )


def _stargan(settings: StarGANSettings, images: StyleImages, device: torch.device) -> _Parts:
    networks = StarNetworks(settings, num_cameras=images.dataset.num_cameras).to(device)
    return _Parts(
        method=StarGANTraining(networks, settings=settings, camids=images.camids.to(device)),
        rows={"images": images.rows()},
        crop_area=STARGAN_CROP_AREA,
        cameras=images.dataset.train.cameras.tolist(),
        transfer=lambda: GeneratorTransfer(networks.best_generator),
    )


def _cyclegan(settings: CycleGANSettings, images: StyleImages, device: torch.device) -> _Parts:
    ((first, second),) = _pairs(settings, images)
    camids = (first - 1, second - 1)
    networks = CycleNetworks(settings).to(device)
    num_cameras = images.dataset.num_cameras
    return _Parts(
        method=CycleGANTraining(networks, settings=settings, camids=camids, num_cameras=num_cameras),
        rows={"first": images.rows(camids[0]), "second": images.rows(camids[1])},
        crop_area=CYCLEGAN_CROP_AREA,
        cameras=camids,
        transfer=lambda: PairTransfer(_ways(networks.best_generator, *camids)),
    )


def _pairs(settings: CycleGANSettings, images: StyleImages) -> list[tuple[int, int]]:
    """The pairs of cameras to train, counted from 1, in increasing order.

    Raises:
        InputError: a pair is of one camera, or a camera has too few images.
    """
    counts = {camid + 1: len(images.rows(camid)) for camid in images.dataset.train.cameras.tolist()}
    wanted = settings.pairs if settings.pair is None else (settings.pair,)
    pairs = sorted({(min(pair), max(pair)) for pair in wanted or combinations(counts, 2)})
    for first, second in pairs:
        if first == second:
            raise InputError(f"pairs: {first} and {second} are one camera; a pair needs two")
        for camera in (first, second):
            if camera not in counts:
                raise InputError(
                    f"pairs: there are no training images of camera {camera}, only of {first_few(counts, len(counts))}"
                )
            if counts[camera] < settings.batch:
                raise InputError(
                    f"batch is {settings.batch}, but there are {counts[camera]} images of camera {camera}; lower it, "
                    "or leave the camera out (pairs)"
                )
    return pairs


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
        ways |= _ways(generators.to(device), first, second)
    return PairTransfer(ways)


def _ways(generators: GeneratorPair, first: int, second: int) -> dict[tuple[int, int], CycleGenerator]:
    """The generators by the camids from which and to which they lead."""
    return {(first, second): generators.to_second, (second, first): generators.to_first}
