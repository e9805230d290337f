"""Features of images on disk or in memory, with the call of torchreid's ``FeatureExtractor``."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from reid_da.errors import InputError, first_few, unknown_name
from reid_da.images.augment import IMAGENET_MEAN, IMAGENET_STD, normalize
from reid_da.images.decode import ImageError, Interpolation, decode_image
from reid_da.models.backbones import create_backbone
from reid_da.models.heads import Pooling
from reid_da.models.inference import device_of, infer_in_batches

ImageItem = str | os.PathLike[str] | NDArray[np.uint8]
"""One image: the path of a file, or (H, W, 3) pixels."""
NamedWeights = Literal["imagenet", "none"]
"""Weights that need no file: trained on ImageNet, or random."""
ColorOrder = Literal["rgb", "bgr"]
"""Order of the colours in arrays and tensors."""
FloatTensors = Literal["normalized", "unit"]
"""Values of floating-point tensors: input of the network, or colours from 0 to 1."""


class FeatureExtractor:
    """Features of images by a backbone: ``extractor(images)``.

    Paths, arrays and uint8 tensors are resized to ``image_size`` and normalised. Floating-point tensors go into the
    network in the size that they have; ``float_tensors`` says what their values are.

    Attributes:
        model: the network, in evaluation mode.
        device: where it computes and where the features are.
    """

    def __init__(
        self,
        model_name: str | nn.Module,
        model_path: str | os.PathLike[str] = "",
        *,
        weights: NamedWeights | None = None,
        last_stride: int = 2,
        pooling: Pooling = "default",
        image_size: tuple[int, int] = (256, 128),
        interpolation: Interpolation = "bicubic",
        pixel_mean: Sequence[float] = IMAGENET_MEAN,
        pixel_std: Sequence[float] = IMAGENET_STD,
        color_order: ColorOrder = "rgb",
        float_tensors: FloatTensors = "normalized",
        device: str | torch.device | None = None,
        batch_size: int = 64,
        autocast: bool = False,
    ) -> None:
        """Build the network and load its weights.

        Args:
            model_name: a name that :func:`reid_da.models.create_backbone` knows; or a network, which is used as it is:
                ``model_path``, ``weights``, ``last_stride`` and ``pooling`` are for names.
            model_path: weight file; may be empty only where ``weights`` says what to take instead.
            weights: ``imagenet`` or, for random weights, ``none``, in place of a file.
            last_stride: stride of the last stage that the weights were trained with; a file does not tell.
            pooling: how maps become a vector; ``default``: the backbone's own way.
            image_size: height and width that images are resized to.
            interpolation: ``bicubic`` as the official ECN code tests, or ``bilinear`` as torchreid does.
            pixel_mean: mean of red, green and blue on the scale 0 to 1, subtracted from pixels.
            pixel_std: standard deviation of red, green and blue on the scale 0 to 1, divided by.
            color_order: order of the colours in arrays and tensors; ``bgr`` for those of OpenCV. Files do not need it.
            float_tensors: values of floating-point tensors: ``normalized`` is left as it is, as in torchreid; ``unit``
                is 0 to 1 and is normalised here.
            device: where to compute; by default the CPU, or where the network is.
            batch_size: number of images per forward pass.
            autocast: compute in bfloat16 where torch holds that to be safe and, on a CPU, where it agrees with float32.

        Raises:
            InputError: unknown model or option, a weight file that is absent, unreadable or does not fit, neither or
                both of ``model_path`` and ``weights``, or a device that is not there.
        """
        is_name = isinstance(model_name, str)
        if not is_name and (os.fspath(model_path) or weights is not None):
            raise InputError("model_path and weights are for the name of a backbone; a network has its weights")
        if is_name and bool(os.fspath(model_path)) == (weights is not None):
            raise InputError(
                f"{model_name}: give its weight file as model_path, or else weights='imagenet' or weights='none'"
            )
        for option, value, choices in (
            ("weights", weights or "none", NamedWeights),
            ("interpolation", interpolation, Interpolation),
            ("color_order", color_order, ColorOrder),
            ("float_tensors", float_tensors, FloatTensors),
        ):
            if value not in get_args(choices):
                raise unknown_name(option, value, get_args(choices))
        if min(image_size) < 1:
            raise InputError(f"image_size: expected a height and a width of at least 1, got {tuple(image_size)}")
        model = (
            create_backbone(
                model_name,
                last_stride=last_stride,
                weights=weights or model_path,
                pooling=pooling,
                image_size=image_size,
            ).to(memory_format=torch.channels_last)
            if isinstance(model_name, str)
            else model_name
        )
        try:
            self.device = device_of(model) if device is None else torch.device(device)
            self.model = model.eval().to(self.device)
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"device {str(device)!r} is not available here; 'cpu' always is") from error
        self._size, self._interpolation = image_size, interpolation
        self._mean, self._std = pixel_mean, pixel_std
        self._is_bgr = color_order == "bgr"
        self._is_unit = float_tensors == "unit"
        self._batch_size, self._autocast = batch_size, autocast

    def __call__(self, images: ImageItem | Sequence[ImageItem] | Tensor) -> Tensor:
        """(B, F) float32 features on the device of the extractor, not normalised.

        Args:
            images: a path; a list of paths; a (H, W, 3) or (B, H, W, 3) uint8 array; a list of (H, W, 3) uint8 arrays
                of any sizes; or a (3, H, W) or (B, 3, H, W) tensor, uint8 pixels or floating point.

        Raises:
            InputError: an image cannot be decoded or has no pixels, an array or tensor has a shape, type or range that
                is not one of these or holds NaN, there are no images, or the features are not finite.
            TypeError: something that is neither path, array nor tensor.
        """
        if not isinstance(images, Tensor):
            return self._from_items(_as_items(images))
        batch = _as_batch(images)
        if batch.is_floating_point():
            return self._from_floats(batch)
        return self._from_items(list(batch.permute(0, 2, 3, 1).cpu().numpy()))

    def _from_items(self, items: Sequence[ImageItem]) -> Tensor:
        for number, item in enumerate(items):
            if isinstance(item, np.ndarray):
                _check_pixels(item, f"images[{number}]")

        def load(rows: slice) -> Tensor:
            return torch.from_numpy(np.stack([self._pixels(item) for item in items[rows]])).permute(0, 3, 1, 2)

        def prepare(pixels: Tensor) -> Tensor:
            return normalize(pixels, mean=self._mean, std=self._std)

        def label(row: int) -> str:
            item = items[row]
            return f"images[{row}]" if isinstance(item, np.ndarray) else os.fspath(item)

        return self._infer(load, prepare, len(items), label)

    def _from_floats(self, batch: Tensor) -> Tensor:
        faulty = (~batch.isfinite().flatten(1).all(dim=1)).nonzero().flatten().tolist()
        if faulty:
            raise InputError(f"images: {len(faulty)} of {len(batch)} hold NaN or infinite values ({first_few(faulty)})")

        def load(rows: slice) -> Tensor:
            values = batch[rows].float()
            return values.flip(1) if self._is_bgr else values

        def prepare(values: Tensor) -> Tensor:
            if not self._is_unit:
                return values
            lowest, highest = values.aminmax()
            if not 0 <= lowest <= highest <= 1:
                raise InputError(f"float_tensors='unit': expected values from 0 to 1, got {lowest:g} to {highest:g}")
            return normalize(255 * values, mean=self._mean, std=self._std)

        return self._infer(load, prepare, len(batch), "images[{}]".format)

    def _pixels(self, item: ImageItem) -> NDArray[np.uint8]:
        """(height, width, 3) pixels of an image in the size of the network's input, red first."""
        if isinstance(item, np.ndarray):
            pixels = _resized(item, size=self._size, interpolation=self._interpolation)
            return pixels[..., ::-1] if self._is_bgr else pixels
        if not isinstance(item, str | os.PathLike):
            raise TypeError(f"expected the path of an image or an array, got {type(item).__name__}")
        try:
            return decode_image(Path(item), size=self._size, interpolation=self._interpolation)
        except ImageError as error:
            raise InputError(f"{os.fspath(item)}: cannot be decoded as an image ({error})") from error

    def _infer(
        self,
        load: Callable[[slice], Tensor],
        prepare: Callable[[Tensor], Tensor],
        count: int,
        label: Callable[[int], str],
    ) -> Tensor:
        return infer_in_batches(
            self.model,
            load,
            count,
            prepare=prepare,
            batch_size=self._batch_size,
            device=self.device,
            autocast=self._autocast,
            store_on=self.device,
            label=label,
        )


