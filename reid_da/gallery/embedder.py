"""The model of an index: what makes its vectors, and what tells it from other models."""

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reid_da.api import Model, load
from reid_da.centering import CameraMeans, center_with
from reid_da.datasets.folders import camera_key
from reid_da.errors import InputError, unknown_name
from reid_da.evaluation.centered import NamedMeans
from reid_da.gallery.protocol import ImageIndex, ModelCard
from reid_da.images.decode import ImageError, decode_content, read_image
from reid_da.models.weights import hash_weights

MEANS = "camera_means"
"""Where an index keeps the means of its cameras."""
_NO_MEAN = -1


@dataclass(frozen=True, kw_only=True, eq=False)
class IndexMeans:
    """Means of the features of each camera, which an index takes out of its vectors.

    Attributes:
        names: (C,) names of the cameras.
        means: (C, D) float32.
        overall: (D,) float32, over the images of all cameras; for a camera without a mean, and an unknown one.
    """

    names: tuple[str, ...]
    means: NDArray[np.float32]
    overall: NDArray[np.float32]

    @classmethod
    def of(cls, named: NamedMeans) -> "IndexMeans":
        """The means that are stored with a run."""
        return cls(
            names=named.names,
            means=named.means.means.cpu().numpy().astype("<f4"),
            overall=named.means.overall.cpu().numpy().astype("<f4"),
        )

    def to_text(self) -> str:
        """As a line of JSON."""
        arrays = {"means": self.means, "overall": self.overall}
        return json.dumps(
            {"names": self.names, **{key: base64.b64encode(array.tobytes()).decode() for key, array in arrays.items()}}
        )

    @classmethod
    def from_text(cls, text: str, *, place: str) -> "IndexMeans":
        """What :meth:`to_text` wrote.

        Raises:
            InputError: it is damaged.
        """
        try:
            fields = json.loads(text)
            names = tuple(map(str, fields["names"]))
            means, overall = (
                np.frombuffer(base64.b64decode(fields[key], validate=True), dtype="<f4") for key in ("means", "overall")
            )
            return cls(names=names, means=means.reshape(len(names), len(overall)), overall=overall)
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{place}: its camera means are damaged ({error})") from error

    def lacking(self, cameras: Iterable[str]) -> list[str]:
        """Those of the named cameras that have no mean of their own."""
        known = set(map(camera_key, self.names))
        return sorted(name for name in cameras if camera_key(name) not in known)

    def center(self, features: NDArray[np.float32], cameras: Sequence[str | None]) -> NDArray[np.float32]:
        """(N, D) unit features without the means of their cameras, which are named."""
        number_of = {camera_key(name): number for number, name in enumerate(self.names)}
        camids = [_NO_MEAN if name is None else number_of.get(camera_key(name), _NO_MEAN) for name in cameras]
        known = CameraMeans(
            camids=np.arange(len(self.names)),
            counts=np.ones(len(self.names), dtype=np.int64),  # not used here
            means=torch.from_numpy(self.means.astype(np.float64)),
            overall=torch.from_numpy(self.overall.astype(np.float64)),
        )
        return center_with(features, camids, known).numpy()


@dataclass(frozen=True, kw_only=True)
class Embedder:
    """A model as an index uses it.

    Attributes:
        model: the model.
        card: what the index knows of it.
        means: of the cameras, which are taken out of the vectors; None to leave them as they are.
    """

    model: Model
    card: ModelCard
    means: IndexMeans | None = None

    def __call__(self, pixels: NDArray[np.uint8], cameras: Sequence[str | None] | None = None) -> NDArray[np.float32]:
        """(N, D) unit vectors of (N, H, W, 3) images of the model's size, by the named cameras."""
        tensor = torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2)
        vectors = self.model.embed(tensor, flip=self.card.flip, cameras=cameras)
        if self.means is None:
            return vectors
        return self.means.center(vectors, [None] * len(vectors) if cameras is None else cameras)

    def decode(self, content: bytes, **limits: Any) -> NDArray[np.uint8]:
        """(H, W, 3) pixels of an image file in the model's size; the options are those of ``decode_content``."""
        return decode_content(content, size=self.model.image_size, interpolation="bicubic", **limits)

    def embed_files(self, paths: Sequence[Path], cameras: Sequence[str | None] | None = None) -> NDArray[np.float32]:
        """(N, D) unit vectors of image files.

        Raises:
            InputError: one cannot be decoded.
        """
        pixels = []
        for path in paths:
            try:
                pixels.append(self.decode(read_image(path)))
            except ImageError as error:
                raise InputError(f"{path}: cannot be decoded as an image ({error})") from error
        return self(np.stack(pixels), cameras)

    @property
    def knows_cameras(self) -> bool:
        """Whether the vector of an image depends on its camera."""
        return self.means is not None or self.model.is_by_camera

    def lacking(self, cameras: Sequence[str]) -> list[str]:
        """Those of the named cameras that have no mean, or no statistics, of their own."""
        found = set(self.means.lacking(cameras)) if self.means is not None else set()
        return sorted(found.union(self.model.stored_norms().lacking(cameras) if self.model.is_by_camera else ()))

    @property
    def camera_names(self) -> tuple[str, ...]:
        """Cameras with a mean, or statistics, of their own; none where vectors do not depend on the camera."""
        names = self.means.names if self.means is not None else ()
        if not names and self.model.is_by_camera:
            names = self.model.stored_norms().names
        without = self.lacking(names)
        return tuple(name for name in names if name not in without)

    def check_camera(self, name: str) -> None:
        """Whether a camera that is named for a query makes a difference.

        Raises:
            InputError: vectors do not depend on the camera, or not on this one.
        """
        if not self.knows_cameras:
            raise InputError(
                "camera of the query: this index is neither centred nor normalised by camera; leave it out"
            )
        if self.lacking([name]):
            error = unknown_name("camera of the query", name, self.camera_names)
            raise InputError(f"{error}; leave it out for an image of another camera")

    @property
    def meta(self) -> dict[str, str]:
        """What a new index keeps beside the card."""
        return {} if self.means is None else {MEANS: self.means.to_text()}


