"""Time and memory of a margin-softmax head against the bare product and cross-entropy, as a Markdown table.

    python tools/bench_margin.py                        # 751, 10,000 and 100,000 classes of 512 values
    python tools/bench_margin.py --device cuda --batch 512

"bare" is forward and backward of ``cross_entropy(x @ W.T)`` without normalisation. "x" is a time divided by that.
"peak" is what a step allocates at most, gradients included.
"""

import argparse
from functools import partial

import torch
from bench_memory import MEBIBYTE, allocated_by, shortest_times
from torch import Tensor
from torch.nn import functional

from reid_da.losses.margin import MARGINS, MarginHead


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="*", default=[751, 10_000, 100_000])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {options.threads} thread(s)"
    print(f"{name}; batch {options.batch}, {options.dim} values, torch {torch.__version__}\n")
    print("| classes | head | ms | x bare | peak MiB |")
    print("|---:|:---|---:|---:|---:|")
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
    works = {"bare": partial(bare_step, features, labels, weight)}
    for kind, margin in MARGINS.items():
        head = MarginHead(options.dim, num_classes, margin=margin).to(device)
        works[kind] = partial(head_step, features, labels, head)
    times = shortest_times(dict(works), options.repeats, device)
    for kind, milliseconds in times.items():
        peak = allocated_by(works[kind], device) / MEBIBYTE
        print(f"| {num_classes:,} | {kind} | {milliseconds:.1f} | {milliseconds / times['bare']:.2f} | {peak:,.0f} |")


def bare_step(features: Tensor, labels: Tensor, weight: Tensor) -> None:
    """Product, cross-entropy and their gradients."""
    features.grad = weight.grad = None
    torch.autograd.backward(functional.cross_entropy(features @ weight.T, labels))


def head_step(features: Tensor, labels: Tensor, head: MarginHead) -> None:
    """Head, cross-entropy and their gradients."""
    features.grad = head.weight.grad = None
    torch.autograd.backward(functional.cross_entropy(head(features, labels), labels))


if __name__ == "__main__":
    main()
