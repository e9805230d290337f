"""An index on a Qdrant server, which several machines add to and search at the same time; extra ``qdrant``.

The collection is the truth: an image is a point whose id follows from its path, so that machines which add the same
images agree without talking to each other. Identities are decided in an index on disk, by one person at a time, and
copied here.
"""

import hashlib
import os
import socket
import time
import uuid
from collections.abc import Collection as Items
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from reid_da.errors import InputError
from reid_da.features import pieces
from reid_da.gallery.protocol import Known, ModelCard, NewImage, Record
from reid_da.gallery.provenance import Origin
from reid_da.gallery.search import Filters, exact_similarities
from reid_da.gallery.server import naming_errors
from reid_da.gallery.vectors import Vectors
from reid_da.reciprocal import SPARE_CANDIDATES

VERSION = 1
_META = "reid_da"
_BATCH = 256
"""Points that are read or written in a request."""
_QUERIES = 32
_MOST_CAMERAS = 10_000
_ID_BITS = 59
"""So that an id has 18 digits at most; of a million images, two share one by a chance of 1e-6, which is noticed."""
_ORIGIN = ("camera", "time", "track")


class Point(NamedTuple):
    """An image with its vector, and the identity that was copied here."""

    image: NewImage
    vector: Vectors
    identity: int | None
    name: str | None
    added: float


def point_id(path: str) -> int:
    """The id of an image: a hash of its path."""
    return int.from_bytes(hashlib.blake2b(os.fsencode(path), digest_size=8).digest(), "big") >> (64 - _ID_BITS)


