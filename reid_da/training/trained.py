"""Trained models, wherever they come from, ready to give features."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

import numpy as np
import torch
from torch import nn

from reid_da.atomic import naming, open_own
from reid_da.centering import camera_means
from reid_da.config import ExperimentSettings
from reid_da.datasets import Dataset, load_datasets
from reid_da.device import choose_device
from reid_da.errors import InputError, unknown_name
from reid_da.evaluation.camera_norms import FILE_NAME as NORMS_FILE
from reid_da.evaluation.camera_norms import NamedNorms, load_norms
from reid_da.evaluation.centered import NamedMeans
from reid_da.evaluation.extraction import (
    camera_normed_as,
    camera_normed_for,
    features_of_splits,
    features_of_test_images,
    naming_undecodable,
    open_table,
)
from reid_da.evaluation.feature_files import FeatureSet
from reid_da.finite import check_weights
from reid_da.images.augment import normalize
from reid_da.methods import METHODS
from reid_da.models.adabn import with_batch_norms_of
from reid_da.models.backbones import BACKBONE_NAMES, create_backbone, is_backbone_name
from reid_da.models.camera_norm import UNKNOWN_CAMERA, CameraNormed
from reid_da.models.reid_net import ReIDNetwork, TestFeature
from reid_da.models.weight_notes import read_note
from reid_da.training.checkpoint import Checkpoint, load_checkpoint
from reid_da.training.portable import read_portable
from reid_da.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

_ADABN_BATCH = 64
"""Images in a batch whose statistics AdaBN takes."""
M = TypeVar("M", bound="TrainedModel")


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedModel:
    """A network that gives features, and the images that it wants.

    Attributes:
        network: (B, 3, H, W) normalised images to (B, D) features, in evaluation mode.
        image_size: height and width in pixels.
        settings: of the run that it comes from, or None.
        name: what it was loaded from.
        run: folder of that run, or None.
        epoch: of the checkpoint of that run, or None.
        norms: stored batch-norm statistics of cameras, of a run that normalises by camera.
    """

    network: nn.Module
    image_size: tuple[int, int]
    settings: ExperimentSettings | None = None
    name: str = "the model"
    run: Path | None = None
    epoch: int | None = None
    norms: NamedNorms | None = None

    @property
    def is_by_camera(self) -> bool:
        """Whether its batch norms have statistics for each camera."""
        return self.settings is not None and self.settings.model.camera_norm

    @property
    def feature(self) -> str:
        """What is compared: ``pooled`` or ``embedding`` of a run's network, ``backbone`` features of any other."""
        return self.network.test_feature if isinstance(self.network, ReIDNetwork) else "backbone"

    def test_data(self, data: str | Path | Sequence[Path] | Dataset | None = None) -> Dataset:
        """The data set to evaluate on.

        Args:
            data: the data set or its path, or several paths; the test data of the run if None: ``data.test``, else its
                target.

        Raises:
            InputError: it cannot be read, or there is no target.
        """
        if isinstance(data, Dataset):
            return data
        own = self.settings.data if self.settings else None
        path = data or (None if own is None else own.test or own.target)
        if path is None:
            raise InputError(f"{self.name}: has no test data; give a data set with query and gallery (--data PATH)")
        return load_datasets(path)

    def extract(self, data: str | Path | Sequence[Path] | Dataset | None = None, *, flip: bool = False) -> FeatureSet:
        """Features of query and gallery of a data set, with their identities, cameras and paths.

        Args:
            data: as :meth:`test_data` takes it.
            flip: average with the features of the mirror images.

        Raises:
            InputError: the data set cannot be read, has no query or gallery, or images cannot be decoded.
        """
        dataset = self.test_data(data)
        return features_of_test_images(dataset, self.for_data(dataset), image_size=self.image_size, flip=flip)

    def for_data(self, dataset: Dataset | None) -> nn.Module:
        """The network for images of a data set: one that normalises by camera has the statistics of its cameras.

        They are those of its training images; where there are none, those that are stored with the run for cameras of
        the same name, or else those of its query and gallery. Labels are not read.

        Args:
            dataset: the data set; None for images of unknown cameras, which have the stored statistics of all cameras.

        Raises:
            InputError: images cannot be decoded, or there are no stored statistics.
        """
        if not self.is_by_camera or isinstance(self.network, CameraNormed):
            return self.network
        if dataset is None:
            return self.stored_norms().apply(self.network).at(UNKNOWN_CAMERA)
        return camera_normed_as(self.network, dataset, self.norms, image_size=self.image_size)

    def with_camera_norms_of(
        self: M, data: str | Path | Sequence[Path] | Dataset | None = None, *, share: float = 0.5
    ) -> M:
        """The model with batch-norm statistics for each camera of a data set; see :mod:`reid_da.models.camera_norm`.

        Args:
            data: the data set or its path; the target of the run if None. Its training images are used, or query and
                gallery where there are none; labels are not read.
            share: of these statistics; those that the model was trained with have the rest.

        Raises:
            InputError: the data set cannot be read, has fewer than two images, the network has no batch norms, or
                ``share`` is not in 0..1.
        """
        dataset = self._unlabelled_data(data)
        network = camera_normed_for(self.network, dataset, image_size=self.image_size, share=share)
        return replace(self, network=network)

    def _unlabelled_data(self, data: str | Path | Sequence[Path] | Dataset | None) -> Dataset:
        """The data set whose images the model is used on: the target, which may have a test set elsewhere."""
        target = None if self.settings is None else self.settings.data.target
        return self.test_data(data if data is not None else target)

    def with_batch_norms_of(self: M, data: str | Path | Sequence[Path] | Dataset | None = None) -> M:
        """The model with the batch-norm statistics of a data set's training images; see :mod:`reid_da.models.adabn`.

        Labels are not read. The images come in random order, the same each time, in batches of 64.

        Args:
            data: the data set or its path; the target of the run if None.

        Raises:
            InputError: the data set cannot be read, has fewer than two training images, or the network has no
                batch-norm layers.
        """
        if self.is_by_camera:
            raise InputError(f"{self.name}: normalises by camera and takes its statistics itself; leave AdaBN out")
        dataset = self._unlabelled_data(data)
        table = dataset.train.without_junk()
        if len(table) < 2:
            raise InputError(f"{dataset.root}: AdaBN takes its statistics from training images, and there are none")
        with naming_undecodable(str(dataset.root), table, size=self.image_size):
            opened = open_table(table, image_size=self.image_size)
        order = opened.rows[torch.randperm(len(opened.rows), generator=torch.Generator().manual_seed(0))]
        size = min(_ADABN_BATCH, len(order))
        # a last batch that is not full would count as much as a full one
        chunks = [order[start : start + size] for start in range(0, len(order) - size + 1, size)]
        batches = (normalize(opened.source.gather(chunk)) for chunk in chunks)
        return replace(self, network=with_batch_norms_of(self.network, batches))

    def camera_norms(self, data: str | Path | Sequence[Path] | Dataset | None = None) -> NamedNorms:
        """Batch-norm statistics of the cameras of a data set, to be stored with a run that normalises by camera.

        Args:
            data: the data set or its path; the target of the run if None.

        Raises:
            InputError: the data set cannot be read, or has fewer than two images.
        """
        dataset = self._unlabelled_data(data)
        model = camera_normed_for(self.network, dataset, image_size=self.image_size)
        return NamedNorms.of(model, dataset.camera_names, data=dataset.name, epoch=self.epoch, size=self.image_size)

    def stored_norms(self) -> NamedNorms:
        """The statistics that are stored with it.

        Raises:
            InputError: there are none of this checkpoint and image size.
        """
        if self.norms is None:
            remedy = f"store them: reid-da center {self.run}" if self.run else "export it from its run again"
            raise InputError(
                f"{self.name}: normalises by camera, and has no statistics of cameras for this checkpoint at "
                f"{self.image_size[0]}x{self.image_size[1]}; {remedy}"
            )
        return self.norms

    def camera_means(self, data: str | Path | Sequence[Path] | Dataset | None = None) -> NamedMeans:
        """Mean features of the cameras of a data set, over its training images, or the others if it has none.

        Args:
            data: the data set or its path; the target of the run if None.

        Raises:
            InputError: the data set cannot be read, or has no images.
        """
        dataset = self._unlabelled_data(data)
        splits = [dataset.train] if len(dataset.train.without_junk()) else [dataset.query, dataset.gallery]
        tables = {str(number): table.without_junk() for number, table in enumerate(splits)}
        tables = {name: table for name, table in tables.items() if len(table)}
        if not tables:
            raise InputError(f"{dataset.root}: has no images to take camera means from")
        arrays = features_of_splits(tables, self.for_data(dataset), name=str(dataset.root), image_size=self.image_size)
        features, camids = (
            np.concatenate([arrays[f"{name}_{kind}"] for name in tables]) for kind in ("features", "camids")
        )
        means = camera_means(features, camids)
        return NamedMeans(
            names=tuple(dataset.camera_names[camera] for camera in means.camids.tolist()),
            means=means,
            data=dataset.name,
            epoch=self.epoch,
            image_size=self.image_size,
        )


