"""Pictures of what was found in an index: ranked lists, and contact sheets of identities."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from reid_da.atomic import atomic_path
from reid_da.errors import InputError
from reid_da.images.blur import blur_head
from reid_da.images.decode import ImageError, decode_image
from reid_da.text import picture_text

_HEIGHT, _WIDTH = 128, 64
_GAP, _MARGIN, _LABEL, _TITLE = 10, 12, 28, 24
_LINE = 11
_DPI, _SCALE = 100, 2
_MOST_PIXELS = 30_000_000
_LONGEST_LINE = 12
_UNREADABLE_GREY = 200
MATCH, NO_MATCH, NEUTRAL = "#1a7f37", "#8a8a8a", "#404040"
"""Frames of images above the threshold, below it, and where there is none."""


class Tile(NamedTuple):
    """An image of a picture, with the lines below it and the colour of its frame."""

    path: str
    lines: tuple[str, ...] = ()
    colour: str = NEUTRAL


def draw_tiles(
    rows: Sequence[Sequence[Tile | None]],
    path: str | os.PathLike[str],
    *,
    title: str = "",
    legend: str = "",
    blur_faces: bool = False,
) -> None:
    """Write a PNG file with rows of images.

    Args:
        rows: from top to bottom; a file that cannot be read is a grey tile, None an empty place.
        path: the file.
        title: above the images.
        legend: below them.
        blur_faces: make the upper part of each crop unrecognisable.

    Raises:
        InputError: the picture would be too large.
    """
    columns = max((len(row) for row in rows), default=0)
    width = max(2 * _MARGIN + columns * (_WIDTH + _GAP), 420)
    step = _HEIGHT + _LABEL + _GAP
    height = 2 * _MARGIN + (2 if legend else 1) * _TITLE + len(rows) * step
    if width * height * _SCALE**2 > _MOST_PIXELS:
        raise InputError(f"a picture of {len(rows)} rows of {columns} images is too large; ask for fewer")
    canvas = np.full((height, width, 3), 255, dtype=np.uint8)
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_SCALE * _DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for number, row in enumerate(rows):
        top = _MARGIN + _TITLE + number * step
        for column, tile in enumerate(row):
            if tile is not None:
                _draw(axes, canvas, tile, _MARGIN + column * (_WIDTH + _GAP), top, blur_faces=blur_faces)
    axes.imshow(canvas, extent=(0, width, height, 0), interpolation="nearest", aspect="auto")
    axes.text(_MARGIN, _MARGIN, picture_text(title), fontsize=9, va="top")
    axes.text(_MARGIN, height - _MARGIN, picture_text(legend), fontsize=7, va="bottom")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")


def _draw(axes: Axes, canvas: NDArray[np.uint8], tile: Tile, left: int, top: int, *, blur_faces: bool) -> None:
    try:
        pixels = decode_image(Path(tile.path), size=(_HEIGHT, _WIDTH), interpolation="bilinear")
        canvas[top : top + _HEIGHT, left : left + _WIDTH] = blur_head(pixels) if blur_faces else pixels
    except ImageError:
        canvas[top : top + _HEIGHT, left : left + _WIDTH] = _UNREADABLE_GREY
    line = 4 if tile.colour == MATCH else 1.5
    frame = Rectangle((left - line / 2, top - line / 2), _WIDTH + line, _HEIGHT + line, fill=False)
    frame.set(edgecolor=tile.colour, linewidth=line * 72 / _DPI)
    axes.add_patch(frame)
    for number, text in enumerate(tile.lines):
        shown = text if len(text) <= _LONGEST_LINE else text[: _LONGEST_LINE - 1] + "…"
        place = (left + _WIDTH / 2, top + _HEIGHT + 5 + number * _LINE)
        axes.text(*place, picture_text(shown), fontsize=6, va="top", ha="center", color=tile.colour)
