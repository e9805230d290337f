"""Time of a training step against the network alone, and how it grows with the memory, as Markdown tables.

    python tools/bench_training.py                                     # the rendered preset, on the processor
    python tools/bench_training.py ecn --device cuda model.weights=none precision.autocast=bfloat16 \
        views.style=statistics data.source=data/rendered/site-a data.target=data/rendered/site-b

"network" is what no implementation can save: forward passes of a source and a target batch that lie ready on the
device, a backward pass, and the optimiser. "step" adds the memory: loss, neighbours, update, from ready batches.
"training loop" is the whole: loading, camera styles, augmentation, step, progress and records. Budget: 1.15 x the
network. All three take turns; the shortest time of an epoch counts. "peak" is what a step takes beyond what lies ready
(on a processor it is read from the kernel, and is NaN where that is not Linux).

See bench_loading.py for loading and augmentation against a Pillow loader, and bench_memory.py for the loss on the
memory against its matrix products.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from bench_memory import MEBIBYTE, allocated_by, synchronize
from torch import Tensor
from torch.nn import functional

from reid_da.experiments.setup import build_trainer
from reid_da.features import pieces
from reid_da.images import Batch
from reid_da.memory.exemplar import ExemplarMemory
from reid_da.methods import load_settings
from reid_da.methods.ecn import ECN
from reid_da.training.loop import Trainer
from reid_da.training.run_folder import RunFolder

PRESET = Path(__file__).parent.parent / "experiments" / "rendered" / "site-a2site-b.yaml"
BUDGET = 1.15


def main() -> None:
    """Print the tables."""
    options = parse_options()
    steps = f"steps_per_epoch={options.steps}"
    neighbors = "memory.neighbors_from_epoch=0"
    settings = load_settings(
        options.config,
        ["pretrain=null", "epochs=1000", steps, neighbors, f"device={options.device}", *options.overrides],
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(settings, RunFolder.create(Path(folder) / "run", settings))
        describe(trainer)
        compare(trainer, steps=options.steps, turns=options.turns)
        print()
        grow(trainer, options.slots, steps=options.steps)


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", type=Path, default=PRESET, help="settings; by default a rendered preset")
    parser.add_argument("overrides", nargs="*", default=[], help="key=value, changes of the settings")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, default=20, help="steps of an epoch")
    parser.add_argument("--turns", type=int, default=3, help="epochs of each, after one that warms up")
    parser.add_argument("--slots", type=int, nargs="*", default=[10_000, 100_000, 1_000_000], help="memory sizes")
    return parser.parse_intermixed_args()


def describe(trainer: Trainer) -> None:
    """Print what is measured."""
    settings: Any = trainer.settings
    model, batch, device = settings.model, settings.batch, trainer.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    height, width = settings.data.image_size
    print(f"{name}, torch {torch.__version__}; {model.backbone} x {model.width:g} at {height}x{width}, stride ", end="")
    print(f"{model.last_stride}, batch {batch.source} + {batch.target}, autocast {settings.precision.autocast}\n")


def compare(trainer: Trainer, *, steps: int, turns: int) -> None:
    """Print times of network, step and training loop."""
    batches = first_batches(trainer)
    works: dict[str, Callable[[], object]] = {
        "network": lambda: network_steps(trainer, batches, steps),
        "step": lambda: [trainer.train_step(step, batches) for step in range(steps)],
        "training loop": trainer.train_epoch,
    }
    shortest: dict[str, float] = {}
    for turn in range(turns + 1):
        for name, work in works.items():
            seconds = timed(work, trainer.device) / steps
            shortest[name] = min(shortest.get(name, seconds), seconds) if turn else seconds
    peaks = {
        "network": allocated_by(lambda: network_steps(trainer, batches, 1), trainer.device),
        "step": allocated_by(lambda: trainer.train_step(0, batches), trainer.device),
    }
    images = sum(len(batch.rows) for batch in batches.values())
    print("| what | ms a step | images/s | x network | budget | peak MiB |")
    print("|:---|---:|---:|---:|---:|---:|")
    for name, seconds in shortest.items():
        budget = f"{BUDGET}" if name == "training loop" else ""
        peak = f"{peaks[name] / MEBIBYTE:,.0f}" if name in peaks else ""
        ratio = seconds / shortest["network"]
        print(f"| {name} | {1000 * seconds:.1f} | {images / seconds:,.0f} | {ratio:.2f} | {budget} | {peak} |")


def grow(trainer: Trainer, sizes: list[int], *, steps: int) -> None:
    """Print time and memory of a step by the number of slots."""
    batches = first_batches(trainer)
    method = trainer.method
    assert isinstance(method, ECN)
    if method.memory is None:
        return
    dim, dtype = method.memory.slots.shape[1], method.memory.slots.dtype
    print("| slots | memory MiB | ms a step | peak MiB |")
    print("|---:|---:|---:|---:|")
    images = len(method.memory.slots)
    for size in sizes:
        if size < images:
            print(f"| {size:,} | a memory has a slot for each of the {images:,} images | | |")
            continue
        method.memory = ExemplarMemory(size, dim, dtype=dtype).to(trainer.device)
        for part in pieces(size, 100_000):
            random = torch.randn(method.memory.slots[part].shape, device=trainer.device)
            method.memory.slots[part] = functional.normalize(random, dim=1)
        trainer.train_step(0, batches)
        seconds = min(timed(lambda: trainer.train_step(0, batches), trainer.device) for _ in range(max(steps // 2, 3)))
        peak = allocated_by(lambda: trainer.train_step(0, batches), trainer.device) / MEBIBYTE
        stored = method.memory.slots.nbytes / MEBIBYTE
        print(f"| {size:,} | {stored:,.0f} | {1000 * seconds:.1f} | {peak:,.0f} |", flush=True)


def first_batches(trainer: Trainer) -> Mapping[str, Batch]:
    """The batches of the first step, ready on the device."""
    plan = trainer.method.begin_epoch(0)
    trainer.method.trained.train()
    return next(trainer.batches(plan))


def network_steps(trainer: Trainer, batches: Mapping[str, Batch], number: int) -> None:
    """Steps of the network alone."""
    for _ in range(number):
        network_step(trainer, batches)


def network_step(trainer: Trainer, batches: Mapping[str, Batch]) -> None:
    """Both forward passes, with the simplest of losses, backward pass and optimiser."""
    assert isinstance(trainer.method, ECN)
    network = trainer.method.network
    with trainer.autocast():
        source, target = batches["source"], batches["target"]
        logits: Tensor = network(source.images, "source", cameras=source.cameras)
        features: Tensor = network(target.images, "target", cameras=target.cameras)
        assert source.labels is not None
        loss = functional.cross_entropy(logits.float(), source.labels) + features.float().square().mean()
    torch.autograd.backward(loss)
    trainer.optimizer.step()
    trainer.optimizer.zero_grad(set_to_none=True)


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of a call."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
