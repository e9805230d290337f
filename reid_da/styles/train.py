"""Training of camera styles, from settings to generators.

A StarGAN is one run. CycleGANs are a run for each pair of cameras, in folders of the run that they are the parts of.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path

import torch

from reid_da.device import choose_device
from reid_da.errors import InputError, first_few
from reid_da.methods.protocol import Method, RunContext
from reid_da.styles.cyclegan import CycleGAN, CycleGANSettings
from reid_da.styles.generator import GeneratorTransfer, PairTransfer
from reid_da.styles.samples import DrawViews, StyleSamples
from reid_da.styles.settings import StyleSettings
from reid_da.styles.stargan import StarGAN, StarGANSettings
from reid_da.styles.trained import settings_of_run, ways_of
from reid_da.styles.training_images import StyleImages
from reid_da.training.loop import Trainer
from reid_da.training.run_folder import RunFolder

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
    context = RunContext(run_seed=settings.seed, device=torch.device(choose_device(settings.device)))
    torch.manual_seed(context.seed("weights"))
    method: Method
    cameras: Sequence[int]
    transfer: Callable[[], GeneratorTransfer | PairTransfer]
    if isinstance(settings, CycleGANSettings):
        (pair,) = _pairs(settings, images)
        method = pairs = CycleGAN(settings.model_copy(update={"pair": pair}), context, images)
        groups, cameras = [images.rows(camid) for camid in pairs.camids], pairs.camids
        transfer = lambda: PairTransfer(ways_of(pairs.networks.best_generator, *pairs.camids))  # noqa: E731
    else:
        assert isinstance(settings, StarGANSettings)
        method = star = StarGAN(settings, context, images)
        cameras = images.dataset.train.cameras.tolist()
        groups = [images.rows(camid) for camid in cameras]
        transfer = lambda: GeneratorTransfer(star.networks.best_generator)  # noqa: E731
    samples = None
    if draw is not None:
        samples = StyleSamples(images=images, groups=groups, cameras=cameras, transfer=transfer, run=run, draw=draw)
    return Trainer(
        settings=settings,
        run=run,
        method=method,
        device=context.device,
        image_size=settings.data.image_size,
        fingerprints={"training": images.dataset.train.content_fingerprint(labels=False)},
        evaluate=samples,
        title=title,
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
