"""From the last layer of a generator to an image.

The published generators make every pixel anew, so that they first have to learn to copy the person. One that makes
changes of the image begins with the image itself, and keeps the person however short its training (Shen and Liu,
"Learning Residual Images for Face Attribute Manipulation", CVPR 2017). Here changes are made before the tanh, where no
colour can leave its range.
"""

import torch
from torch import Tensor, nn

_MOST = 1 - 1e-3
"""Black and white are infinitely far before a tanh; this near to them counts as there, an eighth of a grey level."""


def to_image(values: Tensor, changed: Tensor | None = None) -> Tensor:
    """(B, 3, H, W) images from -1 to 1.

    Args:
        values: (B, 3, H, W) of the last layer.
        changed: (B, 3, H, W) images from -1 to 1 that they are changes of, or None.
    """
    if changed is not None:
        values = values + torch.atanh(changed.clamp(-_MOST, _MOST))
    return torch.tanh(values)


def begin_unchanged(last: nn.Module) -> None:
    """Let the last layer of a generator that makes changes begin with none."""
    for parameter in last.parameters():
        nn.init.zeros_(parameter)
