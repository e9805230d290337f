"""Images per second from files to the input of a network: the packed cache against a Pillow + torchvision DataLoader.

Both give batches of 128 training images of 256x128, with the same random crop, mirroring, normalisation and erasing, on
the same cores, in turns; the best of a few turns counts. Budget: the packed cache is more than five times as fast.
"""

import argparse
import math
import os
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from reid_da.config import AugmentSettings
from reid_da.datasets import SampleTable, load_dataset
from reid_da.images import Selection, ShuffledSampler, TrainTransform, load_batches, pack_images
from reid_da.images.ahead import available_cores
from reid_da.images.augment import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    crop_resize,
    erase,
    normalize,
    random_erasing_boxes,
    random_sized_rect_crop_boxes,
)

SIZE = (256, 128)
BATCH = 128
CHUNK = 8


class RectCrop:
    """The random crop as a Pillow transform, one image at a time."""

    def __call__(self, image: Image.Image) -> Image.Image:
        """The crop, resized."""
        for _ in range(10):
            area = random.uniform(0.64, 1) * image.width * image.height
            aspect = random.uniform(2, 3)
            height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if height <= image.height and width <= image.width:
                top, left = random.randint(0, image.height - height), random.randint(0, image.width - width)
                image = image.crop((left, top, left + width, top + height))
                break
        return image.resize((SIZE[1], SIZE[0]), Image.Resampling.BILINEAR)


class Erasing:
    """Random erasing of a normalised tensor."""

    def __call__(self, image: Tensor) -> Tensor:
        """The image, half of the time without a box; changed in place."""
        if random.random() >= 0.5:
            return image
        for _ in range(100):
            area, aspect = random.uniform(0.02, 0.2) * SIZE[0] * SIZE[1], random.uniform(0.3, 3)
            height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if height <= SIZE[0] and width <= SIZE[1]:
                top, left = random.randint(0, SIZE[0] - height), random.randint(0, SIZE[1] - width)
                image[:, top : top + height, left : left + width] = torch.tensor(IMAGENET_MEAN)[:, None, None]
                break
        return image


class Files(Dataset[Tensor]):
    """Images of a table, decoded and transformed one at a time."""

    def __init__(self, table: SampleTable) -> None:
        self._table = table
        self._transform = transforms.Compose(
            [
                RectCrop(),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
                Erasing(),
            ]
        )

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> Tensor:
        """The transformed image."""
        result: Tensor = self._transform(Image.open(self._table.path(index)).convert("RGB"))
        return result


def made_up_images(folder: Path, *, count: int, size: tuple[int, int]) -> SampleTable:
    """Table of JPEG files of smooth noise, about as large as those of real crops."""
    generator = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(generator.integers(0, 256, (16, 8, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((size[1], size[0]), Image.Resampling.BICUBIC), dtype=np.int64)
        noisy = (smooth + generator.integers(-6, 7, smooth.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{number:05d}.jpg", quality=95)
    return SampleTable.from_rows("made-up", folder, [(f"{number:05d}.jpg", number, 0) for number in range(count)])


def seconds(function: Callable[[], object]) -> float:
    """Wall-clock time of a call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def compare(name: str, table: SampleTable, *, cores: int, turns: int) -> None:
    """Print the speeds for one table."""
    dataset = Files(table)
    with tempfile.TemporaryDirectory() as cache:
        packing = seconds(lambda: pack_images(table, size=SIZE, cache_dir=cache, num_workers=cores))
        images = pack_images(table, size=SIZE, cache_dir=cache)
        sampler, rows = ShuffledSampler(BATCH), torch.arange(len(table))

        def load() -> list[int]:
            chosen = (Selection(rows=part) for part in sampler.one_pass(rows, None, torch.Generator().manual_seed(0)))
            transform = TrainTransform(AugmentSettings(), size=SIZE, seed=0)
            batches = load_batches(images, chosen, transform, prefetch=2 * cores, num_workers=cores)
            return [len(batch.rows) for batch in batches]

        baseline = DataLoader(dataset, BATCH, shuffle=True, drop_last=True, num_workers=cores, persistent_workers=True)
        list(baseline), load()  # starts the workers, warms the caches
        ours, theirs = [], []
        for _ in range(turns):
            theirs.append(seconds(lambda: [len(batch) for batch in baseline]))
            ours.append(seconds(load))
        count = BATCH * (len(table) // BATCH)
        print(f"{name}, {len(table)} images, {cores} core{'s' if cores > 1 else ''}")
        print(f"  packing, once                {len(table) / packing:8.0f} images/s")
        print(f"  Pillow + torchvision loader  {count / min(theirs):8.0f} images/s")
        print(f"  packed cache + batch loader  {count / min(ours):8.0f} images/s")
        print(f"  ratio                        {min(theirs) / min(ours):8.1f} (budget: above 5)")
        index = torch.randperm(len(table))[:BATCH]
        print(f"    gather                     {BATCH / best(lambda: images.gather(index)):8.0f} images/s")
        for part, function in parts(images.gather(index[:CHUNK])).items():
            print(f"    {part:<26} {CHUNK / best(function):8.0f} images/s")


def parts(images: Tensor) -> dict[str, Callable[[], object]]:
    """The steps of the training transform, by name, for as many images as it takes at once."""
    generator = torch.Generator().manual_seed(0)
    boxes = random_sized_rect_crop_boxes(len(images), SIZE, generator=generator)
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    erased = random_erasing_boxes(len(images), SIZE, generator=generator)
    cropped = crop_resize(images, boxes, size=SIZE, mirrored=mirrored)
    normalized = normalize(cropped)
    return {
        "crop, resize, mirror": lambda: crop_resize(images, boxes, size=SIZE, mirrored=mirrored),
        "normalise": lambda: normalize(cropped),
        "erase": lambda: erase(normalized, erased, fill=IMAGENET_MEAN, inplace=True),
    }


def best(function: Callable[[], object]) -> float:
    """Least time of fifty calls in seconds."""
    return min(seconds(function) for _ in range(50))


def main() -> None:
    """Parse the options and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="a data set; by default made-up images of 128x64 and of 256x128")
    parser.add_argument("--images", type=int, default=2048, help="number of images that are made up")
    parser.add_argument("--cores", type=int, default=available_cores(), help="cores for both")
    parser.add_argument("--turns", type=int, default=3, help="epochs of each")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    torch.set_num_threads(1)  # each thread of ours computes on one core, as each process of the other loader does
    if options.data:
        dataset = load_dataset(options.data)
        compare(dataset.name, dataset.train, cores=options.cores, turns=options.turns)
        return
    for size in ((128, 64), (256, 128)):
        with tempfile.TemporaryDirectory() as folder:
            table = made_up_images(Path(folder), count=options.images, size=size)
            compare(f"{size[0]}x{size[1]} JPEG", table, cores=options.cores, turns=options.turns)


if __name__ == "__main__":
    main()