def _as_items(images: object) -> list[ImageItem]:
    if isinstance(images, str | os.PathLike):
        return [images]
    if isinstance(images, np.ndarray):
        return list(images) if images.ndim == 4 else [images]
    if isinstance(images, Sequence):
        return list(images)
    raise TypeError(f"expected paths, arrays or a tensor, got {type(images).__name__}")


def _as_batch(images: Tensor) -> Tensor:
    batch = images[None] if images.ndim == 3 else images
    if batch.ndim != 4 or batch.shape[1] != 3 or not (batch.is_floating_point() or batch.dtype == torch.uint8):
        raise InputError(
            "expected a uint8 or floating-point tensor of shape (3, H, W) or (B, 3, H, W), "
            f"got {batch.dtype} of shape {tuple(images.shape)}"
        )
    if 0 in batch.shape[2:]:
        raise InputError(f"images: the shape {tuple(images.shape)} has no pixels; leave empty crops out")
    return batch


def _check_pixels(array: NDArray[Any], name: str) -> None:
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise InputError(f"{name}: expected uint8 pixels of shape (H, W, 3), got {array.dtype} of shape {array.shape}")
    if 0 in array.shape:
        raise InputError(f"{name}: the shape {array.shape} has no pixels; leave empty crops out")


def _resized(array: NDArray[np.uint8], *, size: tuple[int, int], interpolation: Interpolation) -> NDArray[np.uint8]:
    """(height, width, 3) pixels of an (H, W, 3) image."""
    resampling = Image.Resampling[interpolation.upper()]
    return np.asarray(Image.fromarray(array).resize((size[1], size[0]), resampling))
