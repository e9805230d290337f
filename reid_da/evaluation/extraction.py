"""Features of all images of a source, a table or a data set."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
from reid_da.images import FailedImage, ImageSource, augment, open_images, usable_rows
from reid_da.images.decode import OnError, decode_row
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
        autocast: compute in bfloat16 where torch holds that to be safe and, on a CPU, where it agrees with float32.

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


@dataclass(frozen=True, kw_only=True)
class OpenTable:
    """The images of a table, opened; those that cannot be decoded are in neither.

    Attributes:
        table: their names, identities and cameras.
        source: the images of the whole table, also of its undecodable rows.
        rows: (N,) int64 rows of ``source`` that ``table`` has.
    """

    table: SampleTable
    source: ImageSource
    rows: Tensor

    def features(self, model: nn.Module, *, flip: bool = False, autocast: bool = False) -> Tensor:
        """(N, D) float32 features of unit length; see :func:`extract_features`."""
        return extract_features(model, self.source, flip=flip, autocast=autocast)[self.rows]


@dataclass(frozen=True, kw_only=True)
class TestImages:
    """Query and gallery images of a data set, opened once to be looked at by any number of models.

    Attributes:
        query: the queries.
        gallery: the gallery.
    """

    __test__ = False  # its name makes pytest take it for a group of tests

    query: OpenTable
    gallery: OpenTable

    def features(self, model: nn.Module, *, flip: bool = False, autocast: bool = False) -> FeatureSet:
        """Features of unit length with their identities and cameras.

        Args:
            model: (B, 3, H, W) normalised images to (B, D) features.
            flip: average with the features of the mirror images.
            autocast: compute in bfloat16 where torch holds that to be safe and, on a CPU, where it agrees with float32.
        """
        return FeatureSet(
            query_features=self.query.features(model, flip=flip, autocast=autocast).numpy(),
            query_pids=self.query.table.pids,
            query_camids=self.query.table.camids,
            gallery_features=self.gallery.features(model, flip=flip, autocast=autocast).numpy(),
            gallery_pids=self.gallery.table.pids,
            gallery_camids=self.gallery.table.camids,
        )


def open_table(
    table: SampleTable,
    *,
    image_size: tuple[int, int],
    cache: Literal["auto", "always", "never"] = "auto",
    cache_dir: str | os.PathLike[str] | None = None,
    on_error: OnError = "raise",
) -> OpenTable:
    """The images of a table to extract features of, resized with bicubic interpolation.

    Args:
        table: the images.
        image_size: height and width that the model wants.
        cache: whether to pack the decoded images; see :func:`reid_da.images.open_images`.
        cache_dir: folder of the packed images.
        on_error: what to do about images that cannot be decoded: ``raise``, or ``skip``: leave them out.

    Raises:
        InputError: there are no images, or one cannot be decoded.
    """
    # the authors of ECN test with bicubic resizing, and train with bilinear
    source = open_images(
        table, size=image_size, cache=cache, cache_dir=cache_dir, interpolation="bicubic", on_error=on_error
    )
    rows = usable_rows(source)
    return OpenTable(table=table.select(rows.numpy()), source=source, rows=rows)


def open_test_images(
    dataset: Dataset,
    *,
    image_size: tuple[int, int],
    cache: Literal["auto", "always", "never"] = "auto",
    cache_dir: str | os.PathLike[str] | None = None,
    on_error: OnError = "raise",
) -> TestImages:
    """The query and gallery images of a data set, without its junk; the arguments are those of :func:`open_table`.

    Raises:
        InputError: the data set has no query or no gallery, or an image cannot be decoded.
    """
    if not len(dataset.query) or not len(dataset.gallery):
        raise InputError(f"{dataset.root}: has no query and gallery images to evaluate on")
    query, gallery = (
        open_table(table.without_junk(), image_size=image_size, cache=cache, cache_dir=cache_dir, on_error=on_error)
        for table in (dataset.query, dataset.gallery)
    )
    return TestImages(query=query, gallery=gallery)


@contextmanager
def naming_undecodable(
    name: str, *tables: SampleTable, size: tuple[int, int], advice: str = "repair or remove them"
) -> Iterator[None]:
    """Let an error about images that cannot be decoded name all of them, and no option that the caller has not.

    Args:
        name: where the images come from.
        tables: the images that the block decodes; only looked at after an error.
        size: height and width that they are resized to.
        advice: what to do about them.

    Raises:
        InputError: an image cannot be decoded.
    """
    try:
        yield
    except InputError as error:
        decoded = (
            (table, decode_row(table, row, size=size, interpolation="bicubic"))
            for table in tables
            for row in range(len(table))
        )
        failed = [
            f"{table.path(found.index)} ({found.reason})" for table, found in decoded if isinstance(found, FailedImage)
        ]
        if not failed:
            raise
        total = sum(map(len, tables))
        raise InputError(
            f"{name}: {len(failed)} of {total} images cannot be decoded: {first_few(failed)}; {advice}"
        ) from error


def features_of_test_images(
    dataset: Dataset, model: nn.Module, *, image_size: tuple[int, int], flip: bool = False
) -> FeatureSet:
    """Features of the query and gallery images of a data set, for a caller that has to have all of them.

    Args:
        dataset: with query and gallery.
        model: (B, 3, H, W) normalised images to (B, D) features.
        image_size: height and width that ``model`` wants.
        flip: average with the features of the mirror images.

    Raises:
        InputError: the data set has no query or no gallery, or images cannot be decoded: all of them are named.
    """
    tables = (dataset.query.without_junk(), dataset.gallery.without_junk())
    with naming_undecodable(str(dataset.root), *tables, size=image_size):
        return open_test_images(dataset, image_size=image_size).features(model, flip=flip)


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
        features = features_of_test_images(load_dataset(images[0]), model, image_size=image_size, flip=flip)
        save_feature_file(output, features)
        return f"{len(features.query_pids)} query and {len(features.gallery_pids)} gallery features"
    missing = [path for path in images if not path.is_file()]
    if missing:
        raise InputError(f"{len(missing)} of {len(images)} images do not exist: {first_few(missing)}")
    paths = tuple(sorted({path.as_posix() for path in images}))
    unknown = np.full(len(paths), UNLABELLED_PID)
    table = SampleTable(name="images", root=Path(), paths=paths, pids=unknown, camids=np.zeros_like(unknown))
    with naming_undecodable("images", table, size=image_size, advice="repair them, or leave them out"):
        values = open_table(table, image_size=image_size, cache="never").features(model, flip=flip)
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
