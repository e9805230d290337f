"""The batches of an epoch: source images, and target images in one random camera style each."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from reid_da.camstyle.views import sample_views
from reid_da.config import ExperimentSettings
from reid_da.datasets import SampleTable
from reid_da.errors import InputError
from reid_da.images import (
    AugmentationSettings,
    Batch,
    FailedImage,
    IdentitySampler,
    ImageSource,
    Loader,
    Sampler,
    ShuffledSampler,
    Stream,
    TrainTransform,
    usable_rows,
)
from reid_da.training.seeds import derived_seed


@dataclass(frozen=True, kw_only=True)
class TrainingImages:
    """Training images of one domain.

    Attributes:
        table: their names, identities and cameras.
        source: their pixels, or their views in the style of every camera.
        num_cameras: number of camera styles that ``source`` has; 0: the images as they are.
    """

    table: SampleTable
    source: ImageSource
    num_cameras: int = 0


class TrainingStreams:
    """Batches for the training loop, the same for the same seed and epoch whatever came before.

    An epoch is one pass over the source images, as in ECN; the target's images begin a new random order whenever they
    are used up, and with each epoch.

    Args:
        settings: of the experiment.
        source: labelled images.
        target: unlabelled images, or None to train on the source alone.
        device: where the batches go; they are augmented there.

    Raises:
        InputError: a batch is larger than its data set.
    """

    def __init__(
        self,
        settings: ExperimentSettings,
        *,
        source: TrainingImages,
        target: TrainingImages | None,
        device: torch.device,
    ) -> None:
        self._settings = settings
        self._images = {"source": source} if target is None else {"source": source, "target": target}
        self._device = device
        for name, images in self._images.items():
            size, number = getattr(settings.batch, name), len(usable_rows(images.source))
            if number < size:
                raise InputError(f"batch.{name} is {size}, but there are {number} {name} images; lower it")
        self.steps_per_epoch = settings.steps_per_epoch or len(self._source_sampler(0))

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """Fingerprint of each training table by the name of its stream."""
        return {name: images.table.fingerprint for name, images in self._images.items()}

    def epoch(self, epoch: int) -> Iterator[dict[str, Batch]]:
        """The batches of one epoch by the name of their stream, prepared ahead by threads.

        Args:
            epoch: from 0.
        """
        streams = {name: self._stream(name, epoch) for name in self._images}
        try:
            for _ in range(self.steps_per_epoch):
                yield {name: next(stream) for name, stream in streams.items()}
        finally:
            for stream in streams.values():
                stream.close()

    def _stream(self, name: str, epoch: int) -> Stream[Batch]:
        images = self._images[name]
        source, sampler = images.source, self._source_sampler(epoch)
        if name == "target":
            sampler = ShuffledSampler(
                usable_rows(source), batch_size=self._settings.batch.target, seed=self._seed("target order", epoch)
            )
        if images.num_cameras:
            source = RandomViews(images, seed=self._seed("styles", epoch))
        transform = TrainTransform(
            AugmentationSettings(**self._settings.augment.model_dump()),
            size=self._settings.data.image_size,
            seed=self._seed(f"{name} pixels", epoch),
        )
        return Stream(Loader(source, sampler, transform, device=self._device))

    def _source_sampler(self, epoch: int) -> Sampler:
        batch, seed = self._settings.batch, self._seed("source order", epoch)
        images = self._images["source"]
        rows = usable_rows(images.source)
        if batch.instances == 1:
            return ShuffledSampler(rows, batch_size=batch.source, seed=seed)
        if batch.source % batch.instances:
            raise InputError(
                f"batch.source is {batch.source}, which is no multiple of batch.instances, {batch.instances}"
            )
        return IdentitySampler(
            rows,
            torch.from_numpy(images.table.labels())[rows],
            num_identities=batch.source // batch.instances,
            num_images=batch.instances,
            seed=seed,
        )

    def _seed(self, purpose: str, epoch: int) -> int:
        return derived_seed(self._settings.seed, purpose, epoch)


class RandomViews:
    """Images each in the style of a random camera, drawn anew at every visit.

    Args:
        images: with the styles of several cameras.
        seed: of the draws.
    """

    def __init__(self, images: TrainingImages, *, seed: int) -> None:
        self._images = images
        self._camids = torch.from_numpy(images.table.camids.copy())
        self._generator = torch.Generator().manual_seed(seed)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self._images.source.size

    @property
    def failed(self) -> tuple[FailedImage, ...]:
        """Images known to be undecodable."""
        return self._images.source.failed

    def __len__(self) -> int:
        return len(self._images.source)

    def gather(self, index: Tensor, views: Tensor | None = None) -> Tensor:
        """(B, 3, H, W) uint8 images, in the given views or in random ones."""
        if views is None:
            views = sample_views(self._camids[index], num_cameras=self._images.num_cameras, generator=self._generator)
        return self._images.source.gather(index, views)
