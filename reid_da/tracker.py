"""Features for trackers, by the calls that these make: deep-sort's encoder and boxmot's ReID models."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reid_da.api import Features, Model, load
from reid_da.errors import InputError, unknown_name

Boxes = Literal["xyxy", "ltwh"]
"""Columns of a box in pixels: two corners, or the corner at the top left, width and height."""


class TrackerExtractor:
    """Appearance features for a tracker: BGR crops, or an image and boxes, to (N, D) float32 unit vectors.

    The calls are ``extractor(crops)``, ``extractor(image, boxes)`` as of deep-sort's encoder, and
    ``extractor.get_features(boxes, image)`` as of boxmot's ReID models. A frame without boxes gives (0, D). A box or
    crop without a pixel, such as one beside the image, gets a row of zeros, whose similarity to everything is 0.

    Attributes:
        model: the model.
    """

    def __init__(self, model: Model | str | Path, *, boxes: Boxes = "xyxy", device: str = "auto") -> None:
        """Load the model, unless it is one.

        Args:
            model: a model, or what :func:`load` takes.
            boxes: columns of the boxes in a call with an image: ``xyxy``, or ``ltwh`` as in deep-sort.
            device: where to load the model.

        Raises:
            InputError: there is no such model, or an option is unknown.
        """
        if boxes not in get_args(Boxes):
            raise unknown_name("boxes", boxes, get_args(Boxes))
        self.model = model if isinstance(model, Model) else load(model, device=device)
        self._boxes = boxes

    def __call__(
        self, images: NDArray[np.uint8] | Sequence[NDArray[np.uint8]], boxes: ArrayLike | None = None
    ) -> Features:
        """(N, D) features of N crops, or of N boxes in one image.

        Args:
            images: (H, W, 3) uint8 crops, blue first; with ``boxes`` one image.
            boxes: (N, 4) in pixels, rounded to whole ones and cut off at the border of the image.

        Raises:
            InputError: an image is no uint8 array of shape (H, W, 3), or boxes have another shape or are not finite.
        """
        if boxes is None:
            return self._embed(list(images))
        corners = _corners(boxes, self._boxes)
        return self._embed(_crops(images, corners))

    def get_features(self, xyxys: ArrayLike, img: NDArray[np.uint8]) -> Features:
        """(N, D) features of (N, 4) boxes (two corners each) in a BGR image, as boxmot calls it."""
        return self._embed(_crops(img, _corners(xyxys, "xyxy")))

    def _embed(self, crops: list[NDArray[np.uint8]]) -> Features:
        features = np.zeros((len(crops), self.model.dim), dtype=np.float32)
        filled = [row for row, crop in enumerate(crops) if np.size(crop)]
        if filled:
            features[filled] = self.model.embed([crops[row] for row in filled], color_order="bgr")
        return features


def _corners(boxes: ArrayLike, kind: Boxes) -> NDArray[np.float64]:
    """(N, 4) left, top, right, bottom."""
    values = np.asarray(boxes, dtype=np.float64)
    values = values.reshape(-1, 4) if not values.size else np.atleast_2d(values)
    if values.ndim != 2 or values.shape[1] != 4 or not np.isfinite(values).all():
        raise InputError(f"boxes: expected finite numbers of shape (N, 4), got shape {np.shape(boxes)}")
    return np.hstack([values[:, :2], values[:, :2] + values[:, 2:]]) if kind == "ltwh" else values


def _crops(image: object, corners: NDArray[np.float64]) -> list[NDArray[np.uint8]]:
    """What boxes show of an image; nothing where they lie beside it."""
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        found = f"{image.dtype} of shape {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise InputError(f"image: expected uint8 pixels of shape (H, W, 3), got {found}")
    height, width = image.shape[:2]
    limits = np.array([width, height, width, height])
    return [
        image[top:bottom, left:right]
        for left, top, right, bottom in np.clip(np.rint(corners), 0, limits).astype(int).tolist()
    ]
