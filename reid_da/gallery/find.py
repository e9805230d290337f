"""Searching an index for image files: from paths to answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reid_da.datasets.listing import list_images
from reid_da.errors import InputError, unknown_name
from reid_da.gallery.approximate import load_candidates
from reid_da.gallery.choice import choose_threshold
from reid_da.gallery.embedder import embedder_of
from reid_da.gallery.places import open_index
from reid_da.gallery.provenance import origins, parse_time
from reid_da.gallery.search import (
    Answers,
    Candidates,
    Filters,
    answers,
    answers_of,
    exact_candidates,
    nearest,
)
from reid_da.gallery.store import Gallery


@dataclass(frozen=True, kw_only=True)
class FoundFiles:
    """What was found for image files.

    Attributes:
        queries: Q paths.
        answers: one for each.
        notes: what the user should know, one line each.
    """

    queries: tuple[str, ...]
    answers: Answers
    notes: tuple[str, ...]


def make_filters(
    *, cameras: Sequence[str] = (), after: str | None = None, before: str | None = None, leave_out: Sequence[int] = ()
) -> Filters:
    """Filters from what a user writes.

    Raises:
        InputError: a time is none, or the first is later than the last.
    """
    first, last = (None if text is None else parse_time(text) for text in (after, before))
    if first is not None and last is not None and first > last:
        raise InputError(f"no time is after {after} and before {before}")
    return Filters(cameras=tuple(cameras), after=first, before=last, leave_out=tuple(leave_out))


def find_files(
    index: str | Path,
    images: Sequence[Path],
    *,
    top: int,
    fpr: float | None = None,
    threshold: float | None = None,
    threshold_from: str = "auto",
    cameras: Sequence[str] = (),
    after: str | None = None,
    before: str | None = None,
    query_camera: str | None = None,
    method: str = "exact",
    model: str | None = None,
    device: str = "auto",
) -> FoundFiles:
    """The images of an index that are nearest to each of some image files, or to those of folders.

    In an index that is centred by camera, the camera of a query is ``query_camera``, or what its name tells as in
    ``index add``; if that is nothing, the mean over all cameras is taken out.

    Raises:
        InputError: an image, the index, its model, a filter, a camera, or the threshold cannot be used.
    """
    paths = [path for image in images for path in _files(image)]
    filters = make_filters(cameras=cameras, after=after, before=before)
    with open_index(index) as gallery:
        if not len(gallery):
            raise InputError(f"{index}: has no images yet: reid-da index add {index} FOLDER")
        filters.check(gallery.cameras())  # a mistake shows before the model is loaded
        embedder = embedder_of(gallery, model=model, device=device)
        if query_camera:
            embedder.check_camera(query_camera)
        chosen = choose_threshold(gallery, embedder.model, fpr=fpr, threshold=threshold, source=threshold_from)
        names = [str(path) for path in paths]
        of_queries = [query_camera] * len(paths) if query_camera or not embedder.knows_cameras else _cameras(paths)
        vectors = embedder.embed_files(paths, of_queries)
        notes: list[str] = []
        if isinstance(gallery, Gallery):
            snapshot = gallery.snapshot()
            candidates: Candidates = exact_candidates
            if method != "exact":
                candidates, built = load_candidates(gallery, snapshot, method)
                notes.append(f"approximate search ({method}): {100 * built.recall:.1f} % of the 20 nearest were found")
            found = nearest(snapshot, vectors, top=top, filters=filters, candidates=candidates)
            listed = answers(
                gallery, snapshot, found, names, threshold=chosen.threshold, fpr=chosen.fpr, source=chosen.source
            )
        else:
            if method not in ("exact", "hnsw"):
                raise unknown_name("search", method, ("exact", "hnsw"))
            lists, searched = gallery.nearest(vectors, top=top, filters=filters, exact=method == "exact")
            listed = answers_of(
                lists,
                names,
                threshold=chosen.threshold,
                fpr=chosen.fpr,
                source=chosen.source,
                searched=searched,
            )
            if method != "exact":
                notes.append("approximate search by the server; what it misses is not measured")
    if chosen.threshold is not None:
        expected = listed.expected_false
        rate = "" if expected is None else f"; about {expected:.3g} false matches are to be expected for each query"
        notes.append(f"threshold {chosen.threshold:.4f} ({chosen.source}); {listed.searched:,} images searched{rate}")
    return FoundFiles(queries=tuple(names), answers=listed, notes=tuple(notes))


def _cameras(paths: Sequence[Path]) -> list[str | None]:
    """Cameras that the names of image files tell, as in ``index add``."""
    found: list[str | None] = []
    for path in paths:
        try:
            found.append(origins(path.parent, [path.name])[0][0].camera)
        except InputError:
            found.append(None)
    return found


def _files(image: Path) -> list[Path]:
    if image.is_dir():
        found = [image / path for path in list_images(image, recursive=True)]
        if not found:
            raise InputError(f"{image}: has no images in it")
        return found
    if not image.exists():
        raise InputError(f"{image}: no such image or folder")
    return [image]
