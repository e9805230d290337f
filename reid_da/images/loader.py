"""Batches for training: gathered and transformed by a thread while the step before them runs."""

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from reid_da.images.ahead import iterate_ahead
from reid_da.images.samplers import Sampler
from reid_da.images.source import ImageSource
from reid_da.images.transforms import BatchTransform


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Images and which they are, on one device.

    Attributes:
        index: (B,) int64 rows of the source; labels and cameras are looked up with it.
        images: (B, 3, h, w) float32 input of a network.
    """

    index: Tensor
    images: Tensor = field(repr=False)


class Loader:
    """Batches of a source in the order of a sampler, through a transform; the same ones however far it works ahead.

    Like a :class:`Sampler` it goes on where it stands: :meth:`batches` gives what is left of the epoch. What was
    prepared but not asked for counts as not done, in a saved state and after an iterator is closed.
    """

    def __init__(
        self,
        source: ImageSource,
        sampler: Sampler,
        transform: BatchTransform,
        *,
        device: torch.device | str = "cpu",
        prefetch: int = 2,
    ) -> None:
        """Put the parts together; sampler and transform belong to the loader from now on.

        Args:
            source: where the images come from.
            sampler: which images make a batch.
            transform: from uint8 images to the input of a network.
            device: where the transform computes and the batches are. On a GPU the thread works on the default stream.
            prefetch: number of batches prepared ahead by a thread of its own; 0: none, and no thread.

        Raises:
            ValueError: ``prefetch`` is negative.
        """
        if prefetch < 0:
            raise ValueError(f"prefetch must be at least 0, got {prefetch}")
        self._source = source
        self._sampler = sampler
        self._transform = transform
        self._device = torch.device(device)
        self._prefetch = prefetch
        # where the caller stands while an iterator is open: sampler and transform may be ahead of that
        self._handed_out: dict[str, Any] | None = None

    def batches(self) -> Generator[Batch, None, None]:
        """Yield what is left of the epoch.

        An error of source or transform is raised at its batch. Closing the iterator, or leaving a ``for`` loop over it,
        waits for the thread.

        Raises:
            RuntimeError: another iterator of this loader is open.
        """
        self._check_idle()
        self._handed_out = self.state_dict()
        prepared = self._prepare()
        ahead = iterate_ahead(prepared, ahead=self._prefetch) if self._prefetch else prepared
        try:
            for batch, state in ahead:
                self._handed_out = state
                yield batch
        finally:
            ahead.close()
            state, self._handed_out = self._handed_out, None
            self.load_state_dict(state)

    def restart(self) -> None:
        """Begin the next epoch, unless nothing of the current one was handed out yet.

        Raises:
            RuntimeError: an iterator is open.
        """
        self._check_idle()
        self._sampler.restart()

    def state_dict(self) -> dict[str, Any]:
        """State behind the last batch that was handed out: ``sampler`` and ``transform``."""
        return self._current_state() if self._handed_out is None else self._handed_out

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on behind the last batch of the loader that gave ``state``.

        Raises:
            RuntimeError: an iterator is open.
        """
        self._check_idle()
        self._sampler.load_state_dict(state["sampler"])
        self._transform.load_state_dict(state["transform"])

    def _prepare(self) -> Generator[tuple[Batch, dict[str, Any]], None, None]:
        for index in self._sampler.batches():
            images = self._transform(self._source.gather(index).to(self._device))
            yield Batch(index=index.to(self._device), images=images), self._current_state()

    def _current_state(self) -> dict[str, Any]:
        return {"sampler": self._sampler.state_dict(), "transform": self._transform.state_dict()}

    def _check_idle(self) -> None:
        if self._handed_out is not None:
            raise RuntimeError("an iterator of this loader is open: close it first")
