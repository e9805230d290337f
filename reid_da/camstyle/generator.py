"""A trained generator as a source of camera views."""

import hashlib

import torch
from torch import Tensor, nn

from reid_da.camstyle.stargan import StarGenerator


class GeneratorTransfer:
    """Images in the styles of cameras by a generator; see :class:`reid_da.camstyle.ColourTransfer`.

    Args:
        generator: on its device.
    """

    def __init__(self, generator: StarGenerator) -> None:
        self._generator = generator
        self._device = next(generator.parameters()).device

    @property
    def fingerprint(self) -> str:
        """Hash of the generator's weights."""
        return weights_fingerprint(self._generator)

    @torch.inference_mode()
    def __call__(self, images: Tensor, from_camids: Tensor, to_camids: Tensor) -> Tensor:  # noqa: ARG002
        """(B, 3, H, W) uint8 RGB images on the CPU in the styles asked for, channels last in memory.

        Args:
            images: (B, 3, H, W) uint8 RGB.
            from_camids: (B,) int64 cameras that took the images; the generator does without.
            to_camids: (B,) int64 cameras whose styles are wanted.
        """
        styled = self._generator(to_signed(images.to(self._device)), to_camids.to(self._device))
        return from_signed(styled).cpu().contiguous(memory_format=torch.channels_last)


def weights_fingerprint(module: nn.Module) -> str:
    """Hash of all parameters of a module."""
    digest = hashlib.sha256()
    for parameter in module.parameters():
        digest.update(parameter.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def to_signed(images: Tensor) -> Tensor:
    """(B, 3, H, W) float32 from -1 to 1 of uint8 images."""
    return images.float() / 127.5 - 1


def from_signed(images: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 of images from -1 to 1."""
    return ((images.float() + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8)