def keep_evaluation(trained: TrainedModel, dataset: Dataset, figures: Mapping[str, Any]) -> None:
    """Note the figures of a run's model in ``evaluations.jsonl`` of its folder, a record for each evaluation.

    Models of no run are not noted, nor are those of a run whose folder is not writable, which the log says.
    """
    if trained.run is None:
        return
    file = trained.run / "evaluations.jsonl"
    record = {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "data": str(dataset.root),
        "epoch": trained.epoch,
        "image_size": list(trained.image_size),
        **figures,
    }
    try:
        with naming(file), open_own(file, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(record, allow_nan=False) + "\n")
    except OSError as error:
        logger.warning("%s: the evaluation is not kept: %s", file, error.strerror or error)


def load_trained(
    model: str | Path,
    *,
    backbone: str = "resnet50",
    last_stride: int = 2,
    stem_relu: bool = True,
    weights: str = "imagenet",
    image_size: tuple[int, int] | None = None,
    feature: str | None = None,
    device: str = "auto",
) -> TrainedModel:
    """A model by what names it: a run folder, one of its checkpoints, a file of weights, or a backbone.

    Args:
        model: the run, the checkpoint, the file, or a name such as ``resnet50``.
        backbone: network that a file of weights belongs to; one that ``reid-da export`` or ``import-weights`` wrote
            says so itself.
        last_stride: stride of ``layer4``, for files and names.
        stem_relu: whether a ResNet has the ReLU after its first convolution, for files and names.
        weights: ``imagenet`` or ``none`` (random), for names.
        image_size: height and width of the images; that of the run, else 256x128, if None.
        feature: what is compared, ``pooled`` or ``embedding``; that of the run's settings if None.
        device: where the network goes.

    Raises:
        InputError: there is no such model, its weights do not fit, or it has no such feature.
    """
    trained = _load(
        model,
        backbone=backbone,
        last_stride=last_stride,
        stem_relu=stem_relu,
        weights=weights,
        image_size=image_size,
        device=device,
    )
    if feature is None:
        return trained
    if feature not in get_args(TestFeature):
        raise unknown_name("feature", feature, get_args(TestFeature))
    if not isinstance(trained.network, ReIDNetwork):
        raise InputError(f"{model}: feature {feature} is for runs; a backbone has one kind of features only")
    trained.network.test_feature = cast("TestFeature", feature)
    return trained


