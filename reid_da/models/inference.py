"""Running a network over many images: in evaluation mode, in batches, loading the next while one is computed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from reid_da.device import full_precision
from reid_da.errors import InputError, first_few
from reid_da.finite import check_weights
from reid_da.images.ahead import map_ahead
from reid_da.models.bfloat16 import features_in_bfloat16
from reid_da.progress import track


def device_of(model: nn.Module) -> torch.device:
    """Where the parameters of a network are; the CPU for one without parameters."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


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


def extraction_batch(device: torch.device) -> int:
    """Images per forward pass of an extraction on ``device``: more than 64 only cost memory on a CPU."""
    return 64 if device.type == "cpu" else 256


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
    label: Callable[[int], object] | None = None,
) -> Tensor:
    """(count, D) float32 outputs of ``model``, row by row those of the images that ``load`` gives.

    Unless in bfloat16, a GPU computes in float32 too and not in TF32: see :func:`reid_da.device.full_precision`.

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
        label: what to call the image of a row in a message; its number if None.

    Raises:
        InputError: there are no images, ``batch_size`` is below 1, or outputs are not finite; the message tells
            whether the weights of the model are to blame, and if not, names the images.
    """
    if not count:
        raise InputError("there are no images to extract features from")
    if batch_size < 1:
        raise InputError(f"batch_size: expected at least 1, got {batch_size}")
    chunks = [slice(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
    outputs = None
    with evaluating(model):
        batches = map_ahead(load, chunks, workers=1, ahead=1)
        steps = zip(chunks, batches, strict=True)
        # one batch, such as the crops of a video frame, is no work to watch
        for rows, batch in steps if len(chunks) == 1 else track(steps, "extracting features", total=len(chunks)):
            with torch.inference_mode(), full_precision():
                images = prepare(batch.to(device)).contiguous(memory_format=torch.channels_last)
                features = features_in_bfloat16(model, images) if autocast else model(images)
            if not bool(features.isfinite().all()):
                raise _not_finite(model, features, rows, label)
            if outputs is None:
                outputs = torch.empty(count, features.shape[1], device=store_on)
            outputs[rows] = features.to(store_on)
    assert outputs is not None
    return outputs


def _not_finite(model: nn.Module, features: Tensor, rows: slice, label: Callable[[int], object] | None) -> InputError:
    """The cause of features that are not finite: the weights, or what the model makes of certain images."""
    try:
        check_weights(model, "the model")
    except InputError as error:
        return error
    faulty = (~features.isfinite().flatten(1).all(dim=1)).nonzero().flatten() + rows.start
    names = first_few(map(label, faulty.tolist())) if label else f"counted from 0: {first_few(faulty.tolist())}"
    return InputError(
        f"the model gives NaN or infinite values, though its weights are finite, for {len(faulty)} images ({names}); "
        "compute in float32 (no autocast), or check the statistics of its batch normalisation"
    )


class WithMirrored(nn.Module):
    """Mean of a model's features for images and for their mirror images.

    Args:
        model: (B, 3, H, W) normalised images to (B, D) features.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """(B, D) features of (B, 3, H, W) images."""
        features: Tensor = (self.model(images) + self.model(images.flip(3))) / 2
        return features
