"""Augmentation of whole batches: pure functions with explicit parameters, and the draws of those parameters.

Parameters are drawn on the CPU, in float64, from a generator that the caller owns, so that a run on a GPU sees the
numbers of a run on the CPU. Images are (B, 3, H, W) with red first; boxes are (B, 4) int64 ``top, left, height, width``
in pixels, on the CPU.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of red, green and blue over ImageNet, on the scale 0 to 1."""
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Standard deviation of red, green and blue over ImageNet, on the scale 0 to 1."""

_GREY_WEIGHTS = (0.299, 0.587, 0.114)


def random_sized_rect_crop_boxes(
    count: int,
    image_size: tuple[int, int] | Tensor,
    *,
    scale: tuple[float, float] = (0.64, 1.0),
    aspect: tuple[float, float] = (2.0, 3.0),
    tries: int = 10,
    generator: torch.Generator,
) -> Tensor:
    """(count, 4) boxes of the random crop of Zhong et al. (CVPR 2019): the first of some tries that fits, else all.

    Each try draws its share of the area and its ratio of height to width uniformly and rounds the sides to pixels; the
    place of the box is uniform. The ratio is that of pixels in the images as they are given: the authors' code gives
    the files as they are, of which a square is never cropped, since no box fits. After a resize to 2:1 it is cropped
    like any other.

    Args:
        count: number of boxes B.
        image_size: height and width of the images, or (B, 2) int64 those of each.
        scale: range of the share of the image's area.
        aspect: range of height / width.
        tries: number of draws before the whole image is taken.
        generator: source of the random numbers, on the CPU; the amount taken depends on count and tries alone.
    """
    sizes = image_size if isinstance(image_size, Tensor) else torch.tensor(image_size).expand(count, 2)
    boxes, fits = _first_fitting_boxes(sizes, scale=scale, aspect=aspect, tries=tries, generator=generator)
    return torch.where(fits[:, None], boxes, torch.cat((torch.zeros_like(sizes), sizes), dim=1))


def random_erasing_boxes(
    count: int,
    image_size: tuple[int, int],
    *,
    probability: float = 0.5,
    area: tuple[float, float] = (0.02, 0.2),
    aspect: tuple[float, float] = (0.3, 3.0),
    tries: int = 100,
    generator: torch.Generator,
) -> Tensor:
    """(count, 4) boxes to erase (Zhong et al., AAAI 2020, as in the code of CVPR 2019); zeros where nothing is.

    Args:
        count: number of boxes B.
        image_size: height and width of the images.
        probability: with which an image loses a box.
        area: range of the share of the image's area.
        aspect: range of height / width, uniform.
        tries: number of draws before the image is left whole.
        generator: source of the random numbers, on the CPU; the amount taken depends on count and tries alone.
    """
    chosen = torch.rand(count, dtype=torch.float64, generator=generator) < probability
    sizes = torch.tensor(image_size).expand(count, 2)
    boxes, fits = _first_fitting_boxes(sizes, scale=area, aspect=aspect, tries=tries, generator=generator)
    return boxes * (chosen & fits)[:, None]


def boxes_after_resize(boxes: Tensor, sizes: Tensor, *, size: tuple[int, int]) -> Tensor:
    """(B, 4) boxes where they lie after a resize, with edges on whole pixels, hence within half a pixel.

    Args:
        boxes: (B, 4) in the images before.
        sizes: (B, 2) int64 heights and widths of those.
        size: height and width after the resize.
    """
    scale = torch.tensor(size) / sizes.double()
    first = (boxes[:, :2] * scale).round().long()
    last = ((boxes[:, :2] + boxes[:, 2:]) * scale).round().long()
    first = torch.minimum(first, torch.tensor(size) - 1)
    return torch.cat((first, (last - first).clamp(min=1)), dim=1)


def _first_fitting_boxes(
    sizes: Tensor,
    *,
    scale: tuple[float, float],
    aspect: tuple[float, float],
    tries: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """(B, 4) boxes in images of (B, 2) sizes, and (B,) bool whether a try fitted; other boxes mean nothing."""
    count = len(sizes)
    height, width = sizes[:, :1], sizes[:, 1:]
    draws = torch.rand(2, count, tries, dtype=torch.float64, generator=generator)
    areas = (scale[0] + (scale[1] - scale[0]) * draws[0]) * (height * width)
    ratios = aspect[0] + (aspect[1] - aspect[0]) * draws[1]
    heights = (areas * ratios).sqrt().round().long().clamp(min=1)
    widths = (areas / ratios).sqrt().round().long().clamp(min=1)
    fits = (heights <= height) & (widths <= width)
    first = fits.int().argmax(dim=1, keepdim=True)
    sides = torch.cat((heights.gather(1, first), widths.gather(1, first)), dim=1)
    places = torch.rand(count, 2, dtype=torch.float64, generator=generator)
    room = sizes - sides + 1
    return torch.cat(((places * room).long(), sides), dim=1), fits.any(dim=1)


def whole_image_boxes(count: int, image_size: tuple[int, int]) -> Tensor:
    """(count, 4) boxes that are the whole image."""
    return torch.tensor((0, 0, *image_size)).expand(count, 4)


def padded_crop_boxes(
    count: int, image_size: tuple[int, int], *, padding: int = 10, generator: torch.Generator
) -> Tensor:
    """(count, 4) boxes of the size of the image at random places in the image with a padding on all sides.

    With the padding in black, this is the random crop of Luo et al. (CVPR workshops 2019).

    Args:
        count: number of boxes B.
        image_size: height and width of the images without the padding.
        padding: width of the padding in pixels.
        generator: source of the random numbers, on the CPU.
    """
    places = torch.randint(2 * padding + 1, (count, 2), generator=generator)
    return torch.cat((places, torch.tensor(image_size).expand(count, 2)), dim=1)


def crop_resize(images: Tensor, boxes: Tensor, *, size: tuple[int, int], mirrored: Tensor | None = None) -> Tensor:
    """(B, 3, h, w) uint8 contents of the boxes, resized with bilinear interpolation, channels last in memory.

    To one grey level the same as cropping each image and resizing the crop with Pillow or torchvision: pixel centres
    lie at half-integers, the edge of a crop repeats its outermost pixels, and values are rounded. On a GPU that holds
    where no side shrinks, since there nothing is averaged over skipped pixels: shrink with :func:`resize` first.

    Args:
        images: (B, 3, H, W) uint8.
        boxes: (B, 4) ``top, left, height, width`` inside the images, on the CPU.
        size: height and width of the result.
        mirrored: (B,) bool on the CPU, which crops to mirror left to right; None for none.
    """
    if mirrored is None:
        mirrored = torch.zeros(len(images), dtype=torch.bool)
    if images.device.type == "cpu" and len(images):
        return _crop_resize_in_turn(images, boxes, size=size, mirrored=mirrored)
    return _crop_resize_at_once(images, boxes, size=size, mirrored=mirrored)


def _crop_resize_in_turn(images: Tensor, boxes: Tensor, *, size: tuple[int, int], mirrored: Tensor) -> Tensor:
    # The one loop over images: torch's kernel for uint8 takes one scale at a time, but with 0.13 ms for a result of
    # 256x128 on a core it leaves grid_sample (0.40 ms) and two batched products with the weights (0.57 ms) behind.
    crops = []
    for row, ((top, left, height, width), is_mirrored) in enumerate(
        zip(boxes.tolist(), mirrored.tolist(), strict=True)
    ):
        crop = images[row : row + 1, :, top : top + height, left : left + width]
        crop = crop.flip(3) if is_mirrored else crop
        crops.append(F.interpolate(crop, size, mode="bilinear", antialias=True))
    return torch.cat(crops)


def _crop_resize_at_once(images: Tensor, boxes: Tensor, *, size: tuple[int, int], mirrored: Tensor) -> Tensor:
    top, left, height, width = boxes.double().unbind(1)
    rows = _sampling_points(top, height, size[0], images.shape[2])
    columns = _sampling_points(left, width, size[1], images.shape[3])
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    rows, columns = (points.to(images.device, torch.float32) for points in (rows, columns))
    shape = (len(images), *size)
    grid = torch.stack((columns[:, None, :].expand(shape), rows[:, :, None].expand(shape)), dim=3)
    sampled = F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return sampled.round_().to(torch.uint8, memory_format=torch.channels_last)


def _sampling_points(start: Tensor, length: Tensor, count: int, image_length: int) -> Tensor:
    """(B, count) places of the result's pixel centres along one axis; the image reaches from -1 to 1."""
    steps = torch.arange(count, dtype=torch.float64) + 0.5
    points = start[:, None] + steps * (length / count)[:, None]
    points = torch.minimum(torch.maximum(points, start[:, None] + 0.5), (start + length)[:, None] - 0.5)
    return points * (2 / image_length) - 1