class Collection:
    """An index on a Qdrant server.

    Args:
        url: of the collection, for messages.
        client: of the server.
        name: of the collection.

    Attributes:
        place: the URL.
        card: the model that made its vectors.
        host: name of this machine.

    Raises:
        InputError: there is no such collection, or it was not made by this software.
    """

    def __init__(self, url: str, client: Any, name: str) -> None:
        from qdrant_client import models

        self.place, self._client, self._name, self._models = url, client, name, models
        self.host = socket.gethostname()
        with naming_errors(url):
            if not client.collection_exists(name):
                raise InputError(f"{url}: no index there; make one with: reid-da index add {url} FOLDER --model RUN")
            self._meta: dict[str, Any] = (client.get_collection(name).config.metadata or {}).get(_META) or {}
        try:
            if int(self._meta["version"]) > VERSION:
                raise InputError(f"{url}: was made by a later version of reid-da")
            fields = dict(self._meta["model"])
            fields["image_size"] = tuple(fields["image_size"])
            self.card = ModelCard(**fields)
        except (KeyError, TypeError, ValueError) as error:
            raise (
                error if isinstance(error, InputError) else InputError(f"{url}: is a collection of something else")
            ) from error

    @classmethod
    def create(cls, url: str, client: Any, name: str, card: ModelCard, meta: Mapping[str, str]) -> "Collection":
        """Make a collection, or open the one that another machine has just made.

        Raises:
            InputError: the server cannot be reached or refuses.
        """
        from qdrant_client import models

        with naming_errors(url):
            if not client.collection_exists(name):
                values = {"version": VERSION, "model": asdict(card), **meta}
                try:
                    client.create_collection(
                        name,
                        # of unit vectors; a cosine would normalise them once more
                        vectors_config=models.VectorParams(size=card.dim, distance=models.Distance.DOT),
                        metadata={_META: values},
                    )
                except Exception:
                    if not client.collection_exists(name):
                        raise
            for field, kind in (("camera", "keyword"), ("time", "float"), ("identity", "integer")):
                client.create_payload_index(name, field, field_schema=kind)
        return cls(url, client, name)

    def __enter__(self) -> "Collection":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def __len__(self) -> int:
        with naming_errors(self.place):
            return int(self._client.count(self._name, exact=True).count)

    def meta(self, key: str) -> str | None:
        """A value that belongs to the index as a whole."""
        value = self._meta.get(key)
        return None if value is None else str(value)

    def set_meta(self, key: str, value: str) -> None:
        """Store a value that belongs to the index as a whole."""
        self._meta[key] = value
        with naming_errors(self.place):
            self._client.update_collection(self._name, metadata={_META: self._meta})

    @contextmanager
    def writing(self) -> Iterator["Collection"]:
        """Several machines may write at the same time; nothing is held."""
        yield self

    def gaps(self) -> tuple[int, int, int]:
        """Number of images, of those whose camera is not known, and of those whose time is not."""
        empty = [
            self._models.IsEmptyCondition(is_empty=self._models.PayloadField(key=key)) for key in ("camera", "time")
        ]
        with naming_errors(self.place):
            no_camera, no_time = (
                int(self._client.count(self._name, count_filter=self._models.Filter(must=[one]), exact=True).count)
                for one in empty
            )
        return len(self), no_camera, no_time

    def cameras(self) -> list[str]:
        """Names of the cameras."""
        with naming_errors(self.place):
            found = self._client.facet(self._name, "camera", limit=_MOST_CAMERAS, exact=True).hits
        return sorted(str(hit.value) for hit in found)

    def known(self, paths: Items[str]) -> dict[str, Known]:
        """Those of the given paths that are there.

        Raises:
            InputError: two paths share an id.
        """
        found = {}
        for part in _batches(paths):
            for point in self._retrieve([point_id(path) for path in part]):
                payload = point.payload
                origin = Origin(*(payload.get(key) for key in _ORIGIN))
                found[payload["path"]] = Known(point.id, payload["size"], payload["mtime_ns"], origin)
            ids = {image.id for image in found.values()}
            for path in part:
                if path not in found and point_id(path) in ids:
                    raise InputError(f"{path}: has the same id as another image; rename it or its folder")
        return found

    def forgotten(self, digests: Items[bytes]) -> set[bytes]:
        """Those of the given digests that are of images that were forgotten."""
        with naming_errors(self.place):
            if not digests or not self._client.collection_exists(self._tombs):
                return set()
            by_id = {str(uuid.UUID(bytes=digest)): digest for digest in digests}
            return {by_id[str(point.id)] for point in self._client.retrieve(self._tombs, list(by_id))}

    def append(self, images: Sequence[NewImage], vectors: Vectors) -> None:
        """Add images with their (N, D) vectors; an image whose path is there already is replaced.

        Raises:
            InputError: another machine has added another image under the same path.
        """
        there = {point.id: point.payload for point in self._retrieve([point_id(image.path) for image in images])}
        for image in images:
            before = there.get(point_id(image.path))
            if before and before["host"] != self.host and before["digest"] != image.digest.hex():
                raise InputError(
                    f"{image.path}: {before['host']} has added another image under this path; keep the images of "
                    "several machines in folders of different names, or remove it first"
                )
        now = time.time()
        self.put(Point(image, vector, None, None, now) for image, vector in zip(images, vectors, strict=True))

    def put(self, points: Iterable[Point]) -> int:
        """Write images as they are, identities included; how many."""
        count = 0
        for part in _batches(points):
            structs = [
                self._models.PointStruct(
                    id=point_id(point.image.path), vector=point.vector.tolist(), payload=self._payload(point)
                )
                for point in part
            ]
            with naming_errors(self.place):
                self._client.upsert(self._name, points=structs, wait=True)
            count += len(structs)
        return count

    def _payload(self, point: Point) -> dict[str, Any]:
        image = point.image
        fields = {
            "path": image.path, "size": image.size, "mtime_ns": image.mtime_ns, "digest": image.digest.hex(),
            "camera": image.camera, "time": image.time, "track": image.track, "identity": point.identity,
            "name": point.name, "added": point.added, "host": self.host,
        }  # fmt: skip
        return {key: value for key, value in fields.items() if value is not None}

    def describe(self, images: Mapping[int, tuple[str | None, float | None, str | None]]) -> None:
        """Set camera, time and track of images by their ids."""
        self.set_payloads({number: dict(zip(_ORIGIN, values, strict=True)) for number, values in images.items()})

    def set_payloads(self, payloads: Mapping[int, Mapping[str, Any]]) -> None:
        """Set fields of images by their ids; None takes one away."""
        for part in _batches(payloads.items()):
            operations: list[Any] = []
            for number, fields in part:
                known = {key: value for key, value in fields.items() if value is not None}
                gone = [key for key, value in fields.items() if value is None]
                if known:
                    operations.append(
                        self._models.SetPayloadOperation(
                            set_payload=self._models.SetPayload(payload=known, points=[number])
                        )
                    )
                if gone:
                    operations.append(
                        self._models.DeletePayloadOperation(
                            delete_payload=self._models.DeletePayload(keys=gone, points=[number])
                        )
                    )
            with naming_errors(self.place):
                self._client.batch_update_points(self._name, update_operations=operations, wait=True)

    def remove(self, ids: Sequence[int], *, forget: bool = False) -> None:
        """Take images out; to forget them is not to take up files of the same content again."""
        for part in _batches(ids):
            if forget:  # first: what is not taken up again may be deleted
                self._bury([bytes.fromhex(point.payload["digest"]) for point in self._retrieve(part)])
            with naming_errors(self.place):
                self._client.delete(self._name, points_selector=self._models.PointIdsList(points=list(part)), wait=True)

    @property
    def _tombs(self) -> str:
        """The collection of the digests of forgotten images."""
        return f"{self._name}.forgotten"

    def _bury(self, digests: Sequence[bytes]) -> None:
        if not digests:
            return
        models = self._models
        with naming_errors(self.place):
            if not self._client.collection_exists(self._tombs):
                self._client.create_collection(
                    self._tombs, vectors_config=models.VectorParams(size=1, distance=models.Distance.DOT)
                )
            points = [models.PointStruct(id=str(uuid.UUID(bytes=digest)), vector=[1.0]) for digest in digests]
            self._client.upsert(self._tombs, points=points, wait=True)

    def _retrieve(self, ids: Sequence[int], *, with_vectors: bool = False) -> list[Any]:
        with naming_errors(self.place):
            return list(self._client.retrieve(self._name, list(ids), with_payload=True, with_vectors=with_vectors))

    def scroll(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Id and payload of every image."""
        offset = None
        while True:
            with naming_errors(self.place):
                points, offset = self._client.scroll(self._name, limit=_BATCH * 4, offset=offset, with_payload=True)
            yield from ((point.id, point.payload) for point in points)
            if offset is None:
                return

    def points(self, ids: Sequence[int]) -> Iterator[Point]:
        """Images with their vectors, in the order of the ids; those that do not exist are not among them."""
        for part in _batches(ids):
            found = {point.id: point for point in self._retrieve(part, with_vectors=True)}
            for point in (found[number] for number in part if number in found):
                fields = point.payload
                image = NewImage(
                    path=fields["path"], size=fields["size"], mtime_ns=fields["mtime_ns"],
                    digest=bytes.fromhex(fields["digest"]), **{key: fields.get(key) for key in _ORIGIN},
                )  # fmt: skip
                vector = np.array(point.vector, dtype=np.float32)
                yield Point(image, vector, fields.get("identity"), fields.get("name"), fields["added"])

    def records(self, ids: Iterable[int]) -> dict[int, Record]:
        """Images by their ids; those that do not exist are not among them."""
        return {point.id: _record(point.id, point.payload) for part in _batches(ids) for point in self._retrieve(part)}

    def all_records(self) -> list[Record]:
        """All images, by path."""
        return sorted((_record(*point) for point in self.scroll()), key=lambda record: record.path)

    def nearest(
        self, queries: Vectors, *, top: int, filters: Filters, exact: bool = True
    ) -> tuple[list[list[tuple[Record, float]]], int]:
        """For each query the nearest images with their similarities, and how many passed the filters.

        The filters are the server's, before the ranking. As on disk, a few more candidates than are wanted are ordered
        by similarities in float64, equal ones by their ids.

        Args:
            queries: (Q, D) unit vectors.
            top: images per query.
            filters: which images are searched.
            exact: compare with all images; otherwise by the server's graph of neighbours.

        Raises:
            InputError: ``top`` is below 1, the vectors have another length, or there is no such camera.
        """
        if top < 1:
            raise InputError(f"top: expected at least 1, got {top}")
        if queries.ndim != 2 or queries.shape[1] != self.card.dim:
            raise InputError(f"queries: expected vectors of {self.card.dim} dimensions, got the shape {queries.shape}")
        models, condition = self._models, self._filter(filters)
        with naming_errors(self.place):
            searched = int(self._client.count(self._name, count_filter=condition, exact=True).count)
        lists = []
        for part in pieces(len(queries), _QUERIES):
            requests = [
                models.QueryRequest(
                    query=query.tolist(), filter=condition, limit=top + SPARE_CANDIDATES, with_payload=True,
                    with_vector=True, params=models.SearchParams(exact=exact),
                )
                for query in queries[part]
            ]  # fmt: skip
            with naming_errors(self.place):
                answers = self._client.query_batch_points(self._name, requests=requests)
            for query, answer in zip(queries[part], answers, strict=True):
                points = sorted(answer.points, key=lambda point: int(point.id))
                vectors = np.array([point.vector for point in points], dtype=np.float32).reshape(-1, self.card.dim)
                values = exact_similarities(query, vectors)
                order = np.argsort(-values, kind="stable")[:top]
                lists.append(
                    [
                        (_record(points[row].id, points[row].payload), float(np.clip(values[row], -1, 1)))
                        for row in order
                    ]
                )
        return lists, searched

    def _filter(self, filters: Filters) -> Any:
        models, must = self._models, []
        if filters.cameras:
            must.append(models.FieldCondition(key="camera", match=models.MatchAny(any=list(filters.cameras))))
        if filters.after is not None or filters.before is not None:
            limits = models.Range(gte=filters.after, lte=filters.before)
            must.append(models.FieldCondition(key="time", range=limits))
        left_out = [models.HasIdCondition(has_id=list(filters.leave_out))] if filters.leave_out else []
        return models.Filter(must=must, must_not=left_out)


def _record(number: int, payload: Mapping[str, Any]) -> Record:
    return Record(int(number), payload["path"], *(payload.get(key) for key in (*_ORIGIN, "identity", "name")))


def _batches(items: Iterable[Any]) -> Iterator[list[Any]]:
    iterator = iter(items)
    while part := list(islice(iterator, _BATCH)):
        yield part
