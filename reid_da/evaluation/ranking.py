"""The nearest gallery images of each query by name, for images whose people nobody knows; written as CSV or JSON."""

import csv
import io
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reid_da.atomic import write_text
from reid_da.datasets import UNLABELLED_PID, SampleTable
from reid_da.datasets.listing import list_images
from reid_da.errors import InputError
from reid_da.evaluation.extraction import features_of_splits
from reid_da.evaluation.feature_files import check_orientation, path_array, read_arrays
from reid_da.evaluation.reranking import RerankSettings
from reid_da.evaluation.reranking import rerank as rerank_features
from reid_da.evaluation.search import search, search_distances
from reid_da.features import Array
from reid_da.text import csv_cell

FORMATS = (".csv", ".json")
"""Endings of the files that rankings are written to."""
_HEADER = ("query", "rank", "gallery", "distance")


@dataclass(frozen=True, kw_only=True, eq=False)
class NamedFeatures:
    """Features of queries and gallery with the names of their images, and nothing else.

    Attributes:
        query_features: (Q, D) float.
        query_names: Q names.
        gallery_features: (G, D) float.
        gallery_names: G names.
    """

    query_features: Array = field(repr=False)
    query_names: tuple[str, ...] = field(repr=False)
    gallery_features: Array = field(repr=False)
    gallery_names: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, kw_only=True, eq=False)