def resize(
    images: Tensor, *, size: tuple[int, int], interpolation: Literal["bilinear", "bicubic"] = "bilinear"
) -> Tensor:
    """(B, 3, h, w) uint8 images of another size, averaging over pixels where they shrink, as Pillow does.

    Args:
        images: (B, 3, H, W) uint8.
        size: height and width of the result.
        interpolation: how to resize.
    """
    # not every device has the kernel for uint8
    resized = F.interpolate(images.float(), size, mode=interpolation, antialias=True, align_corners=False)
    return resized.round_().clamp_(0, 255).to(torch.uint8, memory_format=torch.channels_last)


def normalize(
    images: Tensor,
    *,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    out: Tensor | None = None,
) -> Tensor:
    """(B, 3, H, W) float32 ``(images / 255 - mean) / std``, channels last in memory.

    Args:
        images: (B, 3, H, W) uint8 or float32, 0 to 255.
        mean: of red, green and blue, on the scale 0 to 1.
        std: of red, green and blue, on the scale 0 to 1.
        out: (B, 3, H, W) float32, channels last in memory, to write into and return; None for a new one.
    """
    if out is None:
        out = torch.empty_like(images, dtype=torch.float32, memory_format=torch.channels_last)
    factor, offset = _affine_rows(tuple(mean), tuple(std), images.shape[3], images.device)
    out.copy_(images)
    rows = out.permute(0, 2, 3, 1).view(-1, len(factor))
    torch.addcmul(offset, rows, factor, out=rows)
    return out


