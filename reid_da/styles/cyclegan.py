"""CycleGAN: the styles of two cameras, by a generator each way and a discriminator for each camera.

Zhu et al., ICCV 2017; see :mod:`reid_da.styles.cycle_networks`.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from reid_da.config import Count, OptimizerSettings
from reid_da.images import Batch
from reid_da.methods.protocol import EpochPlan, Method, RunContext
from reid_da.models.running_mean import copy_for_mean, follow
from reid_da.styles.cycle_networks import (
    CycleGenerator,
    ImagePool,
    PatchDiscriminator,
    adversarial_loss,
    cycle_loss,
    discriminator_loss,
    identity_loss,
)
from reid_da.styles.settings import StyleSettings
from reid_da.styles.training_images import StyleImages, network_groups, style_plan

CROP_AREA = (256 / 286) ** 2
"""Share of the area that a random crop keeps: published as resizing to 286x286 and cropping 256x256."""


class CycleGANSettings(StyleSettings):
    """Everything that defines the training of CycleGANs, one for each pair of cameras.

    The defaults are those of CamStyle (Zhong et al., CVPR 2018), on smaller images: it makes squares of 256x256, see
    ``experiments/styles/cyclegan.yaml``.
    """

    method: Literal["cyclegan"] = "cyclegan"
    epochs: Count = Field(default=50, description="passes over the images of that camera of a pair which has more")
    pairs: tuple[tuple[Count, Count], ...] | None = Field(
        default=None, description="pairs of cameras, counted from 1, each trained in a folder of the run; null: all"
    )
    pair: tuple[Count, Count] | None = Field(
        default=None, description="train one pair, in the run folder itself; null: those of pairs"
    )
    num_blocks: Count = Field(default=9, description="residual blocks of a generator")
    dropout: float = Field(default=0.5, ge=0, lt=1, description="in the residual blocks, while training")
    identity_weight: float = Field(
        default=5.0, ge=0, description="weight of leaving an image alone that has the style already; 0: not computed"
    )
    pool_size: int = Field(default=50, ge=0, description="former fakes that the discriminators are shown again")
    optimizer: OptimizerSettings = OptimizerSettings(
        kind="adam", lr=2e-4, betas=(0.5, 0.999), weight_decay=0.0, schedule="linear", linear_from=0.6
    )


class GeneratorPair(nn.Module):
    """The generators between the first and the second camera of a pair.

    Args:
        settings: of the networks.

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

    Args:
        settings: of the networks.

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

    Args:
        settings: of the networks.

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


class CycleGAN(Method):
    """One step of CycleGAN, of generators and discriminators together.

    The published code moves the generators first and then the discriminators, each with an optimiser of its own. Here
    all losses are computed before anything moves, which gives the same gradients: those of the generators are taken
    with discriminators that have not moved yet, and those of the discriminators with fakes that were made before the
    generators moved, in the published order too.

    Args:
        settings: of the training of one pair of cameras.
        context: with the device.
        images: whose styles are learned.
    """

    Settings = CycleGANSettings

    def __init__(self, settings: CycleGANSettings, context: RunContext, images: StyleImages) -> None:
        assert settings.pair is not None
        self.settings = settings
        self.trained = self.networks = CycleNetworks(settings).to(context.device)
        self.camids = (min(settings.pair) - 1, max(settings.pair) - 1)
        self.num_cameras = images.dataset.num_cameras
        self.pools = {name: ImagePool(settings.pool_size) for name in ("first", "second")}
        self._context = context
        self._random = torch.Generator()
        rows = {name: images.rows(camid) for name, camid in zip(self.pools, self.camids, strict=True)}
        self._plan = style_plan(settings, images, rows, crop_area=CROP_AREA)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Generators and discriminators, at one learning rate."""
        return network_groups(self.networks, lr=self.settings.optimizer.lr)

    def begin_epoch(self, epoch: int) -> EpochPlan:
        """One pass over the images of the camera that has more; the pools draw from seed and epoch."""
        self._random.manual_seed(self._context.seed("pool", epoch))
        return self._plan

    def step(self, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        """Weighted losses by name, each the sum for both cameras.

        Args:
            batches: ``first`` and ``second``, as many images of each camera, with values from -1 to 1.
        """
        first, second = batches["first"].images, batches["second"].images
        # only while their scores are computed: the graph then leads through the discriminators, but not to them
        self.networks.discriminator.requires_grad_(False)
        losses, fake_first, fake_second = self._generator_losses(first, second)
        self.networks.discriminator.requires_grad_(True)
        losses["discriminator"] = self._discriminator_loss("first", first, fake_first) + self._discriminator_loss(
            "second", second, fake_second
        )
        return losses

    def after_update(self) -> None:
        """Move the running means of the generators."""
        if self.networks.average is not None:
            follow(self.networks.average, self.networks.generator, keep=self.settings.average)

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
        generator, discriminator, settings = self.networks.generator, self.networks.discriminator, self.settings
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
        scores = getattr(self.networks.discriminator, camera)(torch.cat([real, fake]))
        return discriminator_loss(*scores.chunk(2))
