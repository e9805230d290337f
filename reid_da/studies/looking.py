"""Runs looked at together: their features and evaluations on one data set, a map and clusters of these."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reid_da.clustering import cluster
from reid_da.config import ExperimentSettings
from reid_da.datasets import Dataset, SampleTable
from reid_da.errors import InputError
from reid_da.evaluation.feature_files import FeatureSet
from reid_da.evaluation.label_free import CLUSTERING
from reid_da.evaluation.projection import project
from reid_da.evaluation.retrieval import RetrievalResult, evaluate_retrieval
from reid_da.studies.feature_cache import table_features, test_features
from reid_da.training.run_folder import RunFolder
from reid_da.training.trained import TrainedModel, load_trained

MOST_IMAGES = 1500
"""Images that are clustered for the contact sheets."""
MOST_ON_MAP = 1000
"""Images on a map; t-SNE takes as long as all the rest of a report."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """A run, with the model that it ended with."""

    name: str
    run: RunFolder
    settings: ExperimentSettings
    model: TrainedModel


@dataclass(frozen=True, kw_only=True, eq=False)
class Look:
    """What models make of one data set.

    Attributes:
        subjects: the runs; before the adaptation first.
        dataset: the data set.
        query: queries, empty where identities are not known.
        gallery: gallery, or training images where identities are not known.
        features: of query and gallery by name of the run, empty where identities are not known.
        results: evaluations by name.
        last: (N, D) features of ``gallery`` by the last run.
    """

    subjects: Sequence[Subject]
    dataset: Dataset
    query: SampleTable
    gallery: SampleTable
    features: Mapping[str, FeatureSet]
    results: Mapping[str, RetrievalResult]
    last: Tensor


def look_at(runs: Sequence[Path], *, data: Path | None = None, device: str = "auto", with_stages: bool = True) -> Look:
    """Features and evaluations of runs on one data set.

    Args:
        runs: run folders.
        data: data set; the target of the last run if None.
        device: where the networks go.
        with_stages: whether a run's pretraining stage counts as a run before it.

    Raises:
        InputError: a folder holds no run with a checkpoint, or the data cannot be read.
    """
    subjects = _subjects(runs, device, with_stages=with_stages)
    return _look(subjects, subjects[-1].model.test_data(data))


def labelled_look(runs: Sequence[Path], *, data: Path | None = None, device: str = "auto") -> Look:
    """As :func:`look_at`, of the named runs alone, on data whose identities are known.

    Raises:
        InputError: as there, or they are not.
    """
    look = look_at(runs, data=data, device=device, with_stages=False)
    if not look.results:
        raise InputError(f"{look.dataset.root}: has no query and gallery with known identities to evaluate on")
    return look


def _subjects(runs: Sequence[Path], device: str, *, with_stages: bool) -> list[Subject]:
    folders = []
    for path in runs:
        run = RunFolder.open(path)
        before = run.path / "pretrain"
        if with_stages and (before / "config.yaml").is_file():
            folders.append(before)
        folders.append(run.path)
    folders = list(dict.fromkeys(folder.resolve() for folder in folders))
    common = Path(os.path.commonpath([folder.parent for folder in folders]))
    subjects = []
    for folder in folders:
        model = load_trained(folder, device=device)
        assert model.settings is not None
        name = folder.relative_to(common).as_posix() if len(folders) > 1 else folder.name
        subjects.append(Subject(name=name, run=RunFolder.open(folder), settings=model.settings, model=model))
    return subjects


def _look(subjects: Sequence[Subject], dataset: Dataset) -> Look:
    query, gallery = dataset.query.without_junk(), dataset.gallery.without_junk()
    if len(query) and len(gallery) and query.is_labelled and gallery.is_labelled:
        features = {subject.name: test_features(subject.model, dataset) for subject in subjects}
        results = {
            name: evaluate_retrieval(*found.arrays, same_camera=dataset.same_camera) for name, found in features.items()
        }
        last = torch.from_numpy(np.asarray(features[subjects[-1].name].gallery_features))
        return Look(
            subjects=subjects, dataset=dataset, query=query, gallery=gallery, features=features, results=results,
            last=last,
        )  # fmt: skip
    table = dataset.train.without_junk()
    if not len(table):
        raise InputError(f"{dataset.root}: has neither labelled test images nor training images to report on")
    model = subjects[-1].model
    network = model.for_data(dataset)
    features_of_last = table_features(model, table, name=str(dataset.root), network=network)
    return Look(
        subjects=subjects, dataset=dataset, query=table.select([]), gallery=table, features={}, results={},
        last=torch.from_numpy(features_of_last),
    )  # fmt: skip


def map_of(
    look: Look, method: str
) -> tuple[NDArray[np.float64], dict[str, tuple[NDArray[np.int64], Sequence[str]]], str]:
    """(N, 2) points of a map, their groups for :func:`map_figure`, and how it was made, in words."""
    rows = sample_rows(len(look.gallery), most=MOST_ON_MAP)
    points, used = project(look.last[rows], method=method)
    groups: dict[str, tuple[NDArray[np.int64], Sequence[str]]] = {
        "by camera": (look.gallery.camids[rows], look.dataset.camera_names)
    }
    if look.results:
        nobody = look.dataset.distractor_pid
        is_person = look.gallery.pids[rows] != (-1 if nobody is None else nobody)
        groups["by identity"] = (np.where(is_person, look.gallery.pids[rows], -1), ())
    else:
        groups["by cluster"] = (cluster_labels(look, rows), ())
    kind = {"pca": "the two main directions", "tsne": "t-SNE: neighbours stay near, other distances mean nothing"}
    return points, groups, kind[used]


def sample_rows(count: int, *, most: int = MOST_IMAGES) -> NDArray[np.int64]:
    """(M,) int64 rows, spread evenly, of at most ``most``."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def cluster_labels(look: Look, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """(M,) int64 clusters of some images of the gallery, -1 for none."""
    found = cluster(look.last[rows], look.gallery.camids[rows], settings=CLUSTERING)
    return np.asarray(found.labels)
