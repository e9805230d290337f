"""Arguments that several commands take."""

from pathlib import Path
from typing import Annotated

import typer

from reid_da.errors import InputError

SameCamera = Annotated[
    str | None,
    typer.Option(
        help="'exclude' gallery images of the query's identity and camera, as papers do, or 'include' them; by default "
        "exclude, unless all images are by one camera or cameras are not known."
    ),
]
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


def check_data_given(model: str, data: Path | None, *, purpose: str) -> None:
    """Refuse a file of weights or a backbone without a data set, before its weights are read or even downloaded.

    A run knows its data; about what does not exist, loading it has more to say.

    Args:
        model: what names the model.
        data: the option ``--data``.
        purpose: what to do with the data, e.g. ``to search``.

    Raises:
        InputError: there is no data set.
    """
    from reid_da.models.backbones import BACKBONE_NAMES

    if data is None and (Path(model).is_file() or model in BACKBONE_NAMES) and not Path(model).is_dir():
        raise InputError(f"{model}: give the data set {purpose}, --data PATH")
