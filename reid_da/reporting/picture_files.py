"""Figures to files: the suffix decides the format."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reid_da.atomic import atomic_path
from reid_da.errors import InputError
from reid_da.text import picture_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = {".png": "png", ".svg": "svg", ".pdf": "pdf", ".jpg": "jpeg", ".jpeg": "jpeg"}
"""Formats of pictures by suffix."""
_OPTIONS: dict[str, dict[str, Any]] = {
    "svg": {"metadata": {"Date": None}},
    "pdf": {"metadata": {"CreationDate": None}},
    "jpeg": {"pil_kwargs": {"quality": 92}},
}
"""Of matplotlib; the same figure gives the same file whenever it is drawn."""
_SLIDE_INCHES, _SLIDE_DPI = (10, 5.625), 192
"""1920 x 1080 pixels, with fonts that can be read from the back of a room."""


def picture_format(path: str | os.PathLike[str]) -> str:
    """Format of a picture by the suffix of its file: ``png``, ``svg``, ``pdf`` or ``jpeg``.

    Raises:
        InputError: the suffix is not one of :data:`FORMATS`.
    """
    suffix = Path(path).suffix
    if suffix.lower() not in FORMATS:
        shown = f"suffix {suffix!r}" if suffix else "a name without a suffix"
        raise InputError(f"{path}: {shown} names no picture format; use {', '.join(FORMATS)}")
    return FORMATS[suffix.lower()]


def save_figure(
    figure: "Figure",
    path: str | os.PathLike[str],
    *,
    title: str | None = None,
    slide: bool = False,
    kind: str | None = None,
    **options: Any,
) -> None:
    """Write a figure in the format that the suffix of ``path`` names; a file that exists is replaced in one step.

    Args:
        figure: of matplotlib.
        path: the file.
        title: above the figure, in place of the one that it has; None: as it is.
        slide: lay the figure out anew on 1920 x 1080 pixels.
        kind: format; None: the one that the suffix names.
        options: for ``Figure.savefig``.

    Raises:
        InputError: the suffix names no format, or the file cannot be written.
    """
    chosen = kind or picture_format(path)
    if title is not None:
        figure.suptitle(picture_text(title), fontsize=13)
    if slide:
        figure.set_size_inches(*_SLIDE_INCHES)
        options["dpi"] = _SLIDE_DPI
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=chosen, **_OPTIONS.get(chosen, {}), **options)
