"""Time and memory of pseudo-labels by Jaccard distance and DBSCAN, beside the dense way of the field.

    python tools/bench_clustering.py 12936 --dense --repeats 3
    python tools/bench_clustering.py 32621 100000
    python tools/bench_clustering.py 1000000 --local-neighbors
    python tools/bench_clustering.py 100000 --device cuda

Features are those of bench_reranking.py, 512 values long. "Dense" is the usual program: neighbours by FAISS, a
matrix of all pairs of images for the encoding, another for its expansion, a third for the distances, filled image by
image, and scikit-learn's DBSCAN on it; it takes three times 4 N^2 bytes. ``--local-neighbors`` looks for the neighbours
of an image among 1,000 images only and so measures what comes after the exact search, whose time grows with N^2. Memory
is the peak beyond what the process held with the features (Linux), without that of a GPU.
"""

import argparse
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from bench_reranking import peak, reset_peak, synthetic_features
from numpy.typing import NDArray
from sklearn.cluster import DBSCAN
from torch import Tensor

from reid_da.clustering import dbscan, jaccard_distances, unit_points
from reid_da.clustering.neighbors import neighbor_lists
from reid_da.device import choose_device
from reid_da.features import pieces
from reid_da.memory.neighbors import FaissNeighbors
from reid_da.reciprocal import encoding, expanded_sets, local_query_expansion

WIDTH, LOCAL_IMAGES = 512, 1000
K1, K2, EPS, MIN_SAMPLES = 30, 6, 0.6, 4

T = TypeVar("T")
Labels = NDArray[np.int64]


class Phases:
    """Prints seconds, processor seconds and peak memory of each phase, and of all together."""

    def __init__(self, name: str) -> None:
        self.name, self.seconds, self.processor_seconds, self.highest = name, 0.0, 0.0, 0
        self.held = reset_peak()

    def run(self, phase: str, work: Callable[[], T]) -> T:
        """What the work returns."""
        reset_peak()
        start, processor_start = time.perf_counter(), time.process_time()
        result = work()
        seconds, processor_seconds = time.perf_counter() - start, time.process_time() - processor_start
        self.seconds += seconds
        self.processor_seconds += processor_seconds
        self.highest = max(self.highest, peak())
        self._print(phase, seconds, processor_seconds)
        return result

    def total(self) -> float:
        """Processor seconds of all phases, printed."""
        self._print("all", self.seconds, self.processor_seconds)
        return self.processor_seconds

    def _print(self, phase: str, seconds: float, processor_seconds: float) -> None:
        memory = max(0, self.highest - self.held) / 1e9
        print(
            f"{self.name:8} {phase:22} {seconds:9.2f} s {processor_seconds:9.2f} s of processors {memory:7.2f} GB",
            flush=True,
        )


def main() -> None:
    """Measure every size."""
    arguments = parse_arguments()
    device = choose_device(arguments.device)
    for size in arguments.sizes:
        features = local_features(size) if arguments.local_neighbors else synthetic_features(size, WIDTH)
        points = unit_points(features.to(device))
        threads = f"{torch.get_num_threads()} threads"
        print(f"\n{size:,} images, {WIDTH} values, {device}, {threads}, torch {torch.__version__}")
        for _ in range(arguments.repeats):
            ours, labels = sparse_way(points, local=arguments.local_neighbors)
            if arguments.dense:
                theirs, expected = dense_way(points)
                same = (labels == expected).mean()
                print(f"dense / sparse: {theirs / ours:.1f} (processor time), {same:.2%} of the labels are the same")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", type=int, nargs="*", default=[12_936], help="numbers of images")
    parser.add_argument("--dense", action="store_true", help="also the dense way")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--local-neighbors", action="store_true", help="neighbours among 1,000 images only")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def local_features(num_images: int) -> Tensor:
    """The same features for every 1,000 images, on one piece of memory, with other noise."""
    features = torch.empty(num_images, WIDTH)
    pattern, generator = synthetic_features(LOCAL_IMAGES, WIDTH), torch.Generator().manual_seed(1)
    for part in pieces(num_images, LOCAL_IMAGES):
        rows = features[part]
        rows.copy_(pattern[: len(rows)])
        rows.add_(torch.randn(rows.shape, generator=generator), alpha=0.01)
    return features


