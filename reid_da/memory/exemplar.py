"""The exemplar memory: one slot per target training image, updated explicitly after each step."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from reid_da.errors import InputError
from reid_da.shards import Shard, ShardedTensor, StoredTensor
from reid_da.world import ALONE, World

PUBLISHED_EPOCHS = 60
"""Length of the published training, to which the rate of the momentum belongs."""
_ROWS_PER_BLOCK = 8192


class ExemplarMemory(nn.Module):
    """Features of all target training images as they were last seen (Zhong et al., CVPR 2019, arXiv 1904.01990v1).

    The slots are a buffer: they receive no gradient, no optimiser step and no weight decay, and they are in the
    ``state_dict``. Nothing writes to them but :meth:`update`, which belongs after the backward pass, since the
    gradients of a step come from the memory before that step.

    Several processes may hold the slots together, each the rows of its shard; all of them are told of every update.

    Attributes:
        slots: (m, D) unit vectors, the own ones of M; zeros until a slot is first written, which gives logits of zero.
        last_update: (m,) int32, the update that last wrote a slot, counted from 0; -1 for none.
        num_updates: () int32, number of calls of :meth:`update`.
        fingerprint: names the images and their order; see ``SampleTable.fingerprint``.
        shard: which of the M slots are the own ones.

    Args:
        num_slots: M, number of target training images.
        dim: D, length of a feature; 4096 in the paper.
        fingerprint: a saved memory with another one is refused.
        dtype: of the storage; updates are computed in float32 at least and rounded when stored.
        world: the processes that hold the slots together.
    """

    slots: Tensor
    last_update: Tensor
    num_updates: Tensor

    def __init__(
        self,
        num_slots: int,
        dim: int,
        *,
        fingerprint: str = "",
        dtype: torch.dtype = torch.float32,
        world: World = ALONE,
    ) -> None:
        super().__init__()
        self.fingerprint = fingerprint
        self.shard = Shard(num_slots, world)
        self.register_buffer("slots", torch.zeros(len(self.shard), dim, dtype=dtype))
        self.register_buffer("last_update", torch.full((len(self.shard),), -1, dtype=torch.int32))
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int32))
        self.register_load_state_dict_pre_hook(_check_saved_state)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def update(self, index: Tensor, features: Tensor, *, momentum: float, repeats: int | None = None) -> None:
        """Move slots towards new features: K[i] <- a K[i] + (1 - a) f, then to unit length.

        An image that occurs more than once in the batch moves its slot once per occurrence, in their order. A
        vector of length zero stays as it is.

        Args:
            index: (B,) int64, slot of each feature, in 0..M-1.
            features: (B, D) float, of any length; the authors' have dropout applied.
            momentum: a, share in 0..1 of the old value that is kept; see :func:`momentum_schedule`.
            repeats: how often every slot of the batch occurs in it, where the caller knows; it is not checked. None
                finds out, for which a GPU has to be waited for.

        Raises:
            ValueError: shapes that do not fit, or a momentum outside 0..1.
        """
        if index.ndim != 1 or features.shape != (len(index), self.slots.shape[1]):
            raise ValueError(
                f"expected index (B,) and features (B, {self.slots.shape[1]}), "
                f"got {tuple(index.shape)} and {tuple(features.shape)}"
            )
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum is a share in 0..1, got {momentum}")
        features = features.to(torch.promote_types(self.slots.dtype, torch.float32))
        if not self.shard.is_whole:
            # all occurrences of an image lie in one shard, so that its number of repeats stays what it is
            place, is_own = self.shard.find(index)
            index, features = place[is_own], features[is_own]
        for chosen in _rounds(index, repeats):
            self._move(index[chosen], features[chosen], momentum)
        self.last_update[index] = self.num_updates
        self.num_updates += 1

    def _move(self, index: Tensor, features: Tensor, momentum: float) -> None:
        moved = momentum * self.slots[index].to(features.dtype) + (1 - momentum) * features
        self.slots[index] = functional.normalize(moved, dim=1).to(self.slots.dtype)

    def ages(self) -> Tensor:
        """Updates since each slot was last written, (M,) int32: 0 for the latest, -1 for a slot never written."""
        last = self.shard.world.gather(self.last_update)
        ages: Tensor = torch.where(last < 0, -1, self.num_updates - 1 - last)
        return ages

    def norms(self) -> Tensor:
        """Length of each slot, (M,) float32: 1 up to rounding, or 0 for a slot never written."""
        # block by block: a norm in float32 would first widen the whole of a bfloat16 memory
        starts = range(0, len(self.slots), _ROWS_PER_BLOCK)
        norms = [self.slots[i : i + _ROWS_PER_BLOCK].float().norm(dim=1) for i in starts]
        return self.shard.world.gather(torch.cat([*norms, torch.empty(0, device=self.slots.device)]))

    @torch.no_grad()
    def fill(self, write: Callable[[Tensor], Any]) -> None:
        """Let a function write the slots, block by block in their order: it may draw random numbers.

        Args:
            write: called with (b, D) slots of all processes, to be written in place.
        """
        self.shard.fill(self.slots, write, block_rows=_ROWS_PER_BLOCK)

    def read(self, index: Tensor) -> Tensor:
        """(..., D) slots by their numbers, on every process.

        Args:
            index: int64 of any shape, in 0..M-1.
        """
        return self.shard.collect(self.slots, index)

    def saved_state(self) -> dict[str, Any]:
        """What :meth:`restore` takes, with the own rows of a memory that several processes hold."""
        state: dict[str, Any] = dict(self.state_dict())
        if not self.shard.is_whole:
            state |= {name: ShardedTensor(state[name], self.shard) for name in ("slots", "last_update")}
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over a saved memory of all slots, whatever the number of processes that saved it.

        Raises:
            InputError: it is of other images or of another size.
        """
        own: dict[str, Any] = {}
        for name, value in state.items():
            if name in ("slots", "last_update"):
                if value.shape[0] != self.shard.total:
                    raise _wrong_size((value.shape[0], value.shape[-1] if name == "slots" else 1), self)
                own[name] = value.read(self.shard.rows) if isinstance(value, StoredTensor) else value[self.shard.rows]
            else:
                own[name] = value.read() if isinstance(value, StoredTensor) else value
        self.load_state_dict(own)

    def get_extra_state(self) -> Tensor:
        """The fingerprint as bytes in a uint8 tensor, which every checkpoint format can hold."""
        return torch.tensor(list(self.fingerprint.encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Nothing to take over: a state with another fingerprint has been refused."""


def momentum_schedule(epoch: int, *, rate: float = 0.01, num_epochs: int | None = None, maximum: float = 1.0) -> float:
    """Share of the old value that a slot keeps in ``epoch``: the rate times the epoch.

    Args:
        epoch: counted from 0, so that a slot is simply replaced in the first epoch.
        rate: 0.01 in the paper, for 60 epochs.
        num_epochs: length of the training; if given, the published rise is stretched or squeezed to it. None takes
            the rate as it is, whatever the length.
        maximum: the momentum never goes beyond it; at 1 slots would no longer move.
    """
    progress = epoch if num_epochs is None else epoch * PUBLISHED_EPOCHS / num_epochs
    return min(rate * progress, maximum)


def _rounds(index: Tensor, repeats: int | None) -> Iterator[Tensor | slice]:
    """Which elements of ``index`` (B,) to take at a time, in their order, so that no value occurs twice among them."""
    if not len(index):
        return
    if repeats == 1:
        yield slice(None)
        return
    ranks = _occurrence_ranks(index)
    if repeats is not None:
        yield from ranks.argsort(stable=True).view(repeats, -1)
        return
    for rank in range(int(ranks.max()) + 1):
        yield ranks == rank


def _occurrence_ranks(index: Tensor) -> Tensor:
    """How often the same value stands further left, for each element of ``index`` (B,); (B,) int64."""
    values, order = index.sort(stable=True)
    first = torch.searchsorted(values, values)
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(len(index), device=index.device) - first
    return ranks


def _check_saved_state(module: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Refuse, before anything is copied, a saved memory of other images or of another size."""
    assert isinstance(module, ExemplarMemory)
    saved = state.get(f"{prefix}slots")
    if saved is not None and saved.shape != module.slots.shape:
        raise _wrong_size(saved.shape, module)
    extra = state.get(f"{prefix}_extra_state")
    fingerprint = module.fingerprint if extra is None else bytes(extra.tolist()).decode()
    if fingerprint != module.fingerprint:
        raise InputError(
            f"the saved memory belongs to images with fingerprint {fingerprint!r}, these have "
            f"{module.fingerprint!r}; use the files that it was saved with"
        )


def _wrong_size(saved: Sequence[int], memory: ExemplarMemory) -> InputError:
    return InputError(
        f"the saved memory has {saved[0]} slots of {saved[1]} values but this data and model need "
        f"{memory.shard.total} slots of {memory.slots.shape[1]} values; use the data set and settings that it was "
        "saved with"
    )
