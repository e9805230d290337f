"""Margin heads whose classes several processes share, over gloo, against one process.

The processes start once, and run all cases in worlds of every size.
"""

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing

from reid_da.losses.margin import MARGINS
from reid_da.losses.margin_head import MarginHead
from reid_da.world import ALONE, World

SIZES = (2, 3, 4)
CASES = {
    "even": {"num_classes": 24},
    "uneven": {"num_classes": 23},
    "an empty shard": {"num_classes": 3},
    "one class": {"num_classes": 1},
    "labels of one process": {"num_classes": 24, "labels": [1, 0, 1, 2, 0, 1]},
    "a sample without a class": {"num_classes": 24, "labels": [-1, 20, 1, -1, 7, 23]},
    "smoothing": {"num_classes": 23, "label_smoothing": 0.1},
    "a loss for each sample": {"num_classes": 23, "reduction": "none", "label_smoothing": 0.1},
    "sampled": {"num_classes": 70, "sample_rate": 0.3},
    "sampled and smoothed": {"num_classes": 70, "sample_rate": 0.3, "label_smoothing": 0.1},
    "float32": {"num_classes": 23, "dtype": torch.float32},
    **{name: {"num_classes": 23, "margin": name} for name in MARGINS},
}


def run_case(world, *, num_classes, labels=None, margin="arcface", dtype=torch.float64, sample_rate=1.0, **options):
    """Loss, gradient of the features and gradient of the own centres, as a training step has them."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(6, 4, generator=generator).to(dtype).requires_grad_()
    label = torch.randint(num_classes, (6,), generator=generator) if labels is None else torch.tensor(labels)
    head = MarginHead(4, num_classes, margin=MARGINS[margin], sample_rate=sample_rate, generator=generator, world=world)
    head = head.to(dtype)
    head.count_step()
    loss = head.cross_entropy(features, label, seed=5, **options)
    # each process counts what all compute alike by its share
    upstream = torch.linspace(0.5, 2.0, loss.numel(), dtype=dtype).view_as(loss) / world.size
    of_features, of_weight = torch.autograd.grad(loss, (features, head.weight), upstream)
    return loss.detach(), world.sum(of_features), of_weight


def work(rank, folder):
    """What a process of the test does: all cases in all worlds that it is in, and a file of what it found."""
    torch.set_num_threads(1)
    found = {}
    for size in SIZES:
        if rank >= size:
            continue
        dist.init_process_group("gloo", init_method=f"file://{folder}/meeting{size}", rank=rank, world_size=size)
        found[size] = {name: run_case(World(rank, size), **case) for name, case in CASES.items()}
        dist.barrier()
        dist.destroy_process_group()
    torch.save(found, folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Results of every process by size of the world and case."""
    folder = tmp_path_factory.mktemp("shards")
    multiprocessing.spawn(work, (folder,), nprocs=max(SIZES))
    return [torch.load(folder / f"{rank}.pt") for rank in range(max(SIZES))]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", CASES)
def test_shards_give_the_loss_and_the_gradients_of_one_process(found, name, size):
    loss, of_features, of_weight = run_case(ALONE, **CASES[name])
    tolerance = {"rtol": 1e-12, "atol": 1e-11} if loss.dtype == torch.float64 else {"rtol": 1e-5, "atol": 1e-4}
    results = [result[size][name] for result in found[:size]]
    assert loss.any() or name == "one class"
    for own_loss, own_of_features, _ in results:
        torch.testing.assert_close(own_loss, loss, **tolerance)
        torch.testing.assert_close(own_of_features, of_features, **tolerance)
    # centres are short at the start, and their gradients long
    scale = of_weight.abs().max().clamp_min(1)
    torch.testing.assert_close(torch.cat([part for *_, part in results]) / scale, of_weight / scale, **tolerance)
