"""StarGAN: camera styles by a critic that scores images and tells cameras, and a generator that answers to it.

Choi et al., CVPR 2018, with WGAN-GP; see :mod:`reid_da.camstyle.stargan`.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from reid_da.camstyle.stargan import StarCritic, StarGenerator, critic_loss, gradient_penalty
from reid_da.config import StarGANSettings
from reid_da.images import Batch
from reid_da.training.methods.running_mean import RunningMean, copy_for_mean


class StarNetworks(nn.Module):
    """Generator and critic as one module, and the running mean of the generator if there is one.

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


class StarGANTraining:
    """One step of StarGAN: several of the critic, then one of the generator, each with a batch of its own.

    The published code takes the batch of the last critic step for the generator too.

    Args:
        networks: generator and critic, on their device.
        settings: of the training.
        camids: (N,) int64 camera of each image, on the same device.
    """

    def __init__(self, networks: StarNetworks, *, settings: StarGANSettings, camids: Tensor) -> None:
        self.network = networks
        self.settings = settings
        self.camids = camids
        self.steps = 0
        self._mean = RunningMean(networks.average, networks.generator, keep=settings.average)

    def begin_epoch(self, epoch: int) -> None:
        """Nothing depends on the epoch."""

    def step(self, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        """Weighted losses of the critic, or of the generator, by name.

        Args:
            batches: ``images``, with values from -1 to 1.
        """
        self._mean.update()
        batch = batches["images"]
        camids = self.camids[batch.index]
        wanted = camids[torch.randperm(len(camids)).to(camids.device)]
        is_critic = self.steps % (self.settings.critic_steps + 1) < self.settings.critic_steps
        # a network whose turn it is not gets no gradient, so that the optimiser leaves it alone
        self.network.critic.requires_grad_(is_critic)
        self.network.generator.requires_grad_(not is_critic)
        self.steps += 1
        self._mean.is_due = not is_critic
        if is_critic:
            return self._critic_losses(batch.images, camids, wanted)
        return self._generator_losses(batch.images, camids, wanted)

    def after_backward(self) -> None:
        """Nothing to be moved."""

    def end_epoch(self) -> dict[str, float]:
        """No figures beyond the losses."""
        self._mean.update()
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the networks."""
        return {"steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self.steps = int(state["steps"])

    def _critic_losses(self, images: Tensor, camids: Tensor, wanted: Tensor) -> dict[str, Tensor]:
        critic, settings = self.network.critic, self.settings
        with torch.no_grad():
            fake = self.network.generator(images, wanted)
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
        generator, settings = self.network.generator, self.settings
        fake = generator(images, wanted)
        scores, logits = self.network.critic(fake)
        back = generator(fake, camids)
        return {
            "generator": -scores.mean(),
            "generator_camera": settings.camera_weight * functional.cross_entropy(logits.float(), wanted),
            "cycle": settings.cycle_weight * (images - back).abs().mean(),
        }