def _load(
    model: str | Path,
    *,
    backbone: str,
    last_stride: int,
    stem_relu: bool,
    weights: str,
    image_size: tuple[int, int] | None,
    device: str,
) -> TrainedModel:
    path = Path(model)
    chosen = choose_device(device)
    if path.is_dir():
        return _from_run(path, image_size=image_size, device=chosen)
    portable = read_portable(path) if path.is_file() else None
    if portable is not None:
        settings = portable.settings
        return TrainedModel(
            network=portable.network().to(chosen).eval(),
            image_size=image_size or settings.data.image_size,
            settings=settings,
            name=str(path),
            epoch=portable.epoch,
            norms=portable.norms if image_size in (None, settings.data.image_size) else None,
        )
    if path.exists():
        name, source = backbone, str(path)
    elif is_backbone_name(str(model)):
        name, source = str(model), weights
    else:
        raise InputError(
            f"{model}: no such run or file of weights, and no backbone of this name ({', '.join(BACKBONE_NAMES)})"
        )
    size = image_size or (256, 128)
    note = read_note(path) if path.is_file() else None
    if note is not None:
        size = image_size or note.image_size or size
        network = create_backbone(weights=source, image_size=size, **note.options())
    else:
        network = create_backbone(name, last_stride=last_stride, stem_relu=stem_relu, weights=source, image_size=size)
    network = network.to(chosen).eval()
    check_weights(network, str(model))
    return TrainedModel(network=network, image_size=size, name=str(model))


def _from_run(path: Path, *, image_size: tuple[int, int] | None, device: str) -> TrainedModel:
    """Model of a run's last checkpoint, or of the checkpoint whose folder it is."""
    is_checkpoint = path.parent.name == "checkpoints"
    run = RunFolder.open(path.parent.parent if is_checkpoint else path)
    checkpoint = load_checkpoint(path) if is_checkpoint else run.last_checkpoint()
    if checkpoint is None:
        raise InputError(f"{path}: the run has no checkpoint yet")
    settings = run.settings()
    network = _network(settings, checkpoint, run)
    epoch = int(checkpoint.description["epoch"])
    if epoch < settings.epochs and not is_checkpoint:
        logger.info("%s: not complete; this is the model after epoch %d of %d", path, epoch, settings.epochs)
    size = image_size or settings.data.image_size
    norms = load_norms(run.path / NORMS_FILE) if settings.model.camera_norm else None
    is_own = norms is not None and (norms.epoch, norms.image_size) == (epoch, tuple(size))
    return TrainedModel(
        norms=norms if is_own else None,
        network=network.to(device).eval(),
        image_size=size,
        settings=settings,
        name=str(path),
        run=run.path,
        epoch=epoch,
    )


def _network(settings: ExperimentSettings, checkpoint: Checkpoint, run: RunFolder) -> nn.Module:
    """The network of a run with the weights of a checkpoint.

    Raises:
        InputError: the settings are not those that the checkpoint was made with.
    """
    run.check_settings(checkpoint, settings)
    try:
        return METHODS[settings.method].restore(settings, checkpoint.weights)
    except (KeyError, RuntimeError) as error:
        raise InputError(
            f"{run.config_file}: describes another network than the one in its checkpoints; undo the change"
        ) from error
