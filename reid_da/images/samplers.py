"""Which images make up the batches of an epoch."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from reid_da.errors import InputError

Grouping = Literal["all", "drawn", "once"]
"""Which images of an identity a pass takes: ``drawn`` and ``once`` of :class:`IdentitySampler`, ``once`` with both."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Selection:
    """The images of a batch.

    Attributes:
        rows: (B,) int64 rows of the source.
        views: (B,) int64 which view of each image, or None for the images as they are.
        labels: (B,) int64 class of each, or None where there are none.
        cameras: (B,) int64 camera that each is from, or in whose style it is; None if unknown.
    """

    rows: Tensor
    views: Tensor | None = None
    labels: Tensor | None = None
    cameras: Tensor | None = None

    def part(self, rows: slice) -> "Selection":
        """Some of its images, one after another."""
        views, labels, cameras = (
            None if column is None else column[rows] for column in (self.views, self.labels, self.cameras)
        )
        return Selection(rows=self.rows[rows], views=views, labels=labels, cameras=cameras)


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
        once: let every identity make one group in a pass, however many images it has, so that all come equally often.
        drawn: draw the group of an identity with fewer than K images with replacement, so that it may lack some of
            them, as in the code of Luo et al. (CVPR workshops 2019).
    """

    num_identities: int
    num_images: int
    once: bool = False
    drawn: bool = False

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
        num_groups = (counts // self.num_images).clamp(min=1, max=1 if self.once else None)
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
        in_turn = place < count if not self.drawn else (count >= self.num_images).expand_as(place)
        return by_identity[first + torch.where(in_turn, place, repeats)]


@dataclass(frozen=True, kw_only=True, eq=False)
class GroupSampler(Sampler):
    """Batches cut from one group of images of every class, for classes that may have a single image, as in SpCL.

    A pass: each class gives a random image and K - 1 others of it, drawn from other cameras than that of the first; if
    there are none, from the same camera. Fewer than K - 1 are taken all, and repeats are drawn from them; a class with
    a single image gives that one. The groups come in random order, and batches are cut without regard to them. This is
    the rule of yxgeee/SpCL@01a486e, except that there a draw from fewer than K others may repeat some of them and leave
    others out.

    Attributes:
        batch_size: number of images B in a batch.
        num_images: K.
        camids: (N,) int64 camera of each image that a row may name.
    """

    batch_size: int
    num_images: int
    camids: Tensor

    def length(self, labels: Tensor) -> int:
        """Number of images in a pass over images of (M,) classes."""
        counts = torch.unique(labels, return_counts=True)[1]
        return int(torch.where(counts > 1, self.num_images, 1).sum())

    def order(self, rows: Tensor, labels: Tensor | None, generator: Generator) -> Tensor:
        """(L,) int64 rows of the groups of one pass; see :meth:`Sampler.order`."""
        if labels is None or len(rows) != len(labels):
            raise ValueError(f"expected a label for each of {len(rows)} rows")
        length = self.length(labels)
        if not 1 <= self.batch_size <= length:
            raise InputError(f"batch size {self.batch_size}: the groups of a pass have {length} images; lower it")
        shuffled = torch.randperm(len(rows), generator=generator)
        _, owner, counts = torch.unique(labels[shuffled], return_inverse=True, return_counts=True)
        begin = counts.cumsum(0) - counts
        first = owner.argsort(stable=True)[begin]
        camids = self.camids[rows[shuffled]]
        in_other_camera = camids != camids[first][owner]
        # class after class: its first image, those of other cameras, those of the same
        key = 3 * owner + torch.where(in_other_camera, 1, 2)
        key[first] = 3 * owner[first]
        ranked = shuffled[key.argsort(stable=True)]
        num_other = torch.bincount(owner[in_other_camera], minlength=len(counts))
        candidates = torch.where(num_other > 0, num_other, counts - 1)[:, None]
        place = torch.arange(self.num_images - 1).expand(len(counts), -1)
        repeats = (torch.rand(place.shape, dtype=torch.float64, generator=generator) * candidates).long()
        place = 1 + torch.where(place < candidates, place, repeats)
        # a class with a single image has no place behind the first
        place = torch.cat([torch.zeros_like(begin)[:, None], place.where(candidates > 0, -1)], dim=1)
        mixed = torch.randperm(len(counts), generator=generator)
        return rows[ranked[(begin[:, None] + place)[mixed][place[mixed] >= 0]]]


def sample_views(
    camids: Tensor, *, num_cameras: int, generator: Generator, per_image: int = 1, with_own: bool = True
) -> Tensor:
    """(B * V,) int64 cameras, drawn uniformly: V different ones for each image of a batch, one image after the other.

    As in ECN (Zhong et al., CVPR 2019) the own camera is drawn as often as any other, so that for V = 1 the real image
    is seen with probability 1/C.

    Args:
        camids: (B,) int64 own cameras of the images; without ``with_own`` they must be less than C.
        num_cameras: number C of cameras.
        generator: on the device where the result shall be.
        per_image: V.
        with_own: whether the own camera may be drawn.

    Raises:
        InputError: there are fewer cameras to draw from than V.
    """
    choices = num_cameras if with_own else num_cameras - 1
    if per_image > choices:
        raise InputError(f"views.per_image is {per_image}, but an image has {choices} different views; lower it")
    if per_image == 1:
        drawn = torch.randint(choices, camids.shape, generator=generator, device=generator.device)
    else:
        keys = torch.rand(len(camids), choices, generator=generator, device=generator.device)
        drawn = keys.argsort(dim=1)[:, :per_image].flatten()
    if with_own:
        return drawn
    # the cameras but the own one, counted on without a gap
    return drawn + (drawn >= camids.repeat_interleave(per_image)).long()
