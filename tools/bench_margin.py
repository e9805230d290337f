"""Time and memory of a margin head against the bare product and cross-entropy, as a Markdown table.

    python tools/bench_margin.py                        # 751, 10,000 and 100,000 classes of 512 values
    python tools/bench_margin.py --classes 1000000 --dim 128 --heads arcface --sample-rates 1 0.1
    python tools/bench_margin.py --device cuda --batch 512

"bare" is forward and backward of ``cross_entropy(x @ W.T)`` without normalisation. "logits" is the head's loss from its
(B, C) logits, as training computed it before the own class was kept apart. "x" is a figure divided by that of bare; the
works take turns. Times on a CPU are processor time of one thread unless ``--threads`` says otherwise: a busy machine
changes it less than the time of the clock. "peak" is what a step allocates at most, gradients included.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
from bench_memory import MEBIBYTE, allocated_by, shortest_times
from torch import Tensor
from torch.nn import functional

from reid_da.losses.margin import MARGINS
from reid_da.losses.margin_head import MarginHead


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="*", default=[751, 10_000, 100_000])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--heads", nargs="*", choices=list(MARGINS), default=list(MARGINS))
    parser.add_argument("--sample-rates", type=float, nargs="*", default=[1.0])
    parser.add_argument("--no-logits", action="store_true", help="leave out the loss from (B, C) logits")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {options.threads} thread(s)"
    print(f"{name}; batch {options.batch}, {options.dim} values, torch {torch.__version__}\n")
    print("| classes | head | ms | x bare | peak MiB | x bare |")
    print("|---:|:---|---:|---:|---:|---:|")
    for num_classes in options.classes:
        measure(num_classes, options, device)


def measure(num_classes: int, options: argparse.Namespace, device: torch.device) -> None:
    """Print the rows of one number of classes."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(options.batch, options.dim, generator=generator).to(device).requires_grad_()
    labels = torch.randint(num_classes, (options.batch,), generator=generator).to(device)
    # logits of the size of one: a softmax of larger ones is full of denormal numbers, which are slow on a processor
    weight = torch.randn(num_classes, options.dim, generator=generator) / options.dim**0.5
    weight = weight.to(device).requires_grad_()
    works: dict[str, Callable[[], object]] = {"bare": partial(bare_step, features, labels, weight)}
    for kind in options.heads:
        for rate in options.sample_rates:
            # all heads have the centres of the bare product: only one gradient of them is held at a time
            head = MarginHead(options.dim, 1, margin=MARGINS[kind], sample_rate=rate)
            head.weight, head.shard = torch.nn.Parameter(weight.detach()), type(head.shard)(num_classes)
            works[kind if rate == 1 else f"{kind}, {rate:g} sampled"] = partial(head_step, features, labels, head)
            if rate == 1 and not options.no_logits:
                works[f"{kind}, logits"] = partial(logits_step, features, labels, head)
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    times = shortest_times(works, options.repeats, device, clock)
    peaks = {kind: allocated_by(work, device) / MEBIBYTE for kind, work in works.items()}
    for kind, milliseconds in times.items():
        print(
            f"| {num_classes:,} | {kind} | {milliseconds:.1f} | {milliseconds / times['bare']:.2f} |"
            f" {peaks[kind]:,.0f} | {peaks[kind] / peaks['bare']:.2f} |",
            flush=True,
        )


def bare_step(features: Tensor, labels: Tensor, weight: Tensor) -> None:
    """Product, cross-entropy and their gradients."""
    torch.autograd.backward(functional.cross_entropy(features @ weight.T, labels))
    features.grad = weight.grad = None


def head_step(features: Tensor, labels: Tensor, head: MarginHead) -> None:
    """Head, cross-entropy and their gradients."""
    torch.autograd.backward(head.cross_entropy(features, labels))
    features.grad = head.weight.grad = None


def logits_step(features: Tensor, labels: Tensor, head: MarginHead) -> None:
    """The same from the logits."""
    torch.autograd.backward(functional.cross_entropy(head(features, labels), labels))
    features.grad = head.weight.grad = None


if __name__ == "__main__":
    main()
