"""Running a network over many images: in evaluation mode, in batches, loading the next while one is computed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from reid_da.errors import InputError
from reid_da.images.ahead import map_ahead
from reid_da.models.bfloat16 import features_in_bfloat16
from reid_da.progress import track


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put ``model`` into evaluation mode; afterwards every sub-module is back in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def infer_in_batches(
    model: nn.Module,
    load: Callable[[slice], Tensor],
    count: int,
    *,
    prepare: Callable[[Tensor], Tensor],
    batch_size: int,
    device: torch.device,
    autocast: bool,
    store_on: torch.device,
) -> Tensor:
    """(count, D) float32 outputs of ``model``, row by row those of the images that ``load`` gives.

    Args:
        model: (B, 3, H, W) normalised images to (B, D) features.
        load: batch of the images of a range of rows; called in a thread of its own, one batch ahead.
        count: number of images.
        prepare: what ``load`` gives, already on ``device``, to the input of ``model``.
        batch_size: number of images per forward pass.
        device: where to compute.
        autocast: compute in bfloat16 where torch holds that to be safe, and where, on a CPU, it agrees with float32:
            see :func:`reid_da.models.bfloat16.features_in_bfloat16`.
        store_on: where the outputs are collected.

    Raises:
        InputError: there are no images, or ``batch_size`` is below 1.
    """
    if not count:
        raise InputError("there are no images to extract features from")
    if batch_size < 1:
        raise InputError(f"batch_size: expected at least 1, got {batch_size}")
    chunks = [slice(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
    outputs = None
    with evaluating(model):
        batches = map_ahead(load, chunks, workers=1, ahead=1)
        for rows, batch in track(zip(chunks, batches, strict=True), "extracting features", total=len(chunks)):
            with torch.inference_mode():
                images = prepare(batch.to(device)).contiguous(memory_format=torch.channels_last)
                features = features_in_bfloat16(model, images) if autocast else model(images)
            if outputs is None:
                outputs = torch.empty(count, features.shape[1], device=store_on)
            outputs[rows] = features.to(store_on)
    assert outputs is not None
    return outputs
