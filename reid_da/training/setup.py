"""From settings to a training run that is ready to go."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch

from reid_da.config import ExperimentSettings, HeadSettings
from reid_da.datasets import Dataset, SampleTable, load_dataset
from reid_da.errors import InputError
from reid_da.evaluation import evaluate_retrieval
from reid_da.evaluation.extraction import open_test_images
from reid_da.images import ImageSource, open_images
from reid_da.losses.margin import MARGINS, Margin
from reid_da.memory.exemplar import ExemplarMemory
from reid_da.models.backbones import create_backbone
from reid_da.models.reid_net import ReIDNetwork
from reid_da.models.weights import match_state_dict, read_state_dict
from reid_da.training.device import choose_device
from reid_da.training.loop import Method, Trainer
from reid_da.training.methods.camstyle import CamStyle
from reid_da.training.methods.ecn import ECN
from reid_da.training.optimizer import optimizer_of
from reid_da.training.run_folder import RunFolder
from reid_da.training.seeds import derived_seed
from reid_da.training.streams import TrainingImages, TrainingStreams
from reid_da.training.styles import open_foreign_style, open_style

logger = logging.getLogger(__name__)


def build_trainer(settings: ExperimentSettings, run: RunFolder) -> Trainer:
    """Everything that the settings ask for, put together: data, network, memory, optimiser.

    Args:
        settings: of the experiment.
        run: folder for metrics and checkpoints.

    Raises:
        InputError: the data, the weights or the settings do not fit.
    """
    if settings.precision.threads:
        torch.set_num_threads(settings.precision.threads)
    device = torch.device(choose_device(settings.device))
    data = _DataSets(settings)
    images = _training_images(settings, data)
    streams = TrainingStreams(settings, images=images, device=device)
    network = build_network(settings, num_classes=images["source"].table.num_pids).to(device)
    if settings.precision.channels_last:
        network = network.to(memory_format=torch.channels_last)
    if settings.precision.compile:
        network.backbone.compile()
    return Trainer(
        settings=settings,
        run=run,
        method=_method(settings, network, images, device),
        batches=streams,
        optimizer=build_optimizer(network, settings),
        device=device,
        evaluate=_evaluator(network, settings, data),
    )


def build_network(settings: ExperimentSettings, *, num_classes: int) -> ReIDNetwork:
    """The network of an experiment on the CPU, with the weights that it starts from.

    Args:
        settings: of the experiment.
        num_classes: number of classes of the source branch.

    Raises:
        InputError: the weights cannot be read or do not fit.
    """
    model = settings.model
    generator = torch.Generator().manual_seed(derived_seed(settings.seed, "weights"))
    weights = "none" if settings.init_from else model.weights
    backbone = create_backbone(
        model.backbone,
        width=model.width,
        last_stride=model.last_stride,
        weights=weights,
        pooling=model.pooling,
        image_size=settings.data.image_size,
        generator=generator,
    )
    network = ReIDNetwork(
        backbone,
        num_classes=num_classes,
        embedding=model.embedding,
        embedding_dim=model.embedding_dim,
        dropout=model.dropout,
        target_dropout=model.target_dropout,
        test_feature=model.test_feature,
        margin=head_margin(settings.head),
        freeze=model.freeze,
        bn_mode=model.bn_mode,
        generator=generator,
    )
    if settings.init_from:
        start_from(network, settings.init_from)
    return network


def head_margin(head: HeadSettings) -> Margin | None:
    """The margin that the settings of a classifier come to, None for a linear one.

    Raises:
        InputError: a linear classifier has no margin.
    """
    given = {name: getattr(head, name) for name in ("scale", "m1", "m2", "m3") if getattr(head, name) is not None}
    if head.kind == "linear":
        if given:
            raise InputError(f"head.{next(iter(given))}: a linear classifier has none; set head.kind")
        return None
    return replace(MARGINS[head.kind], **given, beyond=head.beyond, straight_through=head.straight_through)


def start_from(network: ReIDNetwork, path: Path) -> None:
    """Load the weights of a run, or of a file, into a network; a classifier of other classes keeps its own.

    Raises:
        InputError: there are no weights, or they are of another network.
    """
    if path.is_dir():
        checkpoint = RunFolder.open(path).last_checkpoint()
        if checkpoint is None:
            raise InputError(f"{path}: the run has no checkpoint yet")
        weights = dict(checkpoint.weights)
    else:
        weights = dict(read_state_dict(path))
    own = {name: value for name, value in network.state_dict().items() if name.startswith("classifier.")}
    weights = {name.removeprefix("module."): value for name, value in weights.items()}
    if any(name not in weights or weights[name].shape != value.shape for name, value in own.items()):
        logger.info("%s: the classifier is not taken over, it is of other classes", path)
        weights = {name: value for name, value in weights.items() if not name.startswith("classifier.")} | own
    match = match_state_dict(weights, network, origin=str(path))
    network.load_state_dict(match.state, strict=False)


def build_optimizer(network: ReIDNetwork, settings: ExperimentSettings) -> torch.optim.Optimizer:
    """The optimiser, with a lower learning rate for the backbone."""
    optimizer = settings.optimizer
    groups = network.parameter_groups(lr_new=optimizer.lr, lr_backbone=optimizer.lr * optimizer.backbone_lr_factor)
    return optimizer_of(groups, optimizer)


def open_training_table(table: SampleTable, settings: ExperimentSettings) -> ImageSource:
    """The images of a table at the size of the experiment."""
    data = settings.data
    return open_images(table, size=data.image_size, cache=data.cache, cache_dir=data.cache_dir, on_error=data.on_error)


class _DataSets:
    """The data sets of an experiment, each read once, when it is first asked for."""

    def __init__(self, settings: ExperimentSettings) -> None:
        self._settings = settings.data

    @cached_property
    def source(self) -> Dataset:
        return self._load("source", self._settings.source)

    @cached_property
    def target(self) -> Dataset:
        return self._load("target", self._settings.target)

    def _load(self, role: str, path: Path | None) -> Dataset:
        if path is None:
            raise InputError(f"data.{role} is not set: give the folder of the {role} data set, data.{role}=PATH")
        return load_dataset(path)


def _training_images(settings: ExperimentSettings, data: _DataSets) -> dict[str, TrainingImages]:
    """The images of the streams that the experiment's method wants, by name."""
    if settings.method == "supervised":
        return {"source": _plain_images(data.target, settings)}
    source = _plain_images(data.source, settings)
    if settings.method == "camstyle":
        return {"source": source, "restyled": _restyled_images(source, settings, data)}
    if settings.method == "source" or not settings.invariance.exemplar:
        return {"source": source}
    target = _plain_images(data.target, settings)
    if settings.invariance.camera:
        _require_cameras(data.target, hint="set invariance.camera=false to go on")
        target = _styled_images(target, data.target, settings)
    return {"source": source, "target": target}


