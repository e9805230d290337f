"""Logits whose columns several processes hold: each has (B, m) of the (B, M), and none ever has more.

What is taken over all columns is exchanged as B or B x K numbers, whatever M is. Results are the same in all processes,
and gradients those of the own columns. With one process each function is the plain operation, and nothing else.
"""

import torch
from torch import Tensor

from reid_da.nearest import NO_NEIGHBOR, best_columns, merged_lists
from reid_da.shards import Shard


def log_sum_exp(logits: Tensor, shard: Shard) -> Tensor:
    """(B,) log-sum-exp over the columns of all processes, of which every row has one that is not -inf.

    Args:
        logits: (B, m) float of the own columns, -inf for those that do not count; the (B, n) of a few columns more or
            less will do, as long as the processes together have each column that counts once.
        shard: the own columns.
    """
    if shard.is_whole:
        return logits.logsumexp(dim=1)
    # a column of its own, so that there is a maximum where a process has none
    lowest = logits.new_full((len(logits), 1), -torch.inf)
    peak = shard.world.max(torch.cat([logits.detach(), lowest], dim=1).amax(dim=1))
    return peak + shard.world.sum((logits - peak[:, None]).exp().sum(dim=1)).log()


def columns_of(logits: Tensor, columns: Tensor, shard: Shard) -> Tensor:
    """(B, K) logits of the columns that are listed for each row, from the processes that hold them.

    Args:
        logits: (B, m) float of the own columns.
        columns: (B, K) int64 columns of all processes, in 0..M-1.
        shard: the own columns.
    """
    if shard.is_whole:
        return logits.gather(1, columns)
    place, is_own = shard.find(columns)
    rows, numbers = is_own.nonzero(as_tuple=True)
    found = logits.new_zeros(columns.shape).index_put((rows, numbers), logits[rows, place[rows, numbers]])
    return shard.world.sum(found)


def largest_here(logits: Tensor, count: int, shard: Shard) -> Tensor:
    """(B, K) the largest logits of each row, of those of all processes; -inf for those that another one holds.

    Args:
        logits: (B, m) float of the own columns.
        count: columns per row; K is the number of all columns if that is less.
        shard: the own columns.
    """
    if shard.is_whole:
        return logits.topk(min(count, shard.total), dim=1).values
    place, is_own = shard.find(largest_columns(logits, count, shard))
    rows, numbers = is_own.nonzero(as_tuple=True)
    return logits.new_full(place.shape, -torch.inf).index_put((rows, numbers), logits[rows, place[rows, numbers]])


def largest_columns(values: Tensor, count: int, shard: Shard) -> Tensor:
    """(B, K) int64 columns of the largest values of each row, largest first, among those of all processes.

    K is ``count``, or the number of all columns if that is less. Columns whose value is -inf are
    :data:`reid_da.nearest.NO_NEIGHBOR` where several processes share them, and may be any such column with one.

    Args:
        values: (B, m) float of the own columns; no gradient flows through the choice.
        count: columns per row.
        shard: the own columns.
    """
    count = min(count, shard.total)
    values = values.detach()
    if shard.is_whole:
        return values.topk(count, dim=1).indices
    values, places = merged_lists(*best_columns(values, count, largest=True), count, shard=shard)
    return places.masked_fill(values == -torch.inf, NO_NEIGHBOR)