class Rankings:
    """The nearest gallery images of each query, nearest first.

    Attributes:
        query_names: Q names.
        gallery_names: G names.
        indices: (Q, K) int64 gallery images.
        distances: (Q, K) their distances.
        distance: what the distances are, in words.
    """

    query_names: tuple[str, ...] = field(repr=False)
    gallery_names: tuple[str, ...] = field(repr=False)
    indices: Tensor = field(repr=False)
    distances: Tensor = field(repr=False)
    distance: str

    def to_json(self) -> dict[str, Any]:
        """What the distances are, and for each query its list of gallery images, distances and ranks from 1."""
        rankings = [
            {
                "query": query,
                "gallery": [
                    {"rank": rank, "name": self.gallery_names[index], "distance": distance}
                    for rank, (index, distance) in enumerate(zip(indices, distances, strict=True), start=1)
                ],
            }
            for query, indices, distances in self._rows()
        ]
        return {"distance": self.distance, "rankings": rankings}

    def to_csv(self) -> str:
        """A line for each query and gallery image: query, rank (from 1), gallery, distance.

        Names that a spreadsheet would take for formulas get an apostrophe in front.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_HEADER)
        for query, indices, distances in self._rows():
            for rank, (index, distance) in enumerate(zip(indices, distances, strict=True), start=1):
                name = self.gallery_names[index]
                writer.writerow((csv_cell(query), rank, csv_cell(name), f"{distance:.6f}"))
        return text.getvalue()

    def _rows(self) -> Iterator[tuple[str, list[int], list[float]]]:
        return zip(self.query_names, self.indices.tolist(), self.distances.tolist(), strict=True)


def rank_gallery(
    features: NamedFeatures, *, top: int = 10, distance: str = "cosine", rerank: RerankSettings | None = None
) -> Rankings:
    """The ``top`` nearest gallery images of each query, or all of a smaller gallery.

    Nothing is left out: who and which camera an image shows is not known, and an image that is a query and in the
    gallery is found first. Equal distances come in the order of the gallery.

    Args:
        features: of query and gallery.
        top: length of a list.
        distance: ``cosine`` or ``euclidean``.
        rerank: settings of k-reciprocal re-ranking, which makes what is found for a query depend on the other queries;
            None for none.

    Raises:
        InputError: features that do not fit together, are NaN, infinite or all zero; or a setting is out of its range.
    """
    if top < 1:
        raise InputError(f"top: expected at least 1, got {top}")
    query, gallery = features.query_features, features.gallery_features
    number = min(top, len(features.gallery_names))
    if rerank is None:
        found = search(query, gallery, num_neighbors=number, distance=distance)
    else:
        blocks = rerank_features(query, gallery, distance=distance, **asdict(rerank))
        found = search_distances(blocks, num_neighbors=number)
    return Rankings(
        query_names=features.query_names,
        gallery_names=features.gallery_names,
        indices=found.indices.cpu(),
        distances=found.distances.cpu(),
        distance=distance if rerank is None else f"k-reciprocal re-ranking of {distance}",
    )


def write_rankings(path: Path, rankings: Rankings) -> None:
    """Write rankings as CSV or JSON, by the ending of the name, whole or not at all.

    Raises:
        InputError: the name ends in neither.
    """
    check_format(path)
    is_csv = path.suffix == ".csv"
    write_text(path, rankings.to_csv() if is_csv else json.dumps(rankings.to_json(), indent=1) + "\n")


def check_format(path: Path) -> None:
    """Refuse the name of a file to write that ends in none of :data:`FORMATS`.

    Raises:
        InputError: it does not.
    """
    if path.suffix not in FORMATS:
        raise InputError(f"{path}: expected a name that ends in {' or '.join(FORMATS)}")


def load_named_features(path: str | os.PathLike[str]) -> NamedFeatures:
    """Features of query and gallery from a feature file, with ``query_paths`` and ``gallery_paths`` as names.

    Labels are not looked at. Without paths an image is called by its row, from 0.

    Raises:
        InputError: the file cannot be read, features are missing, or names do not fit them.
    """
    required = ("query_features", "gallery_features")
    found, names = read_arrays(path, required, optional=("query_paths", "gallery_paths"))
    sides = {side: names[f"{side}_features"] for side in ("query", "gallery")}
    try:
        texts = {side: _names(found, side, name) for side, name in sides.items()}
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return NamedFeatures(
        query_features=found[sides["query"]],
        query_names=texts["query"],
        gallery_features=found[sides["gallery"]],
        gallery_names=texts["gallery"],
    )


def extract_named_features(
    tables: dict[str, SampleTable],
    model: nn.Module,
    *,
    name: str,
    image_size: tuple[int, int],
    flip: bool = False,
    cache: Literal["auto", "always", "never"] = "auto",
) -> NamedFeatures:
    """Features of the images of two tables, ``query`` and ``gallery``, with their paths as names.

    Args:
        tables: the images.
        model: (B, 3, H, W) normalised images to (B, D) features.
        name: where the images come from, for messages.
        image_size: height and width that ``model`` wants.
        flip: average with the features of the mirror images.
        cache: whether to pack the decoded images; ``never`` leaves no file in folders that are looked at once.

    Raises:
        InputError: a table is empty, an image cannot be decoded, or features are not finite.
    """
    for side in ("query", "gallery"):
        if not len(tables[side]):
            raise InputError(f"{name}: has no {side} images to rank")
    arrays = features_of_splits(tables, model, name=name, image_size=image_size, flip=flip, cache=cache)
    return NamedFeatures(
        query_features=torch.from_numpy(arrays["query_features"]),
        query_names=tuple(arrays["query_paths"].tolist()),
        gallery_features=torch.from_numpy(arrays["gallery_features"]),
        gallery_names=tuple(arrays["gallery_paths"].tolist()),
    )


def table_of_folder(folder: Path) -> SampleTable:
    """The images in a folder and below it, whatever their names; who they show and which camera is not known.

    Raises:
        InputError: there is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    paths = list_images(folder, recursive=True)
    if not paths:
        raise InputError(f"{folder}: has no images in it")
    return SampleTable.from_rows(folder.name, folder, [(path, UNLABELLED_PID, 0) for path in paths])


def _names(found: dict[str, NDArray[Any]], side: str, features: str) -> tuple[str, ...]:
    """Names of the images of one side of a feature file."""
    array = found[features]
    length = len(array) if array.ndim else 0
    if (texts := found.get(f"{side}_paths")) is not None:
        check_orientation(array, texts, features)
    named = path_array(found, f"{side}_paths", length=length)
    return tuple(np.arange(length).astype(str).tolist() if named is None else named.tolist())
