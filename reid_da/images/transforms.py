"""From uint8 batches to the input of a network: random for training, fixed for testing."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from reid_da.config import AugmentSettings
from reid_da.images.augment import (
    IMAGENET_MEAN,
    boxes_after_resize,
    color_jitter,
    crop_resize,
    erase,
    normalize,
    padded_crop_boxes,
    random_erasing_boxes,
    random_sized_rect_crop_boxes,
    resize,
    whole_image_boxes,
)
from reid_da.images.reuse import ReusedMemory

_PIXELS_AT_ONCE, _PIXELS_AT_ONCE_WITH_COLORS = 2**18, 2**16
"""How much is transformed at a time on a CPU: fewer pixels cost calls, more of them leave the cache."""
_FILLS = {"official": IMAGENET_MEAN, "mean": (0.0, 0.0, 0.0)}


class BatchChange(Protocol):
    """What a transform does to one batch."""

    @property
    def crops(self) -> Tensor | None:
        """(B, 4) boxes that the source shall cut out of its files before it resizes; None for images as they are."""
        ...

    def part(self, rows: slice) -> "BatchChange":
        """The same for some images of the batch, one after another."""
        ...

    def __call__(self, images: Tensor, /) -> Tensor:
        """(B, 3, h, w) float32 input of (B, 3, H, W) uint8 images."""
        ...


class BatchTransform(Protocol):
    """Turns batches of uint8 images into the input of a network."""

    @property
    def crops_files(self) -> bool:
        """Whether :meth:`draw` wants to know the sizes of the files."""
        ...

    def draw(
        self, count: int, image_size: tuple[int, int], *, files: Tensor | None = None, by_source: bool = False
    ) -> BatchChange:
        """Function from (B, 3, H, W) uint8 images to (B, 3, h, w) float32 input, for the next batch.

        The random numbers of the batch are drawn here; the function only applies them, in any thread, on any device.

        Args:
            count: number of images B.
            image_size: their height H and width W.
            files: (B, 2) heights and widths that they had before they were resized; None: they have not been.
            by_source: whether the source can cut crops out of the files; else they are cut out of the resized images.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class _Augmentation:
    """What is done to a batch: parameters with B as the first axis, on the CPU.

    Attributes:
        settings: what to do at all.
        size: height and width of the result.
        frame: height and width of the images when they are cropped.
        boxes: (B, 4) crops.
        mirrored: (B,) bool.
        colors: (B,) arguments of :func:`color_jitter` by name.
        erased: (B, 4) boxes.
        memory: where results on the CPU lie.
        crops: (B, 4) boxes that the source cuts out of its files, or None.
    """

    settings: AugmentSettings
    size: tuple[int, int]
    frame: tuple[int, int]
    boxes: Tensor
    mirrored: Tensor
    colors: dict[str, Tensor]
    erased: Tensor
    memory: ReusedMemory
    crops: Tensor | None = None

    def part(self, rows: slice) -> "_Augmentation":
        return replace(
            self,
            boxes=self.boxes[rows],
            mirrored=self.mirrored[rows],
            colors={name: values[rows] for name, values in self.colors.items()},
            erased=self.erased[rows],
            crops=None if self.crops is None else self.crops[rows],
        )

    def __call__(self, images: Tensor) -> Tensor:
        result = _by_parts(images, self._change_part, size=self.size, memory=self.memory, with_colors=bool(self.colors))
        if self.settings.erase:
            # in one go: few pixels are touched, and to find them takes as long for few images as for many
            erase(result, self.erased, fill=_FILLS[self.settings.erase_fill], inplace=True)
        return result

    def _change_part(self, images: Tensor, rows: slice, out: Tensor) -> None:
        if images.shape[2:] != self.frame:
            images = resize(images, size=self.frame)
        if self.settings.crop == "pad":
            images = F.pad(images, 4 * (self.settings.crop_pad,))
        images = crop_resize(images, self.boxes[rows], size=self.size, mirrored=self.mirrored[rows])
        if self.colors:
            images = color_jitter(images, **{name: values[rows] for name, values in self.colors.items()})
        normalize(images, out=out)


