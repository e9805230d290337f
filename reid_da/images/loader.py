"""Batches for training: gathered and transformed by threads while the step before them runs."""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from reid_da.images.ahead import map_ahead
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


@dataclass(frozen=True, kw_only=True, eq=False)
class _Plan:
    """All that a worker needs to prepare a batch."""

    index: Tensor
    transform: Callable[[Tensor], Tensor]
    state_behind: dict[str, Any]


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
        num_workers: int = 1,
    ) -> None:
        """Put the parts together; sampler and transform belong to the loader from now on.

        Args:
            source: where the images come from; called in the threads, in the order of the batches only if there is
                one of them.
            sampler: which images make a batch.
            transform: from uint8 images to the input of a network.
            device: where the transform computes and the batches are. On a GPU the threads work on the default stream.
            prefetch: number of batches prepared ahead by threads; 0: none, and no threads.
            num_workers: number of threads, of which each prepares a batch on one core.

        Raises:
            ValueError: ``prefetch`` is negative, or ``num_workers`` is below 1.
        """
        if prefetch < 0 or num_workers < 1:
            raise ValueError(f"expected prefetch >= 0 and num_workers >= 1, got {prefetch} and {num_workers}")
        self._source = source
        self._sampler = sampler
        self._transform = transform
        self._device = torch.device(device)
        self._prefetch = prefetch
        self._num_workers = num_workers
        # where the caller stands while an iterator is open: sampler and transform may be ahead of that
        self._handed_out: dict[str, Any] | None = None

    def batches(self) -> Generator[Batch, None, None]:
        """Yield what is left of the epoch.

        An error of source or transform is raised at its batch. Closing the iterator does not wait for the threads, but
        what they still do changes nothing.

        Raises:
            RuntimeError: another iterator of this loader is open.
        """
        self._check_idle()
        self._handed_out = self.state_dict()
        prepared = self._prepared()
        try:
            for batch, state in prepared:
                self._handed_out = state
                yield batch
        finally:
            prepared.close()
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

    def _prepared(self) -> Generator[tuple[Batch, dict[str, Any]], None, None]:
        """Batches, each with the state behind it."""
        if not self._prefetch:
            return (self._prepare(plan) for plan in self._plans())
        return map_ahead(self._prepare, self._plans(), workers=self._num_workers, ahead=self._prefetch)

    def _plans(self) -> Iterator[_Plan]:
        # all that is random happens here, in the order of the batches and in the thread of the caller
        for index in self._sampler.batches():
            transform = self._transform.draw(len(index), self._source.size)
            yield _Plan(index=index, transform=transform, state_behind=self._current_state())

    def _prepare(self, plan: _Plan) -> tuple[Batch, dict[str, Any]]:
        images = plan.transform(self._source.gather(plan.index).to(self._device))
        return Batch(index=plan.index.to(self._device), images=images), plan.state_behind

    def _current_state(self) -> dict[str, Any]:
        return {"sampler": self._sampler.state_dict(), "transform": self._transform.state_dict()}

    def _check_idle(self) -> None:
        if self._handed_out is not None:
            raise RuntimeError("an iterator of this loader is open: close it first")