def _plain_images(dataset: Dataset, settings: ExperimentSettings) -> TrainingImages:
    if not len(dataset.train):
        raise InputError(f"{dataset.root}: has no training images")
    return TrainingImages(table=dataset.train, source=open_training_table(dataset.train, settings))


def _styled_images(images: TrainingImages, dataset: Dataset, settings: ExperimentSettings) -> TrainingImages:
    """Images of a data set with views in the styles of its own cameras."""
    views = open_style(
        settings.views.style,
        images.source,
        images.table,
        num_cameras=dataset.num_cameras,
        on_missing=settings.views.on_missing,
        cache=settings.data.cache,
        cache_dir=settings.data.cache_dir,
        on_error=settings.data.on_error,
        device=settings.device,
    )
    return replace(images, source=views, num_cameras=dataset.num_cameras)


def _restyled_images(source: TrainingImages, settings: ExperimentSettings, data: _DataSets) -> TrainingImages:
    """Source images in the styles of the other cameras of the source, or of all cameras of the target."""
    if settings.camstyle.cameras == "source":
        _require_cameras(data.source, hint="set camstyle.cameras=target, or method=source")
        return replace(_styled_images(source, data.source, settings), with_own=False)
    target = _plain_images(data.target, settings)
    views = open_foreign_style(
        settings.views.style,
        source.source,
        source.table,
        target=target.source,
        target_table=target.table,
        num_target_cameras=data.target.num_cameras,
        device=settings.device,
    )
    return replace(source, source=views, num_cameras=data.target.num_cameras)


def _require_cameras(dataset: Dataset, *, hint: str) -> None:
    if dataset.num_cameras < 2:
        raise InputError(f"{dataset.root}: has one camera, and camera styles need several; {hint}")


def _method(
    settings: ExperimentSettings, network: ReIDNetwork, images: Mapping[str, TrainingImages], device: torch.device
) -> Method:
    labels = torch.from_numpy(images["source"].table.labels()).to(device)
    if settings.method == "camstyle":
        return CamStyle(network, settings=settings, labels=labels)
    target = images.get("target")
    memory = _memory(settings, target, network)
    return ECN(network, memory, settings=settings, source_labels=labels, **_target_columns(target, device))


def _memory(settings: ExperimentSettings, target: TrainingImages | None, network: ReIDNetwork) -> ExemplarMemory | None:
    if target is None:
        return None
    return ExemplarMemory(
        len(target.table),
        network.embedding_dim,
        fingerprint=target.table.fingerprint,
        dtype=getattr(torch, settings.memory.dtype),
    ).to(next(network.parameters()).device)


def _target_columns(target: TrainingImages | None, device: torch.device) -> dict[str, torch.Tensor]:
    if target is None:
        return {}
    columns = {"target_camids": torch.tensor(target.table.camids).to(device)}
    if target.table.is_labelled:
        columns["target_pids"] = torch.tensor(target.table.pids).to(device)
    return columns


def _evaluator(
    network: ReIDNetwork, settings: ExperimentSettings, data: _DataSets
) -> Callable[[], Mapping[str, float]] | None:
    """Evaluation on the target, or None where it has no query and gallery."""
    if settings.data.target is None:
        return None
    dataset = data.target
    if not len(dataset.query) or not len(dataset.gallery):
        logger.info("%s: no query and gallery, so nothing is evaluated on the way", dataset.root)
        return None

    options = settings.data
    # opened before the training, so that a broken test image is not found hours later
    images = open_test_images(
        dataset,
        image_size=options.image_size,
        cache=options.cache,
        cache_dir=options.cache_dir,
        on_error=options.on_error,
    )

    def evaluate() -> Mapping[str, float]:
        features = images.features(network, autocast=settings.precision.autocast == "bfloat16")
        return evaluate_retrieval(*features.arrays).to_json()

    return evaluate
