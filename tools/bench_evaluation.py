"""Time and memory of evaluate_retrieval beside the bare matrix product and a plain argsort implementation.

    python tools/bench_evaluation.py --size market
    python tools/bench_evaluation.py --size msmt17 --repeats 2
    python tools/bench_evaluation.py --size 2000,50000,512

Everything runs in turn in one process, several times over; the best time of each counts. "Memory" is the peak of the
resident memory in the first run beyond what the features and their labels take (read from /proc, so on Linux only).
The matrix product is computed 1,024 rows at a time into one buffer, by numpy and by torch; ratios refer to the
faster one.
"""

import argparse
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reid_da.evaluation import evaluate_retrieval

PRODUCT_ROWS = 1024
ARGSORT_LIMIT = 3 * 10**8
"""Entries of a distance matrix up to which the argsort implementation is run (16 bytes each)."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """Number of images, identities and cameras of a test set."""

    queries: int
    gallery: int
    dim: int
    pids: int
    distractors: int
    cameras: int


SIZES = {
    "market": Size(queries=3368, gallery=15913, dim=2048, pids=750, distractors=2798, cameras=6),
    "msmt17": Size(queries=11659, gallery=82161, dim=2048, pids=3060, distractors=0, cameras=15),
}


def parse_size(text: str) -> Size:
    """Size of a known data set, or of ``Q,G,D`` with 20 gallery images per identity and six cameras."""
    if text in SIZES:
        return SIZES[text]
    queries, gallery, dim = (int(part) for part in text.split(","))
    return Size(queries=queries, gallery=gallery, dim=dim, pids=max(2, gallery // 20), distractors=0, cameras=6)


def make_images(
    rng: np.random.Generator, centres: NDArray[np.float32], offsets: NDArray[np.float32], pids: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Features, pids and camids: a direction per person and one per camera, under noise that varies per image.

    The figures are chosen so that Market size gives a mAP near 0.5, as adapted models do.
    """
    camids = rng.integers(0, len(offsets), len(pids))
    features = rng.standard_normal((len(pids), centres.shape[1]), dtype=np.float32)
    features *= 1.9 * np.exp(0.35 * rng.standard_normal((len(pids), 1), dtype=np.float32))
    for row in range(len(pids)):
        features[row] += 0.7 * offsets[camids[row]] + (centres[pids[row]] if pids[row] < len(centres) else 0)
    return features, pids, camids


def reset_peak() -> int:
    """Resident bytes now, from which on the peak is counted anew."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def status(key: str) -> int:
    """A memory figure of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def product_numpy(query: NDArray[np.float32], gallery: NDArray[np.float32]) -> None:
    """The matrix product, and nothing else."""
    buffer = np.empty((PRODUCT_ROWS, len(gallery)), dtype=np.float32)
    for start in range(0, len(query), PRODUCT_ROWS):
        rows = query[start : start + PRODUCT_ROWS]
        np.matmul(rows, gallery.T, out=buffer[: len(rows)])


def product_torch(query: NDArray[np.float32], gallery: NDArray[np.float32]) -> None:
    """The same with torch's matrix product."""
    buffer = torch.empty((PRODUCT_ROWS, len(gallery)))
    left, right = torch.from_numpy(query), torch.from_numpy(gallery).T
    for start in range(0, len(query), PRODUCT_ROWS):
        rows = left[start : start + PRODUCT_ROWS]
        torch.mm(rows, right, out=buffer[: len(rows)])


def argsort_map(query: tuple[NDArray[Any], ...], gallery: tuple[NDArray[Any], ...]) -> float:
    """Mean average precision the plain way: the whole matrix, argsort, a loop over the queries."""
    normalized = [side[0] / np.linalg.norm(side[0], axis=1, keepdims=True) for side in (query, gallery)]
    order = np.argsort(1 - normalized[0] @ normalized[1].T, axis=1)
    precisions = []
    for row, pid, camid in zip(order, query[1], query[2], strict=True):
        same = gallery[1][row] == pid
        hits = same[~(same & (gallery[2][row] == camid))]
        if hits.any():
            precisions.append((hits.cumsum() / np.arange(1, len(hits) + 1))[hits].mean())
    return float(np.mean(precisions))


@dataclass(kw_only=True)
class Measurement:
    """Seconds of every run, peak bytes of the first one, and what the last one returned."""

    seconds: list[float]
    peak: int
    value: float | None


def measure(contenders: dict[str, Callable[[], float | None]], repeats: int) -> dict[str, Measurement]:
    """Run all contenders in turn, ``repeats`` times over."""
    measurements: dict[str, Measurement] = {}
    for _ in range(repeats):
        for name, run in contenders.items():
            before = reset_peak()
            start = time.perf_counter()
            value = run()
            seconds = time.perf_counter() - start
            peak = status("VmHWM") - before
            known = measurements.setdefault(name, Measurement(seconds=[], peak=peak, value=value))
            known.seconds.append(seconds)
    return measurements


def make_test_set(size: Size) -> tuple[tuple[NDArray[Any], ...], tuple[NDArray[Any], ...]]:
    """Features, pids and camids of queries and gallery."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((size.pids, size.dim), dtype=np.float32)
    offsets = rng.standard_normal((size.cameras, size.dim), dtype=np.float32)
    gallery_pids = rng.integers(0, size.pids, size.gallery)
    gallery_pids[: size.distractors] = size.pids
    query = make_images(rng, centres, offsets, rng.integers(0, size.pids, size.queries))
    return query, make_images(rng, centres, offsets, gallery_pids)


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=parse_size, default="market", help="market, msmt17 or Q,G,D")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    size: Size = arguments.size
    query, gallery = make_test_set(size)
    contenders: dict[str, Callable[[], float | None]] = {
        "evaluate_retrieval": lambda: evaluate_retrieval(*query, *gallery).mean_ap,
        "matrix product, numpy": lambda: product_numpy(query[0], gallery[0]),
        "matrix product, torch": lambda: product_torch(query[0], gallery[0]),
    }
    if size.queries * size.gallery <= ARGSORT_LIMIT:
        contenders["argsort"] = lambda: argsort_map(query, gallery)
    measurements = measure(contenders, arguments.repeats)
    products = [measurement for name, measurement in measurements.items() if name.startswith("matrix product")]
    bare = min(min(measurement.seconds) for measurement in products)
    print(f"{size}, {torch.get_num_threads()} threads")
    print(f"{'':24}{'best s':>9}{'x product':>11}{'memory MB':>11}{'mAP':>10}   all runs")
    for name, measurement in measurements.items():
        best, runs = min(measurement.seconds), " ".join(f"{value:.2f}" for value in measurement.seconds)
        value = "" if measurement.value is None else f"{measurement.value:.6f}"
        print(f"{name:24}{best:9.2f}{best / bare:11.2f}{measurement.peak / 1e6:11.0f}{value:>10}   {runs}")


if __name__ == "__main__":
    main()
