"""Approximate search of large indexes by FAISS: built once, kept beside the index, its recall measured."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from reid_da.atomic import atomic_path
from reid_da.errors import InputError, unknown_name
from reid_da.gallery.search import exact_candidates
from reid_da.gallery.store import Gallery, Snapshot
from reid_da.gallery.vectors import Vectors, checksum
from reid_da.progress import track
from reid_da.reading import UnsuitableFileError, read_regular

Kind = Literal["ivf", "hnsw"]
_ADDED_ROWS = 2**14
_RECALL_QUERIES = 200
_RECALL_AT = 20
_HNSW_LINKS = 32
_HNSW_CONSTRUCTION = 100


@dataclass(frozen=True, kw_only=True)
class Built:
    """An approximate index as it was built.

    Attributes:
        kind: ``ivf`` (lists around centres, of which the nearest are looked at) or ``hnsw`` (a graph of neighbours).
        generation: of the index that it was built from; any change to the images makes it stale.
        effort: lists that are looked at, or candidates of the graph.
        recall: share of the 20 nearest images that it finds, over 200 images as queries.
        checksum: of its file.
    """

    kind: Kind
    generation: int
    effort: int
    recall: float
    checksum: str


def build(gallery: Gallery, kind: str, *, effort: int | None = None, seed: int = 0) -> Built:
    """Build an approximate index of all images and measure its recall against exact search.

    Args:
        gallery: the index.
        kind: ``ivf`` or ``hnsw``.
        effort: lists or candidates that a search looks at; by default an eighth of the lists, or 128 candidates.
        seed: of the images that are queries of the measurement.

    Raises:
        InputError: unknown kind, no images, or FAISS is not installed.
        BlockingIOError: another process writes to the index.
    """
    if kind not in get_args(Kind):
        raise unknown_name("kind of approximate index", kind, get_args(Kind))
    if effort is not None and effort < 1:
        raise InputError(f"effort: expected at least 1, got {effort}")
    faiss = _faiss()
    with gallery.writing() as writer:
        snapshot = gallery.snapshot()
        if not len(snapshot):
            raise InputError(f"{gallery.path}: has no images")
        number, dim = len(snapshot), snapshot.dim
        if kind == "ivf":
            num_lists = max(1, min(int(4 * number**0.5), number // 39))
            index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, num_lists, faiss.METRIC_INNER_PRODUCT)
            sample = np.sort(np.random.default_rng(seed).permutation(number)[: num_lists * 64])
            index.train(np.ascontiguousarray(snapshot.vectors(sample)))
            effort = effort or max(1, num_lists // 8)
        else:
            index = faiss.IndexHNSWFlat(dim, _HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
            index.hnsw.efConstruction = _HNSW_CONSTRUCTION
            effort = effort or 128
        starts = range(0, number, _ADDED_ROWS)
        for start in track(starts, "building the approximate index", total=len(starts)):
            rows = np.arange(start, min(start + _ADDED_ROWS, number))
            index.add(np.ascontiguousarray(snapshot.vectors(rows)))
        candidates = Approximate(index, effort)
        recall = _recall(snapshot, candidates, seed=seed)
        path = _path(gallery, kind)
        with atomic_path(path) as temporary:
            faiss.write_index(index, str(temporary))
            digest = checksum(temporary.read_bytes()).hex()
        built = Built(
            kind=kind,  # type: ignore[arg-type]
            generation=snapshot.generation, effort=effort, recall=recall, checksum=digest,
        )  # fmt: skip
        writer.set_meta(_key(kind), json.dumps(asdict(built)))
    return built


def load_candidates(gallery: Gallery, snapshot: Snapshot, kind: str) -> tuple["Approximate", Built]:
    """The approximate index of a kind, ready to search, and how it was built.

    Raises:
        InputError: it was not built, is damaged, images have come or gone since, or FAISS is not installed.
    """
    if kind not in get_args(Kind):
        raise unknown_name("search", kind, ("exact", *get_args(Kind)))
    faiss = _faiss()
    advice = f"reid-da index build {gallery.path} --kind {kind}"
    text = gallery.meta(_key(kind))
    if text is None:
        raise InputError(f"{gallery.path}: has no {kind} index; build it: {advice}")
    built = Built(**json.loads(text))
    if built.generation != snapshot.generation:
        raise InputError(f"{gallery.path}: images have come or gone since the {kind} index was built: {advice}")
    path = _path(gallery, kind)
    try:
        content = read_regular(path, limit=path.stat().st_size)
    except (OSError, UnsuitableFileError) as error:
        raise InputError(f"{path}: cannot be read ({error}); build it anew: {advice}") from error
    # FAISS trusts its files: what is not what was written is not given to it
    if checksum(content).hex() != built.checksum:
        raise InputError(f"{path}: is damaged; build it anew: {advice}")
    index = faiss.deserialize_index(np.frombuffer(content, dtype=np.uint8))
    return Approximate(index, built.effort), built


class Approximate:
    """Candidates from a FAISS index of all rows of a snapshot; see :class:`reid_da.gallery.search.Candidates`.

    Args:
        index: the FAISS index.
        effort: lists or candidates to look at.
    """

    def __init__(self, index: Any, effort: int) -> None:
        self._index, self._effort = index, effort

    def __call__(self, snapshot: Snapshot, queries: Vectors, rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        """(Q, count) rows of the snapshot; FAISS looks at no others than ``rows``."""
        faiss = _faiss()
        selector = None if len(rows) == len(snapshot) else faiss.IDSelectorBatch(np.ascontiguousarray(rows))
        if hasattr(self._index, "hnsw"):
            options = faiss.SearchParametersHNSW(efSearch=max(self._effort, count), sel=selector)
        else:
            options = faiss.SearchParametersIVF(nprobe=self._effort, sel=selector)
        _, found = self._index.search(np.ascontiguousarray(queries), count, params=options)
        result: NDArray[np.int64] = found
        return result


def _recall(snapshot: Snapshot, candidates: Approximate, *, seed: int) -> float:
    """Share of the nearest images, the query itself left out, that the candidates hold."""
    generator = np.random.default_rng(seed)
    everything = np.arange(len(snapshot))
    picked = np.sort(generator.permutation(len(snapshot))[:_RECALL_QUERIES])
    queries = np.ascontiguousarray(snapshot.vectors(picked))
    count = min(_RECALL_AT + 1, len(snapshot))
    true, found = (search(snapshot, queries, everything, count) for search in (exact_candidates, candidates))
    shares = [
        len(set(one[one != own]) & set(two)) / max(1, (one != own).sum())
        for own, one, two in zip(picked, true, found, strict=True)
    ]
    return float(np.mean(shares))


def _key(kind: str) -> str:
    return f"approximate-{kind}"


def _path(gallery: Gallery, kind: str) -> Path:
    return gallery.path / f"approximate-{kind}.faiss"


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise InputError("approximate search needs FAISS: pip install 'reid-da[cpu]'") from error
    return faiss
