"""The images that camera styles are learned on, and their batches."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from reid_da.config import StyleSettings
from reid_da.datasets import Dataset, load_dataset
from reid_da.errors import InputError
from reid_da.images import (
    AugmentationSettings,
    Batch,
    ImageSource,
    Loader,
    ShuffledSampler,
    Stream,
    TrainTransform,
    open_images,
    usable_rows,
)
from reid_da.images.augment import IMAGENET_MEAN, IMAGENET_STD
from reid_da.training.seeds import derived_seed


@dataclass(frozen=True, kw_only=True)
class StyleImages:
    """Training images whose styles are learned.

    Attributes:
        dataset: what they are.
        source: their pixels.
    """

    dataset: Dataset
    source: ImageSource

    @classmethod
    def open(cls, settings: StyleSettings) -> "StyleImages":
        """The images of the data set that the settings name.

        Raises:
            InputError: they name none, it cannot be read, or its images are of one camera.
        """
        options = settings.data
        if options.dataset is None:
            raise InputError("data.dataset is not set: give the folder of the data set, data.dataset=PATH")
        dataset = load_dataset(options.dataset)
        if len(dataset.train.cameras) < 2:
            raise InputError(f"{dataset.root}: its training images are of one camera; styles need at least two")
        source = open_images(
            dataset.train,
            size=options.image_size,
            cache=options.cache,
            cache_dir=options.cache_dir,
            on_error=options.on_error,
        )
        return cls(dataset=dataset, source=source)

    @property
    def camids(self) -> Tensor:
        """(N,) int64 camera of each image."""
        return torch.tensor(self.dataset.train.camids)

    def rows(self, camid: int | None = None) -> Tensor:
        """(M,) int64 rows of the images that are not known to be undecodable, of one camera or of all."""
        rows = usable_rows(self.source)
        return rows if camid is None else rows[self.camids[rows] == camid]


class StyleStreams:
    """Batches with values from -1 to 1, the same for the same seed and epoch.

    An epoch is one pass over the images of the longest stream. The others are in random orders that have nothing to do
    with its own, and begin a new one whenever their images are used up.

    Args:
        settings: of the training.
        images: where they come from.
        rows: (M,) int64 rows of the images of each stream, by its name.
        crop_area: share of the area that a random crop keeps.
        device: where the batches go.

    Raises:
        InputError: a batch is larger than a stream.
    """

    def __init__(
        self,
        settings: StyleSettings,
        images: StyleImages,
        rows: Mapping[str, Tensor],
        *,
        crop_area: float,
        device: torch.device,
    ) -> None:
        self._settings = settings
        self._source = images.source
        self._rows = rows
        self._crop_area = crop_area
        self._device = device
        self.fingerprints: Mapping[str, str] = {"training": images.dataset.train.fingerprint}
        counts = [len(stream) for stream in rows.values()]
        if min(counts) < settings.batch:
            raise InputError(f"batch is {settings.batch}, but there are {min(counts)} images; lower it")
        self.steps_per_epoch = max(counts) // settings.batch

    def epoch(self, epoch: int) -> Iterator[dict[str, Batch]]:
        """The batches of one epoch by the name of their stream, prepared ahead by threads."""
        streams = {name: Stream(self._loader(name, epoch)) for name in self._rows}
        try:
            for _ in range(self.steps_per_epoch):
                yield {name: self._signed(next(stream)) for name, stream in streams.items()}
        finally:
            for stream in streams.values():
                stream.close()

    def _loader(self, name: str, epoch: int) -> Loader:
        settings = self._settings
        augmentation = AugmentationSettings(
            crop="rect",
            crop_scale=(self._crop_area, self._crop_area),
            crop_aspect=(2.0, 2.0),
            flip=settings.flip,
            erase=0.0,
        )
        order, pixels = (derived_seed(settings.seed, f"style {name} {what}", epoch) for what in ("order", "pixels"))
        sampler = ShuffledSampler(self._rows[name], batch_size=settings.batch, seed=order)
        transform = TrainTransform(augmentation, size=settings.data.image_size, seed=pixels)
        return Loader(self._source, sampler, transform, device=self._device)

    def _signed(self, batch: Batch) -> Batch:
        """The batch with values from -1 to 1, not normalised with the statistics of ImageNet."""
        mean, std = (torch.tensor(values, device=batch.images.device) for values in (IMAGENET_MEAN, IMAGENET_STD))
        images = batch.images * (2 * std)[:, None, None] + (2 * mean - 1)[:, None, None]
        return replace(batch, images=images)
