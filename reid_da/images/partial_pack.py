"""An unfinished packed file, which the next process completes if this one is killed."""

import errno
import json
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reid_da.atomic import naming, open_own, put_in_place
from reid_da.images.source import FailedImage


class PartialPack:
    """Pixels beside the place where they shall be, and a log of them: a line of JSON for what they are and each image.

    As a context it removes both files when an error ends it. A kill leaves them, and whoever opens the same pack again
    keeps the images whose checksums agree with the log, up to the first that does not.

    Attributes:
        checksums: CRC-32 of each image that is done.
        failed: those of them that could not be made, whose pixels are zero.
    """

    def __init__(self, path: Path, *, description: Mapping[str, Any], image_bytes: int) -> None:
        """Open what there is, or begin.

        Args:
            path: where the finished file goes.
            description: of the file; what was written for another one is dropped.
            image_bytes: of all views of an image.

        Raises:
            OSError: the files cannot be written.
        """
        self.checksums: list[int] = []
        self.failed: list[FailedImage] = []
        self._path = path
        self._pixels_path = path.with_name(f".{path.name}.part")
        self._log_path = path.with_name(f".{path.name}.part.log")
        self._header = json.dumps(description)
        self._image_bytes = image_bytes
        lines = self._recover()
        if not lines:
            # whatever lies there is not ours: new files, so that nothing is written through it
            self._pixels_path.unlink(missing_ok=True)
        self._log_path.unlink(missing_ok=True)
        with naming(self._path):
            self._log = open_own(self._log_path, "x", encoding="utf-8")
            self._log.writelines(f"{line}\n" for line in (self._header, *lines))
            self._log.flush()
            # unbuffered: what the log knows has been handed to the system before
            self._pixels = open_own(self._pixels_path, "r+b" if lines else "xb", buffering=0)
            self._pixels.truncate(len(self) * image_bytes)
            self._pixels.seek(0, 2)

    def __len__(self) -> int:
        return len(self.checksums)

    def __enter__(self) -> "PartialPack":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(OSError):  # on a full disk, closing tries to write once more
            self._log.close()
        self._pixels.close()
        if isinstance(error, Exception):
            self._pixels_path.unlink(missing_ok=True)
        if error is None or isinstance(error, Exception):
            self._log_path.unlink(missing_ok=True)

    def append(self, image: NDArray[np.uint8], *, failure: FailedImage | None = None) -> None:
        """Write the pixels of the next image, and why it could not be made if they only stand in for it."""
        pixels = np.ascontiguousarray(image).data
        checksum = zlib.crc32(pixels)
        line = json.dumps([checksum, *([failure.reason, failure.is_passing] if failure else [None, False])])
        with naming(self._path):
            self._write(pixels)
            self._log.write(line + "\n")
            self._log.flush()
        self._note(line)

    def finish(self, trailer: bytes) -> None:
        """Write what follows the pixels, and put the file in its place."""
        with naming(self._path):
            self._write(memoryview(trailer))
        put_in_place(self._pixels_path, self._path)

    def _write(self, content: memoryview) -> None:
        content = content.cast("B")
        while len(content):
            content = content[self._pixels.write(content) :]

    def _note(self, line: str) -> None:
        """Take over a line of the log.

        Raises:
            ValueError: it is not complete.
        """
        checksum, reason, is_passing = json.loads(line)
        if reason is not None:
            self.failed.append(FailedImage(index=len(self), reason=reason, is_passing=is_passing))
        self.checksums.append(checksum)

    def _recover(self) -> list[str]:
        """Lines of the log whose images are intact."""
        try:
            with open_own(self._log_path, "r", encoding="utf-8") as log:
                text: str = log.read()
            header, *lines = text.splitlines()
            if header != self._header:
                return []
            pixels = open_own(self._pixels_path, "rb")
        except (FileNotFoundError, ValueError):
            return []
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EINVAL, errno.ENXIO):  # a link, a folder, a device or a pipe
                return []
            raise
        with pixels:
            for number, line in enumerate(lines):
                content = pixels.read(self._image_bytes)
                try:
                    is_intact = len(content) == self._image_bytes and json.loads(line)[0] == zlib.crc32(content)
                    if not is_intact:
                        return lines[:number]
                    self._note(line)
                except (ValueError, LookupError, TypeError):
                    return lines[:number]
        return lines
