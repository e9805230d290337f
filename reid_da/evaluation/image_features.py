"""Features of the images of a source."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reid_da.errors import InputError
from reid_da.features import check_directions
from reid_da.images import ImageSource, Subset, augment, usable_rows
from reid_da.models.camera_norm import (
    BATCH_FOR_STATISTICS,
    LEAST_FOR_STATISTICS,
    MOST_FOR_STATISTICS,
    CameraNormed,
    camera_after_camera,
    with_camera_norms,
)
from reid_da.models.inference import WithMirrored, device_of, extraction_batch, infer_in_batches
from reid_da.world import ALONE, World


def extract_features(
    model: nn.Module,
    source: ImageSource,
    *,
    batch_size: int | None = None,
    transform: Callable[[Tensor], Tensor] | None = None,
    flip: bool = False,
    normalize: bool = True,
    device: str | torch.device | None = None,
    autocast: bool = False,
    label: Callable[[int], object] | None = None,
    world: World = ALONE,
) -> Tensor:
    """(N, D) float32 features on the CPU of the N images of ``source``, in their order.

    The model computes in evaluation mode and is left in the mode that it was in. In float32 the size of the batches
    changes nothing beyond rounding. An image that ``source`` could not decode has the feature of a black one:
    :func:`reid_da.images.source.usable_rows` tells which rows to keep.

    Args:
        model: (B, 3, H, W) normalised images to (B, D) features.
        source: the images; the next batch is gathered while one is computed.
        batch_size: images per forward pass; by default :func:`reid_da.models.inference.extraction_batch`.
        transform: (B, 3, H, W) uint8 pixels on the device to the input of ``model``; by default they are normalised
            with the mean and standard deviation of ImageNet.
        flip: average the features of each image with those of its mirror image.
        normalize: scale the features to unit length, after averaging.
        device: where ``model`` is and computes; by default where its parameters are.
        autocast: compute in bfloat16 where torch holds that to be safe and, on a CPU, where it agrees with float32.
        label: what to call the image of a row in a message; its number if None.
        world: the processes that share the batches; all of them get all features.

    Raises:
        InputError: ``source`` has no images, ``batch_size`` is below 1, features are NaN or infinite, or zero where
            they are to have unit length; the message tells whether the weights or certain images are to blame.
    """
    device = device_of(model) if device is None else torch.device(device)
    batch_size = extraction_batch(device) if batch_size is None else batch_size
    # whole batches, so that each is what it is with one process
    batches = world.span(-(-len(source) // max(batch_size, 1)))
    first, last = (min(number * batch_size, len(source)) for number in (batches.start, batches.stop))
    features = torch.empty(0, 0)
    if world.size == 1 or first < last:
        features = infer_in_batches(
            WithMirrored(model) if flip else model,
            lambda rows: source.gather(torch.arange(first + rows.start, first + rows.stop)),
            last - first,
            prepare=transform or augment.normalize,
            batch_size=batch_size,
            device=device,
            autocast=autocast,
            store_on=torch.device("cpu"),
            label=None if label is None else (lambda row: label(first + row)),
        )
    if world.size > 1:
        dim = max(world.tell(features.shape[1]))
        features = world.gather(features if len(features) else torch.empty(0, dim))
    if not normalize:
        return features
    rows = usable_rows(source)
    name_of = label or (lambda row: row)
    if len(rows):
        check_directions(features[rows], "features", label=lambda position: name_of(int(rows[position])))
    return F.normalize(features)


def features_of_rows(
    model: nn.Module,
    source: ImageSource,
    rows: Tensor,
    camids: Tensor,
    *,
    label: Callable[[int], object] | None = None,
    **options: Any,
) -> Tensor:
    """(M, D) features of some images of ``source``, which a :class:`CameraNormed` model sees camera by camera.

    Args:
        model: see :func:`extract_features`.
        source: the N images.
        rows: (M,) int64 rows of images that can be decoded.
        camids: (M,) int64 camera of each.
        label: what to call the image of a row of ``source`` in a message.
        options: of :func:`extract_features`.

    Raises:
        InputError: as :func:`extract_features`.
    """
    if not isinstance(model, CameraNormed):
        return extract_features(model, source, label=label, **options)[rows]

    def of_camera(camera: int, places: Tensor) -> Tensor:
        seen = rows[places]
        name = None if label is None else lambda row: label(int(seen[row]))
        return extract_features(model.at(camera), Subset(source, seen), label=name, **options)

    return camera_after_camera(camids, of_camera)


def camera_normed(
    network: nn.Module, images: Sequence[tuple[ImageSource, Tensor, Tensor]], *, share: float = 1.0
) -> CameraNormed:
    """A copy of a network with batch-norm statistics of each camera; labels are not read.

    The images are drawn at random, the same each time: at most 512 of a camera, in batches of one size.

    Args:
        network: is left as it is.
        images: sources, with the (M,) int64 rows of images that can be decoded and their (M,) int64 cameras. A camera
            with fewer than eight images has the statistics of all cameras.
        share: of the new statistics; those of the network have the rest.

    Raises:
        InputError: the network has no batch norms, or there are fewer than two images.
    """
    camids = torch.cat([cameras for _, _, cameras in images])
    if len(camids) < 2:
        raise InputError("batch-norm statistics of cameras: there are no images to take them from")

    def batches(chosen: Tensor) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(0)
        chosen = chosen[torch.randperm(len(chosen), generator=generator)][:MOST_FOR_STATISTICS]
        size = min(BATCH_FOR_STATISTICS, len(chosen))
        # a last batch that is not full would count as much as a full one
        for start in range(0, len(chosen) - size + 1, size):
            yield augment.normalize(_gather(images, chosen[start : start + size]))

    cameras, counts = torch.unique(camids, return_counts=True)
    known = cameras[counts >= LEAST_FOR_STATISTICS].tolist()
    of_cameras = {camera: batches((camids == camera).nonzero()[:, 0]) for camera in known}
    return with_camera_norms(network, of_cameras, batches(torch.arange(len(camids))), share=share)


def _gather(images: Sequence[tuple[ImageSource, Tensor, Tensor]], chosen: Tensor) -> Tensor:
    """Pixels of images by their numbers, which go on from source to source."""
    found, first = [], 0
    for source, rows, _ in images:
        own = chosen[(chosen >= first) & (chosen < first + len(rows))] - first
        found += [source.gather(rows[own])] if len(own) else []
        first += len(rows)
    return torch.cat(found)
