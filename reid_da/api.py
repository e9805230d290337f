"""The front door: load a model, embed, evaluate and search images with it, train one.

>>> model = reid_da.load("runs/demo")
>>> features = model.embed("crops/")
>>> model.evaluate("data/rendered/site-b").mean_ap

Documented with examples in ``docs/api.md``.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from reid_da.config import ExperimentSettings
from reid_da.datasets import Dataset
from reid_da.errors import InputError
from reid_da.evaluation import RerankSettings, RetrievalResult, search
from reid_da.evaluation.calibration import Calibration, load_calibration
from reid_da.evaluation.centered import FILE_NAME, NamedMeans, load_means
from reid_da.evaluation.feature_evaluation import evaluate_feature_set
from reid_da.evaluation.ranking import table_of_folder
from reid_da.experiments import runs
from reid_da.features import check_directions
from reid_da.methods import load_settings
from reid_da.models.camera_norm import CameraNormed, camera_after_camera
from reid_da.models.extractor import ColorOrder, FeatureExtractor, ImageItem
from reid_da.models.inference import WithMirrored
from reid_da.training.run_folder import RunFolder
from reid_da.training.trained import TrainedModel, load_trained

Features: TypeAlias = NDArray[np.float32]
"""(N, D) features of unit length."""
Images: TypeAlias = ImageItem | Sequence[ImageItem] | Tensor
"""The path of an image or of a folder, a list of paths, uint8 arrays, or a tensor; see :meth:`Model.embed`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchResult:
    """The K most similar gallery images of Q queries, the most similar first.

    Attributes:
        indices: (Q, K) int64 rows of the gallery.
        similarities: (Q, K) float32 cosine similarities, from -1 to 1.
        paths: (Q, K) paths of the images, or None where the gallery was not given as paths.
    """

    indices: NDArray[np.int64]
    similarities: Features
    paths: NDArray[np.str_] | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True, eq=False)
