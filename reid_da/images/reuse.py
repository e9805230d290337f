"""Memory that one batch after another lies in."""

import math
import weakref
from collections import deque

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_MAX_KEPT = 8
"""Arrays that wait for their next use: more than threads and a training step hold at a time."""


class ReusedMemory:
    """Places for batches on the CPU, given out anew once no tensor lies in them any more.

    An array of 32 MiB or more, such as 128 images of 256x128, is returned to the system when it is freed, and the next
    one is mapped page by page while it is first written to: that takes as long as all the arithmetic of an
    augmentation.
    """

    def __init__(self) -> None:
        self._free: deque[NDArray[np.float32]] = deque(maxlen=_MAX_KEPT)

    def empty(self, shape: tuple[int, ...]) -> Tensor:
        """A float32 tensor whose numbers are anything; safe to call in several threads.

        Its place is free again when the last tensor that shares its storage is gone.

        Args:
            shape: of the tensor.
        """
        length = math.prod(shape)
        place = self._take(length)
        array = place[:length].reshape(shape)
        # torch holds this array, and no other one, for as long as the storage is in use
        weakref.finalize(array, self._free.append, place).atexit = False
        return torch.from_numpy(array)

    def _take(self, length: int) -> NDArray[np.float32]:
        while True:
            try:
                place = self._free.popleft()
            except IndexError:
                return np.empty(length, dtype=np.float32)
            if len(place) >= length:
                return place
