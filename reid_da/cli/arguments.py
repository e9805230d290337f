"""Arguments that several commands take."""

from typing import Annotated

import typer

from reid_da.errors import InputError

Size = Annotated[str | None, typer.Option(help="Height and width of the images, e.g. 256x128.")]


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Height and width of ``256x128``; None stays None.

    Raises:
        InputError: it is not of this form.
    """
    if text is None:
        return None
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise InputError(f"--size: expected height and width in pixels such as 256x128, got {text!r}")
    return int(height), int(width)
