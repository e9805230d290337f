"""Class centres for the centre loss, moved by their own rules."""

from typing import Literal

import torch
from torch import Generator, Tensor, nn

CenterRule = Literal["paper", "sgd"]
"""How class centres begin and move: by the paper of Wen et al., or by SGD on the squared distance."""


class ClassCenters(nn.Module):
    """Running centres of the classes (Wen et al., ECCV 2016), a buffer that no optimiser moves.

    Args:
        num_classes: number C of classes.
        dim: length D of the features.
        generator: source of the random centres, torch's own if None.

    Attributes:
        centers: (C, D) float.
        rule: ``paper``, from zeros; or ``sgd`` as the code of Luo et al. (CVPR workshops 2019), from standard normal
            random numbers.
    """

    centers: Tensor

    def __init__(
        self, num_classes: int, dim: int, *, rule: CenterRule = "paper", generator: Generator | None = None
    ) -> None:
        super().__init__()
        self.rule = rule
        start = torch.zeros(num_classes, dim)
        self.register_buffer("centers", start if rule == "paper" else start.normal_(generator=generator))

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor, *, rate: float = 0.5) -> None:
        """Move each centre of the batch, ``c_j -= rate * sum_{i: y_i = j} (c_j - x_i) * factor``.

        The factor is ``1 / (1 + n_j)`` by the rule ``paper`` (equation 4), where n_j is the number of images of the
        class in the batch. By the rule ``sgd`` it is ``2 / B``: a step down the gradient of the mean squared distance,
        without the weight of the loss, which that code divides out of the gradient.

        Belongs after the backward pass, since the gradients of a step come from the centres before that step.

        Args:
            features: (B, D) float.
            labels: (B,) int64 classes.
            rate: alpha of the paper, or the learning rate; 0.5 in the paper and in that code.
        """
        pull = features.to(self.centers.dtype) - self.centers[labels]
        if self.rule == "sgd":
            self.centers.index_add_(0, labels, 2 * rate / len(labels) * pull)
            return
        # bincount would wait for a GPU, to learn the largest label
        counts = labels.new_zeros(len(self.centers)).index_add_(0, labels, torch.ones_like(labels))
        self.centers.index_add_(0, labels, rate * pull / (1 + counts[labels])[:, None])
