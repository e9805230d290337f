"""What several processes do together around a step: add up gradients, and keep what each of them holds a part of.

A parameter with an attribute ``shard`` (:class:`reid_da.shards.Shard`) has the own rows of a larger one. Its gradient
is complete where it is; all other parameters are the same in every process, and their gradients are added up.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from reid_da.shards import Shard, ShardedTensor, StoredTensor
from reid_da.world import World

BUCKET = 2**25
"""Bytes of gradients that are added up at a time."""


def shard_of(parameter: object) -> Shard | None:
    """Which rows of a larger parameter this one has; None for one that every process has alike."""
    shard = getattr(parameter, "shard", None)
    return None if shard is None or shard.is_whole else shard


@torch.no_grad()
def sum_gradients(parameters: Iterable[nn.Parameter], world: World) -> None:
    """Add up the gradients of the processes, in each of them, but for those of sharded parameters."""
    if world.size == 1:
        return
    waiting: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is None or shard_of(parameter) is not None:
            continue
        bucket = waiting.setdefault((parameter.grad.dtype, parameter.grad.device), [])
        bucket.append(parameter.grad)
        if sum(grad.nbytes for grad in bucket) >= BUCKET:
            _sum(bucket, world)
            bucket.clear()
    for bucket in waiting.values():
        if bucket:
            _sum(bucket, world)


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], most: float, world: World) -> None:
    """Scale the gradients to a norm of ``most`` where it is larger: ``nn.utils.clip_grad_norm_`` that knows shards."""
    every = [parameter for parameter in parameters if parameter.grad is not None]
    sharded = [parameter for parameter in every if shard_of(parameter) is not None]
    if not sharded:
        nn.utils.clip_grad_norm_(every, most)
        return
    own = _square(sharded).to(every[0].device)
    norm = (_square([parameter for parameter in every if shard_of(parameter) is None]) + world.sum(own)).sqrt()
    scale = (most / (norm + 1e-6)).clamp(max=1.0)
    for parameter in every:
        assert parameter.grad is not None
        parameter.grad.mul_(scale.to(parameter.grad.dtype))


def saved_weights(module: nn.Module) -> dict[str, Any]:
    """The state of a network by name, with sharded parameters as what they are."""
    state: dict[str, Any] = dict(module.state_dict())
    for name, parameter in module.named_parameters():
        if (shard := shard_of(parameter)) is not None:
            state[name] = ShardedTensor(state[name], shard)
    return state


def own_weights(weights: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Saved weights of whole parameters, cut to what this process has of them."""
    own = dict(weights)
    for name, parameter in module.named_parameters():
        if (shard := shard_of(parameter)) is not None and name in own:
            own[name] = own[name][shard.rows]
    return own


def saved_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state of an optimiser, with what belongs to the rows of sharded parameters as what it is."""
    state = optimizer.state_dict()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, values in state["state"].items():
        if (shard := shard_of(parameters[number])) is not None:
            state["state"][number] = {
                name: ShardedTensor(value, shard) if _is_of_rows(value, parameters[number]) else value
                for name, value in values.items()
            }
    return state


def own_optimizer(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """A saved state of an optimiser, cut to what this process has of its parameters."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    own = {}
    for number, values in state["state"].items():
        shard = shard_of(parameters[number])
        own[number] = {name: _own_part(value, shard) for name, value in values.items()}
    return {**state, "state": own}


def _own_part(value: Any, shard: Shard | None) -> Any:
    rows = slice(None) if shard is None else shard.rows
    if isinstance(value, StoredTensor):
        return value.read(rows)
    return value[rows] if isinstance(value, Tensor) and value.ndim and shard is not None else value


def _is_of_rows(value: object, parameter: nn.Parameter) -> bool:
    return isinstance(value, Tensor) and value.shape == parameter.shape


def _sum(gradients: list[Tensor], world: World) -> None:
    total = world.sum(torch.cat([grad.reshape(-1) for grad in gradients]))
    for grad, values in zip(gradients, torch.split(total, [grad.numel() for grad in gradients]), strict=True):
        grad.copy_(values.view_as(grad))


def _square(parameters: list[nn.Parameter]) -> Tensor:
    squares = [parameter.grad.double().square().sum() for parameter in parameters if parameter.grad is not None]
    return torch.stack(squares).sum() if squares else torch.zeros((), dtype=torch.float64)
