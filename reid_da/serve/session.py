"""An index as a server uses it: one snapshot for many requests, one connection, one writer at a time."""

import io
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from reid_da.errors import InputError
from reid_da.gallery import identities
from reid_da.gallery.choice import choose_threshold
from reid_da.gallery.embedder import Embedder, embedder_of
from reid_da.gallery.find import make_filters
from reid_da.gallery.listing import summary
from reid_da.gallery.search import Answers, answers, nearest
from reid_da.gallery.store import Gallery, Snapshot
from reid_da.gallery.threshold import stored
from reid_da.gallery.vectors import Vectors
from reid_da.images.blur import blur_head
from reid_da.images.decode import ImageError, decode_content, read_image

T = TypeVar("T")

UPLOAD_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
"""Formats that uploads may have; none of them runs programs or reads other files."""
MOST_HITS = 200
_THUMBNAIL = (256, 128)


class Session:
    """An open index with its model; safe to use from several threads.

    Args:
        path: the index.
        model: where its model is, if it has moved.
        device: where the model computes.
        max_pixels: of an upload.
        blur_faces: blur what is shown.

    Raises:
        InputError: the index or its model cannot be used.
    """

    def __init__(
        self,
        path: Path,
        *,
        model: str | None = None,
        device: str = "auto",
        max_pixels: int = 2**24,
        blur_faces: bool = False,
        embedder: Embedder | None = None,
    ) -> None:
        self.gallery = Gallery(path, across_threads=True)
        try:
            self.embedder = embedder or embedder_of(self.gallery, model=model, device=device)
        except BaseException:
            self.gallery.close()
            raise
        self._max_pixels, self._blur_faces = max_pixels, blur_faces
        self._database, self._network = threading.RLock(), threading.Lock()
        self._snapshot: tuple[tuple[int, int], Snapshot] | None = None

    def close(self) -> None:
        """Close the index."""
        with self._database:
            self.gallery.close()

    def snapshot(self) -> Snapshot:
        """The images as they are now, read again when somebody has written."""
        with self._database:
            state = self.gallery.state
            if self._snapshot is None or self._snapshot[0] != state:
                self._snapshot = state, self.gallery.snapshot()
            return self._snapshot[1]

    def embed(self, content: bytes, camera: str | None = None) -> Vectors:
        """(1, D) vector of an uploaded image.

        Args:
            content: of its file.
            camera: that took it, for an index that is centred or normalised by camera; None if not known.

        Raises:
            ImageError: it is none, is too large, or of a format that is not read.
            InputError: the camera makes no difference to this index.
        """
        if camera is not None:
            self.embedder.check_camera(camera)
        if not content:
            raise ImageError("empty")
        pixels = self.embedder.decode(content, max_pixels=self._max_pixels, formats=UPLOAD_FORMATS)
        with self._network:
            return self.embedder(pixels[None], [camera])

    def vector_of(self, image: int) -> Vectors:
        """(1, D) vector of an indexed image.

        Raises:
            KeyError: there is no such image.
        """
        snapshot = self.snapshot()
        row = int(np.searchsorted(snapshot.ids, image))
        if row == len(snapshot) or snapshot.ids[row] != image:
            raise KeyError(image)
        return snapshot.vectors(np.array([row]))

    def search(
        self,
        query: Vectors,
        name: str,
        *,
        top: int = 20,
        fpr: float | None = None,
        threshold: float | None = None,
        cameras: Sequence[str] = (),
        after: str | None = None,
        before: str | None = None,
        leave_out: Sequence[int] = (),
    ) -> Answers:
        """The nearest images of a query.

        Raises:
            InputError: a filter, a rate or a threshold cannot be used.
        """
        filters = make_filters(cameras=cameras, after=after, before=before, leave_out=leave_out)
        snapshot = self.snapshot()
        found = nearest(snapshot, query, top=min(top, MOST_HITS), filters=filters)
        with self._database:
            chosen = choose_threshold(self.gallery, self.embedder.model, fpr=fpr, threshold=threshold)
            return answers(
                self.gallery, snapshot, found, [name], threshold=chosen.threshold, fpr=chosen.fpr, source=chosen.source
            )

    def thumbnail(self, image: int) -> bytes:
        """JPEG of an indexed image; its path comes from the index, never from a request.

        Raises:
            KeyError: there is no such image.
            ImageError: its file cannot be read.
        """
        with self._database:
            record = self.gallery.records([image]).get(image)
        if record is None:
            raise KeyError(image)
        pixels = decode_content(read_image(Path(record.path)), size=_THUMBNAIL, interpolation="bilinear")
        if self._blur_faces:
            pixels = blur_head(pixels)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG", quality=85)
        return stream.getvalue()

    def statistics(self) -> dict[str, Any]:
        """The index in figures, without the paths of this machine.

        Beside them the rates that have a threshold, and the cameras that a query can be told to be of.
        """
        with self._database:
            figures = summary(self.gallery).to_json()
            return {
                **figures,
                "model": Path(figures["model"]).name,
                "thresholds": self._thresholds(),
                "query_cameras": self.embedder.camera_names,
            }

    def _thresholds(self) -> list[dict[str, Any]]:
        """Threshold of each false positive rate that there is one for, by the calibration of the run or the index."""
        rates: dict[float, dict[str, Any]] = {}
        found = stored(self.gallery)
        for point in found.points if found else ():
            if point.threshold is not None:
                rates[point.fpr] = {"fpr": point.fpr, "threshold": point.threshold, "source": "index"}
        try:
            # a run is calibrated without centring
            points = () if self.gallery.card.center_cameras else self.embedder.model.calibration.resolved_points
            for calibrated in points:
                rates[calibrated.fpr] = {
                    "fpr": calibrated.fpr, "threshold": calibrated.threshold, "source": "calibration",
                }  # fmt: skip
        except InputError:
            pass  # the run is not calibrated
        return [rates[fpr] for fpr in sorted(rates, reverse=True)]

    def identities(self) -> list[dict[str, Any]]:
        """All identities with some of their images."""
        with self._database:
            listed = identities.identities(self.gallery)
            return [identity._asdict() for identity in listed]

    def images_of(self, identity: int) -> list[dict[str, Any]]:
        """Images of an identity by camera and time.

        Raises:
            KeyError: there is no such identity.
        """
        with self._database:
            records = self.gallery.all_records("WHERE identity = ?", (identity,))
        if not records:
            raise KeyError(identity)
        ordered = sorted(records, key=lambda record: (record.camera or "", record.time or 0, record.id))
        return [record._asdict() for record in ordered]

    def change(self, operation: Callable[[Gallery], T]) -> T:
        """Run an operation that writes.

        Raises:
            BlockingIOError: another process writes.
            InputError: the operation cannot be done.
        """
        with self._database:
            return operation(self.gallery)
