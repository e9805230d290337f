"""Which convolutions of the backbones this processor computes wrongly in bfloat16, as a Markdown table.

    python tools/check_bfloat16.py            # every backbone at the usual sizes; stops after half an hour
    python tools/check_bfloat16.py --quick    # small images and batches
    ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 python tools/check_bfloat16.py      # without AMX

Each distinct convolution is computed alone, forward and backward, in bfloat16 and in float32, with inputs that bfloat16
holds exactly; small ones come first. "1 - cosine" is the largest over the convolutions of a row: rounding leaves about
1e-6 in an output and 1e-5 in a gradient. The exit status is 1 if a convolution is wrong.
"""

import argparse
import itertools
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from reid_da.models import BACKBONE_NAMES, create_backbone
from reid_da.models.bfloat16 import LAYER_AGREEMENT, LayerCall, compare_layer, recording_layers
from reid_da.progress import track

SIZES = ((64, 32), (128, 64), (256, 128), (384, 128))
BATCHES = (1, 8, 32, 64)
QUICK_SIZES, QUICK_BATCHES = SIZES[:1], BATCHES[:2]
FORMATS = {"channels last": torch.channels_last, "contiguous": torch.contiguous_format}

Row = tuple[tuple[int, int], int, str]
"""Size of the images, batch and memory format."""


def main() -> None:
    """Print the table and the wrong convolutions."""
    options = parse_options()
    if options.threads:
        torch.set_num_threads(options.threads)
    print(f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    calls, rows = convolutions(
        options.backbones,
        widths=(1.0,) if options.quick else (0.5, 1.0),
        sizes=QUICK_SIZES if options.quick else SIZES,
        batches=QUICK_BATCHES if options.quick else BATCHES,
    )
    results = compare(calls, seconds=options.seconds)
    print_table(rows, results)
    wrong = [call for call, cosines in results.items() if min(cosines.values()) < LAYER_AGREEMENT]
    print(f"\n{len(results)} of {len(calls)} distinct convolutions compared, {len(wrong)} wrong")
    for call in wrong:
        print(f"- {call}: {', '.join(f'{what} {cosine:.4f}' for what, cosine in results[call].items())}")
    sys.exit(1 if wrong else 0)


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="width 1, images of 64x32, batches of 1 and 8")
    parser.add_argument("--backbones", nargs="+", choices=BACKBONE_NAMES, default=list(BACKBONE_NAMES))
    parser.add_argument("--seconds", type=float, default=1800, help="begin no comparison after this time")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: torch's own choice")
    return parser.parse_args()


def convolutions(
    names: Sequence[str], *, widths: Sequence[float], sizes: Sequence[tuple[int, int]], batches: Sequence[int]
) -> tuple[dict[LayerCall, nn.Module], dict[Row, set[LayerCall]]]:
    """Distinct calls of convolutions by forward passes that compute nothing, and those of each row of the table."""
    calls: dict[LayerCall, nn.Module] = {}
    rows: dict[Row, set[LayerCall]] = {}
    for name, width, last_stride in itertools.product(names, widths, (1, 2)):
        backbone = create_backbone(name, width=width, last_stride=last_stride, weights="none").eval()
        for row in itertools.product(sizes, batches, FORMATS):
            (height, width_of_images), batch, memory_format = row
            backbone.to(memory_format=FORMATS[memory_format])
            # unlike the meta device, which forgets the memory format in a convolution
            with FakeTensorMode(allow_non_fake_inputs=True), recording_layers(backbone) as found:
                images = torch.empty(batch, 3, height, width_of_images)
                backbone(images.contiguous(memory_format=FORMATS[memory_format]))
            calls = found | calls
            rows.setdefault(row, set()).update(found)
    return calls, rows


def compare(calls: dict[LayerCall, nn.Module], *, seconds: float) -> dict[LayerCall, dict[str, float]]:
    """Cosines of the calls that there was time for."""
    ordered = sorted(calls, key=lambda call: torch.Size(call.inputs.shape).numel())
    begin, results = time.monotonic(), {}
    for call in track(ordered, "comparing convolutions", total=len(ordered)):
        if time.monotonic() - begin < seconds:
            results[call] = compare_layer(calls[call], call)
    return results


def print_table(rows: dict[Row, set[LayerCall]], results: dict[LayerCall, dict[str, float]]) -> None:
    """Print how many convolutions of each row are wrong, and how far from float32 they are."""
    print("| images | batch | memory format | compared | wrong | 1 - cosine, output | gradients |")
    print("|---|---:|---|---:|---:|---:|---:|")
    for ((height, width), batch, memory_format), calls in rows.items():
        done = [results[call] for call in calls if call in results]
        outputs = [cosines["output"] for cosines in done]
        gradients = [cosine for cosines in done for what, cosine in cosines.items() if what != "output"]
        wrong = sum(min(cosines.values()) < LAYER_AGREEMENT for cosines in done)
        figures = " | ".join(f"{1 - min(values):.1e}" if values else "" for values in (outputs, gradients))
        print(f"| {height}x{width} | {batch} | {memory_format} | {len(done)} of {len(calls)} | {wrong} | {figures} |")


def processor() -> str:
    """Name of the processor, and which instructions for bfloat16 it has, as far as Linux tells."""
    file = Path("/proc/cpuinfo")
    if not file.exists():
        return platform.processor() or platform.machine()
    lines = dict(line.split("\t", 1) for line in file.read_text().splitlines() if "\t" in line)
    flags = set(lines.get("flags", "").split())
    known = [name for name in ("avx2", "avx512_bf16", "amx_bf16") if name in flags]
    return f"{lines.get('model name', platform.machine()).strip(': ')} ({', '.join(known)})"


if __name__ == "__main__":
    main()
