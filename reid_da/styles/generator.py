"""Trained generators as a source of camera views."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor, nn

from reid_da.errors import InputError, first_few
from reid_da.styles.cycle_networks import CycleGenerator
from reid_da.styles.star_networks import StarGenerator


class GeneratorTransfer:
    """Images in the styles of cameras by a generator; see :class:`reid_da.styles.ColourTransfer`.

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


class PairTransfer:
    """Images in the styles of cameras by a generator for each way; see :class:`reid_da.styles.ColourTransfer`.

    Args:
        generators: by the camids from which and to which they lead, all on one device; they are switched to
            evaluation, so that they have no dropout. At least one.
        unseen: camids that no image has, to which nothing leads: images stay as they are for them.
    """

    def __init__(self, generators: Mapping[tuple[int, int], CycleGenerator], *, unseen: Collection[int] = ()) -> None:
        self._unseen = frozenset(unseen)
        self._generators = {way: generator.eval() for way, generator in generators.items()}
        self._device = next(next(iter(self._generators.values())).parameters()).device

    @property
    def fingerprint(self) -> str:
        """Hash of the weights of all generators."""
        return weights_fingerprint(nn.ModuleList([self._generators[way] for way in sorted(self._generators)]))

    def without(self, unseen: Collection[int]) -> "PairTransfer":
        """These styles for images that leave images as they are for the camids ``unseen``."""
        return PairTransfer(self._generators, unseen=unseen)

    def missing_pairs(self, camids: Sequence[int]) -> list[tuple[int, int]]:
        """The pairs of camids, in increasing order, that no generator was trained for."""
        return [pair for pair in combinations(sorted(camids), 2) if pair not in self._generators]

    @torch.inference_mode()
    def __call__(self, images: Tensor, from_camids: Tensor, to_camids: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 RGB images on the CPU in the styles asked for, channels last in memory.

        An image that shall have the style of its own camera stays as it is.

        Args:
            images: (B, 3, H, W) uint8 RGB.
            from_camids: (B,) int64 cameras that took the images.
            to_camids: (B,) int64 cameras whose styles are wanted.

        Raises:
            InputError: there is no generator for a pair of cameras; names them.
        """
        styled = images.cpu().clone(memory_format=torch.channels_last)
        ways, groups = torch.unique(torch.stack([from_camids, to_camids], dim=1).cpu(), dim=0, return_inverse=True)
        chosen = {number: self._generator(own, wanted) for number, (own, wanted) in enumerate(ways.tolist())}
        for number, generator in chosen.items():
            if generator is not None:
                rows = groups == number
                styled[rows] = from_signed(generator(to_signed(images[rows].to(self._device)))).cpu()
        return styled

    def _generator(self, own: int, wanted: int) -> CycleGenerator | None:
        """The generator from one camera to another; None from a camera to itself, and to one that none leads to."""
        if own == wanted or wanted in self._unseen:
            return None
        if (own, wanted) not in self._generators:
            known = first_few(f"{a + 1}-{b + 1}" for a, b in sorted(self._generators) if a < b)
            raise InputError(
                f"no generator from camera {own + 1} to camera {wanted + 1}: those trained are of the pairs {known}; "
                f"train it with pairs=[[{min(own, wanted) + 1}, {max(own, wanted) + 1}]]"
            )
        return self._generators[own, wanted]


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
