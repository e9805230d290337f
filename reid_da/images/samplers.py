"""Which images make up the batches of an epoch, with random numbers and a saved place of their own."""

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from reid_da.errors import InputError

T_co = TypeVar("T_co", covariant=True)


class Sampler(ABC):
    """Batches of indices, epoch by epoch.

    :meth:`batches` gives what is left of the current epoch: all of it at first, the rest after a saved state was
    loaded or an earlier iterator was left. When the last batch has been handed out, the next epoch is current.
    :meth:`restart` gives up what is left.

    With several processes, each builds the same sampler with a ``rank`` of its own: the global batches are the same
    everywhere, and each process gets its consecutive part of every one. Parts of an incomplete last batch may be empty.
    """

    def __init__(self, *, batch_size: int, seed: int, drop_last: bool, rank: int, world_size: int) -> None:
        if batch_size < 1 or batch_size % world_size:
            raise InputError(
                f"batch_size must be a positive multiple of the number of processes, {world_size}, got {batch_size}"
            )
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must lie in 0..{world_size - 1}, got {rank}")
        self.batch_size = batch_size
        self.drop_last = drop_last
        self._rank = rank
        self._world_size = world_size
        self._generator = torch.Generator().manual_seed(seed)
        self._epoch_state = self._generator.get_state()
        self._position = 0
        self._order: Tensor | None = None

    @abstractmethod
    def _draw_order(self, generator: torch.Generator) -> Tensor:
        """(L,) int64 indices of an epoch, batch after batch."""

    def __len__(self) -> int:
        """Number of batches of the current epoch, those that were handed out already among them."""
        order = self._current_order()
        return len(order) // self.batch_size if self.drop_last else -(-len(order) // self.batch_size)

    def batches(self) -> Generator[Tensor, None, None]:
        """Yield what is left of the current epoch: (B,) int64 indices, the part of this process."""
        order = self._current_order()
        for position in range(self._position, len(self)):
            start = position * self.batch_size
            batch = order[start : start + self.batch_size]
            # before the batch is handed out, so that a state saved afterwards continues behind it
            self._position = position + 1
            if self._position == len(self):
                self._begin_epoch()
            yield torch.tensor_split(batch, self._world_size)[self._rank]

    def restart(self) -> None:
        """Begin the next epoch, unless nothing of the current one was handed out yet."""
        if self._position:
            self._current_order()
            self._begin_epoch()

    def state_dict(self) -> dict[str, Any]:
        """State of the generator at the beginning of the epoch (tensor), and the number of batches handed out."""
        return {"generator": self._epoch_state, "position": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on behind the last batch of the sampler that gave ``state``; the arguments must be the same."""
        self._generator.set_state(state["generator"])
        self._begin_epoch()
        self._position = int(state["position"])

    def _begin_epoch(self) -> None:
        self._epoch_state = self._generator.get_state()
        self._position = 0
        self._order = None

    def _current_order(self) -> Tensor:
        if self._order is None:
            self._order = self._draw_order(self._generator)
        return self._order


class SequentialSampler(Sampler):
    """The given indices in their order."""

    def __init__(
        self, rows: Tensor, *, batch_size: int, drop_last: bool = False, rank: int = 0, world_size: int = 1
    ) -> None:
        """Set up the order.

        Args:
            rows: (M,) int64 indices.
            batch_size: number of indices in a batch, over all processes.
            drop_last: leave out an incomplete last batch.
            rank: number of this process.
            world_size: number of processes.

        Raises:
            InputError: ``batch_size`` is not a positive multiple of ``world_size``.
        """
        super().__init__(batch_size=batch_size, seed=0, drop_last=drop_last, rank=rank, world_size=world_size)
        self._rows = rows

    def _draw_order(self, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        return self._rows


class ShuffledSampler(Sampler):
    """The given indices in a new random order each epoch."""

    def __init__(
        self,
        rows: Tensor,
        *,
        batch_size: int,
        seed: int,
        drop_last: bool = True,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Set up the generator.

        Args:
            rows: (M,) int64 indices.
            batch_size: number of indices in a batch, over all processes.
            seed: of the random numbers.
            drop_last: leave out an incomplete last batch.
            rank: number of this process.
            world_size: number of processes.

        Raises:
            InputError: ``batch_size`` is not a positive multiple of ``world_size``, or there would be no batch.
        """
        super().__init__(batch_size=batch_size, seed=seed, drop_last=drop_last, rank=rank, world_size=world_size)
        if len(rows) < (batch_size if drop_last else 1):
            raise InputError(f"batch_size is {batch_size}, but there are {len(rows)} images; lower it")
        self._rows = rows

    def _draw_order(self, generator: torch.Generator) -> Tensor:
        return self._rows[torch.randperm(len(self._rows), generator=generator)]


class IdentitySampler(Sampler):
    """Batches of P identities with K images each, as triplet losses need them.

    An epoch: the images of each identity are shuffled and cut into groups of K; what is left over rests until the next
    epoch, but an identity with fewer than K images makes one group of all its images and of repeats drawn from them.
    Each batch takes a group of P identities drawn from those that have one left, all with the same probability; the
    epoch ends when fewer than P have. This is the rule of Luo et al. (CVPR workshops 2019), except that there an
    identity with fewer than K images may come without some of them.
    """

    def __init__(
        self,
        rows: Tensor,
        labels: Tensor,
        *,
        num_identities: int,
        num_images: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Sort the indices by identity.

        Args:
            rows: (M,) int64 indices.
            labels: (M,) int64 identity of each of them.
            num_identities: P, over all processes; each process gets whole identities.
            num_images: K.
            seed: of the random numbers.
            rank: number of this process.
            world_size: number of processes.

        Raises:
            InputError: P is not a positive multiple of ``world_size``, K is below 1, or there are fewer than P
                identities.
            ValueError: ``rows`` and ``labels`` differ in length.
        """
        if len(rows) != len(labels):
            raise ValueError(f"{len(rows)} rows, but {len(labels)} labels")
        if num_images < 1 or num_identities < 1 or num_identities % world_size:
            raise InputError(
                f"num_identities must be a positive multiple of the number of processes, {world_size}, and num_images"
                f" positive, got {num_identities} and {num_images}"
            )
        super().__init__(
            batch_size=num_identities * num_images, seed=seed, drop_last=True, rank=rank, world_size=world_size
        )
        _, self._identity, self._counts = torch.unique(labels, return_inverse=True, return_counts=True)
        self._num_groups = (self._counts // num_images).clamp(min=1)
        if len(self._counts) < num_identities:
            raise InputError(f"num_identities is {num_identities}, but there are {len(self._counts)}; lower it")
        self._rows = rows
        self._num_identities = num_identities
        self._num_images = num_images

    def _draw_order(self, generator: torch.Generator) -> Tensor:
        groups = self._draw_groups(generator)
        left = self._num_groups.clone()
        following = left.cumsum(0) - left
        chosen = []
        # one turn for each batch, hence a few hundred for an epoch
        while int((left > 0).sum()) >= self._num_identities:
            identities = torch.multinomial((left > 0).double(), self._num_identities, generator=generator)
            chosen.append(following[identities])
            following[identities] += 1
            left[identities] -= 1
        return self._rows[groups[torch.cat(chosen)].flatten()]

    def _draw_groups(self, generator: torch.Generator) -> Tensor:
        """(G, K) places in ``rows``: the groups of the first identity, of the second, and so on."""
        shuffled = torch.randperm(len(self._rows), generator=generator)
        by_identity = shuffled[self._identity[shuffled].argsort(stable=True)]
        identity = torch.arange(len(self._counts)).repeat_interleave(self._num_groups)
        group = torch.arange(len(identity)) - (self._num_groups.cumsum(0) - self._num_groups)[identity]
        place = group[:, None] * self._num_images + torch.arange(self._num_images)
        count = self._counts[identity][:, None]
        repeats = (torch.rand(place.shape, dtype=torch.float64, generator=generator) * count).long()
        first = (self._counts.cumsum(0) - self._counts)[identity][:, None]
        return by_identity[first + torch.where(place < count, place, repeats)]


class Epochs(Protocol[T_co]):
    """What can be gone through epoch by epoch: a sampler, or a loader of its batches."""

    def batches(self) -> Generator[T_co, None, None]:
        """What is left of the current epoch."""
        ...

    def restart(self) -> None:
        """Give up what is left of the current epoch."""
        ...


class Stream(Generic[T_co]):
    """Batches without an end: an iterator that begins a new epoch whenever one is exhausted."""

    def __init__(self, epochs: Epochs[T_co]) -> None:
        """Begin where ``epochs`` stands; what is to be saved is the state of ``epochs``, too."""
        self._epochs = epochs
        self._batches = epochs.batches()

    def __iter__(self) -> Iterator[T_co]:
        return self

    def __next__(self) -> T_co:
        """The next batch.

        Raises:
            ValueError: an epoch has no batch.
        """
        for batch in self._batches:
            return batch
        self._batches = self._epochs.batches()
        for batch in self._batches:
            return batch
        raise ValueError("there are no batches in an epoch")

    def restart(self) -> None:
        """Give up what is left of the current epoch; the next batch is the first of a new one."""
        self.close()
        self._epochs.restart()

    def close(self) -> None:
        """Stop the work on batches ahead; a next batch, if one is asked for, is the one that would have followed."""
        self._batches.close()
