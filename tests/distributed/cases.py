"""Parts and trainings as one process, or several, compute them; see ``test_distributed.py``."""

from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import harness
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from reid_da.clustering import ClusteringSettings, cluster_at_eps
from reid_da.errors import InputError
from reid_da.evaluation import evaluate_retrieval
from reid_da.evaluation.image_features import extract_features
from reid_da.experiments import domains
from reid_da.experiments.setup import build_trainer
from reid_da.images import augment
from reid_da.losses.invariance import fused_invariance_loss
from reid_da.losses.proxies import (
    inter_camera_loss,
    intra_camera_loss,
    online_loss,
    online_positives,
    online_similarity,
    proxy_logits,
)
from reid_da.memory.exemplar import ExemplarMemory
from reid_da.memory.neighbors import ExactNeighbors, FaissNeighbors, ShardedNeighbors, open_index
from reid_da.memory.quantized import LEAST_TO_QUANTIZE
from reid_da.methods.cluster_contrast import memory_of_means
from reid_da.models.grouped_norm import group_batch_norms
from reid_da.models.shared_norm import share_batch_norms
from reid_da.processes import agreed, main_first, require_equal
from reid_da.shards import Shard, ShardedTensor
from reid_da.training.run_folder import RunFolder
from reid_da.training.together import saved_optimizer, saved_weights
from reid_da.world import World

Found = dict[str, Any]


