"""CycleGAN for camera styles: two generators for each pair of cameras, one each way.

Zhu et al., "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks", ICCV 2017
(arXiv 1703.10593v7), as Zhong et al., "Camera Style Adaptation for Person Re-identification", CVPR 2018, use it. Images
have values from -1 to 1.

Three traps of the published code are settled here. It makes squares of the images and leaves them so: ours keep their
shape, and the discriminator has fewer layers where they are small. Its generators are never switched to evaluation, so
that dropout goes on while styles are made, which are different ones each time: ours has no dropout then. Its camera
numbers have one digit, which merges cameras above 9 with others: ours are numbers.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from reid_da.errors import InputError
from reid_da.styles.output import begin_unchanged, to_image

_SMALLEST_SIDE = 8
"""Pixels; the generator makes a quarter of it, and reflects that."""
_SMALLEST_MAP = 3
"""Sides of the discriminator's maps behind its last halving: the two convolutions that follow take one each."""
_INIT_STD = 0.02


class CycleGenerator(nn.Module):
    """Images of one camera to images in the style of another.

    Args:
        channels: of the first layer; 64 in the paper.
        num_blocks: of the residual kind; 9 in the paper, for images of 256 pixels.
        dropout: probability in the residual blocks, while in training mode; 0.5 in the code for CamStyle.
        residual: make changes of the image rather than the image, see :mod:`reid_da.styles.output`.
    """

    def __init__(
        self, *, channels: int = 64, num_blocks: int = 9, dropout: float = 0.5, residual: bool = False
    ) -> None:
        super().__init__()
        self.residual = residual
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), *_normed(nn.Conv2d(3, channels, 7))]
        for _ in range(2):
            layers += _normed(nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1))
            channels *= 2
        layers += [_ResidualBlock(channels, dropout=dropout) for _ in range(num_blocks)]
        for _ in range(2):
            wider = nn.ConvTranspose2d(channels, channels // 2, 3, stride=2, padding=1, output_padding=1)
            layers += _normed(wider)
            channels //= 2
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(channels, 3, 7)]
        self.layers = nn.Sequential(*layers)
        self.apply(_initialize)
        if residual:
            begin_unchanged(self.layers[-1])

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) images in the other style, from -1 to 1.

        Args:
            images: (B, 3, H, W) from -1 to 1, H and W multiples of 4 and at least 8.
        """
        return to_image(self.layers(images), images if self.residual else None)


class PatchDiscriminator(nn.Module):
    """Images to a map of scores, each for the patch that it sees: near 1 where it looks real, near 0 where not.

    Args:
        image_size: height and width.
        channels: of the first layer; 64 in the paper. Doubled by each layer, up to eight times as many.
        num_layers: that halve the image; 3 in the paper, whose scores see 70x70 pixels. None: 3, or as many as the
            image has room for.

    Raises:
        InputError: the image is too small, or is not restored by halving and doubling it twice, as the generator does.
    """

    def __init__(self, image_size: tuple[int, int], *, channels: int = 64, num_layers: int | None = None) -> None:
        super().__init__()
        height, width = image_size
        if any(side % 4 or side < _SMALLEST_SIDE for side in image_size):
            raise InputError(
                f"image_size: {height}x{width} does not fit the generator; use sides of at least {_SMALLEST_SIDE} that "
                "are multiples of 4, such as 64x32 or 128x64"
            )
        most = (min(image_size) // _SMALLEST_MAP).bit_length() - 1
        num_layers = min(most, 3) if num_layers is None else num_layers
        if not 1 <= num_layers <= most:
            raise InputError(f"num_layers: should be 1 to {most} for images of {height}x{width}, got {num_layers}")
        layers: list[nn.Module] = [nn.Conv2d(3, channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        widths = [channels * min(2**number, 8) for number in range(num_layers + 1)]
        for number in range(1, num_layers + 1):
            stride = 2 if number < num_layers else 1
            convolution = nn.Conv2d(widths[number - 1], widths[number], 4, stride=stride, padding=1)
            layers += [convolution, nn.InstanceNorm2d(widths[number]), nn.LeakyReLU(0.2)]
        layers.append(nn.Conv2d(widths[-1], 1, 4, padding=1))
        self.layers = nn.Sequential(*layers)
        self.apply(_initialize)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 1, h, w) scores of (B, 3, H, W) images from -1 to 1."""
        scores: Tensor = self.layers(images)
        return scores


