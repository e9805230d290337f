"""A page that is one file: HTML with its pictures inside, no script, nothing from a network."""

import base64
import html
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files

import jinja2
import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from reid_da.datasets import SampleTable
from reid_da.images.blur import blur_head
from reid_da.images.decode import decode_row
from reid_da.images.source import FailedImage
from reid_da.reporting.tables import Table, to_html
from reid_da.text import printable

CROP_SIZE = (128, 64)
"""Height and width in pixels of the crops in a page."""
_CROP_QUALITY, _PICTURE_QUALITY = 62, 85
_MOST_CROPS = 4096
_PANORAMA = 1.7
"""Width over height from which a picture scrolls in a narrow window."""


@dataclass(kw_only=True)
class Section:
    """A part of a page: a title, and blocks of HTML below it."""

    title: str
    blocks: list[Markup] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        """The name that the list of contents leads to."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")

    def paragraph(self, text: str, *, kind: str = "") -> None:
        """Add a paragraph; ``kind`` may be ``dim``."""
        attribute = f' class="{kind}"' if kind else ""
        self.blocks.append(Markup(f"<p{attribute}>{_escaped(text)}</p>"))

    def heading(self, text: str) -> None:
        """Add a heading below that of the section."""
        self.blocks.append(Markup(f"<h3>{_escaped(text)}</h3>"))

    def table(self, table: Table, *, is_wide: bool = False) -> None:
        """Add a table that scrolls in itself where the window is too narrow."""
        kind = "scroll wide" if is_wide else "scroll"
        self.blocks.append(Markup(f'<div class="{kind}" tabindex="0">{to_html(table)}</div>'))

    def items(self, lines: Sequence[str]) -> None:
        """Add a list."""
        inside = "".join(f"<li>{_escaped(line)}</li>" for line in lines)
        self.blocks.append(Markup(f"<ul>{inside}</ul>"))

    def figure(self, figure: Figure, *, text: str, is_dense: bool = False) -> None:
        """Add a picture: as SVG, or as WebP where it has thousands of parts.

        Args:
            figure: the picture.
            text: what it shows, below it and for those who cannot see it.
            is_dense: whether to make pixels of it.
        """
        source = _webp_of(figure) if is_dense else _svg_of(figure)
        shown = _escaped(text)
        width, height = figure.get_size_inches()
        # on a phone it would be too small to read
        kind = ' class="scroll panorama" tabindex="0"' if width > _PANORAMA * height else ""
        self.blocks.append(
            Markup(f'<figure{kind}><img src="{source}" alt="{shown}"><figcaption>{shown}</figcaption></figure>')
        )


@dataclass(frozen=True, kw_only=True)
class Crop:
    """An image of a table in a page, with a line below it; ``kind`` is ``right``, ``wrong`` or nothing."""

    row: int
    text: str
    kind: str = ""


class Crops:
    """Images of a table as elements of HTML; each is decoded once."""

    def __init__(self, table: SampleTable, *, blur_faces: bool = False) -> None:
        self._table, self._blur = table, blur_faces
        self._source = lru_cache(maxsize=_MOST_CROPS)(self._encoded)

    def element(self, crop: Crop) -> Markup:
        """The image, framed by its kind."""
        source = self._source(crop.row)
        image = f'<img src="{source}" alt="">' if source else '<span class="gone"></span>'
        return Markup(f'<div class="crop {crop.kind}">{image}{_escaped(crop.text)}</div>')

    def row(self, crops: Sequence[Crop], *, name: str = "") -> Markup:
        """Images in lines, which break where the window ends."""
        heading = f'<div class="name">{_escaped(name)}</div>' if name else ""
        inside = Markup("").join(map(self.element, crops))
        return Markup(f'<div class="list">{heading}{inside}</div>')

    def _encoded(self, row: int) -> str:
        pixels = decode_row(self._table, row, size=CROP_SIZE, interpolation="bilinear")
        if isinstance(pixels, FailedImage):
            return ""
        image = Image.fromarray(blur_head(pixels) if self._blur else pixels)
        return _webp(image, quality=_CROP_QUALITY)


def query_block(query: Markup, lists: Sequence[Markup]) -> Markup:
    """A query beside the lists of several models."""
    inside = Markup("").join(lists)
    return Markup(f'<div class="query"><div class="list">{query}</div><div class="lists">{inside}</div></div>')


def sheet_block(sheets: Mapping[str, Markup]) -> Markup:
    """Contact sheets by title, beside each other where there is room."""
    inside = "".join(f'<div class="sheet"><h3>{_escaped(title)}</h3>{body}</div>' for title, body in sheets.items())
    return Markup(f'<div class="sheets">{inside}</div>')


def render(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """The page as text."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    source = files("reid_da.reporting").joinpath("page.html.j2").read_text(encoding="utf-8")
    shown = [section for section in sections if section.blocks]
    return environment.from_string(source).render(title=printable(title), subtitle=printable(subtitle), sections=shown)


def _escaped(text: str) -> str:
    return html.escape(printable(text))


def _svg_of(figure: Figure) -> str:
    stream = io.BytesIO()
    # text stays text: small, and legible at any size; a fixed salt: the same picture gives the same file
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "reid-da"}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _webp_of(figure: Figure) -> str:
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return _webp(Image.open(stream).convert("RGB"), quality=_PICTURE_QUALITY)


def _webp(image: Image.Image, *, quality: int) -> str:
    stream = io.BytesIO()
    image.save(stream, format="webp", quality=quality)
    return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}"
