"""Features of all images of a source, a table or a data set."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reid_da.atomic import atomic_path
from reid_da.datasets import UNLABELLED_PID, Dataset, SampleTable, load_dataset
from reid_da.errors import InputError, first_few
from reid_da.evaluation.feature_files import FeatureSet, save_feature_file
from reid_da.images import ImageSource, augment, open_images
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


def extract_table(
    model: nn.Module,
    table: SampleTable,
    *,
    image_size: tuple[int, int],
    cache: Literal["auto", "always", "never"] = "auto",
    cache_dir: str | os.PathLike[str] | None = None,
    flip: bool = False,
    autocast: bool = False,
) -> Tensor:
    """(N, D) float32 features of unit length of the images of a table, resized with bicubic interpolation.

    Args:
        model: (B, 3, H, W) normalised images to (B, D) features.
        table: the images.
        image_size: height and width that ``model`` wants.
        cache: whether to pack the decoded images; see :func:`reid_da.images.open_images`.
        cache_dir: folder of the packed images.
        flip: average with the features of the mirror images.
        autocast: compute in bfloat16 where torch holds that to be safe.

    Raises:
        InputError: there are no images, or one cannot be decoded.
    """
    # the authors of ECN test with bicubic resizing, and train with bilinear
    source = open_images(table, size=image_size, cache=cache, cache_dir=cache_dir, interpolation="bicubic")
    return extract_features(model, source, flip=flip, autocast=autocast)


def extract_dataset(
    model: nn.Module,
    dataset: Dataset,
    *,
    image_size: tuple[int, int],
    cache: Literal["auto", "always", "never"] = "auto",
    cache_dir: str | os.PathLike[str] | None = None,
    flip: bool = False,
    autocast: bool = False,
) -> FeatureSet:
    """Features of unit length of the query and gallery images of a data set, without its junk.

    The arguments are those of :func:`extract_table`.

    Raises:
        InputError: the data set has no query or no gallery, or an image cannot be decoded.
    """
    if not len(dataset.query) or not len(dataset.gallery):
        raise InputError(f"{dataset.root}: has no query and gallery images to evaluate on")
    query, gallery = dataset.query.without_junk(), dataset.gallery.without_junk()
    query_features, gallery_features = (
        extract_table(
            model, table, image_size=image_size, cache=cache, cache_dir=cache_dir, flip=flip, autocast=autocast
        ).numpy()
        for table in (query, gallery)
    )
    return FeatureSet(
        query_features=query_features,
        query_pids=query.pids,
        query_camids=query.camids,
        gallery_features=gallery_features,
        gallery_pids=gallery.pids,
        gallery_camids=gallery.camids,
    )


def extract_to_file(
    model: nn.Module,
    images: Sequence[Path],
    output: Path,
    *,
    image_size: tuple[int, int],
    flip: bool = False,
) -> str:
    """Write the features of image files, or of the query and gallery of a data set, and say what was written.

    For image files the ``.npz`` file has the arrays ``features`` (N, D) and ``paths`` (N,).

    Args:
        model: (B, 3, H, W) normalised images to (B, D) features.
        images: image files, or one data set.
        output: the ``.npz`` file.
        image_size: height and width that ``model`` wants.
        flip: average with the features of the mirror images.

    Raises:
        InputError: there is no such image, it cannot be decoded, or ``output`` does not end in ``.npz``.
    """
    if output.suffix != ".npz":
        raise InputError(f"{output}: expected the name of a feature file to write to end in .npz")
    if len(images) == 1 and (images[0].is_dir() or images[0].suffix in (".csv", ".parquet")):
        features = extract_dataset(model, load_dataset(images[0]), image_size=image_size, flip=flip)
        save_feature_file(output, features)
        return f"{len(features.query_pids)} query and {len(features.gallery_pids)} gallery features"
    missing = [path for path in images if not path.is_file()]
    if missing:
        raise InputError(f"{len(missing)} of {len(images)} images do not exist: {first_few(missing)}")
    paths = tuple(sorted({path.as_posix() for path in images}))
    unknown = np.full(len(paths), UNLABELLED_PID)
    table = SampleTable(name="images", root=Path(), paths=paths, pids=unknown, camids=np.zeros_like(unknown))
    values = extract_table(model, table, image_size=image_size, cache="never", flip=flip)
    with atomic_path(output) as temporary, temporary.open("wb") as file:
        np.savez(file, features=values.numpy(), paths=np.array(paths))
    return f"{len(paths)} features"


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