class Model(TrainedModel):
    """A model that turns images of people into features; :func:`load` makes it.

    Attributes:
        network: (B, 3, H, W) normalised images to (B, D) features, in evaluation mode.
        image_size: height and width in pixels that images are resized to.
        settings: of the run that it comes from, or None.
        name: what it was loaded from.
        run: folder of that run, or None.
        epoch: of the checkpoint of that run, or None.
        norms: stored batch-norm statistics of cameras, of a run that normalises by camera.
    """

    @cached_property
    def dim(self) -> int:
        """Length D of the features."""
        black = np.zeros((*self.image_size, 3), dtype=np.uint8)
        return FeatureExtractor(self.network, image_size=self.image_size)(black).shape[1]

    def embed(
        self,
        images: Images,
        *,
        flip: bool = False,
        color_order: ColorOrder = "rgb",
        batch_size: int = 64,
        cameras: Sequence[str | None] | str | None = None,
    ) -> Features:
        """(N, D) float32 features of unit length, whose products are cosine similarities.

        Args:
            images: the path of an image, or of a folder (all images in it and below it, in the order of their sorted
                paths); a list of paths; (H, W, 3) or (B, H, W, 3) uint8 arrays or a list of arrays of any sizes; or a
                (3, H, W) or (B, 3, H, W) tensor, uint8 or normalised for the network.
            flip: average with the features of the mirror images.
            color_order: order of the colours in arrays and tensors; ``bgr`` for those of OpenCV.
            batch_size: number of images per forward pass.
            cameras: for a model that normalises by camera, the names of their N cameras, or of the one that all are of;
                an unknown one, or None, has the statistics of all. Other models take no notice.

        Raises:
            InputError: an image cannot be decoded, an array is none of these, there are no images, features are
                not finite or zero, or a model that normalises by camera has no statistics.
        """
        items = _items(images)

        def extract(network: nn.Module, some: Images) -> Tensor:
            extractor = FeatureExtractor(
                WithMirrored(network) if flip else network,
                image_size=self.image_size,
                color_order=color_order,
                batch_size=batch_size,
            )
            return extractor(some)

        features = self._by_camera(extract, items, cameras) if self.is_by_camera else extract(self.network, items)
        names = _paths(items)
        check_directions(features, "features", label=None if names is None else names.__getitem__)
        return F.normalize(features).cpu().numpy()

    def _by_camera(
        self,
        extract: Callable[[nn.Module, Images], Tensor],
        items: Images,
        cameras: Sequence[str | None] | str | None,
    ) -> Tensor:
        """(N, D) features of images, those of each camera with its own statistics."""
        norms, model = self.stored_norms(), self._camera_normed
        if cameras is None or isinstance(cameras, str):
            return extract(model.at(*norms.numbers([cameras])), items)
        if not isinstance(items, Sequence | np.ndarray | Tensor) or len(cameras) != len(items):
            raise InputError(f"cameras: expected the name of one camera, or one for each image, got {len(cameras)}")

        def of_camera(number: int, places: Tensor) -> Tensor:
            some = items[places] if isinstance(items, Tensor) else [items[place] for place in places.tolist()]
            return extract(model.at(number), some)

        return camera_after_camera(torch.tensor(norms.numbers(cameras)), of_camera)

    @cached_property
    def _camera_normed(self) -> CameraNormed:
        return self.stored_norms().apply(self.network)

    def search(self, query: Images | Features, gallery: Images | Features, *, top: int = 10) -> SearchResult:
        """The most similar gallery images of every query, never with a matrix over all pairs.

        Nothing is left out, as no labels are known: an image that is a query and in the gallery is found first.

        Args:
            query: images as :meth:`embed` takes them, or its features, (Q, D).
            gallery: the same, (G, D).
            top: gallery images K for each query; all of a smaller gallery.

        Raises:
            InputError: images or features cannot be used, or ``top`` is below 1.
        """
        if top < 1:
            raise InputError(f"top: expected at least 1, got {top}")
        sides = _items(query), _items(gallery)
        first, second = (
            torch.as_tensor(items) if _is_features(items) else torch.from_numpy(self.embed(items)) for items in sides
        )
        names = _paths(sides[1])
        distances, indices = search(first, second, num_neighbors=min(top, len(second)))
        rows = indices.cpu().numpy()
        return SearchResult(
            indices=rows,
            similarities=(1 - distances).float().cpu().numpy(),
            paths=None if names is None else np.array(names, dtype=np.str_)[rows],
        )

    def evaluate(
        self,
        data: str | Path | Sequence[Path] | Dataset | None = None,
        *,
        rerank: bool | RerankSettings = False,
        flip: bool = False,
        same_camera: str | None = None,
        center_cameras: bool = False,
    ) -> RetrievalResult:
        """CMC, mAP and mINP on the query and gallery of a data set.

        Args:
            data: the data set or its path, or several paths; the target of the run if None.
            rerank: evaluate after k-reciprocal re-ranking; with the settings of the paper, or given ones.
            flip: average with the features of the mirror images.
            same_camera: ``exclude`` leaves out gallery images of the query's identity and camera, ``include`` counts
                them; by default as suits the data set.
            center_cameras: take the mean of each camera out of the features first.

        Raises:
            InputError: there is no such data set, or it has no query or gallery.
        """
        dataset = self.test_data(data)
        settings = RerankSettings() if rerank is True else rerank or None
        result = evaluate_feature_set(
            self.extract(dataset, flip=flip),
            rerank=settings,
            same_camera=same_camera or dataset.same_camera,
            center_cameras=center_cameras,
        )
        return result.reranked or result.plain

    @cached_property
    def calibration(self) -> Calibration:
        """What ``reid-da calibrate RUN`` has stored with the run.

        Raises:
            InputError: the model is of no run, or its checkpoint at its image size is not calibrated.
        """
        if self.run is None or self.settings is None:
            raise InputError(f"{self.name}: only runs are calibrated (reid-da calibrate RUN)")
        size = self.settings.data.image_size
        if self.image_size != size:
            raise InputError(f"{self.run}: is calibrated for images of {size}, and is loaded for {self.image_size}")
        return load_calibration(self.run / "calibration.json", epoch=self.epoch, feature=self.feature)

    @cached_property
    def stored_camera_means(self) -> NamedMeans:
        """What ``reid-da center RUN`` has stored with the run.

        Raises:
            InputError: the model is of no run, or there are no means of its checkpoint at its image size.
        """
        if self.run is None:
            raise InputError(f"{self.name}: only runs have camera means (reid-da center RUN)")
        named = load_means(self.run / FILE_NAME)
        if (named.epoch, named.image_size) != (self.epoch, self.image_size):
            raise InputError(
                f"{self.run / FILE_NAME}: is of epoch {named.epoch} and images of {named.image_size}, and the model of "
                f"epoch {self.epoch} and {self.image_size}; store those: reid-da center {self.run}"
            )
        return named

    def center_cameras(self, features: Features, cameras: Sequence[str] | str) -> Features:
        """(N, D) unit features without the stored means of their cameras; see ``reid-da center``.

        A single new image can be centred, as the means are not its own. To centre a whole set of images by their own
        means, use :func:`reid_da.center_cameras`.

        Args:
            features: (N, D) of :meth:`embed`.
            cameras: names of their N cameras, or the name of the one that all are of.

        Raises:
            InputError: there are no stored means, or a camera is not among them.
        """
        names = [cameras] * len(features) if isinstance(cameras, str) else list(cameras)
        return self.stored_camera_means.center(features, names).numpy()

    def threshold(self, fpr: float) -> float:
        """The lowest similarity that means "the same person" at a false positive rate that was calibrated.

        Raises:
            InputError: there is not a calibration, or not for this rate.
        """
        return self.calibration.threshold(fpr)