def fingerprint(model: Model, *, flip: bool, means: IndexMeans | None = None) -> str:
    """Of all that the features of a model depend on: weights, size of the images, mirror images, means of cameras."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr((tuple(model.image_size), flip, "bicubic", type(model.network).__name__)).encode())
    hash_weights(digest.update, model.network)
    if means is not None:
        digest.update(means.to_text().encode())
    if model.is_by_camera:
        norms = model.stored_norms()
        digest.update(repr(norms.names).encode())
        digest.update(torch.cat([norms.statistics.flatten(), norms.common]).numpy().tobytes())
    return digest.hexdigest()


def load_embedder(
    model: str | Path,
    *,
    backbone: str = "resnet50",
    last_stride: int = 2,
    weights: str = "imagenet",
    image_size: tuple[int, int] | None = None,
    flip: bool = False,
    center_cameras: bool = False,
    means: IndexMeans | None = None,
    device: str = "auto",
) -> Embedder:
    """A model for an index; the arguments are those of :func:`reid_da.load`, and:

    Args:
        flip: average with the features of mirror images.
        center_cameras: take the means of the cameras out of the features: those that ``reid-da center`` stored.
        means: these means instead.

    Raises:
        InputError: there is no such model, or no means are stored with it.
    """
    loaded = load(
        model, backbone=backbone, last_stride=last_stride, weights=weights, image_size=image_size, device=device
    )
    if center_cameras and flip:
        raise InputError("give --flip or --center-cameras: the stored means are of features without mirror images")
    if center_cameras and means is None:
        means = IndexMeans.of(loaded.stored_camera_means)
    path = Path(model)
    card = ModelCard(
        model=str(path.resolve()) if path.exists() else str(model),
        backbone=backbone,
        last_stride=last_stride,
        weights=weights,
        image_size=loaded.image_size,
        flip=flip,
        center_cameras=means is not None,
        fingerprint=fingerprint(loaded, flip=flip, means=means),
        dim=loaded.dim,
    )
    return Embedder(model=loaded, card=card, means=means)


def embedder_of(index: ImageIndex, *, model: str | Path | None = None, device: str = "auto") -> Embedder:
    """The model that made the vectors of an index.

    Args:
        index: the index.
        model: where the model is now; where it was by default.
        device: where it computes.

    Raises:
        InputError: it is not there any more, or is another one now.
    """
    card = index.card
    means = None
    if card.center_cameras:
        means = IndexMeans.from_text(index.meta(MEANS) or "", place=index.place)
    try:
        found = load_embedder(
            model or card.model,
            backbone=card.backbone,
            last_stride=card.last_stride,
            weights=card.weights,
            image_size=card.image_size,
            flip=card.flip,
            means=means,
            device=device,
        )
    except InputError as error:
        raise InputError(f"{index.place}: its model cannot be loaded: {error}; give it with --model") from error
    check_model(index, found.card)
    return found


def check_model(index: ImageIndex, card: ModelCard) -> None:
    """Refuse vectors of another model than that of an index: they mean nothing to each other.

    Raises:
        InputError: it is another model.
    """
    if card.fingerprint != index.card.fingerprint:
        raise InputError(
            f"{index.place}: holds vectors of another model ({index.card.model}, {index.card.fingerprint[:8]}) "
            f"than {card.model} ({card.fingerprint[:8]}): other weights (also after more training), image size, --flip "
            "or --center-cameras; use that model, or make a new index"
        )
