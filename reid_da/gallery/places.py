"""An index by its name, a folder or a URL: opened, made, and copied from one to the other."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reid_da.errors import InputError
from reid_da.gallery import database, server, threshold
from reid_da.gallery.embedder import MEANS, Embedder, check_model, embedder_of, load_embedder
from reid_da.gallery.index import Added, add, find_images
from reid_da.gallery.protocol import ImageIndex, NewImage
from reid_da.gallery.qdrant import Collection, Point
from reid_da.gallery.store import Gallery, create
from reid_da.gallery.writer import Writer

_COPIED_FROM = "copied_from"
_BATCH = 512


def open_index(place: str | Path) -> Gallery | Collection:
    """The index in a folder, or the collection behind a URL.

    Raises:
        InputError: there is none.
    """
    if server.is_url(str(place)):
        client, name = server.connect(str(place))
        return Collection(str(place), client, name)
    return Gallery(place)


def add_folders(
    place: str | Path,
    folders: Sequence[Path],
    *,
    model: str | Path | None,
    device: str = "auto",
    model_options: dict[str, Any],
    **reading: Any,
) -> Added:
    """Add the images of folders to an index, which is made if there is none.

    Nothing is made before the folders have been read and the model is loaded.

    Args:
        place: folder or URL of the index.
        folders: folders, or single images.
        model: needed for a new index; for one that exists only where its model has moved.
        device: where the model computes.
        model_options: ``backbone``, ``flip``, ... of :func:`load_embedder`, for a new index.
        reading: options of :func:`find_images`.

    Raises:
        InputError: a folder, the model or the index cannot be used.
        BlockingIOError: another process writes to the index.
        OSError: the disk is full.
    """
    images = find_images(folders, **reading)
    index, embedder = open_or_create(place, model=model, device=device, **model_options)
    try:
        return add(index, embedder, images)
    finally:
        index.close()


def open_or_create(
    place: str | Path, *, model: str | Path | None, device: str = "auto", **options: Any
) -> tuple[Gallery | Collection, Embedder]:
    """An index and its model; a new index if there is none, which needs a model.

    Args:
        place: folder or URL.
        model: needed for a new index; for one that exists only where its model has moved.
        device: where the model computes.
        options: those of :func:`load_embedder`, for a new index.

    Raises:
        InputError: no model for a new index, or another one than that of the index.
    """
    url = str(place) if server.is_url(str(place)) else None
    client, name = server.connect(url) if url else (None, "")
    exists = server.exists(url, client, name) if url else (Path(place) / database.FILE).exists()
    if not exists:
        if not url and Path(place).is_file():
            raise InputError(f"{place}: is a file; name a folder for the index")
        if model is None:
            raise InputError(f"{place}: a new index needs a model: --model RUN")
        embedder = load_embedder(model, device=device, **options)
        index = (
            Collection.create(url, client, name, embedder.card, embedder.meta)
            if url
            else create(Path(place), embedder.card, embedder.meta)
        )
        check_model(index, embedder.card)
        return index, embedder
    opened = Collection(url, client, name) if url else Gallery(place)
    try:
        if options.get("center_cameras") and not opened.card.center_cameras:
            raise InputError(f"{place}: was made without --center-cameras; make a new index")
        return opened, embedder_of(opened, model=model, device=device)
    except BaseException:
        opened.close()
        raise


@dataclass(frozen=True, kw_only=True)
class Copied:
    """What a copy has changed in the target.

    Attributes:
        added: images that are new or changed.
        described: images whose camera, time, track, identity or name is another now.
        removed: images that are not in the source any more.
    """

    added: int
    described: int
    removed: int


def copy(source: str, target: str) -> Copied:
    """Copy a collection into an index on disk, or bring what is new in an index on disk to a collection.

    From a server: the folder becomes what the collection is; identities are taken over only by a new folder. To a
    server: images that the collection lacks, unless the folder is a copy of it; identities, names and thresholds.

    Args:
        source: folder or URL.
        target: the other of the two.

    Raises:
        InputError: both are folders or both are URLs, or hold vectors of different models, or the folder is an index
            that was not copied from there.
    """
    if server.is_url(source) == server.is_url(target):
        raise InputError("copy: give a URL and a folder; to copy an index on disk, copy its folder")
    if server.is_url(source):
        with _collection(source) as remote:
            return _pull(remote, Path(target))
    with Gallery(source) as local:
        client, name = server.connect(target)
        with Collection.create(target, client, name, local.card, _meta_of(local)) as remote:
            check_model(remote, local.card)
            return _push(local, remote)


def _collection(url: str) -> Collection:
    client, name = server.connect(url)
    return Collection(url, client, name)


def _meta_of(index: ImageIndex) -> dict[str, str]:
    """What belongs to the vectors of an index as a whole."""
    return {} if (means := index.meta(MEANS)) is None else {MEANS: means}


def _pull(remote: Collection, folder: Path) -> Copied:
    is_new = not (folder / database.FILE).exists()
    local = create(folder, remote.card, {**_meta_of(remote), _COPIED_FROM: remote.place}) if is_new else Gallery(folder)
    with local, local.writing() as writer:
        if local.meta(_COPIED_FROM) != remote.place:
            raise InputError(f"{folder}: is an index of its own, and no copy of {remote.place}; name another folder")
        check_model(local, remote.card)
        there = dict(remote.scroll())
        here = {
            path: (number, digest.hex(), *origin)
            for number, path, digest, *origin in local.rows(
                "SELECT images.id, path, digest, name, time, track FROM images LEFT JOIN cameras ON cameras.id = camera"
            )
        }
        paths = {payload["path"] for payload in there.values()}
        gone = [image[0] for path, image in here.items() if path not in paths]
        new, described = [], {}
        for number, payload in sorted(there.items(), key=lambda image: str(image[1]["path"])):
            known = here.get(payload["path"])
            origin = (payload.get("camera"), payload.get("time"), payload.get("track"))
            if known is None or known[1] != payload["digest"]:
                new.append(number)
            elif known[2:] != origin:
                described[known[0]] = origin
        writer.remove(gone)
        writer.describe(described)
        has_identities = bool(local.rows("SELECT 1 FROM identities LIMIT 1"))
        added = _write(writer, remote.points(new))
        if not has_identities:
            _take_identities(writer, there)
        if (text := remote.meta(threshold.META)) is not None:
            writer.set_meta(threshold.META, text)
    return Copied(added=added, described=len(described), removed=len(gone))


def _write(writer: Writer, points: Iterator[Point]) -> int:
    count = 0
    batch: list[Point] = []
    while True:
        point = next(points, None)
        if point is not None:
            batch.append(point)
        if batch and (point is None or len(batch) == _BATCH):
            writer.append([entry.image for entry in batch], np.stack([entry.vector for entry in batch]))
            count, batch = count + len(batch), []
        if point is None:
            return count


def _take_identities(writer: Writer, there: dict[int, dict[str, Any]]) -> None:
    named = {p["identity"]: p.get("name") for p in there.values() if p.get("identity") is not None}
    images = [(p["identity"], p["path"]) for p in there.values() if p.get("identity") is not None]
    with writer.transaction() as cursor:
        cursor.executemany("INSERT INTO identities VALUES (?, ?)", sorted(named.items()))
        cursor.executemany("UPDATE images SET identity = ? WHERE path = ?", images)


def _push(local: Gallery, remote: Collection) -> Copied:
    there = {payload["path"]: (number, payload) for number, payload in remote.scroll()}
    records = {record.path: record for record in local.all_records()}
    added = 0
    if local.meta(_COPIED_FROM) != remote.place:  # what a copy has and the server lacks was removed there
        added = remote.put(_points(local, [path for path in records if path not in there]))
    changed = {
        there[path][0]: {"identity": record.identity, "name": record.name}
        for path, record in records.items()
        if path in there
        and (record.identity, record.name) != (there[path][1].get("identity"), there[path][1].get("name"))
    }
    remote.set_payloads(changed)
    if (text := local.meta(threshold.META)) is not None and text != remote.meta(threshold.META):
        remote.set_meta(threshold.META, text)
    return Copied(added=added, described=len(changed), removed=0)


def _points(local: Gallery, paths: Sequence[str]) -> Iterator[Point]:
    snapshot = local.snapshot()
    row_of = {number: row for row, number in enumerate(snapshot.ids.tolist())}
    wanted = set(paths)
    rows = local.rows(
        "SELECT images.id, path, size, mtime_ns, digest, cameras.name, time, track, identity, identities.name, added "
        "FROM images LEFT JOIN cameras ON cameras.id = camera LEFT JOIN identities ON identities.id = identity "
        "ORDER BY images.id"
    )
    for number, path, size, mtime, digest, camera, time, track, identity, name, added in rows:
        if path in wanted and number in row_of:
            image = NewImage(path=path, size=size, mtime_ns=mtime, digest=digest, camera=camera, time=time, track=track)
            vector = snapshot.vectors(np.array([row_of[number]]))[0]
            yield Point(image, vector, identity, name, added)