def load(
    model: str | Path,
    *,
    backbone: str = "resnet50",
    last_stride: int = 2,
    weights: str = "imagenet",
    image_size: tuple[int, int] | None = None,
    feature: str | None = None,
    device: str = "auto",
) -> Model:
    """A model by what names it: a run folder, one of its checkpoints, a file of weights, or a backbone.

    Args:
        model: the run, the checkpoint, the file, or a name such as ``osnet_x0_25``.
        backbone: network that a file of weights belongs to.
        last_stride: stride of the last stage, for files and names.
        weights: ``imagenet`` or ``none`` (random), for names.
        image_size: height and width of the images; by default that of the run, else 256x128.
        feature: what of a run's network is compared, ``pooled`` or ``embedding``; None: as in its settings.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ...

    Raises:
        InputError: there is no such model, or its weights do not fit.
    """
    trained = load_trained(
        model,
        backbone=backbone,
        last_stride=last_stride,
        weights=weights,
        image_size=image_size,
        feature=feature,
        device=device,
    )
    return Model(**vars(trained))


class Run:
    """A training run on disk.

    Attributes:
        path: its folder.
    """

    def __init__(self, path: str | Path) -> None:
        """Open a run.

        Raises:
            InputError: the folder holds no run.
        """
        self._folder = RunFolder.open(Path(path))
        self.path = self._folder.path

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def settings(self) -> ExperimentSettings:
        """Settings of the run."""
        return self._folder.settings()

    def model(self, **options: Any) -> Model:
        """The model of the last checkpoint; the options are those of :func:`load`."""
        return load(self.path, **options)

    def metrics(self) -> dict[str, float]:
        """Figures after the last epoch: ``mAP``, ``rank1``, ...; without labels those that need none.

        Raises:
            InputError: the run is not complete.
        """
        return runs.final_figures(self._folder)

    def records(self, kind: str | None = None) -> list[dict[str, Any]]:
        """What was logged, in order: losses (``train``), evaluations (``evaluation``), or all."""
        return self._folder.records(kind)

    def resume(self, *, skip_damaged: bool = False, **overrides: Any) -> "Run":
        """Resume after an interruption, with the same results as an uninterrupted run; a complete run is left as it is.

        Args:
            skip_damaged: pass over damaged checkpoints.
            overrides: settings that do not invalidate what is trained, such as ``device`` or more ``epochs``.

        Raises:
            InputError: a checkpoint is damaged, or the data or settings are not those of the run.
        """
        runs.resume(self.path, overrides, skip_damaged=skip_damaged)
        return self


def fit(
    config: str | Path | Mapping[str, Any] | ExperimentSettings,
    output: str | Path,
    *,
    resume: bool = False,
    **overrides: Any,
) -> Run:
    """Train an experiment in a new folder.

    Args:
        config: YAML file, its keys and values as a mapping, or settings.
        output: folder of the run.
        resume: resume the run in that folder if it has the same settings.
        overrides: settings to change: ``epochs=5``, ``memory={"temperature": 0.1}``.

    Raises:
        InputError: settings or data do not fit, or the folder holds a run and ``resume`` is false, or other settings.
    """
    settings = load_settings(config.tree if isinstance(config, ExperimentSettings) else config, overrides)
    folder = Path(output)
    if resume:
        runs.train_or_resume(settings, folder)
    else:
        runs.train(settings, folder)
    return Run(folder)


def _items(images: Any) -> Any:
    """What the feature extractor takes: a folder becomes the paths of its images."""
    if isinstance(images, str | os.PathLike):
        path = Path(images)
        if not path.is_dir():
            return [path]
        table = table_of_folder(path)
        return [table.path(row) for row in range(len(table))]
    return images


def _paths(items: Any) -> list[str] | None:
    """Names of images that were given as paths, None for pixels."""
    if isinstance(items, Sequence) and all(isinstance(item, str | os.PathLike) for item in items):
        return [Path(item).as_posix() for item in items]
    return None


def _is_features(images: object) -> bool:
    """Whether something is (N, D) floating-point features, which no images are."""
    if isinstance(images, Tensor):
        return images.ndim == 2 and images.is_floating_point()
    return isinstance(images, np.ndarray) and images.ndim == 2 and images.dtype.kind == "f"
