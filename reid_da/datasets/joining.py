"""Several data sets as one."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reid_da.datasets.loading import load_dataset
from reid_da.datasets.table import Dataset, SampleTable
from reid_da.errors import InputError


def load_datasets(paths: str | Path | Sequence[Path]) -> Dataset:
    """The data set at a path, or several joined; see :func:`join_datasets`.

    Raises:
        InputError: one of them cannot be read, or is named twice.
    """
    if isinstance(paths, str | Path):
        return load_dataset(paths)
    if len({path.resolve() for path in paths}) < len(paths) or not paths:
        raise InputError(f"data sets {', '.join(map(str, paths))}: name each of them once")
    datasets = [load_dataset(path) for path in paths]
    return datasets[0] if len(datasets) == 1 else join_datasets(datasets)


def join_datasets(datasets: Sequence[Dataset]) -> Dataset:
    """One data set of the images of several: no two of them share a person or a camera.

    Identities and cameras are numbered on from data set to data set; junk and unknown identities stay what they are.
    Paths are relative to the folder that holds all of them.
    """
    root = Path(os.path.commonpath([dataset.root.resolve() for dataset in datasets]))
    pids, camids = 0, 0
    persons: dict[int, str] = {}
    parts: dict[str, list[SampleTable]] = {"train": [], "query": [], "gallery": []}
    for dataset in datasets:
        for name, table in dataset.splits.items():
            parts[name].append(_shifted(table, root, pids=pids, camids=camids))
        persons |= {pid + pids: name for pid, name in dataset.person_names.items()}
        pids += 1 + max((int(table.pids.max()) for table in dataset.splits.values() if len(table)), default=-1)
        camids += dataset.num_cameras
    title = "+".join(dataset.name for dataset in datasets)
    train, query, gallery = (_joined(f"{title}/{name}", root, tables) for name, tables in parts.items())
    names = tuple(f"{dataset.name} {camera}" for dataset in datasets for camera in dataset.camera_names)
    notes = tuple(f"{dataset.name}: {note}" for dataset in datasets for note in dataset.notes)
    return Dataset(
        name=title,
        format="joined",
        root=root,
        train=train,
        query=query,
        gallery=gallery,
        camera_names=names,
        notes=notes,
        person_names=persons,
        passed_over=tuple(path for dataset in datasets for path in dataset.passed_over),
    )


def _shifted(table: SampleTable, root: Path, *, pids: int, camids: int) -> SampleTable:
    prefix = table.root.resolve().relative_to(root).as_posix()
    paths = table.paths if prefix == "." else tuple(f"{prefix}/{path}" for path in table.paths)
    shifted = np.where(table.pids >= 0, table.pids + pids, table.pids)
    return SampleTable(name=table.name, root=root, paths=paths, pids=shifted, camids=table.camids + camids)


def _joined(name: str, root: Path, tables: Sequence[SampleTable]) -> SampleTable:
    rows = [
        row for table in tables for row in zip(table.paths, table.pids.tolist(), table.camids.tolist(), strict=True)
    ]
    return SampleTable.from_rows(name, root, rows)
