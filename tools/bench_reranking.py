"""Time and memory of the k-reciprocal re-ranking beside the bare matrix product of all distances.

    python tools/bench_reranking.py --size market
    python tools/bench_reranking.py --size small --reference

The features are synthetic: about 17 images per identity over 6 cameras, each the sum of its identity, its camera and
noise in a space of few dimensions, so that neighbour lists hold wrong images too, as those of a network do. Memory is
what the process held at its peak beyond what it held at the start of the measurement (Linux).
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reid_da.evaluation.reranking import KReciprocalDistances, rerank

SIZES = {"small": (400, 2_600, 128), "market": (3_368, 15_913, 512), "msmt17": (11_659, 82_161, 512)}
K1, K2, LAMBDA = 20, 6, 0.3
LATENT_DIMENSIONS, CAMERA_SPREAD, NOISE = 64, 0.7, 0.8
QUERY_BLOCK = 512
COMPARED_RANKS = 100


def main() -> None:
    """Print one line per measurement."""
    arguments = parse_arguments()
    num_queries, num_gallery, width = arguments.size
    features = synthetic_features(num_queries + num_gallery, width)
    queries, gallery = features[:num_queries], features[num_queries:]
    print(f"{num_queries:,} queries, {num_gallery:,} gallery images, {width} dimensions, ", end="")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")

    product_time = report("bare distance product", lambda: bare_product(features))
    distances: list[KReciprocalDistances] = []
    build_time = report("re-ranking: neighbours and encoding", lambda: distances.append(build(queries, gallery)))
    block_time = report("re-ranking: all blocks of distances", lambda: walk(distances[0]))
    print(f"{'re-ranking beyond the product':36} {build_time + block_time - product_time:8.2f} s")
    if arguments.reference:
        dense: list[NDArray[np.float32]] = []
        report("dense numpy implementation", lambda: dense.append(dense_reranking(features.numpy(), num_queries)))
        compare(distances[0].block(slice(None), slice(None)).numpy(), dense[0])


def parse_arguments() -> argparse.Namespace:
    """Size as (queries, gallery images, dimensions), and whether to run the dense implementation."""
    parser = argparse.ArgumentParser(description="Time and memory of k-reciprocal re-ranking.")
    parser.add_argument("--size", type=parse_size, default="market", help="small, market, msmt17 or Q,G,D")
    parser.add_argument("--reference", action="store_true", help="also a dense numpy implementation (9 GB for market)")
    return parser.parse_args()


def parse_size(text: str) -> tuple[int, int, int]:
    """(queries, gallery images, dimensions) of a name in :data:`SIZES` or of ``Q,G,D``."""
    if text in SIZES:
        return SIZES[text]
    num_queries, num_gallery, width = map(int, text.split(","))
    return num_queries, num_gallery, width


def synthetic_features(num_images: int, width: int) -> Tensor:
    """(N, D) float32 unit vectors of about 17 images per identity over 6 cameras, in random order."""
    generator = torch.Generator().manual_seed(0)
    num_pids = max(1, num_images // 17)
    pids = torch.randint(num_pids, (num_images,), generator=generator)
    camids = torch.randint(6, (num_images,), generator=generator)
    people, cameras, noise = (
        spread * torch.randn(rows, LATENT_DIMENSIONS, generator=generator)
        for rows, spread in ((num_pids, 1.0), (6, CAMERA_SPREAD), (num_images, NOISE))
    )
    latent = people[pids] + cameras[camids] + noise
    features = (latent @ torch.randn(LATENT_DIMENSIONS, width, generator=generator)).relu()
    return torch.nn.functional.normalize(features)


def report(name: str, work: Callable[[], object]) -> float:
    """Seconds that the work took, printed with the memory that it added at its peak."""
    before = reset_peak()
    start, cpu_start = time.perf_counter(), time.process_time()
    work()
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    memory = max(0, peak() - before) / 1e9
    print(f"{name:36} {seconds:8.2f} s {cpu_seconds:8.2f} s of processors {memory:8.3f} GB", flush=True)
    return seconds


def reset_peak() -> int:
    """Bytes that the process holds, from which its peak is counted from now on."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    """Most bytes that the process held since the last reset."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def bare_product(features: Tensor) -> None:
    """All products of two features, block by block into the same memory, which nobody reads."""
    rows = features.numpy()
    block = np.empty((QUERY_BLOCK, len(rows)), dtype=np.float32)
    for start in range(0, len(rows), len(block)):
        part = rows[start : start + len(block)]
        np.matmul(part, rows.T, out=block[: len(part)])