class TrainTransform:
    """Random crop, mirroring, colours, normalisation and erasing of a batch, with random numbers of its own.

    Every image has parameters of its own. They are drawn on the CPU, so a batch on a GPU gets the same ones. The
    result is float32 even inside autocast.
    """

    def __init__(self, settings: AugmentSettings, *, size: tuple[int, int] = (256, 128), seed: int) -> None:
        """Set up the generator.

        Args:
            settings: what to do.
            size: height and width of the result. Larger images are shrunk to it before anything else.
            seed: of the random numbers.
        """
        self.settings = settings
        self.size = size
        self._generator = torch.Generator().manual_seed(seed)
        self._memory = ReusedMemory()

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, h, w) float32 augmented and normalised images, channels last in memory, on the device of ``images``.

        Args:
            images: (B, 3, H, W) uint8.
        """
        return self.draw(len(images), (images.shape[2], images.shape[3]))(images)

    @property
    def crops_files(self) -> bool:
        """Whether crops are drawn in the shapes of the files."""
        return self.settings.crop == "rect" and self.settings.crop_on == "original"

    def draw(
        self, count: int, image_size: tuple[int, int], *, files: Tensor | None = None, by_source: bool = False
    ) -> BatchChange:
        """Function that augments and normalises the next batch; see :meth:`BatchTransform.draw`."""
        is_larger = image_size[0] > self.size[0] or image_size[1] > self.size[1]
        # a crop must not shrink (see crop_resize), and a padding is counted in pixels of the result
        frame = self.size if is_larger or self.settings.crop == "pad" else image_size
        return self._draw_augmentation(count, frame, files=files if self.crops_files else None, by_source=by_source)

    def _draw_augmentation(
        self, count: int, frame: tuple[int, int], *, files: Tensor | None, by_source: bool
    ) -> _Augmentation:
        settings, generator = self.settings, self._generator
        crops = None
        if settings.crop == "rect":
            boxes = random_sized_rect_crop_boxes(
                count,
                frame if files is None else files,
                scale=settings.crop_scale,
                aspect=settings.crop_aspect,
                generator=generator,
            )
            if files is not None and by_source:
                crops, boxes = boxes, whole_image_boxes(count, frame)
            elif files is not None:
                boxes = boxes_after_resize(boxes, files, size=frame)
        elif settings.crop == "pad":
            boxes = padded_crop_boxes(count, frame, padding=settings.crop_pad, generator=generator)
        else:
            boxes = whole_image_boxes(count, frame)
        mirrored = torch.rand(count, dtype=torch.float64, generator=generator) < settings.flip
        erased = random_erasing_boxes(
            count,
            self.size,
            probability=settings.erase,
            area=settings.erase_area,
            aspect=settings.erase_aspect,
            generator=generator,
        )
        return _Augmentation(
            settings=settings,
            size=self.size,
            frame=frame,
            boxes=boxes,
            mirrored=mirrored,
            colors=self._draw_colors(count),
            erased=erased,
            memory=self._memory,
            crops=crops,
        )

    def _draw_colors(self, count: int) -> dict[str, Tensor]:
        settings = self.settings
        ranges = {
            name: (max(0.0, 1 - strength), 1 + strength)
            for name in ("brightness", "contrast", "saturation")
            if (strength := getattr(settings, name))
        }
        if settings.hue:
            ranges["hue"] = (-settings.hue, settings.hue)
        return {
            name: low + (high - low) * torch.rand(count, dtype=torch.float64, generator=self._generator)
            for name, (low, high) in ranges.items()
        }


class TestTransform:
    """Resize where the size differs, and normalise; no random numbers."""

    __test__ = False  # its name makes pytest take it for a group of tests
    crops_files = False
    crops = None

    def __init__(
        self, *, size: tuple[int, int] = (256, 128), interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    ) -> None:
        """Set the size.

        Args:
            size: height and width of the result.
            interpolation: how to resize images of another size.
        """
        self.size = size
        self.interpolation = interpolation
        self._memory = ReusedMemory()

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, h, w) float32 normalised images, channels last in memory, on the device of ``images``.

        Args:
            images: (B, 3, H, W) uint8.
        """
        return _by_parts(images, self._change_part, size=self.size, memory=self._memory)

    def draw(
        self,
        count: int,  # noqa: ARG002
        image_size: tuple[int, int],  # noqa: ARG002
        *,
        files: Tensor | None = None,  # noqa: ARG002
        by_source: bool = False,  # noqa: ARG002
    ) -> BatchChange:
        """The transform itself: nothing is random."""
        return self

    def part(self, rows: slice) -> BatchChange:  # noqa: ARG002
        """The transform itself."""
        return self

    def _change_part(self, images: Tensor, rows: slice, out: Tensor) -> None:  # noqa: ARG002
        if images.shape[2:] != self.size:
            images = resize(images, size=self.size, interpolation=self.interpolation)
        normalize(images, out=out)


def _by_parts(
    images: Tensor,
    function: Callable[[Tensor, slice, Tensor], None],
    *,
    size: tuple[int, int],
    memory: ReusedMemory,
    with_colors: bool = False,
) -> Tensor:
    """(B, 3, h, w) float32, channels last in memory, that ``function`` writes part by part.

    On a CPU the parts are so small that what lies between two operations stays in the cache and in memory that the
    process already has: with changes of colour, a batch of 128 as a whole takes two to four times as long.

    Args:
        images: (B, 3, H, W) uint8.
        function: called with some of the images, their rows in the batch, and where to write their results.
        size: height and width of the results.
        memory: where they lie if ``images`` are on the CPU.
        with_colors: whether ``function`` changes colours, with results that lie beside the images.
    """
    shape, on_cpu = (len(images), *size, 3), images.device.type == "cpu"
    pixels = _PIXELS_AT_ONCE_WITH_COLORS if with_colors else _PIXELS_AT_ONCE
    at_once = max(pixels // math.prod(size) if on_cpu else len(images), 1)
    result = (memory.empty(shape) if on_cpu else torch.empty(shape, device=images.device)).permute(0, 3, 1, 2)
    for start in range(0, len(images), at_once):
        rows = slice(start, start + at_once)
        function(images[rows], rows, result[rows])
    return result