def _random(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------------------------------- parts


def collectives(world: World) -> Found:
    """Sum, maximum and gathering of uneven parts, and the gradient of what follows them."""
    values = _random(7, 3, seed=0)
    part = world.part(values).clone().requires_grad_()
    whole = world.gather(part)
    # every process computes the same loss, of which each has its share
    weights = _random(7, 3, seed=1)
    (whole * weights).sum().square().div(world.size).backward()
    total = world.sum(world.part(values).sum(dim=0))
    most = world.max(world.part(values).amax(dim=0))
    told = world.tell({"rank": world.rank})
    assert [fact["rank"] for fact in told] == list(range(world.size))
    return {"whole": whole.detach(), "gradient": world.gather(part.grad), "total": total, "most": most}


def batch_norm(world: World) -> Found:
    """Two layers over the batch and over groups: outputs, gradients, running statistics."""
    found: Found = {}
    for samples in (0, 4):
        for shape, kind in (((11, 5), nn.BatchNorm1d), ((11, 5, 4, 3), nn.BatchNorm2d)):
            images = _random(*shape, seed=2) * 3 + 1
            net = nn.Sequential(kind(5), nn.ReLU(), kind(5, momentum=None)).double()
            with torch.no_grad():
                net[0].weight.copy_(_random(5, seed=3))
                net[2].bias.copy_(_random(5, seed=4))
            share_batch_norms(group_batch_norms(net, samples), world)
            for _ in range(2):
                part = world.part(images).clone().requires_grad_()
                loss = (world.gather(net(part)) * _random(*shape, seed=5)).sum().square() / world.size
                loss.backward()
            name = f"{kind.__name__} {samples} "
            found[name + "images"] = world.gather(part.grad)
            for key, value in net.named_parameters():
                found[name + key] = world.sum(value.grad)
            found |= {name + key: value for key, value in net.named_buffers()}
            found[name + "tested"] = world.gather(net.eval()(world.part(images)).detach())
    return found


def memory(world: World, num_slots: int, dtype: torch.dtype) -> Found:
    """Loss, gradient, neighbours and updates of a sharded memory; images occur twice in a batch."""
    found: Found = {}
    features = functional.normalize(_random(10, 6, seed=6))
    index = torch.tensor([0, 1, 0, 2, 1, 0, 2, 2, 1, 0]) % num_slots
    held = ExemplarMemory(num_slots, 6, world=world, dtype=dtype)
    held.fill(lambda rows: rows.copy_(functional.normalize(_random(num_slots, 6, seed=7)).to(rows)))
    held.update(
        torch.arange(num_slots), functional.normalize(_random(num_slots, 6, seed=8)).to(held.slots), momentum=0.5
    )
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for name, options in {
        "plain": {},
        "neighbours": {"num_neighbors": min(3, num_slots)},
        "others": {"num_neighbors": min(3, num_slots - 1), "own_slot": "exclude", "normalize": True},
        "blocks": {"num_neighbors": 1, "chunk_size": 2},
    }.items():
        part = world.part(features.to(wide)).clone().requires_grad_()
        loss = fused_invariance_loss(
            world.gather(part), held.slots, index, temperature=0.1, shard=held.shard, **options
        )
        (loss.total / world.size).backward()
        found[f"{name} exemplar"], found[f"{name} neighborhood"] = loss.exemplar.detach(), loss.neighborhood.detach()
        found[f"{name} neighbors"], found[f"{name} gradient"] = loss.neighbors, world.gather(part.grad)
    held.update(index, features.to(wide), momentum=0.3)
    count = min(4, num_slots - 1)
    found["slots"] = world.gather(held.slots.to(wide))
    found["ages"], found["norms"], found["read"] = held.ages(), held.norms(), held.read(index)
    search = ExactNeighbors(shard=held.shard, chunk_size=3)
    found["search"] = search.search(features.to(wide), held.slots, count, exclude=index)
    return found


def proxies(world: World, camids: list[int], clusters: list[int]) -> Found:
    """Losses, positives and gradients of CAP and O2CAP on sharded proxies, at several numbers of negatives."""
    found: Found = {}
    count = len(camids)
    shard, cameras, groups = Shard(count, world), torch.tensor(camids), torch.tensor(clusters)
    vectors = functional.normalize(_random(count, 6, seed=15))[shard.rows]
    features = functional.normalize(_random(10, 6, seed=16))
    own = torch.arange(10) % count
    for few in (1, 2, 50):
        part = world.part(features).clone().requires_grad_()
        logits = proxy_logits(world.gather(part), vectors, temperature=0.2)
        similarity = online_similarity(logits.detach() * 0.2, vectors, own, balance=0.4, shard=shard)
        positives = online_positives(similarity, cameras, num_cameras=len(set(camids)), num_positives=2, shard=shard)
        losses = {
            "intra": intra_camera_loss(logits, own, cameras, shard=shard),
            "inter": inter_camera_loss(logits, own, cameras, groups, num_negatives=few, shard=shard),
            "online": online_loss(logits, similarity, positives, cameras[own], num_negatives=few, shard=shard),
        }
        for name, loss in losses.items():
            (gradient,) = torch.autograd.grad(loss / world.size, part, retain_graph=True)
            found |= {f"{name} {few}": loss.detach(), f"{name} {few} gradient": world.gather(gradient)}
        found[f"positives {few}"] = positives
    return found


def sums(world: World) -> Found:
    """What processes add up by row, in blocks of rows and as a whole."""
    values, rows = _random(9, 4, seed=17), torch.tensor([3, 0, 5, 3, 3, 6, 1, 0, 6])
    place = torch.arange(9)[world.span(9)]
    shards = {7: Shard(7, world), 8: Shard(8, world)}
    return {
        f"{total} rows, blocks of {block}": world.gather(shard.add_up(rows[place], values, place, block_rows=block))
        for total, shard in shards.items()
        for block in (2, 3, 100)
    }


def means(world: World) -> Found:
    """A memory of the means of two labelings, one behind the other."""
    parts = [(_random(12, 5, seed=18), np.array([0, 1, -1, 2, 0, 3, 1, -1, 4, 2, 0, 3]), 5)]
    parts.append((_random(4, 5, seed=19), np.array([1, 0, 1, 0]), 2))
    held = memory_of_means(*parts, world=world)
    return {"slots": world.gather(held.slots), "first": world.gather(memory_of_means(parts[1], world=world).slots)}


def index(world: World) -> Found:
    """Neighbours by FAISS, one index for each shard."""
    rows = functional.normalize(_random(60, 8, seed=9, dtype=torch.float32))
    shard = Shard(60, world)
    own, queries = rows[shard.rows], functional.normalize(_random(9, 8, seed=10, dtype=torch.float32))
    found = open_index(FaissNeighbors(kind="flat"), own[:5], own, 5, shard=shard)
    found.rebuild(own)
    exclude = torch.arange(9) * 5
    return {"all": found.search(queries, own, 5), "others": found.search(queries, own, 5, exclude=exclude)}


def quantized_index(world: World) -> Found:
    """Neighbours by codes: as many as are asked for, and exact where every slot is a candidate."""
    total = 4 * LEAST_TO_QUANTIZE + 50
    rows = functional.normalize(_random(total, 8, seed=20, dtype=torch.float32))
    shard = Shard(total, world)
    own, queries = rows[shard.rows], functional.normalize(_random(9, 8, seed=21, dtype=torch.float32))
    index = FaissNeighbors(kind="ivf_pq", ivf_lists=4, ivf_probes=4, pq_candidates=len(own))
    found = open_index(index, own[:20], own, 5, shard=shard)
    assert world.size == 1 or isinstance(found, ShardedNeighbors)
    assert index._index.code_size == 1
    exclude = torch.arange(9) * 3000
    lists = {"all": found.search(queries, own, 5), "others": found.search(queries, own, 5, exclude=exclude)}
    for name, left_out in (("all", None), ("others", exclude)):
        exact = ExactNeighbors(shard=shard).search(queries, own, 5, exclude=left_out)
        assert torch.equal(lists[name], exact), name
    return lists


def clusters(world: World) -> Found:
    """Pseudo-labels by distances of three kinds, at two values of eps."""
    centers = _random(12, 16, seed=11, dtype=torch.float32).repeat_interleave(8, dim=0)
    features = centers + 0.6 * _random(96, 16, seed=12, dtype=torch.float32)
    camids = np.arange(96) % 3
    found: Found = {}
    for name, options in {
        "jaccard": {"k1": 8, "k2": 3},
        "faiss": {"k1": 8, "k2": 3, "search": "faiss"},
        "camera": {"metric": "camera_jaccard", "k1_inter": 6, "algorithm": "agglomerative"},
        "cosine": {"metric": "cosine"},
        "kmeans": {"algorithm": "kmeans", "num_clusters": 7},
    }.items():
        settings = ClusteringSettings(**options)
        for number, result in enumerate(
            cluster_at_eps(features, camids, settings=settings, eps=(None, 0.3), seed=3, world=world)
        ):
            found[f"{name} {number}"] = torch.from_numpy(result.labels)
    return found


def retrieval(world: World) -> Found:
    """Figures of more queries than one block has, some without a match."""
    query, gallery = (_random(count, 4, seed=seed, dtype=torch.float32) for count, seed in ((1300, 13), (400, 14)))
    pids = np.arange(1300) % 70, np.arange(400) % 60
    result = evaluate_retrieval(query, pids[0], pids[0] * 0, gallery, pids[1], pids[1] * 0 + 1, world=world)
    per_query = {name: torch.from_numpy(value) for name, value in vars(result.per_query).items()}
    return {"figures": result.to_json(), **per_query}


def one_that_fails(world: World) -> Found:
    """What all hear where one fails while others compare, agree, or let the first one begin."""
    heard = []
    for others in (
        lambda: require_equal(world, {"the images": "same"}),
        lambda: agreed(world, lambda: None),
        lambda: main_first(world, lambda: None),
    ):

        def act(others: Any = others) -> None:
            if world.rank == world.size - 1:
                raise InputError("no such file")
            others()

        try:
            agreed(world, act)
        except InputError as error:
            heard.append(str(error))
    return {"heard": heard}


def other_facts(world: World) -> Found:
    """What is heard where the last process has other images."""
    try:
        require_equal(world, {"the versions": 1, "the images": "a" if world.rank < 1 else "b"})
    except InputError as error:
        return {"heard": str(error)}
    return {"heard": ""}


# --------------------------------------------------------------------------------------------------------- trainings

_NECK = {"embedding": "none", "target_dropout": "none", "test_feature": "embedding"}
TRAININGS: dict[str, dict[str, Any]] = {
    # 7 images in two views: parts differ in length, and views of one image lie in different processes
    "ecn": {"method": "ecn", "batch": {"target": 7}, "views": {"per_image": 2}, "model": {"dropout": 0.3}},
    "ecn in groups": {"method": "ecn", "model": {"samples_per_norm": 4}, "optimizer": {"clip_norm": 0.5}},
    "ecn by camera": {"method": "ecn", "model": {"camera_norm": True}, "batch": {"target": 10, "source": 9}},
    "ecn-gpp": {
        "method": "ecn-gpp",
        "memory": {"num_neighbors": 8, "neighbors_from_epoch": 1},
        "positives": {"widths": [8, 6], "threshold": 0.5},
    },
    "supervised": {
        "method": "supervised",
        "head": {"kind": "cosface", "scale": 8.0},
        "source_loss": {"triplet_weight": 0.5, "center_weight": 0.01},
        "batch": {"instances": 2},
        "model": _NECK,
        "optimizer": {"lr": 2e-4, "accumulate": 2},
    },
    "npid": {"method": "npid"},
    "camstyle": {
        "method": "camstyle",
        "camstyle": {"cameras": "source"},
        "head": {"kind": "arcface", "scale": 8.0},
        "model": _NECK,
    },
    "cluster-contrast": {
        "method": "cluster-contrast",
        "source_weight": 0.0,
        "batch": {"instances": 2},
        "clusters": {"update": "hard"},
        "clustering": {"k1": 4, "k2": 2, "min_samples": 2, "eps": 0.7},
        "model": _NECK,
    },
    "mmt": {
        "method": "mmt",
        "batch": {"instances": 2},
        "clustering": {"k1": 4, "k2": 2, "min_samples": 2, "eps": 0.7, "eps_share": None},
        "model": _NECK,
    },
    "spcl": {
        "method": "spcl",
        "batch": {"instances": 2},
        "clustering": {"k1": 4, "k2": 2, "min_samples": 2, "eps": 0.7},
        "model": _NECK,
    },
    "spcl without a source": {
        "method": "spcl",
        "source_weight": 0.0,
        "camera": True,
        "batch": {"instances": 2},
        "clustering": {"k1": 4, "k2": 2, "min_samples": 2, "eps": 0.7},
        "model": _NECK,
    },
    "cap": {
        "method": "cap",
        "proxies": {"inter_from_epoch": 1, "num_negatives": 3},
        "batch": {"instances": 2},
        "clustering": {"k1": 4, "k2": 2, "min_samples": 2, "eps": 0.7},
        "model": _NECK,
    },
    "sampled classes": {
        "method": "supervised",
        "head": {"kind": "arcface", "scale": 8.0, "sample_rate": 0.5},
        "source_loss": {"label_smoothing": 0.1, "intra_weight": 0.1, "inter_weight": 0.1, "energy_weight": 0.1},
        "model": _NECK,
        "optimizer": {"lr": 2e-4, "clip_norm": 0.5},
    },
    "o2cap": {
        "method": "cap",
        "proxies": {"intra_weight": 0.0, "inter_weight": 1.0, "inter_from_epoch": 0},
        "online": {"weight": 1.0, "num_negatives": 4},
        "batch": {"instances": 2},
        "clustering": {"k1": 4, "k2": 2, "min_samples": 2, "eps": 0.7},
        "model": _NECK,
    },
}


def training(world: World, sites: Path, name: str, dtype: torch.dtype, folder: Path) -> Found:
    """Losses, images, weights, statistics and memory of two epochs."""
    changes = harness.merge({"epochs": 2, "steps_per_epoch": 3}, TRAININGS[name])
    settings = harness.experiment(sites / "source", sites / "target", changes)
    found: Found = {}
    rows: list[Tensor] = []

    def look(trainer: Any) -> None:
        step = trainer.method.step

        def looked(batches: Any) -> Any:
            rows.extend(batch.rows for batch in batches.values())
            return step(batches)

        trainer.method.step = looked

    build = lambda settings, run: build_trainer(settings, run, world=world)  # noqa: E731
    exact = partial(extract_features, transform=lambda pixels: augment.normalize(pixels).to(dtype))
    with patch.object(domains, "extract_features", exact):
        trainer, curve = harness.trained(settings, folder, dtype=dtype, build=build, look=look)
    found["losses"] = torch.tensor([value for losses in curve for value in losses.values()], dtype=torch.float64)
    found["rows"] = torch.cat(rows)
    found |= {f"weight {key}": _all_rows(value) for key, value in saved_weights(trainer.method.trained).items()}
    for key, value in saved_optimizer(trainer.optimizer)["state"].items():
        found |= {f"optimizer {key} {kind}": _all_rows(part) for kind, part in value.items() if part is not None}
    for part in ("memory", "source_memory"):
        held = getattr(trainer.method, part, None)
        if held is not None:
            found[f"slots of {part}"] = held.shard.world.gather(held.slots.double())
            assert len(held.slots) == len(held.shard)
    if (centers := getattr(trainer.method, "means", None)) is not None:
        assert len(centers) == len(trainer.method.classes)
        found["means"] = world.gather(centers.double())
    return found


def _all_rows(value: Tensor | ShardedTensor) -> Tensor:
    values = value if isinstance(value, Tensor) else value.shard.world.gather(value.values)
    return values.double()


def run(world: World, sites: Path, folder: Path, epochs: int, changes: dict[str, Any]) -> Found:
    """A run in a folder, begun or resumed: its weights, memory, records."""
    from reid_da.experiments import runs

    tree = {"epochs": epochs, "steps_per_epoch": 3, "evaluate_every": 1, **changes}
    settings = harness.experiment(sites / "source", sites / "target", tree)
    if (folder / "config.yaml").exists():
        trained = runs.resume(folder, [f"epochs={epochs}"], world=world)
    else:
        trained = runs.train(settings, folder, world=world)
    checkpoint = RunFolder.open(trained.path).last_checkpoint()
    assert checkpoint is not None
    memory = checkpoint.state["method"].get("memory", {})
    stored = {key: value if torch.is_tensor(value) else value.read() for key, value in memory.items()}
    records = [
        {key: value for key, value in record.items() if key in ("kind", "epoch", "mAP") or key.startswith("loss")}
        for record in trained.records()
    ]
    return {**checkpoint.weights, **{f"memory {key}": value for key, value in stored.items()}, "records": records}


def each(world: World, parts: dict[str, tuple[Any, tuple[Any, ...]]]) -> Found:
    """Several cases, one after another."""
    return {name: function(world, *arguments) for name, (function, arguments) in parts.items()}
