"""How fast an index is searched, beside FAISS's exact index and the bare product.

    python tools/bench_search.py --sizes 10000 100000 1000000
    python tools/bench_search.py --server INDEX --clients 32 --seconds 20

The first form makes an index of random unit vectors of 512 dimensions in a temporary folder and searches it for the 20
nearest, one query at a time and 100 at a time. The second form starts ``reid-da serve`` on an index on this machine
and lets clients search for indexed images; it counts what is answered and how long that takes.
"""

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from reid_da.gallery.protocol import ModelCard, NewImage
from reid_da.gallery.search import nearest
from reid_da.gallery.store import create
from reid_da.nearest import best_columns

DIM = 512
TOP = 20
_ADDED = 2**13


def unit(generator: np.random.Generator, count: int) -> NDArray[np.float32]:
    """Random unit vectors."""
    vectors = generator.standard_normal((count, DIM), dtype=np.float32)
    units: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return units


def times(search: Callable[[np.ndarray], object], queries: np.ndarray, batch: int) -> np.ndarray:
    """Milliseconds of a call, for each batch of queries."""
    search(queries[:batch])
    found = []
    for start in range(0, len(queries) - batch + 1, batch):
        begin = time.perf_counter()
        search(queries[start : start + batch])
        found.append(1000 * (time.perf_counter() - begin))
    return np.array(found)


def report(name: str, found: np.ndarray, batch: int) -> None:
    """Print a line about the times of calls in milliseconds."""
    per_second = 1000 * batch / found.mean()
    p50, p99 = np.quantile(found, (0.5, 0.99))
    print(f"  {name:24} batch {batch:3}: {per_second:9.1f} queries/s, p50 {p50:8.2f} ms, p99 {p99:8.2f} ms", flush=True)


def measure(size: int, folder: Path, *, num_queries: int) -> None:
    """Compare the searches on an index of random vectors."""
    generator = np.random.default_rng(0)
    card = ModelCard(
        model="random", backbone="", last_stride=1, weights="", image_size=(1, 1), flip=False, fingerprint="", dim=DIM
    )
    begin = time.perf_counter()
    vectors = np.empty((size, DIM), dtype=np.float32)
    with create(folder / str(size), card) as gallery:
        with gallery.writing() as writer:
            for start in range(0, size, _ADDED):
                rows = range(start, min(start + _ADDED, size))
                vectors[rows.start : rows.stop] = unit(generator, len(rows))
                new = [
                    NewImage(path=f"/{row}", size=1, mtime_ns=1, digest=b"", camera=str(row % 6), time=float(row))
                    for row in rows
                ]
                writer.append(new, vectors[rows.start : rows.stop])
        added = time.perf_counter() - begin
        begin = time.perf_counter()
        snapshot = gallery.snapshot()
        opened = time.perf_counter() - begin
        used = sum(file.stat().st_size for file in gallery.path.iterdir()) / 1e6
        print(f"{size:,} x {DIM}: added in {added:.1f} s, opened in {1000 * opened:.0f} ms, {used:,.0f} MB on disk")
        queries = unit(generator, num_queries)
        transposed = torch.from_numpy(vectors).T

        def product(batch: np.ndarray) -> object:
            return torch.from_numpy(batch) @ transposed

        searches: dict[str, Callable[[np.ndarray], object]] = {
            "reid-da": lambda batch: nearest(snapshot, batch, top=TOP),
            "bare product": product,
            "product and best": lambda batch: best_columns(product(batch), TOP, largest=True),  # type: ignore[arg-type]
        }
        try:
            import faiss
        except ImportError:
            print("  FAISS is not installed")
        else:
            index = faiss.IndexFlatIP(DIM)
            index.add(vectors)
            searches["faiss.IndexFlatIP"] = lambda batch: index.search(batch, TOP)
            expected = index.search(queries[:50], TOP)[1]
            same = (nearest(snapshot, queries[:50], top=TOP).rows == expected).mean()
            print(f"  the same images as faiss.IndexFlatIP: {100 * same:.2f} %")
        for batch in (1, 100):
            for name, search in searches.items():
                report(name, times(search, queries, batch), batch)
    print(f"  most memory of the process so far: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")
    shutil.rmtree(folder / str(size))


def load_server(index: Path, *, clients: int, seconds: float, port: int) -> None:
    """Let clients search a server on this machine for a while."""
    import httpx

    command = [sys.executable, "-m", "reid_da", "serve", str(index), "--port", str(port), "--rate", "0"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            address = f"http://127.0.0.1:{port}"
            for _ in range(600):
                try:
                    number = httpx.get(f"{address}/api/statistics").json()["images"]
                    break
                except httpx.TransportError:
                    time.sleep(0.1)
            else:
                sys.exit("the server does not start")
            until = time.monotonic() + seconds
            found: list[float] = []
            failed: list[float] = []
            lock = threading.Lock()

            def ask(seed: int) -> None:
                generator = np.random.default_rng(seed)
                with httpx.Client(timeout=60) as client:
                    while time.monotonic() < until:
                        begin = time.perf_counter()
                        response = client.get(f"{address}/api/images/{generator.integers(1, number + 1)}/similar")
                        taken = 1000 * (time.perf_counter() - begin)
                        with lock:
                            (found if response.status_code == 200 else failed).append(taken)

            threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(clients)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            p50, p99 = np.quantile(found, (0.5, 0.99))
            speed = f"{len(found) / seconds:.1f} answers/s, p50 {p50:.0f} ms, p99 {p99:.0f} ms"
            print(f"{clients} clients, {number:,} images: {speed}")
            print(f"other answers than 200: {len(failed)}")
        finally:
            server.terminate()


def main() -> None:
    """Parse the options and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--server", type=Path)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--port", type=int, default=8765)
    arguments = parser.parse_args()
    if arguments.server:
        load_server(arguments.server, clients=arguments.clients, seconds=arguments.seconds, port=arguments.port)
        return
    with tempfile.TemporaryDirectory() as folder:
        for size in arguments.sizes:
            measure(size, Path(folder), num_queries=arguments.queries)


if __name__ == "__main__":
    main()