class ImagePool:
    """Former fakes, for discriminators to be shown again (Shrivastava et al., CVPR 2017).

    Args:
        size: number of images; 50 in the paper. 0: images pass as they are.
    """

    def __init__(self, size: int = 50) -> None:
        self.size = size
        self.images: Tensor | None = None

    def exchange(self, images: Tensor, generator: Generator) -> Tensor:
        """(B, 3, H, W) images, of which some are former ones, in whose place those that were given stay here.

        As long as there is room, images pass and a copy stays. From then on each passes or is exchanged with equal
        probability, for a different one each within a batch.

        Args:
            images: (B, 3, H, W), no part of a graph.
            generator: on the CPU; draws the same numbers whatever is in the pool.
        """
        wanted = torch.rand(len(images), generator=generator) < 0.5
        slots = torch.randperm(max(self.size, len(images)), generator=generator)[: len(images)]
        stored = images[:0] if self.images is None else self.images.to(images.device)
        room = self.size - len(stored)
        # an image that finds room is not exchanged, nor is one whose slot is none, in a batch larger than the pool
        rows = (wanted & (torch.arange(len(images)) >= room) & (slots < self.size)).nonzero().flatten()
        stored = torch.cat([stored, images[: max(room, 0)]])
        given = images.clone()
        # one copy to the device for all
        rows, slots = torch.stack([rows, slots[rows]]).to(images.device)
        given[rows], stored[slots] = stored[slots], images[rows]
        self.images = stored
        return given

    def state_dict(self) -> dict[str, Any]:
        """The images, None before the first ones."""
        return {"images": self.images}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with saved images."""
        self.images = state["images"]


def adversarial_loss(fake_scores: Tensor) -> Tensor:
    """Least-squares loss of a generator, () float: mean of ``(score - 1)^2`` (Mao et al., ICCV 2017).

    Args:
        fake_scores: of images that it made, any shape.
    """
    return functional.mse_loss(fake_scores, torch.ones_like(fake_scores))


def discriminator_loss(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """Least-squares loss of a discriminator, () float: half of mean ``(real - 1)^2`` plus mean ``fake^2``.

    Zhu et al., appendix 7.1, halve it to slow the discriminator down.

    Args:
        real_scores: of real images, any shape.
        fake_scores: of fake ones, any shape.
    """
    real = functional.mse_loss(real_scores, torch.ones_like(real_scores))
    fake = functional.mse_loss(fake_scores, torch.zeros_like(fake_scores))
    return (real + fake) / 2


def cycle_loss(images: Tensor, back: Tensor) -> Tensor:
    """Mean absolute difference, () float, of images and what came back from the other style (Zhu et al., equation 2).

    Args:
        images: (B, 3, H, W).
        back: (B, 3, H, W).
    """
    return functional.l1_loss(back, images)


def identity_loss(images: Tensor, same: Tensor) -> Tensor:
    """Mean absolute difference, () float, of images and what a generator made of them that gives their own style.

    Zhu et al., section 5.2.

    Args:
        images: (B, 3, H, W), of the camera whose style the generator gives.
        same: (B, 3, H, W), what it made of them.
    """
    return functional.l1_loss(same, images)


def _normed(convolution: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    return [convolution, nn.InstanceNorm2d(convolution.out_channels), nn.ReLU(inplace=True)]


def _initialize(module: nn.Module) -> None:
    # biases before a normalisation have no effect; they are there as in the published code
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, _INIT_STD)
        assert module.bias is not None
        nn.init.zeros_(module.bias)


class _ResidualBlock(nn.Module):
    def __init__(self, channels: int, *, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReflectionPad2d(1),
            *_normed(nn.Conv2d(channels, channels, 3)),
            nn.Dropout(dropout),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, h, w) maps plus what the layers make of them."""
        changed: Tensor = self.layers(maps)
        return maps + changed