@lru_cache(maxsize=16)
@torch.inference_mode(mode=False)
def _affine_rows(
    mean: tuple[float, ...], std: tuple[float, ...], width: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """(3 * width,) float32 factors and offsets of :func:`normalize` for a row of pixels.

    As rows of whole pixels: broadcasting along an axis of length 3 takes ten times as long. Made once: for the few
    images that are normalised at a time, that takes as long as to use them.
    """
    deviation = torch.tensor(std, dtype=torch.float64)
    factor, offset = 1 / (255 * deviation), -torch.tensor(mean, dtype=torch.float64) / deviation
    return factor.repeat(width).to(device, torch.float32), offset.repeat(width).to(device, torch.float32)


def erase(images: Tensor, boxes: Tensor, *, fill: Sequence[float], inplace: bool = False) -> Tensor:
    """(B, 3, H, W) images with each box filled, channels last in memory.

    Args:
        images: (B, 3, H, W) float32, channels last in memory.
        boxes: (B, 4) ``top, left, height, width`` inside the images, on the CPU; a box of no height fills nothing.
        fill: values of the three channels.
        inplace: change ``images`` and return them.
    """
    if not inplace:
        images = images.clone(memory_format=torch.channels_last)
    index = _pixels_of_boxes(boxes, images.shape[2], images.shape[3]).to(images.device)
    pixels = images.permute(0, 2, 3, 1).view(-1, 3)
    pixels[index] = torch.tensor(fill, dtype=images.dtype, device=images.device)
    return images


def _pixels_of_boxes(boxes: Tensor, height: int, width: int) -> Tensor:
    """(K,) int64 places of the pixels of all boxes in the images' B * height * width pixels."""
    image = torch.arange(len(boxes)).repeat_interleave(boxes[:, 2])
    top, left, _, widths = boxes[image].unbind(1)
    # of each row of each box: its place in the image, its first pixel, how many pixels came before it
    first_row = (boxes[:, 2].cumsum(0) - boxes[:, 2])[image]
    row = top + torch.arange(len(image)) - first_row
    first = (image * height + row) * width + left
    before = widths.cumsum(0) - widths
    return (first - before).repeat_interleave(widths) + torch.arange(int(widths.sum()))


def color_jitter(
    images: Tensor,
    *,
    brightness: Tensor | None = None,
    contrast: Tensor | None = None,
    saturation: Tensor | None = None,
    hue: Tensor | None = None,
) -> Tensor:
    """(B, 3, H, W) float32 images with other colours, changed in the order of the arguments, cut off at 0 and 255.

    Args:
        images: (B, 3, H, W) uint8 or float32, 0 to 255.
        brightness: (B,) factors of all values.
        contrast: (B,) factors of the distance to the mean grey value of the image.
        saturation: (B,) factors of the distance to the grey value of the pixel.
        hue: (B,) shifts in turns of the colour circle.
    """
    # each channel on its own in memory: ten times as fast where channels are broadcast; a copy, changed in place below
    colors = images.to(torch.float32, memory_format=torch.contiguous_format, copy=True).flatten(2)
    if brightness is not None:
        colors.mul_(_per_image(brightness, colors)).clamp_(0, 255)
    if contrast is not None:
        _blend_(colors, _grey(colors.mean(dim=2, keepdim=True)), contrast)
    if saturation is not None:
        _blend_(colors, _grey(colors), saturation)
    if hue is not None:
        colors = _shift_hue(colors, _per_image(hue, colors))
    return colors.view(images.shape)


def _blend_(colors: Tensor, base: Tensor, factor: Tensor) -> None:
    """Make (B, 3, P) colours ``base + factor * (colors - base)``, cut off at 0 and 255; base is (B, 1, 1 or P)."""
    share = _per_image(factor, colors)
    colors.mul_(share).add_(base * (1 - share)).clamp_(0, 255)


def _per_image(values: Tensor, colors: Tensor) -> Tensor:
    return values.to(colors.device, torch.float32).view(-1, 1, 1)


def _grey(colors: Tensor) -> Tensor:
    """(B, 1, P) grey values of (B, 3, P) colours."""
    red, green, blue = colors.chunk(3, dim=1)
    grey: Tensor = red * _GREY_WEIGHTS[0]
    return grey.add_(green, alpha=_GREY_WEIGHTS[1]).add_(blue, alpha=_GREY_WEIGHTS[2])


def _shift_hue(colors: Tensor, shift: Tensor) -> Tensor:
    """(B, 3, P) colours with the hue of the HSV colour model shifted by (B, 1, 1) ``shift`` turns.

    Written for few passes over memory, without booleans: to choose by them takes longer than all the arithmetic.
    """
    red, green, blue = colors.unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    # sixths of a turn times chroma, counted from red: that of blue, unless green, unless red is the largest
    hue = torch.sub(red, green).add_(chroma, alpha=4)
    hue.lerp_(torch.sub(blue, red).add_(chroma, alpha=2), _equal(green, value))
    hue.lerp_(torch.sub(green, blue), _equal(red, value))
    # in turns; grey pixels have no chroma, and any hue
    hue = hue.div_((6 * chroma).clamp_(min=1e-6)).unsqueeze(1) + shift
    # each channel is the value, less the chroma where its own hue (0, 1/3 or 2/3) is more than a sixth away
    away = hue + torch.tensor((3, 1, -1), device=colors.device).view(3, 1) / 6
    away.sub_(away.round()).abs_().mul_(-6).add_(2).clamp_(0, 1)
    return torch.sub(value.unsqueeze(1), away.mul_(chroma.unsqueeze(1)), out=away)


def _equal(left: Tensor, right: Tensor) -> Tensor:
    """1.0 where the two are equal, 0.0 elsewhere."""
    result = torch.empty_like(left)
    torch.eq(left, right, out=result)
    return result
