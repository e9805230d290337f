"""Training of camera styles, from settings to a generator."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from reid_da.camstyle import CameraViews, TransferViews
from reid_da.camstyle.generator import GeneratorTransfer
from reid_da.config import StyleSettings, load_style_settings
from reid_da.datasets import Dataset, SampleTable, load_dataset
from reid_da.errors import InputError
from reid_da.images import (
    AugmentationSettings,
    Batch,
    ImageSource,
    Loader,
    ShuffledSampler,
    TrainTransform,
    open_images,
    usable_rows,
)
from reid_da.images.augment import IMAGENET_MEAN, IMAGENET_STD
from reid_da.training.device import choose_device
from reid_da.training.loop import Trainer
from reid_da.training.methods.stargan import StarGANTraining, StarNetworks
from reid_da.training.run_folder import RunFolder
from reid_da.training.seeds import derived_seed

CROP_AREA = 1 / 1.125**2
"""Share of the area that a random crop keeps: published as resizing to 288x144 and cropping 256x128."""
NUM_SAMPLES = 6
"""Images in a picture of samples."""

logger = logging.getLogger(__name__)


class DrawViews(Protocol):
    """Draws some images in the styles of all cameras; see :func:`reid_da.reporting.style_pictures.draw_views`."""

    def __call__(
        self, views: CameraViews, table: SampleTable, rows: Sequence[int], path: Path, *, camera_names: Sequence[str]
    ) -> None:
        """Write the picture."""
        ...


def train_styles(settings: StyleSettings, folder: Path, *, draw: DrawViews | None = None) -> RunFolder:
    """Train camera styles in a new run folder.

    Args:
        settings: of the training.
        folder: the run folder, which must not hold a run.
        draw: draws samples, into the folder ``samples`` of the run; None for no pictures.

    Raises:
        InputError: settings or data do not fit, or a loss is not finite.
    """
    run = RunFolder.create(folder, settings)
    try:
        _trainer(settings, run, draw).fit()
    except InputError:
        run.discard_if_unused()
        raise
    return run


def resume_styles(folder: Path, *, skip_damaged: bool = False, draw: DrawViews | None = None) -> RunFolder:
    """Go on with a training of camera styles where it was stopped.

    Args:
        folder: the run folder.
        draw: draws samples; None for no pictures.
        skip_damaged: pass over damaged checkpoints, to the newest one that is whole.

    Raises:
        InputError: there is no such run, its checkpoint is damaged, or the data are not those that it was made with.
    """
    run = RunFolder.open(folder)
    trainer = _trainer(load_style_settings(run.config_file), run, draw)
    trainer.resume(run.last_checkpoint(skip_damaged=skip_damaged))
    trainer.fit()
    return run


def load_generator(folder: Path, *, device: str = "auto") -> tuple[GeneratorTransfer, StyleSettings, int]:
    """The generator of a run's last checkpoint, its settings, and the number of its cameras.

    Raises:
        InputError: the folder holds no training of camera styles, or none that has got anywhere.
    """
    run = RunFolder.open(folder)
    settings = load_style_settings(run.config_file)
    checkpoint = run.last_checkpoint()
    if checkpoint is None:
        raise InputError(f"{folder}: the run has no checkpoint yet")
    num_cameras = len(checkpoint.weights["critic.camera.weight"])
    networks = StarNetworks(settings, num_cameras=num_cameras)
    networks.load_state_dict(dict(checkpoint.weights))
    transfer = GeneratorTransfer(networks.best_generator.to(choose_device(device)))
    return transfer, settings, num_cameras


class StyleStreams:
    """Batches of a training set's images with values from -1 to 1, the same for the same seed and epoch.

    Args:
        settings: of the training.
        source: the images.
        fingerprint: of their table.
        device: where the batches go.

    Raises:
        InputError: a batch is larger than the data set.
    """

    def __init__(self, settings: StyleSettings, source: ImageSource, *, fingerprint: str, device: torch.device) -> None:
        self._settings = settings
        self._source = source
        self._rows = usable_rows(source)
        self._device = device
        self.fingerprints: Mapping[str, str] = {"training": fingerprint}
        if len(self._rows) < settings.batch:
            raise InputError(f"batch is {settings.batch}, but there are {len(self._rows)} images; lower it")
        self.steps_per_epoch = len(self._rows) // settings.batch

    def epoch(self, epoch: int) -> Iterator[dict[str, Batch]]:
        """The batches of one epoch under the name ``images``, prepared ahead by threads."""
        settings = self._settings
        augmentation = AugmentationSettings(
            crop="rect", crop_scale=(CROP_AREA, CROP_AREA), crop_aspect=(2.0, 2.0), flip=settings.flip, erase=0.0
        )
        seeds = {name: derived_seed(settings.seed, name, epoch) for name in ("style order", "style pixels")}
        sampler = ShuffledSampler(self._rows, batch_size=settings.batch, seed=seeds["style order"])
        transform = TrainTransform(augmentation, size=settings.data.image_size, seed=seeds["style pixels"])
        batches = Loader(self._source, sampler, transform, device=self._device).batches()
        try:
            for batch in batches:
                yield {"images": replace(batch, images=_signed(batch.images))}
        finally:
            batches.close()


def _trainer(settings: StyleSettings, run: RunFolder, draw: DrawViews | None) -> Trainer:
    if settings.precision.threads:
        torch.set_num_threads(settings.precision.threads)
    device = torch.device(choose_device(settings.device))
    if settings.data.dataset is None:
        raise InputError("data.dataset is not set: give the folder of the data set, data.dataset=PATH")
    dataset = load_dataset(settings.data.dataset)
    if len(dataset.train.cameras) < 2:
        raise InputError(f"{dataset.root}: its training images are of one camera; styles need at least two")
    options = settings.data
    source = open_images(
        dataset.train,
        size=options.image_size,
        cache=options.cache,
        cache_dir=options.cache_dir,
        on_error=options.on_error,
    )
    torch.manual_seed(derived_seed(settings.seed, "weights"))
    networks = StarNetworks(settings, num_cameras=dataset.num_cameras).to(device)
    camids = torch.tensor(dataset.train.camids)
    optimizer = settings.optimizer
    groups = [
        {"name": name, "params": list(getattr(networks, name).parameters()), "lr": optimizer.lr}
        for name in ("critic", "generator")
    ]
    return Trainer(
        settings=settings,
        run=run,
        method=StarGANTraining(networks, settings=settings, camids=camids.to(device)),
        batches=StyleStreams(settings, source, fingerprint=dataset.train.fingerprint, device=device),
        optimizer=torch.optim.Adam(groups, betas=optimizer.betas, weight_decay=optimizer.weight_decay),
        device=device,
        evaluate=None if draw is None else _Samples(networks, dataset, source, run, draw),
    )


class _Samples:
    """Draws the same few images in the styles of all cameras, a picture for each call."""

    def __init__(
        self, networks: StarNetworks, dataset: Dataset, source: ImageSource, run: RunFolder, draw: DrawViews
    ) -> None:
        self._networks = networks
        self._dataset = dataset
        self._source = source
        self._run = run
        self._draw = draw

    def __call__(self) -> Mapping[str, float]:
        transfer, table = GeneratorTransfer(self._networks.best_generator), self._dataset.train
        num_cameras = self._dataset.num_cameras
        views = TransferViews(self._source, torch.tensor(table.camids), transfer, num_cameras=num_cameras)
        rows = usable_rows(self._source)
        chosen = rows[torch.linspace(0, len(rows) - 1, NUM_SAMPLES).long()].tolist()
        epoch = len(self._run.records("train"))
        path = self._run.path / "samples" / f"epoch_{epoch:04d}.png"
        path.parent.mkdir(exist_ok=True)
        self._draw(views, table, chosen, path, camera_names=self._dataset.camera_names)
        logger.info("samples: %s", path)
        return {}


def _signed(normalized: Tensor) -> Tensor:
    """(B, 3, H, W) images from -1 to 1 of images that were normalised with the statistics of ImageNet."""
    mean, std = (torch.tensor(values, device=normalized.device) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return normalized * (2 * std)[:, None, None] + (2 * mean - 1)[:, None, None]
