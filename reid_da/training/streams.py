"""From the plan of an epoch to its batches."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from reid_da.errors import InputError
from reid_da.images import Batch, Selection, TrainTransform, load_batches
from reid_da.images.samplers import sample_views
from reid_da.methods.protocol import EpochPlan, StreamPlan
from reid_da.world import ALONE, World


def epoch_batches(
    plan: EpochPlan,
    *,
    seed: Callable[[str], int],
    image_size: tuple[int, int],
    device: torch.device,
    memory_format: torch.memory_format = torch.contiguous_format,
    world: World = ALONE,
) -> Iterator[dict[str, Batch]]:
    """The batches of one epoch by the name of their stream, prepared ahead by threads.

    A stream whose images are used up begins a new order.

    Args:
        plan: of the epoch.
        seed: of the random numbers of the epoch for one purpose.
        image_size: height and width.
        device: where the batches go; they are augmented there.
        memory_format: of the images.
        world: the processes that share the batches. Which images make a batch, and how they are changed, does not
            depend on their number.

    Raises:
        InputError: a stream has too few images for a batch, or a batch too few for the processes.
    """
    streams = {}
    try:
        for name, stream in plan.streams.items():
            purpose = stream.purpose or name
            size = stream.sampler.batch_size * max(stream.views, 1)
            if size < world.size:
                raise InputError(f"batch: {size} {name} images are too few for {world.size} processes; raise it")
            streams[name] = load_batches(
                stream.domain.images,
                _selections(stream, order=seed(f"{purpose} order"), styles=seed(f"{purpose} styles")),
                TrainTransform(stream.augment, size=image_size, seed=seed(f"{stream.pixels or purpose} pixels")),
                device=device,
                world=world,
            )
        for _ in range(plan.steps):
            yield {
                name: _finished(next(batches), plan.streams[name].finish, memory_format)
                for name, batches in streams.items()
            }
    finally:
        for batches in streams.values():
            batches.close()


def _finished(batch: Batch, finish: Callable[[Tensor], Tensor] | None, memory_format: torch.memory_format) -> Batch:
    images = batch.images if finish is None else finish(batch.images)
    # a convolution follows the format of its input, whatever that of its weights
    return replace(batch, images=images.contiguous(memory_format=memory_format))


def _selections(stream: StreamPlan, *, order: int, styles: int) -> Iterator[Selection]:
    """Which images make the batches of a stream, without an end; each in the styles of random cameras if so planned."""
    generator = torch.Generator().manual_seed(styles)
    for rows in stream.sampler.batches(*stream.chosen, order):
        views = None
        if stream.views:
            views = sample_views(
                stream.domain.camids[rows],
                num_cameras=stream.domain.num_views,
                generator=generator,
                per_image=stream.views,
                with_own=stream.domain.with_own,
            )
            rows = rows.repeat_interleave(stream.views)
        labels = None if stream.labels is None else stream.labels[rows]
        cameras = stream.domain.camids[rows] if views is None else views
        yield Selection(rows=rows, views=views, labels=labels, cameras=cameras)
