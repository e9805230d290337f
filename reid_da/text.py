"""Names that others have chosen, written where they can do no harm: a terminal, a spreadsheet, a picture."""

import re

from rich.markup import escape

_CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # C0 and C1 controls, among them ESC and CSI
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # direction of the text
    "\u2028\u2029\ufeff"  # line and paragraph separators, byte order mark
    "\ud800-\udfff]"  # bytes of a file name that are not UTF-8
)
_FORMULA = re.compile(r"[=+\-@\t\r]")
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")


def printable(text: object, *, keep_lines: bool = False) -> str:
    r"""The text with control characters as escapes such as ``\x1b``, so that a terminal does not obey them.

    Args:
        text: any object, as ``str`` gives it.
        keep_lines: leave line feeds as they are.
    """
    return _CONTROLS.sub(lambda match: _escaped(match.group(), keep_lines=keep_lines), str(text))


def _escaped(character: str, *, keep_lines: bool) -> str:
    if character == "\n" and keep_lines:
        return character
    if "\udc80" <= character <= "\udcff":  # how Python stands in for a byte of a file name
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def markup(text: object, *, keep_lines: bool = False) -> str:
    """:func:`printable` text that rich prints as it is, square brackets included."""
    return escape(printable(text, keep_lines=keep_lines))


def size_text(count: int) -> str:
    """A number of bytes in the largest unit of which there is one: ``1.5 GB``."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


def picture_text(text: object) -> str:
    """:func:`printable` text for a picture: matplotlib takes what stands between two dollar signs for a formula."""
    return printable(text, keep_lines=True).replace("$", r"\$")


def csv_cell(text: str) -> str:
    """The text as a cell that spreadsheets do not take for a formula: such a one gets an apostrophe in front.

    Numbers stay as they are. :func:`from_csv_cell` takes the apostrophe away again.
    """
    is_formula = _FORMULA.match(text.lstrip("'")) is not None and not _NUMBER.fullmatch(text)
    return f"'{text}" if is_formula else text


def from_csv_cell(cell: str) -> str:
    """The text that :func:`csv_cell` was given."""
    text = cell[1:]
    return text if cell.startswith("'") and csv_cell(text) == cell else cell