def build(queries: Tensor, gallery: Tensor) -> KReciprocalDistances:
    """Re-ranked distances with the settings of the paper."""
    return rerank(queries, gallery, k1=K1, k2=K2, lambda_value=LAMBDA)


def walk(distances: KReciprocalDistances) -> None:
    """Compute every block of the distances once, as an evaluation does."""
    for start in range(0, distances.num_queries, QUERY_BLOCK):
        distances.block(slice(start, start + QUERY_BLOCK), slice(0, distances.num_gallery))


def dense_reranking(features: NDArray[np.float32], num_queries: int) -> NDArray[np.float32]:
    """(Q, G) re-ranked distances by matrices over all pairs and a loop over images, as toolkits compute them."""
    distances = 2 - 2 * (features @ features.T)
    distances /= distances.max(axis=1, keepdims=True)
    nearest = np.argpartition(distances, range(1, K1 + 1), axis=1)[:, : K1 + 1]
    encoding = np.zeros_like(distances)
    for image in range(len(features)):
        members = expanded_set(nearest, image)
        weights = np.exp(-distances[image, members])
        encoding[image, members] = weights / weights.sum()
    distances = distances[:num_queries, num_queries:].copy()
    encoding = np.stack([encoding[row].mean(axis=0) for row in nearest[:, :K2]])
    holders = [np.flatnonzero(column) for column in encoding[num_queries:].T]
    for query in range(num_queries):
        minima = np.zeros(distances.shape[1], dtype=np.float32)
        for column in np.flatnonzero(encoding[query]):
            images = holders[column]
            minima[images] += np.minimum(encoding[query, column], encoding[num_queries + images, column])
        distances[query] = LAMBDA * distances[query] + (1 - LAMBDA) * (1 - minima / (2 - minima))
    found: NDArray[np.float32] = distances
    return found


def expanded_set(nearest: NDArray[np.int64], image: int) -> NDArray[np.int64]:
    """Sorted members of R*(image, k1)."""
    members = reciprocal_set(nearest, image, K1)
    expanded = [members]
    for member in members:
        others = reciprocal_set(nearest, member, round(K1 / 2))
        if len(np.intersect1d(others, members)) > 2 / 3 * len(others):
            expanded.append(others)
    return np.unique(np.concatenate(expanded))


def reciprocal_set(nearest: NDArray[np.int64], image: int, k: int) -> NDArray[np.int64]:
    """Members of R(image, k)."""
    listed = nearest[image, : k + 1]
    members: NDArray[np.int64] = listed[(nearest[listed, : k + 1] == image).any(axis=1)]
    return members


def compare(ours: NDArray[np.float32], dense: NDArray[np.float32]) -> None:
    """Print how far two matrices of distances agree, and the rankings that follow from them."""
    difference = np.abs(ours - dense)
    print(
        f"largest difference {difference.max():.1e}; {np.mean(difference > 1e-5):.1e} of the pairs differ by over 1e-5"
    )
    order, dense_order = (np.argsort(distances, axis=1, kind="stable") for distances in (ours, dense))
    reordered = np.take_along_axis(dense, order, axis=1)
    fall = (np.maximum.accumulate(reordered, axis=1) - reordered).max()
    print(f"along our ranking of the whole gallery, the dense distance never falls by more than {fall:.1e};")
    print(
        f"{np.mean((order == dense_order)[:, :COMPARED_RANKS]):.3%} of the first {COMPARED_RANKS} places are the same"
    )


if __name__ == "__main__":
    main()
