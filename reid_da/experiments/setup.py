"""From settings to a training run that is ready to go."""

import logging
from collections.abc import Callable, Mapping

import torch

from reid_da.config import ExperimentSettings
from reid_da.evaluation import evaluate_retrieval
from reid_da.evaluation._relevance import Relevance
from reid_da.experiments.domains import ExperimentContext
from reid_da.methods import METHODS
from reid_da.methods.protocol import Method
from reid_da.training.loop import Trainer
from reid_da.training.run_folder import RunFolder

logger = logging.getLogger(__name__)


def build_trainer(settings: ExperimentSettings, run: RunFolder, *, bare: bool = False) -> Trainer:
    """Everything that the settings ask for, put together: data, method, evaluation.

    Args:
        settings: of the experiment.
        run: folder for metrics and checkpoints.
        bare: begin with random weights, which a checkpoint will replace.

    Raises:
        InputError: the data, the weights or the settings do not fit.
    """
    if settings.precision.threads:
        torch.set_num_threads(settings.precision.threads)
    context = ExperimentContext(settings, bare=bare)
    method = _method(settings, context)
    return Trainer(
        settings=settings,
        run=run,
        method=method,
        device=context.device,
        world=context.world,
        image_size=settings.data.image_size,
        fingerprints=context.fingerprints,
        evaluate=_evaluator(method, settings, context),
        evaluate_start=settings.init_from is not None,
    )


def check_possible(settings: ExperimentSettings) -> None:
    """See to it that a training can be begun and evaluated, without the weights that it starts from.

    Raises:
        InputError: data or settings do not fit.
    """
    context = ExperimentContext(settings, bare=True)
    _evaluator(_method(settings, context), settings, context)


def _method(settings: ExperimentSettings, context: ExperimentContext) -> Method:
    return METHODS[settings.method](settings, context)


def _evaluator(
    method: Method, settings: ExperimentSettings, context: ExperimentContext
) -> Callable[[], Mapping[str, float]] | None:
    """Evaluation of the method's network on the target, or None where there is no query and gallery."""
    images = context.test_images()
    if images is None:
        return None
    query, gallery = images.query.table, images.gallery.table
    same_camera = context.dataset("target").same_camera
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
        features = images.features(method.inference, autocast=settings.precision.autocast == "bfloat16")
        return evaluate_retrieval(*features.arrays, same_camera=same_camera).to_json()

    return evaluate
