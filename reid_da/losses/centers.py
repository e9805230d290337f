"""Class centres for the centre loss, moved by their own rule."""

import torch
from torch import Tensor, nn


class ClassCenters(nn.Module):
    """Running centres of the classes (Wen et al., ECCV 2016), a buffer that no optimiser moves.

    Attributes:
        centers: (C, D) float, zeros at first.
    """

    centers: Tensor

    def __init__(self, num_classes: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("centers", torch.zeros(num_classes, dim))

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor, *, rate: float = 0.5) -> None:
        """Move each centre of the batch: ``c_j -= rate * sum_{i: y_i = j} (c_j - x_i) / (1 + n_j)``.

        Equation 4 of the paper; n_j is the number of images of the class in the batch. Belongs after the backward
        pass, since the gradients of a step come from the centres before that step.

        Args:
            features: (B, D) float.
            labels: (B,) int64 classes.
            rate: alpha; 0.5 in the paper.
        """
        pull = features.to(self.centers.dtype) - self.centers[labels]
        # bincount would wait for a GPU, to learn the largest label
        counts = labels.new_zeros(len(self.centers)).index_add_(0, labels, torch.ones_like(labels))
        self.centers.index_add_(0, labels, rate * pull / (1 + counts[labels])[:, None])
