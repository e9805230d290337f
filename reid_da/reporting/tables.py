"""Tables as rows first, rendered afterwards: terminal, Markdown, HTML, CSV.

Names in cells, headings and notes come from file names and settings of others. Each renderer escapes what its medium
would obey: control characters, Markdown, HTML, formulas of spreadsheets. Who makes a table escapes nothing.
"""

import csv
import html
import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table as RichTable
from rich.text import Text

from reid_da.text import csv_cell, printable

_ABSENT = "-"
_MARKDOWN = re.compile(r"[\\`*\[\]<>|&~$]|(?<![^\W_])_|_(?![^\W_])")
"""What Markdown would obey; an underscore inside a word is none of it."""
_GAP = 2
"""Spaces between two columns of a terminal."""


@dataclass(frozen=True)
class Spread:
    """A mean with a standard deviation."""

    mean: float
    std: float


Cell: TypeAlias = str | float | Spread | None
"""A text, a count (int), a figure, or None where there is none."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """How the cells of a column are written.

    Attributes:
        heading: above it; may be empty.
        align: of the text; numbers go to the right.
        form: format of a figure, for ``str.format``. Counts always have separators of thousands.
        unit: of the figures, for CSV, which has no notes.
    """

    heading: str
    align: Literal["left", "right"] = "right"
    form: str = "{:.1f}"
    unit: str = ""

    def text(self, cell: Cell, *, plus_minus: str = " ± ") -> str:
        """A cell as people read it, nothing escaped."""
        if cell is None:
            return _ABSENT
        if isinstance(cell, str):
            return cell
        if isinstance(cell, Spread):
            return f"{self.form.format(cell.mean)}{plus_minus}{self.form.format(cell.std)}"
        return f"{cell:,}" if isinstance(cell, int) else self.form.format(cell)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table.

    Attributes:
        cells: one for each column.
        style: ``dim`` for what was not measured or is of less weight, ``bold`` for a result.
    """

    cells: Sequence[Cell]
    style: Literal["", "dim", "bold"] = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table that knows nothing of the medium; rich prints it as it is.

    Attributes:
        columns: from left to right.
        rows: from top to bottom.
        title: above the table.
        notes: below it, each in lines of its own.

    Raises:
        ValueError: a row has more or fewer cells than there are columns.
    """

    columns: Sequence[Column]
    rows: Sequence[Row]
    title: str = ""
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row.cells) != len(self.columns):
                raise ValueError(f"expected {len(self.columns)} cells, got {row.cells}")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """For rich: title and notes take the width of the terminal, however narrow the table is."""
        if self.title:
            yield _line(self.title, "table.title")
        is_wide = _width(self) > options.max_width
        # beside each other where there is room, else one below the other
        yield _rich_table(self, plus_minus="\n±" if is_wide else " ± ")
        for note in self.notes:
            yield _line(note, "table.caption")


def column_names(first: str, *others: str) -> list[Column]:
    """Columns with nothing but a heading: names in the first, figures in the others."""
    return [Column(heading=first, align="left"), *(Column(heading=name) for name in others)]


def apart(blocks: Iterable[RenderableType]) -> Group:
    """For a terminal: the blocks with an empty line between each two."""
    parts = [item for block in blocks for item in (Text(), block)]
    return Group(*parts[1:])


def to_markdown(table: Table) -> str:
    """The table as GitHub-flavoured Markdown, its notes in a paragraph below."""
    headings, *lines = _texts(table, _markdown)
    rule = ["---:" if column.align == "right" else "---" for column in table.columns]
    title = [f"**{_markdown(table.title)}**", ""] if table.title else []
    notes = ["", "; ".join(map(_markdown, table.notes))] if table.notes else []
    return "\n".join([*title, *(f"| {' | '.join(cells)} |" for cells in (headings, rule, *lines)), *notes, ""])


def to_html(table: Table) -> str:
    """The table as an element ``table`` of HTML, its notes in a paragraph below; no style but the alignment."""
    headings, *lines = _texts(table, _html)
    aligned = [f' style="text-align: {column.align}"' for column in table.columns]
    head = "".join(f'<th scope="col"{style}>{cell}</th>' for cell, style in zip(headings, aligned, strict=True))
    parts = ["<table>", f"<caption>{_html(table.title)}</caption>" if table.title else "", f"<thead><tr>{head}</tr>"]
    parts += ["</thead>", "<tbody>"]
    for row, cells in zip(table.rows, lines, strict=True):
        data = "".join(f"<td{style}>{cell}</td>" for cell, style in zip(cells, aligned, strict=True))
        parts.append(f'<tr class="{row.style}">{data}</tr>' if row.style else f"<tr>{data}</tr>")
    parts += ["</tbody>", "</table>"]
    if table.notes:
        parts.append(f'<p class="notes">{"<br>".join(map(_html, table.notes))}</p>')
    return "\n".join(part for part in parts if part) + "\n"


def to_csv(table: Table) -> str:
    """The table as CSV for programs: figures of 10 digits, deviations in columns of their own, no title, no notes."""
    spread = [any(isinstance(row.cells[at], Spread) for row in table.rows) for at in range(len(table.columns))]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    headings: list[str] = []
    for column, is_spread in zip(table.columns, spread, strict=True):
        unit = f" ({column.unit})" if column.unit else ""
        headings += [f"{column.heading}{unit}", *([f"{column.heading} std{unit}"] if is_spread else [])]
    writer.writerow([csv_cell(printable(heading)) for heading in headings])
    for row in table.rows:
        cells: list[str] = []
        for cell, is_spread in zip(row.cells, spread, strict=True):
            mean, std = (cell.mean, cell.std) if isinstance(cell, Spread) else (cell, None)
            cells += [_csv(mean), *([_csv(std)] if is_spread else [])]
        writer.writerow(cells)
    return stream.getvalue()


def _texts(table: Table, escape: Callable[[str], str], *, plus_minus: str = " ± ") -> list[list[str]]:
    """Headings, then the cells of each row, as text of the medium."""
    lines = [[escape(column.heading) for column in table.columns]]
    for row in table.rows:
        cells = zip(table.columns, row.cells, strict=True)
        texts = [(column.text(cell, plus_minus=plus_minus), isinstance(cell, str)) for column, cell in cells]
        # figures are safe, and the line break of a deviation has to stay one
        lines.append([escape(text) if is_name else text for text, is_name in texts])
    return lines


def _width(table: Table) -> int:
    """Columns of a terminal that the table takes with each cell in one line."""
    widths = (max(map(cell_len, texts)) for texts in zip(*_texts(table, printable), strict=True))
    return sum(widths) + _GAP * (len(table.columns) - 1)


def _rich_table(table: Table, *, plus_minus: str) -> RichTable:
    headings, *lines = _texts(table, printable, plus_minus=plus_minus)
    drawn = RichTable(box=None, show_edge=False, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for column, heading in zip(table.columns, headings, strict=True):
        # the default for a narrow terminal cuts digits off
        drawn.add_column(Text(heading), justify=column.align, overflow="fold")
    for row, cells in zip(table.rows, lines, strict=True):
        drawn.add_row(*map(Text, cells), style=row.style or None)
    return drawn


def _line(text: str, style: str) -> Text:
    return Text(printable(text), style=style, overflow="fold")


def _markdown(text: str) -> str:
    return _MARKDOWN.sub(lambda match: f"\\{match.group()}", printable(text))


def _html(text: str) -> str:
    return html.escape(printable(text))


def _csv(cell: str | float | None) -> str:
    if cell is None:
        return ""
    return csv_cell(printable(cell)) if isinstance(cell, str) else f"{cell:.10g}"
