"""The features of image files, or of the splits of a data set, written to a file."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from torch import nn

from reid_da.datasets import UNLABELLED_PID, Dataset, SampleTable, load_dataset
from reid_da.datasets.loading import split_path
from reid_da.errors import InputError, first_few, unknown_name
from reid_da.evaluation.centered import center_arrays
from reid_da.evaluation.extraction import features_of_splits, naming_undecodable, open_table, path_column
from reid_da.evaluation.feature_files import check_npz, save_arrays


def extract_to_file(
    model_for: Callable[[Dataset | None], nn.Module],
    images: Sequence[Path],
    output: Path,
    *,
    image_size: tuple[int, int],
    flip: bool = False,
    splits: Sequence[str] = (),
    center: bool = False,
) -> str:
    """Write the features of image files, or of the splits of a data set, and say what was written.

    For image files the ``.npz`` file has the arrays ``features`` (N, D) and ``paths`` (N,). For a data set it has those
    of :func:`reid_da.evaluation.extraction.features_of_splits`, without junk, and ``camera_names``, one name per camid.

    Args:
        model_for: (B, 3, H, W) normalised images to (B, D) features, for images of a data set, or None for files.
        images: image files, or one data set.
        output: the ``.npz`` file.
        image_size: height and width that it wants.
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
        arrays = features_of_splits(
            tables, model_for(dataset), name=str(dataset.root), image_size=image_size, flip=flip
        )
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
        values = open_table(table, image_size=image_size, cache="never").features(model_for(None), flip=flip)
    save_arrays(output, {"features": values.numpy(), "paths": path_column(table)})
    return f"{len(table)} features"


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
