"""Metrics of a run as TensorBoard events."""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from reid_da.errors import InputError

_GROUPS = ("loss", "neighbors", "slots", "lr")


class TensorBoardEvents:
    """Writes records of ``metrics.jsonl`` as scalars over the epochs, and the pictures that they name as images.

    The records are the truth and the events a copy of them: they are written anew whenever a run is resumed, so that
    no curve keeps what the resumed run forgot.

    Args:
        folder: takes the events; what is in it is removed.
        records: what was logged so far.
        pictures: folder to which the paths of pictures are relative.

    Raises:
        InputError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, records: Iterable[Mapping[str, Any]], *, pictures: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise InputError(
                "tensorboard: not installed; pip install 'reid-da[tensorboard]', or set tensorboard=false"
            ) from error
        shutil.rmtree(folder, ignore_errors=True)
        self._writer = SummaryWriter(folder)
        self._pictures = pictures
        for record in records:
            self.add(record)

    def add(self, record: Mapping[str, Any]) -> None:
        """Write the numbers of one record, or its picture, and see to it that a reader finds them."""
        kind, epoch = record["kind"], record["epoch"]
        for name, value in record.items():
            if name == "picture":
                self._add_picture(kind, self._pictures / value, epoch)
            elif name != "epoch" and value is not None and not isinstance(value, str):
                self._writer.add_scalar(_tag(kind, name), value, epoch)
        self._writer.flush()

    def _add_picture(self, tag: str, file: Path, epoch: int) -> None:
        # pictures of former epochs are the user's to remove; the curves do not depend on them
        if file.exists():
            with Image.open(file) as image:
                self._writer.add_image(tag, np.asarray(image.convert("RGB")), epoch, dataformats="HWC")


def _tag(kind: str, name: str) -> str:
    group, _, rest = name.partition("_")
    return f"{group}/{rest}" if group in _GROUPS else f"{kind}/{name}"
