"""Margin heads whose classes several processes share, over gloo, against one process.

The processes start once, and run all cases in worlds of every size.
"""

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing

from reid_da.losses.margin import MARGINS
from reid_da.losses.margin_head import MarginHead
from reid_da.losses.metric import hyperspherical_energy, inter_loss, intra_loss
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
        world = World(rank, size)
        found[size] = {name: run_case(world, **case) for name, case in CASES.items()}
        found[size] |= {term: run_term(world, *term) for term in TERMS}
        dist.barrier()
        dist.destroy_process_group()
    torch.save(found, folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Results of every process by size of the world and case."""
    folder = tmp_path_factory.mktemp("shards")
    multiprocessing.spawn(work, (folder,), nprocs=max(SIZES))
    return [torch.load(folder / f"{rank}.pt") for rank in range(max(SIZES))]


def run_term(world, name, num_classes):
    """A loss on the centres of a head, and its gradients as above."""
    generator = torch.Generator().manual_seed(1)
    head = MarginHead(4, num_classes, margin=MARGINS["cosface"], generator=generator, world=world).double()
    features = torch.randn(6, 4, dtype=torch.float64, generator=generator).requires_grad_()
    label = torch.tensor([0, 1, 1, num_classes - 1, 0, 1])
    if name == "intra":
        loss = intra_loss(features, head.weight, label, shard=head.shard)
    else:
        loss = {"inter": inter_loss, "energy": hyperspherical_energy}[name](head.weight, label, shard=head.shard)
    inputs = (features, head.weight)
    of_features, of_weight = torch.autograd.grad(loss / world.size, inputs, materialize_grads=True, allow_unused=True)
    return loss.detach(), world.sum(of_features), of_weight


TERMS = [(name, num_classes) for name in ("intra", "inter", "energy") for num_classes in (2, 9)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", CASES)
def test_shards_give_the_loss_and_the_gradients_of_one_process(found, name, size):
    expected = run_case(ALONE, **CASES[name])
    assert expected[0].any() or name == "one class"
    assert_equal([result[size][name] for result in found[:size]], expected)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("term", TERMS, ids=str)
def test_losses_on_shared_centres_are_those_of_one_process(found, term, size):
    assert_equal([result[size][term] for result in found[:size]], run_term(ALONE, *term))


def assert_equal(results, expected):
    """What the processes found, against what one process finds."""
    loss, of_features, of_weight = expected
    tolerance = {"rtol": 1e-12, "atol": 1e-11} if loss.dtype == torch.float64 else {"rtol": 1e-5, "atol": 1e-4}
    for own_loss, own_of_features, _ in results:
        torch.testing.assert_close(own_loss, loss, **tolerance)
        torch.testing.assert_close(own_of_features, of_features, **tolerance)
    # centres are short at the start, and their gradients long
    scale = of_weight.abs().max().clamp_min(1)
    torch.testing.assert_close(torch.cat([part for *_, part in results]) / scale, of_weight / scale, **tolerance)
