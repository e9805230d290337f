"""Losses of CAP and of O2CAP on proxies: vectors for the part of a cluster that each camera saw.

CAP: Wang et al., AAAI 2021; the online association: O2CAP, Wang et al., TIP 2022. Several processes may hold the
vectors together, each with the columns of its own shard.
"""

import torch
from torch import Tensor

from reid_da.losses.shared_logits import columns_of, largest_columns, largest_here, log_sum_exp
from reid_da.nearest import best_columns, merged_lists
from reid_da.shards import Shard


def proxy_logits(features: Tensor, vectors: Tensor, *, temperature: float) -> Tensor:
    """(B, P) cosines divided by the temperature, in float32 at least; of (p, D) own vectors the (B, p) own columns.

    Several processes may hold the vectors together. The functions below take the own columns of all of them, exchange
    B x K numbers, and give the same in each; ``camids`` and ``clusters`` are those of all P proxies.

    Args:
        features: (B, D) of unit length.
        vectors: (P, D) of unit length, which get no gradient, or the own ones.
        temperature: tau of the paper.
    """
    wide = torch.promote_types(features.dtype, torch.float32)
    with torch.autocast(features.device.type, enabled=False):
        return features.to(wide) @ vectors.detach().to(wide).T / temperature


def intra_camera_loss(logits: Tensor, proxies: Tensor, camids: Tensor, *, shard: Shard | None = None) -> Tensor:
    """() the cross-entropy of the own proxy among those of the own camera: a mean by camera, summed over cameras.

    Args:
        logits: (B, P), or the (B, p) of the own proxies.
        proxies: (B,) int64 own proxy of each image.
        camids: (P,) int64 camera of each proxy.
        shard: the own proxies, where several processes hold them; None for all.
    """
    shard = Shard(len(camids)) if shard is None else shard
    own = camids[proxies]
    others = logits.masked_fill(own[:, None] != camids[shard.rows], -torch.inf)
    losses = log_sum_exp(others, shard) - columns_of(logits, proxies[:, None], shard).squeeze(1)
    return _sum_of_camera_means(losses, own)


def inter_camera_loss(
    logits: Tensor,
    proxies: Tensor,
    camids: Tensor,
    clusters: Tensor,
    *,
    num_negatives: int,
    shard: Shard | None = None,
) -> Tensor:
    """() mean of ``-log softmax`` at the proxies of the own cluster, by camera and summed over cameras.

    The softmax is over the proxies of the own cluster, of all cameras, and the hardest proxies of other clusters, of
    all cameras too. Departure: with fewer of these than asked for, the authors' code fills up with those of the own
    cluster once more.

    Args:
        logits: (B, P), or the (B, p) of the own proxies.
        proxies: (B,) int64 own proxy of each image.
        camids: (P,) int64 camera of each proxy.
        clusters: (P,) int64 cluster of each proxy.
        num_negatives: k of the paper.
        shard: the own proxies, where several processes hold them; None for all.
    """
    shard = Shard(len(camids)) if shard is None else shard
    is_own = clusters[proxies][:, None] == clusters[shard.rows]
    hardest = largest_here(logits.masked_fill(is_own, -torch.inf), num_negatives, shard)
    rivals = torch.cat([logits.masked_fill(~is_own, -torch.inf), hardest], dim=1)
    total, count = shard.world.sum(torch.stack([(logits * is_own).sum(dim=1), is_own.sum(dim=1).to(logits)]))
    return _sum_of_camera_means(log_sum_exp(rivals, shard) - total / count, camids[proxies])


def online_similarity(
    cosines: Tensor, vectors: Tensor, proxies: Tensor, *, balance: float, shard: Shard | None = None
) -> Tensor:
    """(B, P) how alike images and proxies are: a mixture of what the image says and the vector of its proxy.

    Args:
        cosines: (B, P) of the images with the vectors, without gradients, or the (B, p) of the own ones.
        vectors: (P, D) of unit length, or the (p, D) own ones.
        proxies: (B,) int64 own proxy of each image.
        balance: share of the image, in 0..1.
        shard: the own proxies, where several processes hold them; None for all.
    """
    shard = Shard(len(vectors)) if shard is None else shard
    wide = vectors.to(cosines.dtype)
    of_images = shard.collect(wide, proxies)
    with torch.autocast(cosines.device.type, enabled=False):
        return balance * cosines + (1 - balance) * (of_images @ wide.T)


def online_positives(
    similarity: Tensor, camids: Tensor, *, num_cameras: int, num_positives: int, shard: Shard | None = None
) -> Tensor:
    """(B, K) the most similar proxies among the best one of each camera; with fewer cameras than K, all of them.

    Departure: with fewer cameras the authors' code lets negatives be positives.

    Args:
        similarity: (B, P), or the (B, p) of the own proxies.
        camids: (P,) int64 camera of each proxy, from 0 without gaps.
        num_cameras: number of these.
        num_positives: K.
        shard: the own proxies, where several processes hold them; None for all.
    """
    shard = Shard(len(camids)) if shard is None else shard
    of_camera = [similarity.masked_fill(camids[shard.rows] != camid, -torch.inf) for camid in range(num_cameras)]
    # the first of equal ones, as argmax has it
    if shard.is_whole:
        best = torch.stack([values.argmax(dim=1) for values in of_camera], dim=1)
        values = similarity.gather(1, best)
    else:
        lists = [best_columns(values, 1, largest=True) for values in of_camera]
        values, best = (torch.cat(parts) for parts in zip(*lists, strict=True))
        values, best = merged_lists(values, best, 1, shard=shard)
        values, best = (part.view(num_cameras, -1).T for part in (values, best))
    chosen = values.topk(min(num_positives, num_cameras), dim=1).indices
    return best.gather(1, chosen)


def online_loss(
    logits: Tensor,
    similarity: Tensor,
    positives: Tensor,
    camids: Tensor,
    *,
    num_negatives: int,
    shard: Shard | None = None,
) -> Tensor:
    """() mean of ``-log softmax`` at the positives, by camera and summed over cameras.

    The softmax is over the positives and the most similar of all other proxies, whatever their cluster.

    Args:
        logits: (B, P), or the (B, p) of the own proxies.
        similarity: (B, P) or (B, p), by which negatives are chosen.
        positives: (B, K) int64.
        camids: (B,) int64 camera of each image.
        num_negatives: number of these, or all there are.
        shard: the own proxies, where several processes hold them; None for all.
    """
    shard = Shard(logits.shape[1]) if shard is None else shard
    count = positives.shape[1]
    if shard.is_whole:
        others = similarity.scatter(1, positives, -torch.inf)
    else:
        place, is_own = shard.find(positives)
        rows, columns = is_own.nonzero(as_tuple=True)
        others = similarity.clone()
        others[rows, place[rows, columns]] = -torch.inf
    negatives = largest_columns(others, min(num_negatives, shard.total - count), shard)
    chosen = columns_of(logits, torch.cat([positives, negatives], dim=1), shard)
    return _sum_of_camera_means(chosen.logsumexp(dim=1) - chosen[:, :count].mean(dim=1), camids)


def _sum_of_camera_means(losses: Tensor, camids: Tensor) -> Tensor:
    counts = (camids[:, None] == camids).sum(dim=1)
    return (losses / counts).sum()
