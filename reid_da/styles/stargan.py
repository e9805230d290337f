"""StarGAN: camera styles by a critic that scores images and tells cameras, and a generator that answers to it.

Choi et al., CVPR 2018, with WGAN-GP; see :mod:`reid_da.styles.star_networks`.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from reid_da.config import Count, OptimizerSettings
from reid_da.errors import InputError
from reid_da.images import Batch
from reid_da.methods.protocol import EpochPlan, Method, RunContext
from reid_da.models.running_mean import copy_for_mean, follow
from reid_da.styles.settings import StyleSettings
from reid_da.styles.star_networks import StarCritic, StarGenerator, critic_loss, gradient_penalty
from reid_da.styles.training_images import StyleImages, network_groups, style_plan

_LAST = ("images", "camids", "wanted")
CROP_AREA = 1 / 1.125**2
"""Share of the area that a random crop keeps: published as resizing to 288x144 and cropping 256x128."""


class StarGANSettings(StyleSettings):
    """Everything that defines the training of a StarGAN, one for all cameras.

    The defaults are a shortened training: networks and weights of the losses of StarGAN for camera styles (Zhong et
    al., ECCV 2018), on images of half the height and width, for fewer steps, with a learning rate that does fall. The
    published sizes and numbers of steps are in ``experiments/styles/``.
    """

    method: Literal["stargan"] = "stargan"
    epochs: Count = Field(default=200, description="passes over the images")
    batch: Count = Field(default=16, description="images in a step")
    num_blocks: Count = Field(default=6, description="residual blocks of the generator")
    critic_steps: Count = Field(default=5, description="steps of the critic for each of the generator")
    generator_batch: Literal["own", "critic"] = Field(
        default="own",
        description="batch of a step of the generator: one of its own, or that of the critic's last step with the same "
        "cameras wanted, as in the published code",
    )
    camera_weight: float = Field(default=1.0, ge=0, description="weight of the classification of the camera")
    penalty_weight: float = Field(default=10.0, ge=0, description="weight of the gradient penalty")
    optimizer: OptimizerSettings = OptimizerSettings(
        kind="adam", lr=1e-4, betas=(0.5, 0.999), weight_decay=0.0, schedule="linear"
    )


class StarNetworks(nn.Module):
    """Generator and critic as one module, and the running mean of the generator if there is one.

    Args:
        settings: of the networks.
        num_cameras: number of cameras, and of styles.

    Attributes:
        generator: makes styles.
        critic: judges them.
        average: mean of the generator over the steps, which no gradient reaches, or None.
    """

    def __init__(self, settings: StarGANSettings, *, num_cameras: int) -> None:
        super().__init__()
        channels = settings.channels
        self.generator = StarGenerator(
            num_cameras, channels=channels, num_blocks=settings.num_blocks, residual=settings.residual
        )
        self.critic = StarCritic(num_cameras, image_size=settings.data.image_size, channels=channels)
        self.average = copy_for_mean(self.generator) if settings.average else None

    @property
    def best_generator(self) -> StarGenerator:
        """The generator to make styles with."""
        return self.average or self.generator


class StarGAN(Method):
    """One step of StarGAN: several of the critic, then one of the generator.

    Where the generator takes the batch of the critic's last step, the batch that its own step brings rests.

    Args:
        settings: of the training.
        context: with the device.
        images: whose styles are learned.

    Raises:
        InputError: the training would end before the first step of the generator.
    """

    Settings = StarGANSettings

    def __init__(self, settings: StarGANSettings, context: RunContext, images: StyleImages) -> None:
        self.settings = settings
        self.trained = self.networks = StarNetworks(settings, num_cameras=images.dataset.num_cameras).to(context.device)
        self.steps = 0
        self._is_critic = True
        self._last: tuple[Tensor, Tensor, Tensor] | None = None
        self._device = context.device
        self._plan = style_plan(settings, images, {"images": images.rows()}, crop_area=CROP_AREA)
        total = settings.epochs * self._plan.steps
        if total <= settings.critic_steps:
            raise InputError(
                f"epochs: {total} steps in all are steps of the critic, as critic_steps={settings.critic_steps} come"
                " before the first of the generator; raise epochs, or lower critic_steps or batch"
            )

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Generator and critic, at one learning rate."""
        return network_groups(self.networks, lr=self.settings.optimizer.lr)

    def begin_epoch(self, epoch: int) -> EpochPlan:  # noqa: ARG002
        """One pass over the images."""
        return self._plan

    def step(self, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        """Weighted losses of the critic, or of the generator, by name.

        Args:
            batches: ``images``, with values from -1 to 1.
        """
        batch = batches["images"]
        images, camids = batch.images, batch.labels
        assert camids is not None
        self._is_critic = self.steps % (self.settings.critic_steps + 1) < self.settings.critic_steps
        if not self._is_critic and self._last is not None:
            images, camids, wanted = self._last
            self._last = None
        else:
            wanted = camids[torch.randperm(len(camids)).to(camids.device)]
            if self.settings.generator_batch == "critic":
                self._last = images, camids, wanted
        # a network whose turn it is not gets no gradient, so that the optimiser leaves it alone
        self.networks.critic.requires_grad_(self._is_critic)
        self.networks.generator.requires_grad_(not self._is_critic)
        self.steps += 1
        if self._is_critic:
            return self._critic_losses(images, camids, wanted)
        return self._generator_losses(images, camids, wanted)

    def after_update(self) -> None:
        """Move the running mean of the generator if it was its turn."""
        if self.networks.average is not None and not self._is_critic:
            follow(self.networks.average, self.networks.generator, keep=self.settings.average)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the networks."""
        state: dict[str, Any] = {"steps": self.steps}
        if self._last is not None:
            state["last"] = {name: value.cpu() for name, value in zip(_LAST, self._last, strict=True)}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self.steps = int(state["steps"])
        last = state.get("last")
        if last is None:
            self._last = None
        else:
            images, camids, wanted = (last[name].to(self._device) for name in _LAST)
            self._last = images, camids, wanted

    def _critic_losses(self, images: Tensor, camids: Tensor, wanted: Tensor) -> dict[str, Tensor]:
        critic, settings = self.networks.critic, self.settings
        with torch.no_grad():
            fake = self.networks.generator(images, wanted)
        real_scores, logits = critic(images)
        fake_scores, _ = critic(fake)
        share = torch.rand(len(images)).to(images.device)
        penalty = gradient_penalty(lambda mixed: critic(mixed)[0], images, fake, share)
        return {
            "critic": critic_loss(real_scores, fake_scores),
            "critic_camera": settings.camera_weight * functional.cross_entropy(logits.float(), camids),
            "penalty": settings.penalty_weight * penalty,
        }

    def _generator_losses(self, images: Tensor, camids: Tensor, wanted: Tensor) -> dict[str, Tensor]:
        generator, settings = self.networks.generator, self.settings
        fake = generator(images, wanted)
        scores, logits = self.networks.critic(fake)
        back = generator(fake, camids)
        return {
            "generator": -scores.mean(),
            "generator_camera": settings.camera_weight * functional.cross_entropy(logits.float(), wanted),
            "cycle": settings.cycle_weight * (images - back).abs().mean(),
        }
