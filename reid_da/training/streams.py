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
        with_own: whether the style of its own camera, the image as it is, may be drawn for an image.
    """

    table: SampleTable
    source: ImageSource
    num_cameras: int = 0
    with_own: bool = True


class TrainingStreams:
    """Batches for the training loop, the same for the same seed and epoch whatever came before.

    An epoch is one pass over the source images, as in ECN; other images begin a new random order whenever they are used
    up, and with each epoch.

    Args:
        settings: of the experiment.
        images: labelled ones as ``source``, unlabelled ones as ``target``, restyled source images as ``restyled``;
            each as the method wants it.
        device: where the batches go; they are augmented there.

    Raises:
        InputError: a batch is larger than its data set or of one image, or a range of the augmentation is none.
    """

    def __init__(
        self, settings: ExperimentSettings, *, images: Mapping[str, TrainingImages], device: torch.device
    ) -> None:
        self._settings = settings
        self._images = images
        self._device = device
        self._augmentation = _augmentation(settings)
        self._memory_format = torch.channels_last if settings.precision.channels_last else torch.contiguous_format
        for name, entry in images.items():
            size, number = getattr(settings.batch, name), len(usable_rows(entry.source))
            if number < size:
                raise InputError(f"batch.{name} is {size}, but there are {number} {name} images; lower it")
            per_image = settings.views.per_image if name == "target" and entry.num_cameras else 1
            if size * per_image < 2:
                raise InputError(f"batch.{name} is 1, and batch normalisation takes at least 2 images; raise it")
        self.steps_per_epoch = settings.steps_per_epoch or len(self._source_sampler(0))

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """Fingerprint of each training table by the name of its stream."""
        return {name: images.table.fingerprint for name, images in self._images.items()}

    def epoch(self, epoch: int) -> Iterator[dict[str, Batch]]:
        """The batches of one epoch by the name of their stream, prepared ahead by threads.

        Args:
            epoch: from 0.

        Raises:
            InputError: an image has fewer views than are wanted of it.
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
        sampler = self._source_sampler(epoch) if name == "source" else self._other_sampler(name, epoch)
        transform = TrainTransform(
            self._augmentation, size=self._settings.data.image_size, seed=self._seed(f"{name} pixels", epoch)
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

    def _other_sampler(self, name: str, epoch: int) -> Sampler:
        images, size = self._images[name], getattr(self._settings.batch, name)
        seed = self._seed(f"{name} order", epoch)
        if not images.num_cameras:
            return ShuffledSampler(usable_rows(images.source), batch_size=size, seed=seed)
        return StyledSampler(
            images,
            batch_size=size,
            order_seed=seed,
            style_seed=self._seed(f"{name} styles", epoch),
            per_image=self._settings.views.per_image if name == "target" else 1,
        )

    def _seed(self, purpose: str, epoch: int) -> int:
        return derived_seed(self._settings.seed, purpose, epoch)


def _augmentation(settings: ExperimentSettings) -> AugmentationSettings:
    try:
        return AugmentationSettings(**settings.augment.model_dump())
    except InputError as error:
        raise InputError(f"augment.{error}") from error


class StyledSampler(ShuffledSampler):
    """Images in random order, each in the styles of random cameras: rows ``index * num_cameras + camera``.

    Args:
        images: with the styles of several cameras.
        batch_size: number of images in a batch.
        order_seed: of the order of the images.
        style_seed: of the styles.
        per_image: number of styles of each image in a batch.
    """

    def __init__(
        self, images: TrainingImages, *, batch_size: int, order_seed: int, style_seed: int, per_image: int = 1
    ) -> None:
        super().__init__(usable_rows(images.source), batch_size=batch_size, seed=order_seed)
        self._images = images
        self._per_image = per_image
        self._camids = torch.tensor(images.table.camids)
        self._styles = torch.Generator().manual_seed(style_seed)

    def batches(self) -> Generator[Tensor, None, None]:
        """Yield what is left of the current epoch: (B * per_image,) int64 rows of :class:`StyledImages`."""
        images = self._images
        for index in super().batches():
            cameras = sample_views(
                self._camids[index],
                num_cameras=images.num_cameras,
                generator=self._styles,
                per_image=self._per_image,
                with_own=images.with_own,
            )
            yield index.repeat_interleave(self._per_image) * images.num_cameras + cameras


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
