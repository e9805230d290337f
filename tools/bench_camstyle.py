"""Images per second of making camera styles against the bare generator, and what they take on the disk.

    python tools/bench_camstyle.py                                     # the published StarGAN on rendered images, slow
    python tools/bench_camstyle.py --size 64x32 --channels 32 --images 96

"bare" is the forward pass of the generator over blocks that lie ready on the device; "packed" is the whole: reading
real images, the same forward passes, and the packed file with its checksums. Both take turns, and the best of each
counts. Budget: 1.2 x the bare time. The weights are random, which costs as much as trained ones. The sizes are those
of the packed file and of the same views as JPEG files of quality 95; of noise, which random weights make of images,
neither says much, so that they are taken with views by colour statistics.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from bench_memory import synchronize

from reid_da.cli.arguments import parse_size
from reid_da.datasets import Dataset, SampleTable, load_dataset
from reid_da.device import choose_device
from reid_da.images import ImageSource, open_images
from reid_da.styles import TransferViews, create_views, pack_views, write_styled_images
from reid_da.styles.generator import GeneratorTransfer, to_signed
from reid_da.styles.open import GENERATOR_BLOCK
from reid_da.styles.star_networks import StarGenerator

SITE = Path(__file__).parent.parent / "data" / "rendered" / "site-b"
BUDGET = 1.2


def main() -> None:
    """Print speed and sizes."""
    options = parse_options()
    size = parse_size(options.size)
    assert size is not None
    dataset = load_dataset(options.data)
    table = dataset.train.select(np.linspace(0, len(dataset.train) - 1, options.images).astype(int))
    source = open_images(table, size=size, cache="never")
    device = torch.device(choose_device(options.device))
    generator = StarGenerator(dataset.num_cameras, channels=options.channels).to(device).eval()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}, torch {torch.__version__}; StarGAN of {options.channels} channels, {len(table)} images at", end=" ")
    print(f"{options.size} for {dataset.num_cameras} cameras\n")
    with tempfile.TemporaryDirectory() as folder:
        compare_speed(generator, source, table, dataset, Path(folder), turns=options.turns)
        print()
        compare_sizes(source, table, dataset, Path(folder))


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SITE)
    parser.add_argument("--size", default="128x64", help="height and width")
    parser.add_argument("--channels", type=int, default=64, help="of the generator's first layer")
    parser.add_argument("--images", type=int, default=64, help="real images, evenly spread")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--device", default="auto")
    return parser.parse_args()


def compare_speed(
    generator: StarGenerator,
    source: ImageSource,
    table: SampleTable,
    dataset: Dataset,
    folder: Path,
    *,
    turns: int,
) -> None:
    """Print images per second of the bare generator and of the packed file."""
    num_cameras, count = dataset.num_cameras, len(table) * (dataset.num_cameras - 1)
    views = TransferViews(
        source,
        torch.tensor(table.camids),
        GeneratorTransfer(generator),
        num_cameras=num_cameras,
        block_size=GENERATOR_BLOCK,
    )
    best = {"bare": float("inf"), "packed": float("inf")}
    for turn in range(turns):
        best["bare"] = min(best["bare"], time_bare(generator, source, count))
        begin = time.perf_counter()
        pack_views(views, table, folder / f"{turn}.pack", style="random")
        best["packed"] = min(best["packed"], time.perf_counter() - begin)
    print("| | images/s | time / bare | budget |\n|---|---:|---:|---:|")
    for name, seconds in best.items():
        budget = f"{BUDGET}" if name == "packed" else ""
        print(f"| {name} | {count / seconds:,.1f} | {seconds / best['bare']:.2f} | {budget} |")


def time_bare(generator: StarGenerator, source: ImageSource, count: int) -> float:
    """Seconds for ``count`` images in blocks that lie ready."""
    device = next(generator.parameters()).device
    block = min(GENERATOR_BLOCK, len(source))
    images = to_signed(source.gather(torch.arange(block)).to(device))
    camids = torch.arange(block, device=device) % generator.num_cameras
    with torch.inference_mode():
        generator(images, camids)
        synchronize(device)
        begin = time.perf_counter()
        for start in range(0, count, block):
            size = min(block, count - start)
            generator(images[:size], camids[:size])
        synchronize(device)
    return time.perf_counter() - begin


def compare_sizes(source: ImageSource, table: SampleTable, dataset: Dataset, folder: Path) -> None:
    """Print bytes of the packed file and of JPEG files."""
    views = create_views("statistics", source, table, num_cameras=dataset.num_cameras)
    pack_views(views, table, folder / "sizes.pack", style="statistics")
    write_styled_images(views, table, folder / "jpeg", naming="stargan")
    packed = (folder / "sizes.pack").stat().st_size
    jpeg = sum(file.stat().st_size for file in (folder / "jpeg").iterdir())
    print("| | MB | of the packed file |\n|---|---:|---:|")
    print(f"| packed, with the real images | {packed / 1e6:.1f} | 1.00 |")
    print(f"| JPEG files | {jpeg / 1e6:.1f} | {jpeg / packed:.2f} |")


if __name__ == "__main__":
    main()
