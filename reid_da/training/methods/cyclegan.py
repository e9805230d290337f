"""CycleGAN: the styles of two cameras, by a generator each way and a discriminator for each camera.

Zhu et al., ICCV 2017; see :mod:`reid_da.camstyle.cyclegan`.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from reid_da.camstyle.cyclegan import (
    CycleGenerator,
    ImagePool,
    PatchDiscriminator,
    adversarial_loss,
    cycle_loss,
    discriminator_loss,
    identity_loss,
)
from reid_da.config import CycleGANSettings
from reid_da.images import Batch
from reid_da.training.methods.running_mean import RunningMean, copy_for_mean
from reid_da.training.seeds import derived_seed


class GeneratorPair(nn.Module):
    """The generators between the first and the second camera of a pair.

    Attributes:
        to_second: images of the first camera to the style of the second; G of the paper.
        to_first: images of the second camera to the style of the first; F of the paper.
    """

    def __init__(self, settings: CycleGANSettings) -> None:
        super().__init__()
        self.to_second, self.to_first = (
            CycleGenerator(
                channels=settings.channels,
                num_blocks=settings.num_blocks,
                dropout=settings.dropout,
                residual=settings.residual,
            )
            for _ in range(2)
        )


class DiscriminatorPair(nn.Module):
    """The discriminators of the first and the second camera of a pair.

    Attributes:
        first: tells images of the first camera from fakes.
        second: tells images of the second camera from fakes.
    """

    def __init__(self, settings: CycleGANSettings) -> None:
        super().__init__()
        self.first, self.second = (
            PatchDiscriminator(settings.data.image_size, channels=settings.channels) for _ in range(2)
        )


class CycleNetworks(nn.Module):
    """Generators and discriminators of a pair as one module, and the running mean of the generators if there is one.

    Attributes:
        generator: make styles.
        discriminator: judge them.
        average: mean of the generators over the steps, which no gradient reaches, or None.

    Raises:
        InputError: the networks cannot work on images of the size that is set.
    """

    def __init__(self, settings: CycleGANSettings) -> None:
        super().__init__()
        self.generator = GeneratorPair(settings)
        self.discriminator = DiscriminatorPair(settings)
        self.average = copy_for_mean(self.generator) if settings.average else None

    @property
    def best_generator(self) -> GeneratorPair:
        """The generators to make styles with."""
        return self.average or self.generator


class CycleGANTraining:
    """One step of CycleGAN, of generators and discriminators together.

    The published code moves the generators first and then the discriminators, each with an optimiser of its own. Here
    all losses are computed before anything moves, which gives the same gradients: those of the generators are taken
    with discriminators that have not moved yet, and those of the discriminators with fakes that were made before the
    generators moved, in the published order too.

    Args:
        networks: of the pair, on their device.
        settings: of the training.
        camids: first and second camera.
        num_cameras: of the data set; noted in the state with the cameras, for whoever makes views.
    """

    def __init__(
        self, networks: CycleNetworks, *, settings: CycleGANSettings, camids: tuple[int, int], num_cameras: int
    ) -> None:
        self.network = networks
        self.settings = settings
        self.camids = camids
        self.num_cameras = num_cameras
        self.pools = {name: ImagePool(settings.pool_size) for name in ("first", "second")}
        self._random = torch.Generator()
        self._mean = RunningMean(networks.average, networks.generator, keep=settings.average)

    def begin_epoch(self, epoch: int) -> None:
        """The pools draw from a generator that depends on seed and epoch."""
        self._random.manual_seed(derived_seed(self.settings.seed, "pool", epoch))

    def step(self, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        """Weighted losses by name, each the sum for both cameras.

        Args:
            batches: ``first`` and ``second``, as many images of each camera, with values from -1 to 1.
        """
        self._mean.update()
        self._mean.is_due = True
        first, second = batches["first"].images, batches["second"].images
        # only while their scores are computed: the graph then leads through the discriminators, but not to them
        self.network.discriminator.requires_grad_(False)
        losses, fake_first, fake_second = self._generator_losses(first, second)
        self.network.discriminator.requires_grad_(True)
        losses["discriminator"] = self._discriminator_loss("first", first, fake_first) + self._discriminator_loss(
            "second", second, fake_second
        )
        return losses

    def after_backward(self) -> None:
        """Nothing to be moved."""

    def end_epoch(self) -> dict[str, float]:
        """No figures beyond the losses."""
        self._mean.update()
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the networks."""
        pools = {name: pool.state_dict() for name, pool in self.pools.items()}
        return {"pools": pools, "camids": list(self.camids), "num_cameras": self.num_cameras}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        for name, pool in self.pools.items():
            pool.load_state_dict(state["pools"][name])

    def _generator_losses(self, first: Tensor, second: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Losses, and the fakes of both cameras without their graph."""
        generator, discriminator, settings = self.network.generator, self.network.discriminator, self.settings
        losses = {}
        if settings.identity_weight:
            # in one pass with the fakes: no layer mixes the images of a batch
            fake_second, same_second = generator.to_second(torch.cat([first, second])).chunk(2)
            fake_first, same_first = generator.to_first(torch.cat([second, first])).chunk(2)
            identity = identity_loss(first, same_first) + identity_loss(second, same_second)
            losses["identity"] = settings.identity_weight * identity
        else:
            fake_second, fake_first = generator.to_second(first), generator.to_first(second)
        losses["adversarial"] = adversarial_loss(discriminator.first(fake_first)) + adversarial_loss(
            discriminator.second(fake_second)
        )
        cycle = cycle_loss(first, generator.to_first(fake_second)) + cycle_loss(second, generator.to_second(fake_first))
        losses["cycle"] = settings.cycle_weight * cycle
        return losses, fake_first.detach(), fake_second.detach()

    def _discriminator_loss(self, camera: str, real: Tensor, fake: Tensor) -> Tensor:
        fake = self.pools[camera].exchange(fake, self._random).to(real.dtype)
        scores = getattr(self.network.discriminator, camera)(torch.cat([real, fake]))
        return discriminator_loss(*scores.chunk(2))
