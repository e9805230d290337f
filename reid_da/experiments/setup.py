"""From settings to a training run that is ready to go."""

import logging
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from reid_da.config import ExperimentSettings
from reid_da.device import choose_device
from reid_da.evaluation import evaluate_retrieval
from reid_da.evaluation._relevance import Relevance
from reid_da.evaluation.image_features import features_of_rows
from reid_da.evaluation.label_free import NUM_NEIGHBORS, label_free_figures
from reid_da.experiments.domains import ExperimentContext
from reid_da.images import augment
from reid_da.methods import METHODS
from reid_da.methods.protocol import Method
from reid_da.processes import agreed, require_equal
from reid_da.training.loop import Trainer
from reid_da.training.run_folder import RunFolder
from reid_da.world import ALONE, World

_LARGE = ("resnet50", "resnet50_ibn_a", "resnet101")

logger = logging.getLogger(__name__)

MOST_IMAGES = 16384
"""Training images of the target that the label-free figures look at, evenly spaced; more would take too long."""


def build_trainer(settings: ExperimentSettings, run: RunFolder, *, bare: bool = False, world: World = ALONE) -> Trainer:
    """Everything that the settings ask for, put together: data, method, evaluation.

    Args:
        settings: settings of the experiment.
        run: folder for metrics and checkpoints.
        bare: begin with random weights, which a checkpoint will replace.
        world: the processes that train together, all of which call this.

    Raises:
        InputError: the data, the weights or the settings do not fit, or differ between processes.
    """
    if settings.precision.threads:
        torch.set_num_threads(settings.precision.threads)
    return agreed(world, lambda: _trainer(settings, run, bare=bare, world=world))


def _trainer(settings: ExperimentSettings, run: RunFolder, *, bare: bool, world: World) -> Trainer:
    context = ExperimentContext(settings, bare=bare, world=world)
    method = _method(settings, context)
    require_equal(world, {f"the {role} images": known for role, known in context.fingerprints.items()})
    return Trainer(
        settings=settings,
        run=run,
        method=method,
        device=context.device,
        world=context.world,
        image_size=settings.data.image_size,
        fingerprints=context.fingerprints,
        evaluate=_evaluator(method, settings, context),
        label_free=_label_free(method, settings, context),
        evaluate_start=settings.init_from is not None,
    )


def warn_if_slow(settings: ExperimentSettings) -> None:
    """Say so where a large network at full size meets a CPU, which takes days."""
    model, (height, width) = settings.model, settings.data.image_size
    is_large = model.backbone in _LARGE and model.width >= 1 and height * width >= 128 * 64
    if is_large and choose_device(settings.device) == "cpu":
        logger.warning(
            "%s on images of %dx%d is slow on a CPU (some images a second); `reid-da init FILE --cpu` writes settings "
            "for one, such as data.image_size=[128,64] model.backbone=resnet18",
            model.backbone,
            height,
            width,
        )


def check_possible(settings: ExperimentSettings, *, world: World = ALONE) -> None:
    """See to it that a training can be begun and evaluated, without the weights that it starts from.

    Raises:
        InputError: data or settings do not fit.
    """
    context = ExperimentContext(settings, bare=True, world=world)
    agreed(world, lambda: _evaluator(_method(settings, context), settings, context))


def _method(settings: ExperimentSettings, context: ExperimentContext) -> Method:
    return METHODS[settings.method](settings, context)


def _evaluator(
    method: Method, settings: ExperimentSettings, context: ExperimentContext
) -> Callable[[], Mapping[str, float]] | None:
    """Evaluation of the method's network on the target, or None where there is no query and gallery."""
    images, dataset = context.test_images(), context.test_dataset()
    if images is None or dataset is None:
        return None
    query, gallery = images.query.table, images.gallery.table
    same_camera = dataset.same_camera
    if same_camera == "include":
        logger.warning("%s: has one camera or unknown ones, so matches within the camera count", query.root)
    # raises where no query has a match, hours before the evaluation would
    Relevance(
        query.pids,
        query.camids,
        gallery.pids,
        gallery.camids,
        shape=(len(query), len(gallery)),
        same_camera=same_camera,
        is_choice=False,
    )

    def evaluate() -> Mapping[str, float]:
        autocast = settings.precision.autocast == "bfloat16"
        features = images.features(context.for_test_features(method.inference), autocast=autocast, world=context.world)
        return evaluate_retrieval(*features.arrays, same_camera=same_camera, world=context.world).to_json()

    return evaluate


def _label_free(
    method: Method, settings: ExperimentSettings, context: ExperimentContext
) -> Callable[[], Mapping[str, float]] | None:
    """Figures of the method's network on the target that need no labels, or None where there are too few images."""
    if not settings.label_free or settings.data.target is None or not len(context.dataset("target").train):
        return None
    # not from the context: what only looks at the target is no part of what the training depends on
    images = context.look_at("target")
    rows = images.rows[:: -(-len(images.rows) // MOST_IMAGES)] if len(images.rows) else images.rows
    if len(rows) <= NUM_NEIGHBORS:
        return None

    def compute() -> Mapping[str, float]:
        autocast = settings.precision.autocast == "bfloat16"
        model, camids = context.for_features(method.inference, images), images.camids[rows]
        features, mirrored = (
            features_of_rows(
                model, images.images, rows, camids, transform=transform, autocast=autocast, world=context.world
            )
            for transform in (None, _mirrored)
        )
        return label_free_figures(features, mirrored, camids)

    return compute


def _mirrored(pixels: Tensor) -> Tensor:
    return augment.normalize(pixels.flip(-1))
