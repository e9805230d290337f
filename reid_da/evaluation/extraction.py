"""Features of all images of a source, a table or a data set."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from reid_da.datasets import UNLABELLED_PID, Dataset, SampleTable, load_dataset
from reid_da.datasets.loading import split_path
from reid_da.errors import InputError, first_few, unknown_name
from reid_da.evaluation.centered import center_arrays
from reid_da.evaluation.feature_files import FeatureSet, check_npz, save_arrays
from reid_da.features import check_directions
from reid_da.images import FailedImage, ImageSource, augment, open_images, usable_rows
from reid_da.images.decode import OnError, decode_row
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

    def features(
        self,
        model: nn.Module,
        *,
        flip: bool = False,
        autocast: bool = False,
        transform: Callable[[Tensor], Tensor] | None = None,
        world: World = ALONE,
    ) -> Tensor:
        """(N, D) float32 features of unit length; see :func:`extract_features`."""
        path_of = dict(zip(self.rows.tolist(), self.table.paths, strict=True))
        features = extract_features(
            model,
            self.source,
            transform=transform,
            flip=flip,
            autocast=autocast,
            label=lambda row: path_of.get(row, f"undecodable image {row}"),
            world=world,
        )
        return features[self.rows]


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

    def features(
        self,
        model: nn.Module,
        *,
        flip: bool = False,
        autocast: bool = False,
        transform: Callable[[Tensor], Tensor] | None = None,
        world: World = ALONE,
    ) -> FeatureSet:
        """Features of unit length with their identities and cameras.

        Args:
            model: (B, 3, H, W) normalised images to (B, D) features.
            flip: average with the features of the mirror images.
            autocast: compute in bfloat16 where torch holds that to be safe and, on a CPU, where it agrees with float32.
            transform: pixels to the input of ``model``; see :func:`extract_features`.
            world: the processes that share the images.
        """
        query, gallery = (
            side.features(model, flip=flip, autocast=autocast, transform=transform, world=world).numpy()
            for side in (self.query, self.gallery)
        )
        return FeatureSet(
            query_features=query,
            query_pids=self.query.table.pids,
            query_camids=self.query.table.camids,
            query_paths=path_column(self.query.table),
            gallery_features=gallery,
            gallery_pids=self.gallery.table.pids,
            gallery_camids=self.gallery.table.camids,
            gallery_paths=path_column(self.gallery.table),
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
    splits: Sequence[str] = (),
    center: bool = False,
) -> str:
    """Write the features of image files, or of the splits of a data set, and say what was written.

    For image files the ``.npz`` file has the arrays ``features`` (N, D) and ``paths`` (N,). For a data set it has
    ``SPLIT_features``, ``SPLIT_paths``, ``SPLIT_camids`` and, unless nobody in the split is known, ``SPLIT_pids`` (-2
    for a single unknown person), without junk; and ``camera_names``, one name per camid.

    Args:
        model: (B, 3, H, W) normalised images to (B, D) features.
        images: image files, or one data set.
        output: the ``.npz`` file.
        image_size: height and width that ``model`` wants.
        flip: average with the features of the mirror images.
        splits: splits of the data set: ``query``, ``gallery``, ``train``. By default query and gallery, or what there
            is of the three where one of these is empty.

    Raises:
        InputError: there is no such image or split, an image cannot be decoded, features are not finite, or ``output``
            does not end in ``.npz``.
    """
    check_npz(output)
    bare = split_path(images[0])[0]
    if len(images) == 1 and (bare.is_dir() or bare.suffix in (".csv", ".parquet")):
        dataset = load_dataset(images[0])
        tables = _chosen_splits(dataset, splits)
        arrays = features_of_splits(tables, model, name=str(dataset.root), image_size=image_size, flip=flip)
        if center:
            center_arrays(arrays, list(tables))
        save_arrays(output, {**arrays, "camera_names": np.array(dataset.camera_names)})
        return " and ".join(f"{len(arrays[f'{split}_features'])} {split}" for split in tables) + " features"
    if center:
        raise InputError("--center-cameras needs the cameras, which a data set tells; these are image files")
    if splits:
        raise InputError("--split belongs to a data set; these are image files")
    table = table_of_files(images)
    with naming_undecodable("images", table, size=image_size, advice="repair them, or leave them out"):
        values = open_table(table, image_size=image_size, cache="never").features(model, flip=flip)
    save_arrays(output, {"features": values.numpy(), "paths": path_column(table)})
    return f"{len(table)} features"


def features_of_splits(
    tables: Mapping[str, SampleTable],
    model: nn.Module,
    *,
    name: str,
    image_size: tuple[int, int],
    flip: bool = False,
    cache: Literal["auto", "always", "never"] = "auto",
) -> dict[str, NDArray[Any]]:
    """Features, paths, cameras and, where known, identities of tables as arrays; see :func:`extract_to_file`.

    Args:
        tables: the images by what their arrays are to be called.
        model: (B, 3, H, W) normalised images to (B, D) features.
        name: where the images come from, for messages.
        image_size: height and width that ``model`` wants.
        flip: average with the features of the mirror images.
        cache: whether to pack the decoded images; see :func:`open_table`.

    Raises:
        InputError: an image cannot be decoded, or features are not finite.
    """
    arrays: dict[str, NDArray[Any]] = {}
    with naming_undecodable(name, *tables.values(), size=image_size):
        for split, table in tables.items():
            opened = open_table(table, image_size=image_size, cache=cache)
            arrays[f"{split}_features"] = opened.features(model, flip=flip).numpy()
            arrays[f"{split}_paths"] = path_column(opened.table)
            arrays[f"{split}_camids"] = opened.table.camids
            if (opened.table.pids != UNLABELLED_PID).any():
                arrays[f"{split}_pids"] = opened.table.pids
    return arrays


def path_column(table: SampleTable) -> NDArray[np.str_]:
    """(N,) paths of the images of a table, including its root."""
    return np.array([table.path(row).as_posix() for row in range(len(table))], dtype=np.str_)


def table_of_files(images: Sequence[Path]) -> SampleTable:
    """Table of image files of unknown people and cameras, sorted by path, each once.

    Raises:
        InputError: a path is not that of a file.
    """
    missing = [path for path in images if not path.is_file()]
    if missing:
        raise InputError(f"{len(missing)} of {len(images)} images are no files: {first_few(missing)}")
    paths = tuple(sorted({path.as_posix() for path in images}))
    unknown = np.full(len(paths), UNLABELLED_PID)
    return SampleTable(name="images", root=Path(), paths=paths, pids=unknown, camids=np.zeros_like(unknown))


def _chosen_splits(dataset: Dataset, wanted: Sequence[str]) -> dict[str, SampleTable]:
    """The splits to extract by name, without junk."""
    tables = {split: table.without_junk() for split, table in dataset.splits.items()}
    for split in wanted:
        if split not in tables:
            raise unknown_name("split", split, tables)
        if not len(tables[split]):
            raise InputError(f"{dataset.root}: has no images in the split {split}")
    test = ("query", "gallery")
    if not wanted:
        wanted = test if all(len(tables[split]) for split in test) else [*test, "train"]
    chosen = {split: tables[split] for split in dict.fromkeys(wanted) if len(tables[split])}
    if not chosen:
        raise InputError(f"{dataset.root}: has no images to extract features of")
    return chosen
