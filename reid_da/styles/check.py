"""Are camera styles any good? Measured before GPU hours are spent on training re-ID with them."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from statistics import fmean
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from reid_da.datasets import SampleTable
from reid_da.device import choose_device
from reid_da.errors import InputError
from reid_da.evaluation.style_quality import (
    CameraScores,
    ContentScores,
    camera_confusion,
    camera_scores,
    content_ranks,
    content_scores,
    fit_gaussian,
    frechet_distance,
)
from reid_da.images import ImageSource, TestTransform, usable_rows
from reid_da.models.inference import infer_in_batches
from reid_da.models.reid_net import Unscaled
from reid_da.styles import CameraViews
from reid_da.styles.camera_classifier import CameraClassifier, train_camera_classifier
from reid_da.training.trained import TrainedModel

IDENTITY = "identity"
"""Name of the style that does nothing: the real image stands in for each view."""
_BATCH_SIZE = 256

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FrechetScores:
    """Squared Frechet distances of the features of fakes from those of real images; lower is better.

    Attributes:
        mean: over the cameras that have one.
        by_camera: (C,) distance for each camera wanted, None where there are fewer than two fakes or real images.
    """

    mean: float
    by_camera: tuple[float | None, ...] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class StyleScores:
    """How one style fared.

    Attributes:
        name: of the style.
        num_fakes: number of views that were looked at.
        camera: which cameras a classifier sees in them.
        content: whether they find the images that they were made of, by a model's features; None without a model.
        frechet: distances of a model's features; None without a model, and where all cameras have too few images.
    """

    name: str
    num_fakes: int
    camera: CameraScores
    content: ContentScores | None
    frechet: FrechetScores | None


@dataclass(frozen=True, kw_only=True)
class StyleCheck:
    """What :func:`check_styles` found.

    Attributes:
        table: name of the table of real images.
        num_trained: real images that the camera classifier was trained on.
        num_images: real images that were held out and looked at.
        num_cameras: number C of cameras.
        classifier_accuracy: share of these real images whose camera the classifier tells.
        guess_accuracy: share of them that are of the commonest camera, which needs no looking.
        styles: the styles, :data:`IDENTITY` first.
    """

    table: str
    num_trained: int
    num_images: int
    num_cameras: int
    classifier_accuracy: float
    guess_accuracy: float
    styles: tuple[StyleScores, ...]

    @property
    def tells_cameras(self) -> bool:
        """Whether the classifier is nearer to telling every camera than to guessing."""
        return self.classifier_accuracy > (1 + self.guess_accuracy) / 2

    def to_json(self) -> dict[str, Any]:
        """All figures by the names of the attributes; shares are fractions."""
        return asdict(self)


def check_styles(
    real: ImageSource,
    table: SampleTable,
    styles: Mapping[str, CameraViews],
    *,
    num_cameras: int,
    model: TrainedModel | nn.Module | None = None,
    max_images: int = 2000,
    steps: int = 400,
    seed: int = 0,
    device: str = "auto",
) -> StyleCheck:
    """Measures of camera styles on real images that the camera classifier was not trained on.

    Of each camera the first half of its images in the order of the table trains the classifier, and the second half is
    looked at, since otherwise it would know the very images that the fakes are made of. Tables are sorted by name, so
    that images of one person mostly stay in one half. Every image that is looked at is restyled to every other camera
    with images, the same ones for every style. A first entry, :data:`IDENTITY`, shows the result of doing nothing.

    Content and Frechet distance use the test features of ``model`` before any scaling to unit length; see
    :class:`~reid_da.models.reid_net.Unscaled`. Angles tell who is whom, as at test time, while the length
    of features belongs to their distribution. For the Frechet distance fakes and real images of a camera are thinned
    out to the same number.

    Args:
        real: the N real images. Those known to be undecodable are left out.
        table: what they are.
        styles: views of the same images by name. Views that are missing, and for which real images stand in, count.
        num_cameras: number C of cameras of the data set.
        model: gives features; moved to ``device``. A bare network gets images of the size of ``real``.
        max_images: most real images to look at, spread evenly over those held out.
        steps: number of batches that the classifier is trained on.
        seed: of the classifier; on a CPU the same seed gives the same figures.
        device: where to compute.

    Raises:
        InputError: there are no images, or of one camera only, or not two of any; a style is called ``identity``; or
            ``max_images`` or ``steps`` is below 1.
        ValueError: images, table and styles do not fit together.
    """
    _check_arguments(real, table, styles, num_cameras=num_cameras, max_images=max_images, steps=steps)
    camids, chosen_device = torch.tensor(table.camids), torch.device(choose_device(device))
    trained, held_out = split_by_camera(usable_rows(real), camids)
    cameras = np.unique(table.camids[trained.numpy()]).tolist()
    if len(cameras) < 2 or not len(held_out):
        raise InputError(
            f"{table.name}: {len(trained) + len(held_out)} usable images of {len(cameras)} cameras; a check of styles"
            " needs images of at least two cameras, and two of one of them"
        )
    classifier = train_camera_classifier(
        real, trained, camids, num_cameras=num_cameras, steps=steps, seed=seed, device=chosen_device
    )
    networks = _Networks(classifier, model, size=real.size).to(chosen_device)
    rows = _thinned(held_out, max_images)
    originals = _Originals(rows=rows, camids=camids[rows], cameras=cameras, seen=_look(networks, real, rows))
    looks: dict[str, _LookAtFakes] = {IDENTITY: lambda positions, _: originals.seen.select(positions)}
    looks |= {name: partial(_look_at_fakes, networks, views, rows) for name, views in styles.items()}
    confusion = camera_confusion(originals.seen.logits, originals.camids)
    check = StyleCheck(
        table=table.name,
        num_trained=len(trained),
        num_images=len(rows),
        num_cameras=num_cameras,
        classifier_accuracy=float(confusion.trace() / len(rows)),
        guess_accuracy=float(confusion.sum(dim=1).max() / len(rows)),
        styles=tuple(_score(name, originals, look) for name, look in looks.items()),
    )
    _warn_if_cameras_look_alike(check)
    return check


def split_by_camera(rows: Tensor, camids: Tensor) -> tuple[Tensor, Tensor]:
    """The first half of each camera's rows, and the second; the first is the larger where the number is odd.

    Args:
        rows: (M,) int64 rows, in increasing order.
        camids: (N,) int64 camera of every row.

    Returns:
        (K,) and (M - K,) int64 rows, ordered by camera, and in each camera as they were.
    """
    ordered = rows[camids[rows].argsort(stable=True)]
    counts = camids[rows].bincount()
    place = torch.arange(len(ordered)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    is_first = place < ((counts + 1) // 2).repeat_interleave(counts)
    return ordered[is_first], ordered[~is_first]


_LookAtFakes: TypeAlias = Callable[[Tensor, int], "_Seen"]
"""From positions among the originals and a camera wanted to what the networks make of these fakes."""


class _Seen(NamedTuple):
    """What the networks make of B images: (B, C) logits of cameras, and (B, D) features or None without a model."""

    logits: Tensor
    features: Tensor | None

    def select(self, positions: Tensor) -> "_Seen":
        return _Seen(self.logits[positions], None if self.features is None else self.features[positions])


@dataclass(frozen=True, kw_only=True, eq=False)
class _Originals:
    """The real images that are looked at.

    Attributes:
        rows: (N,) int64 rows of the source, ordered by camera.
        camids: (N,) int64 camera of each.
        cameras: the cameras that have images to train on, whose styles are wanted.
        seen: what the networks make of them.
    """

    rows: Tensor
    camids: Tensor
    cameras: Sequence[int]
    seen: _Seen


class _Networks(nn.Module):
    """Camera classifier and model side by side, so that each view has to be made only once.

    Args:
        classifier: of cameras.
        model: gives features, or None.
        size: of the images that a bare network gets.
    """

    def __init__(
        self, classifier: CameraClassifier, model: TrainedModel | nn.Module | None, *, size: tuple[int, int]
    ) -> None:
        super().__init__()
        network, size = (model.network, model.image_size) if isinstance(model, TrainedModel) else (model, size)
        self.classifier = classifier
        self.model = None if network is None else Unscaled(network)
        self._for_classifier = TestTransform(size=classifier.size)
        self._for_model = TestTransform(size=size, interpolation="bicubic")

    def forward(self, images: Tensor) -> Tensor:
        """(B, C) logits, and behind them the (B, D) features if there is a model, of (B, 3, H, W) uint8 images."""
        logits: Tensor = self.classifier(self._for_classifier(images))
        if self.model is None:
            return logits
        return torch.cat([logits, self.model(self._for_model(images))], dim=1)


def _look(networks: _Networks, source: ImageSource, rows: Tensor, views: Tensor | None = None) -> _Seen:
    """What the networks make of (B,) rows of a source, or of their ``views``."""
    num_cameras = networks.classifier.num_cameras
    outputs = infer_in_batches(
        networks,
        lambda batch: source.gather(rows[batch], None if views is None else views[batch]),
        len(rows),
        prepare=lambda images: images,
        batch_size=_BATCH_SIZE,
        device=next(networks.parameters()).device,
        autocast=False,
        store_on=torch.device("cpu"),
    )
    return _Seen(outputs[:, :num_cameras], None if networks.model is None else outputs[:, num_cameras:])


def _look_at_fakes(networks: _Networks, views: CameraViews, rows: Tensor, positions: Tensor, wanted: int) -> _Seen:
    """What the networks make of the images at some positions of ``rows`` as the camera ``wanted`` would have them."""
    return _look(networks, views, rows[positions], torch.full_like(positions, wanted))


def _score(name: str, originals: _Originals, look: _LookAtFakes) -> StyleScores:
    """The measures of a style, one camera wanted at a time so that only its features are held.

    Args:
        name: of the style.
        originals: the real images.
        look: at its fakes.
    """
    logits, own, wanted, ranks = [], [], [], []
    distances: list[float | None] = [None] * originals.seen.logits.shape[1]
    for camid in originals.cameras:
        positions = (originals.camids != camid).nonzero().flatten()
        if not len(positions):
            continue
        fakes = look(positions, camid)
        logits.append(fakes.logits)
        own.append(originals.camids[positions])
        wanted.append(torch.full_like(positions, camid))
        if fakes.features is not None and originals.seen.features is not None:
            ranks.append(content_ranks(fakes.features, originals.seen.features, positions))
            distances[camid] = _frechet(fakes.features, originals.seen.features[originals.camids == camid])
    known = [distance for distance in distances if distance is not None]
    return StyleScores(
        name=name,
        num_fakes=sum(map(len, logits)),
        camera=camera_scores(torch.cat(logits), torch.cat(own), torch.cat(wanted)),
        content=content_scores(torch.cat(ranks)) if ranks else None,
        frechet=FrechetScores(mean=fmean(known), by_camera=tuple(distances)) if known else None,
    )


def _frechet(fakes: Tensor, real: Tensor) -> float | None:
    """Distance of the features of equally many fakes and real images, None with fewer than two."""
    count = min(len(fakes), len(real))
    if count < 2:
        return None
    return frechet_distance(fit_gaussian(_thinned(fakes, count)), fit_gaussian(_thinned(real, count)))


def _thinned(values: Tensor, count: int) -> Tensor:
    """At most ``count`` of (N, ...) values, evenly spread; in the order of cameras, each of them keeps its share."""
    if len(values) <= count:
        return values
    return values[torch.arange(count) * len(values) // count]


def _check_arguments(
    real: ImageSource,
    table: SampleTable,
    styles: Mapping[str, CameraViews],
    *,
    num_cameras: int,
    max_images: int,
    steps: int,
) -> None:
    for name, value in (("max_images", max_images), ("steps", steps)):
        if value < 1:
            raise InputError(f"{name}: expected at least 1, got {value}")
    if IDENTITY in styles:
        raise InputError(f"styles: {IDENTITY!r} is what the real images are called here; rename this style")
    if len(table) and int(table.camids.max()) >= num_cameras:
        raise ValueError(f"{table.name}: camid {table.camids.max()} does not fit {num_cameras} cameras")
    for name, source in (("real images", real), *styles.items()):
        if len(source) != len(table):
            raise ValueError(f"{table.name}: {len(source)} {name}, but {len(table)} rows")


def _warn_if_cameras_look_alike(check: StyleCheck) -> None:
    if not check.tells_cameras:
        logger.warning(
            "%s: the camera classifier is right about %.0f%% of the real images, %.0f%% by guessing: its cameras look"
            " alike, or more steps are needed, and which camera it sees in a style means little",
            check.table,
            100 * check.classifier_accuracy,
            100 * check.guess_accuracy,
        )
