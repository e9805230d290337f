"""StarGAN for camera styles: one generator for all cameras of a data set.

Choi et al., "StarGAN", CVPR 2018, with the adversarial loss of WGAN-GP (Gulrajani et al., NeurIPS 2017), in the variant
for camera styles of Zhong et al., "Generalizing A Person Retrieval Model Hetero- and Homogeneously", ECCV 2018. Images
have values from -1 to 1.

Three traps of the published code are settled here. Its instance normalisation keeps running statistics, which spoil
every image as soon as the generator is switched to evaluation: ours keeps none. Its images are squares in places: ours
have the shape of the data, and the critic's last kernel is as large as what is left of them. Its camera numbers have
one digit: ours are indices.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from reid_da.errors import InputError
from reid_da.styles.output import begin_unchanged, to_image

SMALLEST_SIDE = 8
"""Of an image that generators can work on: halved twice, padded and normalised."""


class StarGenerator(nn.Module):
    """An image and a camera to that image in the style of the camera.

    Args:
        num_cameras: C.
        channels: of the first layer; 64 in the paper.
        num_blocks: of the residual kind; 6 in the paper.
        residual: make changes of the image rather than the image, see :mod:`reid_da.styles.output`.
    """

    def __init__(self, num_cameras: int, *, channels: int = 64, num_blocks: int = 6, residual: bool = False) -> None:
        super().__init__()
        self.num_cameras = num_cameras
        self.residual = residual
        layers: list[nn.Module] = [*_normed(nn.Conv2d(3 + num_cameras, channels, 7, padding=3, bias=False))]
        for _ in range(2):
            layers += _normed(nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1, bias=False))
            channels *= 2
        layers += [_ResidualBlock(channels) for _ in range(num_blocks)]
        for _ in range(2):
            layers += _normed(nn.ConvTranspose2d(channels, channels // 2, 4, stride=2, padding=1, bias=False))
            channels //= 2
        layers.append(nn.Conv2d(channels, 3, 7, padding=3, bias=False))
        self.layers = nn.Sequential(*layers)
        if residual:
            begin_unchanged(self.layers[-1])

    def forward(self, images: Tensor, camids: Tensor) -> Tensor:
        """(B, 3, H, W) images in the styles of the cameras, from -1 to 1.

        Args:
            images: (B, 3, H, W) from -1 to 1, H and W multiples of 4.
            camids: (B,) int64 cameras wanted, in 0..C-1.
        """
        maps = functional.one_hot(camids, self.num_cameras).to(images.dtype)[:, :, None, None]
        values = self.layers(torch.cat([images, maps.expand(-1, -1, *images.shape[2:])], dim=1))
        return to_image(values, images if self.residual else None)


def check_generator_size(image_size: tuple[int, int], *, what: str) -> None:
    """See to it that a generator, which halves images twice and normalises what is left, can work on a size.

    Args:
        image_size: height and width.
        what: names the size, or who wants it, in the error.

    Raises:
        InputError: it cannot.
    """
    if any(side % 4 or side < SMALLEST_SIDE for side in image_size):
        raise InputError(
            f"{what}: a generator halves and doubles images twice, and {image_size[0]}x{image_size[1]} are no"
            f" multiples of 4 from {SMALLEST_SIDE} on; use a size such as 64x32"
        )


class StarCritic(nn.Module):
    """An image to a map of scores, high where it looks real, and to logits of the camera that took it.

    Args:
        num_cameras: C.
        image_size: height and width.
        channels: of the first layer; 64 in the paper.
        num_layers: that halve the image; 6 in the paper for 256x128, which leaves 4x2. None: as many as leave a
            height of 4.

    Raises:
        InputError: the image has no such half, or leaves the generator's normalisation a single value.
    """

    def __init__(
        self, num_cameras: int, *, image_size: tuple[int, int], channels: int = 64, num_layers: int | None = None
    ) -> None:
        super().__init__()
        num_layers = max(image_size[0].bit_length() - 3, 1) if num_layers is None else num_layers
        if any(side % 2**num_layers or side < 2**num_layers for side in image_size):
            height, width = image_size
            raise InputError(
                f"image_size: {height}x{width} cannot be halved {num_layers} times, which the critic does; use sides "
                f"that are multiples of {2**num_layers}, such as 64x32 or 128x64"
            )
        check_generator_size(image_size, what="image_size")
        layers: list[nn.Module] = []
        inputs = 3
        for _ in range(num_layers):
            layers += [nn.Conv2d(inputs, channels, 4, stride=2, padding=1), nn.LeakyReLU(0.01)]
            inputs, channels = channels, 2 * channels
        self.layers = nn.Sequential(*layers)
        self.score = nn.Conv2d(inputs, 1, 3, padding=1, bias=False)
        left = (image_size[0] >> num_layers, image_size[1] >> num_layers)
        self.camera = nn.Conv2d(inputs, num_cameras, left, bias=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1, h, w) scores and (B, C) logits of the cameras for (B, 3, H, W) images from -1 to 1."""
        maps = self.layers(images)
        return self.score(maps), self.camera(maps).flatten(1)


def critic_loss(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """Wasserstein loss of the critic: mean score of fake images minus that of real ones."""
    return fake_scores.mean() - real_scores.mean()


def gradient_penalty(score: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, share: Tensor) -> Tensor:
    """Mean of ``(||gradient|| - 1)^2`` at images between real and fake ones (WGAN-GP, equation 3).

    Where the scores are a map, the gradient is that of their sum, as in the published code.

    Args:
        score: (B, 3, H, W) images to scores of any shape.
        real: (B, 3, H, W).
        fake: (B, 3, H, W), whose own gradient is left alone.
        share: (B,) of the real image in the mixture, from 0 to 1.
    """
    share = share.view(-1, 1, 1, 1)
    mixed = (share * real.detach() + (1 - share) * fake.detach()).requires_grad_()
    (gradient,) = torch.autograd.grad(score(mixed).sum(), mixed, create_graph=True)
    penalty: Tensor = (gradient.flatten(1).norm(dim=1) - 1).square().mean()
    return penalty


def _normed(convolution: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    return [convolution, nn.InstanceNorm2d(convolution.out_channels, affine=True), nn.ReLU(inplace=True)]


class _ResidualBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_normed(nn.Conv2d(channels, channels, 3, padding=1, bias=False)),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.InstanceNorm2d(channels, affine=True),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, h, w) maps plus what the layers make of them."""
        changed: Tensor = self.layers(maps)
        return maps + changed
