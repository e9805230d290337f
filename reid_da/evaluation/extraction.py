"""Features of all images of a source, a table or a data set."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reid_da.datasets import UNLABELLED_PID, Dataset, SampleTable
from reid_da.errors import InputError, first_few
from reid_da.evaluation.camera_norms import NamedNorms
from reid_da.evaluation.feature_files import FeatureSet
from reid_da.evaluation.image_features import camera_normed, features_of_rows
from reid_da.images import FailedImage, ImageSource, open_images, usable_rows
from reid_da.images.decode import OnError, decode_row
from reid_da.models.camera_norm import UNKNOWN_CAMERA, CameraNormed
from reid_da.world import ALONE, World


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
        """(N, D) float32 features of unit length; see :func:`reid_da.evaluation.image_features.extract_features`."""
        path_of = dict(zip(self.rows.tolist(), self.table.paths, strict=True))
        return features_of_rows(
            model,
            self.source,
            self.rows,
            torch.tensor(self.table.camids),
            transform=transform,
            flip=flip,
            autocast=autocast,
            label=lambda row: path_of.get(row, f"undecodable image {row}"),
            world=world,
        )


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
            transform: pixels to the input of ``model``; see :func:`reid_da.evaluation.image_features.extract_features`.
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


def camera_normed_for(
    network: nn.Module,
    dataset: Dataset,
    *,
    image_size: tuple[int, int],
    share: float = 1.0,
    cache: Literal["auto", "always", "never"] = "auto",
    cache_dir: str | os.PathLike[str] | None = None,
    on_error: OnError = "skip",
) -> CameraNormed:
    """A copy of a network with batch-norm statistics of the cameras of a data set; labels are not read.

    They are taken from its training images, or from query and gallery where it has none.

    Args:
        network: is left as it is.
        dataset: the data set.
        image_size: height and width that ``network`` wants.
        share: of the new statistics; those of the network have the rest.
        cache: see :func:`open_table`, as are the others.
        cache_dir: folder of the packed images.
        on_error: what to do about images that cannot be decoded; statistics can do without them.

    Raises:
        InputError: there are fewer than two images, an image cannot be decoded, or the network has no batch norms.
    """
    splits = [dataset.train] if len(dataset.train.without_junk()) else [dataset.query, dataset.gallery]
    tables = [table for table in (split.without_junk() for split in splits) if len(table)]
    with naming_undecodable(str(dataset.root), *tables, size=image_size):
        opened = [
            open_table(table, image_size=image_size, cache=cache, cache_dir=cache_dir, on_error=on_error)
            for table in tables
        ]
    return camera_normed(
        network, [(one.source, one.rows, torch.tensor(one.table.camids)) for one in opened], share=share
    )


def camera_normed_as(network: nn.Module, dataset: Dataset, known: NamedNorms | None, **options: Any) -> CameraNormed:
    """A copy of a network for a data set that may be one of people to test on, seen by cameras that are known.

    A data set with training images has the statistics of these; so has one of which no camera is known by its name. In
    any other, known cameras have the known statistics, and the others those of their own images.

    Args:
        network: is left as it is.
        dataset: the data set.
        known: statistics of the cameras that the network was adapted to.
        options: of :func:`camera_normed_for`.

    Raises:
        InputError: as :func:`camera_normed_for`.
    """
    numbers = [UNKNOWN_CAMERA] if known is None else known.numbers(dataset.camera_names)
    if known is None or len(dataset.train.without_junk()) or set(numbers) == {UNKNOWN_CAMERA}:
        return camera_normed_for(network, dataset, **options)
    statistics = {}
    if UNKNOWN_CAMERA in numbers:
        statistics = dict(camera_normed_for(network, dataset, **options).statistics)
    named = {camera: known.statistics[number] for camera, number in enumerate(numbers) if number != UNKNOWN_CAMERA}
    return CameraNormed.of(network, statistics | named, known.common)


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


def features_of_splits(
    tables: Mapping[str, SampleTable],
    model: nn.Module,
    *,
    name: str,
    image_size: tuple[int, int],
    flip: bool = False,
    cache: Literal["auto", "always", "never"] = "auto",
) -> dict[str, NDArray[Any]]:
    """Features of tables, with what is known of each image, as arrays.

    ``SPLIT_features``, ``SPLIT_paths``, ``SPLIT_camids`` and, unless nobody in the split is known, ``SPLIT_pids`` (-2
    for a single unknown person).

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
