"""Which images make up the batches of an epoch."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from reid_da.errors import InputError

Grouping = Literal["all", "drawn", "once"]
"""Which images of an identity a pass takes; see :class:`IdentitySampler`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Selection:
    """The images of a batch.

    Attributes:
        rows: (B,) int64 rows of the source.
        views: (B,) int64 which view of each image, or None for the images as they are.
        labels: (B,) int64 class of each, or None where there are none.
    """

    rows: Tensor
    views: Tensor | None = None
    labels: Tensor | None = None


class Sampler(ABC):
    """An order of images, and the batches that it is cut into; it has no state of its own.

    Attributes:
        batch_size: number of images B in a batch; a last batch with fewer is left out.
    """

    batch_size: int

    @abstractmethod
    def order(self, rows: Tensor, labels: Tensor | None, generator: Generator) -> Tensor:
        """(L,) int64 rows of one pass over the images, batch after batch.

        Args:
            rows: (M,) int64 the images to choose from.
            labels: (M,) int64 class of each, or None.
            generator: source of the random numbers, on the CPU.

        Raises:
            InputError: there are too few images or classes for a batch.
        """

    def num_batches(self, rows: Tensor, labels: Tensor | None, seed: int) -> int:
        """Number of batches of the first pass with this seed."""
        return len(self.order(rows, labels, Generator().manual_seed(seed))) // self.batch_size

    def batches(self, rows: Tensor, labels: Tensor | None, seed: int) -> Iterator[Tensor]:
        """Batches of (B,) int64 rows without an end: pass after pass, each in an order of its own."""
        generator = Generator().manual_seed(seed)
        while True:
            yield from self.one_pass(rows, labels, generator)

    def one_pass(self, rows: Tensor, labels: Tensor | None, generator: Generator) -> Iterator[Tensor]:
        """The batches of one pass."""
        order = self.order(rows, labels, generator)
        for start in range(0, len(order) - self.batch_size + 1, self.batch_size):
            yield order[start : start + self.batch_size]


@dataclass(frozen=True)
class ShuffledSampler(Sampler):
    """All images in random order.

    Attributes:
        batch_size: number of images B in a batch.
    """

    batch_size: int

    def order(self, rows: Tensor, labels: Tensor | None, generator: Generator) -> Tensor:  # noqa: ARG002
        """(M,) int64 the rows, shuffled; see :meth:`Sampler.order`."""
        if self.batch_size < 1 or len(rows) < self.batch_size:
            raise InputError(f"batch size {self.batch_size}: there are {len(rows)} images; lower it")
        return rows[torch.randperm(len(rows), generator=generator)]


@dataclass(frozen=True)
class IdentitySampler(Sampler):
    """Batches of P identities with K images each, as triplet losses need them.

    A pass: the images of each identity are shuffled and cut into groups of K; what is left over rests until the next
    pass, but an identity with fewer than K images makes one group of all its images and of repeats drawn from them.
    Each batch takes a group of P identities drawn from those that have one left, all with the same probability; the
    pass ends when fewer than P have.

    Attributes:
        num_identities: P.
        num_images: K.
        grouping: ``all``: the rule above. ``drawn``: the group of an identity with fewer than K images is drawn with
            replacement, so that it may lack some of them, as in the code of Luo et al. (CVPR workshops 2019). ``once``:
            so, and one group of each identity in a pass, however many images it has, as in that of SphereReID.
    """

    num_identities: int
    num_images: int
    grouping: Grouping = "all"

    @property
    def batch_size(self) -> int:  # type: ignore[override]
        """P * K."""
        return self.num_identities * self.num_images

    def order(self, rows: Tensor, labels: Tensor | None, generator: Generator) -> Tensor:
        """(L,) int64 rows of the groups of one pass; see :meth:`Sampler.order`."""
        if labels is None or len(rows) != len(labels):
            raise ValueError(f"expected a label for each of {len(rows)} rows")
        _, identity, counts = torch.unique(labels, return_inverse=True, return_counts=True)
        if not 1 <= self.num_identities <= len(counts) or self.num_images < 1:
            raise InputError(
                f"a batch of {self.num_identities} identities with {self.num_images} images each: there are"
                f" {len(counts)} identities; lower the batch size, or raise the images of each identity"
            )
        num_groups = (counts // self.num_images).clamp(min=1, max=1 if self.grouping == "once" else None)
        groups = self._draw_groups(identity, counts, num_groups, generator)
        left = num_groups.clone()
        following = left.cumsum(0) - left
        chosen = []
        # one turn for each batch, hence a few hundred for a pass
        while int((left > 0).sum()) >= self.num_identities:
            identities = torch.multinomial((left > 0).double(), self.num_identities, generator=generator)
            chosen.append(following[identities])
            following[identities] += 1
            left[identities] -= 1
        return rows[groups[torch.cat(chosen)].flatten()]

    def _draw_groups(self, identity: Tensor, counts: Tensor, num_groups: Tensor, generator: Generator) -> Tensor:
        """(G, K) places in the rows: the groups of the first identity, of the second, and so on."""
        shuffled = torch.randperm(len(identity), generator=generator)
        by_identity = shuffled[identity[shuffled].argsort(stable=True)]
        owner = torch.arange(len(counts)).repeat_interleave(num_groups)
        group = torch.arange(len(owner)) - (num_groups.cumsum(0) - num_groups)[owner]
        place = group[:, None] * self.num_images + torch.arange(self.num_images)
        count = counts[owner][:, None]
        repeats = (torch.rand(place.shape, dtype=torch.float64, generator=generator) * count).long()
        first = (counts.cumsum(0) - counts)[owner][:, None]
        in_turn = place < count if self.grouping == "all" else (count >= self.num_images).expand_as(place)
        return by_identity[first + torch.where(in_turn, place, repeats)]
