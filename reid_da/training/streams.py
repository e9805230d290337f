"""The batches of an epoch: source images, and target images in one random camera style each."""

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, replace

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
        self._memory_format = torch.channels_last if settings.precision.channels_last else torch.contiguous_format
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
                yield {name: self._batch(name, next(stream)) for name, stream in streams.items()}
        finally:
            for stream in streams.values():
                stream.close()

    def _stream(self, name: str, epoch: int) -> Stream[Batch]:
        images = self._images[name]
        source: ImageSource = StyledImages(images=images) if images.num_cameras else images.source
        sampler = self._source_sampler(epoch) if name == "source" else self._target_sampler(images, epoch)
        transform = TrainTransform(
            AugmentationSettings(**self._settings.augment.model_dump()),
            size=self._settings.data.image_size,
            seed=self._seed(f"{name} pixels", epoch),
        )
        return Stream(Loader(source, sampler, transform, device=self._device))

    def _batch(self, name: str, batch: Batch) -> Batch:
        """The batch in the network's memory format, with rows of the table as index, not of :class:`StyledImages`."""
        num_cameras = self._images[name].num_cameras
        index = batch.index // num_cameras if num_cameras else batch.index
        # a convolution follows the format of its input, whatever that of its weights
        return replace(batch, index=index, images=batch.images.contiguous(memory_format=self._memory_format))

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

    def _target_sampler(self, images: TrainingImages, epoch: int) -> Sampler:
        size, seed = self._settings.batch.target, self._seed("target order", epoch)
        if images.num_cameras:
            return StyledSampler(
                images, batch_size=size, order_seed=seed, style_seed=self._seed("target styles", epoch)
            )
        return ShuffledSampler(usable_rows(images.source), batch_size=size, seed=seed)

    def _seed(self, purpose: str, epoch: int) -> int:
        return derived_seed(self._settings.seed, purpose, epoch)


class StyledSampler(ShuffledSampler):
    """Images in random order, each in the style of a random camera: row ``index * num_cameras + camera``.

    Args:
        images: with the styles of several cameras.
        batch_size: number of images in a batch.
        order_seed: of the order of the images.
        style_seed: of the styles.
    """

    def __init__(self, images: TrainingImages, *, batch_size: int, order_seed: int, style_seed: int) -> None:
        super().__init__(usable_rows(images.source), batch_size=batch_size, seed=order_seed)
        self._num_cameras = images.num_cameras
        self._camids = torch.tensor(images.table.camids)
        self._styles = torch.Generator().manual_seed(style_seed)

    def batches(self) -> Generator[Tensor, None, None]:
        """Yield what is left of the current epoch: (B,) int64 rows of :class:`StyledImages`."""
        for index in super().batches():
            cameras = sample_views(self._camids[index], num_cameras=self._num_cameras, generator=self._styles)
            yield index * self._num_cameras + cameras


@dataclass(frozen=True, kw_only=True)
class StyledImages:
    """Every image in every style as a row of its own, so that threads need no random numbers.

    Attributes:
        images: with the styles of several cameras.
    """

    images: TrainingImages

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.images.source.size

    @property
    def failed(self) -> tuple[FailedImage, ...]:
        """Images known to be undecodable: none, the sampler leaves them out."""
        return ()

    def __len__(self) -> int:
        return len(self.images.source) * self.images.num_cameras

    def gather(self, index: Tensor, views: Tensor | None = None) -> Tensor:
        """(B, 3, H, W) uint8 images for rows ``image * num_cameras + camera``."""
        assert views is None
        num_cameras = self.images.num_cameras
        return self.images.source.gather(index // num_cameras, index % num_cameras)
