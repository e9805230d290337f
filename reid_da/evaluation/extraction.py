"""Features of all images of a source."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reid_da.images import augment
from reid_da.images.source import ImageSource
from reid_da.models.inference import infer_in_batches


def extract_features(
    model: nn.Module,
    source: ImageSource,
    *,
    batch_size: int = 256,
    transform: Callable[[Tensor], Tensor] | None = None,
    flip: bool = False,
    normalize: bool = True,
    device: str | torch.device | None = None,
    autocast: bool = False,
) -> Tensor:
    """(N, D) float32 features on the CPU of the N images of ``source``, in their order.

    The model computes in evaluation mode and is left in the mode that it was in. In float32 the size of the batches
    changes nothing beyond rounding. An image that ``source`` could not decode has the feature of a black one:
    :func:`reid_da.images.source.usable_rows` tells which rows to keep.

    Args:
        model: (B, 3, H, W) normalised images to (B, D) features.
        source: the images; the next batch is gathered while one is computed.
        batch_size: number of images per forward pass.
        transform: (B, 3, H, W) uint8 pixels on the device to the input of ``model``; by default they are normalised
            with the mean and standard deviation of ImageNet.
        flip: average the features of each image with those of its mirror image.
        normalize: scale the features to unit length, after averaging.
        device: where ``model`` is and computes; by default where its parameters are.
        autocast: compute in bfloat16 where torch holds that to be safe.

    Raises:
        InputError: ``source`` has no images, or ``batch_size`` is below 1.
    """
    features = infer_in_batches(
        _WithMirrored(model) if flip else model,
        lambda rows: source.gather(torch.arange(rows.start, rows.stop)),
        len(source),
        prepare=transform or augment.normalize,
        batch_size=batch_size,
        device=_device_of(model) if device is None else torch.device(device),
        autocast=autocast,
        store_on=torch.device("cpu"),
    )
    return F.normalize(features) if normalize else features


def _device_of(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


class _WithMirrored(nn.Module):
    """Mean of a model's features for images and for their mirror images."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = (self.model(images) + self.model(images.flip(3))) / 2
        return features
