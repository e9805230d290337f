"""A small network that tells from an image which camera took it."""

from collections.abc import Generator
from contextlib import closing
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reid_da.config import AugmentSettings
from reid_da.images import Batch, ImageSource, Selection, ShuffledSampler, TrainTransform, load_batches
from reid_da.models.backbones import create_backbone
from reid_da.progress import track
from reid_da.seeds import derived_seed

LARGEST_SIZE = (64, 32)
"""Height and width that larger images are reduced to: colours and backgrounds survive it, and it takes seconds."""
_BATCH_SIZE = 64
_LEARNING_RATE = 3e-3
_WEIGHT_DECAY = 0.05
_CROP_SCALE = (0.8, 1.0)


class CameraClassifier(nn.Module):
    """A ResNet-18 with a quarter of the channels and a linear layer.

    Attributes:
        num_cameras: number C of cameras.
        size: height and width of the images that it wants.

    Args:
        num_cameras: number C of cameras.
        size: of the images that there are; larger ones than :data:`LARGEST_SIZE` have to be reduced to it.
        generator: source of the initial weights, on the CPU.
    """

    def __init__(self, num_cameras: int, *, size: tuple[int, int], generator: torch.Generator) -> None:
        super().__init__()
        self.num_cameras = num_cameras
        self.size = size if size[0] <= LARGEST_SIZE[0] else LARGEST_SIZE
        self.backbone = create_backbone("resnet18", width=0.25, weights="none", generator=generator)
        self.camera = nn.Linear(self.backbone.feature_dim, num_cameras)
        nn.init.normal_(self.camera.weight, std=0.01, generator=generator)
        nn.init.zeros_(self.camera.bias)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C) logits of (B, 3, h, w) normalised images."""
        logits: Tensor = self.camera(self.backbone(images))
        return logits


def train_camera_classifier(
    source: ImageSource,
    rows: Tensor,
    camids: Tensor,
    *,
    num_cameras: int,
    steps: int,
    seed: int,
    device: torch.device,
) -> CameraClassifier:
    """A classifier in evaluation mode, trained on some of a source's images.

    They are mirrored and slightly cropped at random. Their colours are left alone: cameras differ in nothing more.

    Args:
        source: the N images.
        rows: (M,) int64 which of them to train on, at least two.
        camids: (N,) int64 camera of each, in 0..C-1.
        num_cameras: number C of cameras.
        steps: number of batches.
        seed: of weights, order and augmentation; on a CPU the same seed gives the same weights.
        device: where to compute.
    """
    generator = torch.Generator().manual_seed(derived_seed(seed, "camera weights"))
    network = CameraClassifier(num_cameras, size=source.size, generator=generator).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=_LEARNING_RATE, total_steps=steps)
    labels = camids.to(device)
    network.train()
    with closing(_batches(source, rows, size=network.size, seed=seed, device=device)) as batches:
        for batch in track(islice(batches, steps), "training the camera classifier", total=steps):
            loss = F.cross_entropy(network(batch.images), labels[batch.rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return network.eval()


def _batches(
    source: ImageSource, rows: Tensor, *, size: tuple[int, int], seed: int, device: torch.device
) -> Generator[Batch, None, None]:
    aspect = size[0] / size[1]
    augment = AugmentSettings(crop="rect", crop_scale=_CROP_SCALE, crop_aspect=(aspect, aspect), erase=0.0)
    sampler = ShuffledSampler(min(_BATCH_SIZE, len(rows)))
    selections = (Selection(rows=batch) for batch in sampler.batches(rows, None, derived_seed(seed, "camera order")))
    transform = TrainTransform(augment, size=size, seed=derived_seed(seed, "camera pixels"))
    return load_batches(source, selections, transform, device=device)
