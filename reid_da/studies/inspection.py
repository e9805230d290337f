"""What trained models make of images, beyond rank-k: angles, pairs told apart, thresholds, how good styles are."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reid_da.config import ExperimentSettings, SourceLossSettings
from reid_da.datasets import Dataset, SampleTable, load_datasets
from reid_da.datasets.pairs import ImagePairs
from reid_da.errors import InputError, first_few
from reid_da.evaluation.angles import AngleStatistics, angle_statistics
from reid_da.evaluation.calibration import Calibration, calibrate
from reid_da.evaluation.extraction import naming_undecodable, open_table
from reid_da.evaluation.image_features import extract_features
from reid_da.evaluation.operating_point import check_rates
from reid_da.evaluation.verification import VerificationResult, check_pairs, identification_rates, verify
from reid_da.finite import check_rows
from reid_da.images import open_images
from reid_da.images.augment import normalize
from reid_da.images.decode import OnError
from reid_da.losses.margin_head import MarginHead
from reid_da.methods.ecn import ECNSettings
from reid_da.models.reid_net import ReIDNetwork, Unscaled
from reid_da.styles.check import StyleCheck, check_styles
from reid_da.styles.open import check_cameras, check_style, kind_of_style, open_style, size_of_run, style_name
from reid_da.training.run_folder import RunFolder
from reid_da.training.trained import TrainedModel, load_trained

logger = logging.getLogger(__name__)


def angles_of_run(
    run: str | Path, *, data: str | Path | None = None, feature: str | None = None, device: str = "auto"
) -> dict[str, AngleStatistics]:
    """Angles of the features of a run, on its labelled training images and on the gallery of a data set.

    The centres of the classifier count where these are the embeddings, and the training compared them with the centres;
    see :func:`compares_with_centers`.

    Args:
        run: run folder or checkpoint.
        data: another data set to look at; the run's target, if it has a gallery, if None.
        feature: ``pooled`` or ``embedding``; the one that the run compares if None.
        device: where the network goes.

    Raises:
        InputError: there is no such run, its data cannot be read, or ``data`` has no labelled gallery.
    """
    if not Path(run).is_dir():
        raise InputError(f"{run}: is not a run; only a run knows which images and classes it was trained on")
    trained = load_trained(run, feature=feature, device=device)
    network, settings = trained.network, trained.settings
    assert isinstance(network, ReIDNetwork)
    assert settings is not None
    has_margin = isinstance(network.classifier, MarginHead)
    is_compared = network.test_feature == "embedding" and compares_with_centers(settings, has_margin_head=has_margin)
    people = _people_of_gallery(data, settings.data.target)
    statistics = {}
    labelled = settings.data.target if settings.method == "supervised" else settings.data.source
    if labelled is not None:
        dataset = load_datasets(labelled)
        table = dataset.train
        features, rows = _embeddings(trained.for_data(dataset), table, settings)
        weight = network.classifier.weight.detach().cpu() if is_compared else None
        found = angle_statistics(features, torch.from_numpy(table.labels())[rows], weight=weight)
        statistics["train"] = replace(found, feature=network.test_feature)
    if people is not None:
        dataset, table = people
        features, rows = _embeddings(trained.for_data(dataset), table, settings)
        found = angle_statistics(features, torch.tensor(table.pids)[rows])
        statistics[f"{dataset.title} gallery"] = replace(found, feature=network.test_feature)
    if not statistics:
        raise InputError(f"{run}: has no labelled images to look at; give a data set with a gallery, --data PATH")
    return statistics


def compares_with_centers(settings: ExperimentSettings, *, has_margin_head: bool) -> bool:
    """Whether a training compared the embeddings with the rows of the classifier, so that their angles mean something.

    A classification does where the classifier is a margin-softmax head, or the linear one of a network without an
    embedding layer, which has no bias; the intra loss always does. Where neither has a weight, as with triplets
    alone, or with all of the weight on the target, the rows are the random ones of the start.
    """
    loss = getattr(settings, "source_loss", None)
    if not isinstance(loss, SourceLossSettings):
        return False
    if isinstance(settings, ECNSettings) and settings.invariance.exemplar and settings.loss_weight == 1:
        return False
    has_logits = loss.classification_weight > 0 or settings.method == "camstyle"
    has_angles = has_margin_head or settings.model.embedding == "none"
    return (has_logits and has_angles) or loss.intra_weight > 0


def _people_of_gallery(
    data: str | Path | None, target: str | Path | tuple[Path, ...] | None
) -> tuple[Dataset, SampleTable] | None:
    """A data set, and the images of known people in its gallery.

    Args:
        data: the data set that was asked for, or None.
        target: that of the run, or None; if it has no gallery the log says so.

    Raises:
        InputError: the data set that was asked for has none.
    """
    path = data or target
    if path is None:
        return None
    dataset = load_datasets(path)
    gallery = dataset.gallery.select((dataset.gallery.pids >= 0) & (dataset.gallery.pids != dataset.distractor_pid))
    if len(gallery):
        return dataset, gallery
    if data is not None:
        raise InputError(
            f"{data}: has no gallery images of known people; give a data set that has, or leave --data out"
        )
    logger.warning("%s: has no gallery images of known people, only training images are looked at", path)
    return None


def verify_pairs(model: TrainedModel, pairs: ImagePairs) -> VerificationResult:
    """Verification of pairs of images, each seen as it is and mirrored.

    The published protocols add up or centre features of the length that they have, so that of a run's network, too,
    is not scaled to 1 before.

    Args:
        model: gives the features.
        pairs: the pairs; an image that cannot be decoded is an error.

    Raises:
        InputError: an image cannot be decoded, features are not finite or zero, or there are too few pairs or folds.
    """
    check_pairs(pairs.same, pairs.folds, name=pairs.name)
    source = open_images(pairs.images, size=model.image_size, cache="never", interpolation="bicubic")
    network = Unscaled(model.for_data(None))
    with naming_undecodable(
        pairs.name, pairs.images, size=model.image_size, advice="repair them, or take their pairs out"
    ):
        plain = extract_features(network, source, normalize=False, label=pairs.images.path)
    mirrored = extract_features(network, source, normalize=False, transform=lambda x: normalize(x).flip(3))
    features = torch.cat([plain, mirrored], dim=1)
    check_rows(features, pairs.name, label=pairs.images.path)
    return verify(features[pairs.first], features[pairs.second], pairs.same, pairs.folds, mirrored=True)


def identification(model: TrainedModel, dataset: Dataset, *, counts: Sequence[int] = ()) -> dict[int, float]:
    """Rank-1 rate of the query identities among distractors, the gallery images of all others, by their number.

    Empty where every person in the gallery has a query.

    Args:
        model: gives the features.
        dataset: with query and gallery; distractors are taken in an order that is random but always the same.
        counts: numbers of distractors; powers of ten and all of them if empty.

    Raises:
        InputError: the data set has no query and gallery, or fewer distractors than asked for.
    """
    features = model.extract(dataset)
    is_mate = np.isin(features.gallery_pids, features.query_pids)
    gallery = torch.from_numpy(features.gallery_features)
    distractors = gallery[torch.from_numpy(~is_mate)]
    if not len(distractors) and not counts:
        return {}
    probes = torch.cat([torch.from_numpy(features.query_features), gallery[torch.from_numpy(is_mate)]])
    pids = np.concatenate([features.query_pids, features.gallery_pids[is_mate]])
    shuffled = distractors[torch.randperm(len(distractors), generator=torch.Generator().manual_seed(0))]
    usual = [10**power for power in range(1, 9) if 10**power < len(distractors)]
    return identification_rates(
        probes, torch.from_numpy(pids), shuffled, counts=list(counts) or [*usual, len(distractors)]
    )


def calibrate_run(
    run: Path,
    *,
    fprs: Sequence[float],
    data: str | Path | None = None,
    feature: str | None = None,
    device: str = "auto",
) -> tuple[Calibration, dict[str, Any]]:
    """Thresholds of a run's model on labelled images, and what they belong to.

    Args:
        run: run folder.
        fprs: false positive rates, above 0 and at most 1.
        data: data set with query and gallery; the run's target if None.
        feature: ``pooled`` or ``embedding``; the one that the run compares if None.
        device: where the network goes.

    Raises:
        InputError: a rate is out of its range, there is no such run, its data have no labelled query and gallery, or
            too few pairs of two persons to tell any of the rates.
    """
    check_rates(fprs, name="--fpr")
    trained = load_trained(RunFolder.open(run).path, feature=feature, device=device)
    dataset = trained.test_data(data)
    features = trained.extract(dataset)
    fingerprints = {"query": dataset.query.fingerprint, "gallery": dataset.gallery.fingerprint}
    notes = {"data": dataset.title, "fingerprints": fingerprints, "epoch": trained.epoch}
    try:
        calibration = calibrate(features, fprs=fprs, feature=trained.feature)
    except InputError as error:
        raise InputError(f"{dataset.root}: {error}") from error
    if not calibration.resolved_points:
        number = calibration.num_negative_pairs
        cause = "too few" if max(fprs) * number < 1 else "too alike to this model"
        raise InputError(
            f"{dataset.root}: {number} pairs of two persons are {cause} to tell a false positive rate of"
            f" {first_few(f'{fpr:g}' for fpr in fprs)}; give a higher --fpr"
        )
    return calibration, notes


def check_named_styles(
    dataset: Dataset,
    styles: Sequence[str],
    *,
    model: str | None = None,
    size: tuple[int, int] | None = None,
    max_images: int = 2000,
    seed: int = 0,
    on_error: OnError = "raise",
    device: str = "auto",
) -> StyleCheck:
    """Measures of several styles of a data set's training images; see :func:`check_styles`.

    Args:
        dataset: whose training images.
        styles: as :func:`open_style` takes them.
        model: what names a re-ID model, or None to look at cameras alone.
        size: height and width of the views; if None that of the model's images, else of the first trained generator,
            else 256x128.
        max_images: most real images to look at.
        seed: of the camera classifier.
        on_error: what to do about images that cannot be decoded: ``raise``, or ``skip``: leave them out.
        device: where to compute.

    Raises:
        InputError: all images are of one camera; or a style or the model cannot be had, or they do not fit the images.
    """
    check_cameras(dataset.train)
    trained = None if model is None else load_trained(model, device=device)
    if size is None:
        runs = [style for style in styles if kind_of_style(style) == "run"]
        size = trained.image_size if trained is not None else size_of_run(runs[0]) if runs else (256, 128)
    if len({style_name(style) for style in styles}) < len(styles):
        raise InputError(f"styles: two of {', '.join(styles)} have one name; rename one")
    for style in styles:
        check_style(style, dataset.train, num_cameras=dataset.num_cameras, size=size)
    source = open_images(dataset.train, size=size, on_error=on_error)
    views = {
        style_name(style): open_style(
            style,
            source,
            dataset.train,
            num_cameras=dataset.num_cameras,
            on_missing="real",
            on_error=on_error,
            device=device,
        )
        for style in styles
    }
    return check_styles(
        source,
        dataset.train,
        views,
        num_cameras=dataset.num_cameras,
        model=trained,
        max_images=max_images,
        seed=seed,
        device=device,
    )


def _embeddings(network: nn.Module, table: SampleTable, settings: ExperimentSettings) -> tuple[Tensor, Tensor]:
    """(N, D) embeddings of unit length of the images of a table that can be decoded, and their (N,) rows."""
    data = settings.data
    opened = open_table(
        table, image_size=data.image_size, cache=data.cache, cache_dir=data.cache_dir, on_error=data.on_error
    )
    return opened.features(network), opened.rows
