"""The images that camera styles are learned on, and what an epoch takes of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from reid_da.config import AugmentSettings
from reid_da.datasets import Dataset, load_dataset
from reid_da.errors import InputError
from reid_da.images import ImageSource, ShuffledSampler, open_images, usable_rows
from reid_da.images.augment import IMAGENET_MEAN, IMAGENET_STD
from reid_da.methods.protocol import Domain, EpochPlan, StreamPlan
from reid_da.styles.settings import StyleSettings


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

    @cached_property
    def domain(self) -> Domain:
        """The images as a domain."""
        dataset = self.dataset
        return Domain(name="training", table=dataset.train, images=self.source, num_cameras=dataset.num_cameras)

    @property
    def camids(self) -> Tensor:
        """(N,) int64 camera of each image."""
        return torch.tensor(self.dataset.train.camids)

    def rows(self, camid: int | None = None) -> Tensor:
        """(M,) int64 rows of the images that are not known to be undecodable, of one camera or of all."""
        rows = usable_rows(self.source)
        return rows if camid is None else rows[self.camids[rows] == camid]


def style_plan(
    settings: StyleSettings, images: StyleImages, rows: Mapping[str, Tensor], *, crop_area: float
) -> EpochPlan:
    """An epoch with values from -1 to 1: one pass over the images of the longest stream.

    The streams are in random orders that have nothing to do with each other; a shorter one begins a new order whenever
    its images are used up. The labels are the cameras.

    Args:
        settings: of the training.
        images: where they come from.
        rows: (M,) int64 rows of the images of each stream, by its name.
        crop_area: share of the area that a random crop keeps.

    Raises:
        InputError: a batch is larger than a stream.
    """
    counts = [len(stream) for stream in rows.values()]
    if min(counts) < settings.batch:
        raise InputError(f"batch is {settings.batch}, but there are {min(counts)} images; lower it")
    height, width = settings.data.image_size
    aspect = height / width
    augment = AugmentSettings(
        crop="rect", crop_scale=(crop_area, crop_area), crop_aspect=(aspect, aspect), flip=settings.flip, erase=0.0
    )
    streams = {
        name: StreamPlan(
            domain=images.domain,
            sampler=ShuffledSampler(settings.batch),
            augment=augment,
            rows=chosen,
            labels=images.camids,
            finish=_signed,
            purpose=f"style {name}",
        )
        for name, chosen in rows.items()
    }
    return EpochPlan(streams=streams, steps=max(counts) // settings.batch)


def network_groups(networks: nn.Module, *, lr: float) -> list[dict[str, Any]]:
    """A group of parameters for each network but the running means, all at one learning rate."""
    return [
        {"name": name, "params": list(network.parameters()), "lr": lr}
        for name, network in networks.named_children()
        if name != "average"
    ]


def _signed(images: Tensor) -> Tensor:
    """(B, 3, H, W) values from -1 to 1 of images that were normalised with the statistics of ImageNet."""
    mean, std = (torch.tensor(values, device=images.device) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return images * (2 * std)[:, None, None] + (2 * mean - 1)[:, None, None]
