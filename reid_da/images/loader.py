"""Batches for training: gathered and transformed by threads while the step before them runs."""

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from reid_da.images.ahead import map_ahead
from reid_da.images.samplers import Selection
from reid_da.images.source import CutsFiles, ImageSource, MakesViews, sizes_of_files
from reid_da.images.transforms import BatchChange, BatchTransform
from reid_da.world import ALONE, World


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Images and which they are, on one device.

    Where several processes train together, columns are those of the global batch, and images those of the own part.

    Attributes:
        rows: (B,) int64 rows of the domain that they are from.
        images: (b, 3, h, w) float32 input of a network; b is B where one process trains.
        labels: (B,) int64 class of each, or None where the stream has none.
        views: (B,) int64 camera in whose style each is, or None for the images as they are.
        cameras: (B,) int64 camera that each is from or looks like, on the CPU.
    """

    rows: Tensor
    images: Tensor = field(repr=False)
    labels: Tensor | None = None
    views: Tensor | None = None
    cameras: Tensor | None = None


def load_batches(
    source: ImageSource,
    selections: Iterable[Selection],
    transform: BatchTransform,
    *,
    device: torch.device | str = "cpu",
    prefetch: int = 2,
    num_workers: int = 1,
    world: World = ALONE,
) -> Generator[Batch, None, None]:
    """Yield the selected images as batches, in their order; the same ones however far the threads work ahead.

    An error of source or transform is raised at its batch. Closing the iterator does not wait for the threads.

    Args:
        source: where the images come from; called in the threads, in the order of the batches only if there is one of
            them.
        selections: which images make a batch; read in the caller's thread, where the random numbers of the transform
            are drawn too.
        transform: from uint8 images to the input of a network.
        device: where the transform computes and the batches are. On a GPU the threads work on the default stream.
        prefetch: number of batches prepared ahead by threads; 0: none, and no threads.
        num_workers: number of threads, of which each prepares a batch on one core.
        world: the processes that share the batches; each prepares the images of its part.

    Raises:
        ValueError: ``prefetch`` is negative, or ``num_workers`` is below 1.
    """
    if prefetch < 0 or num_workers < 1:
        raise ValueError(f"expected prefetch >= 0 and num_workers >= 1, got {prefetch} and {num_workers}")

    def prepare(plan: tuple[Selection, BatchChange]) -> Batch:
        selection, transform = plan
        if world.size > 1:
            part = world.span(len(selection.rows))
            crops = None if transform.crops is None else transform.crops[part]
            images = _gather(source, selection.part(part), crops, device)
            transform = transform.part(part)
        else:
            images = _gather(source, selection, transform.crops, device)
        rows, labels, views = (
            None if column is None else column.to(device)
            for column in (selection.rows, selection.labels, selection.views)
        )
        assert rows is not None
        return Batch(rows=rows, images=transform(images), labels=labels, views=views, cameras=selection.cameras)

    plans = _plans(selections, transform, source)
    if not prefetch:
        return (prepare(plan) for plan in plans)
    return map_ahead(prepare, plans, workers=num_workers, ahead=prefetch)


def _plans(
    selections: Iterable[Selection], transform: BatchTransform, source: ImageSource
) -> Iterator[tuple[Selection, BatchChange]]:
    # all that is random happens here, in the order of the batches and in the thread of the caller
    by_source = isinstance(source, CutsFiles) and source.cuts_files
    for selection in selections:
        files = sizes_of_files(source, selection.rows, selection.views) if transform.crops_files else None
        yield selection, transform.draw(len(selection.rows), source.size, files=files, by_source=by_source)


def _gather(source: ImageSource, selection: Selection, crops: Tensor | None, device: torch.device | str) -> Tensor:
    rows, views = selection.rows, selection.views
    if crops is not None:
        assert isinstance(source, CutsFiles)
        return source.gather_crops(rows, crops, views).to(device)
    if views is None:
        return source.gather(rows).to(device)
    if isinstance(source, MakesViews):
        return source.gather_on(device, rows, views)
    return source.gather(rows, views).to(device)
