"""What a trained run makes of its data, beyond its rank-k: angles between features and class centres."""

from pathlib import Path

import torch
from torch import Tensor

from reid_da.config import ExperimentSettings
from reid_da.datasets import SampleTable, load_dataset
from reid_da.errors import InputError
from reid_da.evaluation.angles import AngleStatistics, angle_statistics
from reid_da.evaluation.extraction import open_table
from reid_da.losses.margin import MarginHead
from reid_da.models.reid_net import ReIDNetwork
from reid_da.training.trained import load_trained


def angles_of_run(
    run: str | Path, *, data: str | Path | None = None, device: str = "auto"
) -> dict[str, AngleStatistics]:
    """Angles of the embeddings of a run, on its labelled training images and on the gallery of a data set.

    The centres of the classifier count where the training compared the embeddings with them: with a margin-softmax
    head, or with the linear classifier of a network without an embedding layer, which has no bias.

    Args:
        run: run folder or checkpoint.
        data: another data set to look at; the run's target if None.
        device: where the network goes.

    Raises:
        InputError: there is no such run, or its data are not to be had.
    """
    if not Path(run).is_dir():
        raise InputError(f"{run}: is no run; only a run knows which images and classes it was trained on")
    trained = load_trained(run, device=device)
    network, settings = trained.network, trained.settings
    assert isinstance(network, ReIDNetwork)
    assert settings is not None
    network.test_feature = "embedding"
    is_compared = isinstance(network.classifier, MarginHead) or settings.model.embedding == "none"
    statistics = {}
    labelled = settings.data.target if settings.method == "supervised" else settings.data.source
    if labelled is not None:
        table = load_dataset(labelled).train
        features, rows = _embeddings(network, table, settings)
        weight = network.classifier.weight.detach().cpu() if is_compared else None
        statistics["train"] = angle_statistics(features, torch.from_numpy(table.labels())[rows], weight=weight)
    other = data or settings.data.target
    if other is not None and len(load_dataset(other).gallery):
        dataset = load_dataset(other)
        people = dataset.gallery.select((dataset.gallery.pids >= 0) & (dataset.gallery.pids != dataset.distractor_pid))
        features, rows = _embeddings(network, people, settings)
        statistics[f"{dataset.name} gallery"] = angle_statistics(features, torch.tensor(people.pids)[rows])
    return statistics


def _embeddings(network: ReIDNetwork, table: SampleTable, settings: ExperimentSettings) -> tuple[Tensor, Tensor]:
    """(N, D) embeddings of unit length of the images of a table that can be decoded, and their (N,) rows."""
    data = settings.data
    opened = open_table(
        table, image_size=data.image_size, cache=data.cache, cache_dir=data.cache_dir, on_error=data.on_error
    )
    return opened.features(network), opened.rows
