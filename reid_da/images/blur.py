"""Faces made unrecognisable in pictures of person crops."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

HEAD_SHARE = 0.22
"""Part of the height of a crop, from its top, that holds the head where the box fits the person."""
_BLOCKS = 4


def blur_head(pixels: NDArray[np.uint8], *, share: float = HEAD_SHARE) -> NDArray[np.uint8]:
    """A copy of a person crop whose upper part is averaged to a few blocks and blurred.

    No face is looked for: crops are too small for detectors. Where the head is elsewhere, in a crop that is cut off or
    holds two people, it stays as it is.

    Args:
        pixels: (H, W, 3) uint8.
        share: part of the height.
    """
    result: NDArray[np.uint8] = pixels.copy()
    rows = max(1, round(share * len(pixels)))
    head = Image.fromarray(pixels[:rows])
    small = head.resize((_BLOCKS, _BLOCKS), Image.Resampling.BOX)
    blurred = small.resize(head.size, Image.Resampling.BILINEAR).filter(ImageFilter.GaussianBlur(2))
    result[:rows] = np.asarray(blurred)
    return result