def sparse_way(points: Tensor, *, local: bool) -> tuple[float, Labels]:
    """Processor seconds and labels of reid_da, phase by phase."""
    phases = Phases("sparse")
    neighbors = phases.run("neighbours", lambda: local_neighbors(points) if local else neighbor_lists(points, K1))
    sets = phases.run("k-reciprocal sets", lambda: expanded_sets(neighbors, neighbors[:, : round(K1 / 2) + 1]))
    rows = phases.run("encoding", lambda: local_query_expansion(encoding(points, sets), neighbors[:, :K2]))
    distances = phases.run("Jaccard distances", lambda: jaccard_distances(rows, max_distance=EPS))
    labels = phases.run("DBSCAN", lambda: dbscan(distances, eps=EPS, min_samples=MIN_SAMPLES))
    seconds = phases.total()
    entries = [matrix.nnz / len(points) for matrix in (sets, rows, distances)]
    print("entries a row: sets {:.0f}, encoding {:.0f}, distances {:.0f}; ".format(*entries), end="")
    print(f"{labels.max() + 1:,} clusters, {(labels < 0).mean():.1%} outliers", flush=True)
    return seconds, labels


def local_neighbors(points: Tensor) -> Labels:
    """Nearest among 1,000 images that lie side by side."""
    parts = [points[part] for part in pieces(len(points), LOCAL_IMAGES)]
    return np.concatenate([neighbor_lists(part, K1) + i * LOCAL_IMAGES for i, part in enumerate(parts)])


def dense_way(points: Tensor) -> tuple[float, Labels]:
    """Processor seconds and labels of the usual program."""
    phases = Phases("dense")
    index = FaissNeighbors(kind="flat")
    index.rebuild(points)
    neighbors = phases.run("neighbours", lambda: index.search(points, points, K1).cpu().numpy())
    weights = phases.run("encoding", lambda: dense_encoding(points.cpu().numpy(), neighbors))
    distances = phases.run("Jaccard distances", lambda: dense_jaccard(weights))
    search = DBSCAN(eps=EPS, min_samples=MIN_SAMPLES, metric="precomputed", n_jobs=-1)
    labels = phases.run("DBSCAN", lambda: search.fit_predict(distances))
    return phases.total(), labels


def dense_encoding(features: NDArray[np.float32], neighbors: Labels) -> NDArray[np.float32]:
    """(N, N) expanded k-reciprocal encoding, one image at a time."""

    def reciprocal(length: int) -> list[Labels]:
        lists = neighbors[:, :length]
        return [own[(lists[own] == image).any(axis=1)] for image, own in enumerate(lists)]

    full, half = reciprocal(K1), reciprocal(round(K1 / 2) + 1)
    weights = np.zeros((len(features),) * 2, dtype=np.float32)
    for image, members in enumerate(full):
        grown = [members]
        for candidate in members:
            if 3 * len(np.intersect1d(half[candidate], members)) > 2 * len(half[candidate]):
                grown.append(half[candidate])
        columns = np.unique(np.concatenate(grown))
        nearness = np.exp(2 * (features[columns] @ features[image]) - 2)
        weights[image, columns] = nearness / nearness.sum()
    averaged = np.empty_like(weights)
    for image, own in enumerate(neighbors[:, :K2]):
        averaged[image] = weights[own].mean(axis=0)
    return averaged


def dense_jaccard(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, N) Jaccard distances, one image at a time by lists of the images that have a weight in a column."""
    images_of = [np.flatnonzero(column) for column in weights.T]
    distances = np.empty_like(weights)
    for image, row in enumerate(weights):
        shared = np.zeros(len(weights), dtype=np.float32)
        for column in np.flatnonzero(row):
            images = images_of[column]
            shared[images] += np.minimum(row[column], weights[images, column])
        distances[image] = np.maximum(1 - shared / (2 - shared), 0)
    return distances


if __name__ == "__main__":
    main()
