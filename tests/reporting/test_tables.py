"""The same rows on a terminal and as Markdown, HTML and CSV; what each medium would obey is text in all of them."""

import csv
import io
import re
import unicodedata
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from reid_da.reporting.tables import Column, Row, Spread, Table, apart, to_csv, to_html, to_markdown

EVIL = "\x1b]0;t\x07|[red]x[/red]`<b>&amp;_a_*b*\n=1+1"
SHOWN = r"\x1b]0;t\x07|[red]x[/red]`<b>&amp;_a_*b*\n=1+1"
LONG_NOTE = "a note that is a good deal longer than the table is wide, so that it shows where it is wrapped"


def table(name: str = "e+c", **changes: object) -> Table:
    return Table(
        **{
            "columns": [Column(heading="row", align="left"), Column(heading="mAP", unit="%"), Column(heading="images")],
            "rows": [
                Row(cells=[name, Spread(1234.5678, 2.25), 12345]),
                Row(cells=["source", 31.25, None], style="dim"),
            ],
            **changes,
        }
    )


def text(shown: object, *, width: int = 80, colour: bool = False) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, force_terminal=colour).print(shown)
    return stream.getvalue()


def lines(shown: object, *, width: int = 80) -> list[str]:
    return [line.rstrip() for line in text(shown, width=width).splitlines()]


def test_a_deviation_stands_beside_its_mean_where_there_is_room():
    assert lines(table(), width=28) == [
        "row              mAP  images",
        "e+c     1234.6 ± 2.2  12,345",
        "source          31.2       -",
    ]
    assert lines(table(), width=27) == [
        "row        mAP  images",
        "e+c     1234.6  12,345",
        "          ±2.2",
        "source    31.2       -",
    ]


@pytest.mark.parametrize("width", [40, 60, 200])
def test_title_and_notes_have_the_width_of_the_terminal(width):
    shown = lines(table(title=LONG_NOTE, notes=[LONG_NOTE, "second"]), width=width)
    at = next(number for number, line in enumerate(shown) if line.startswith("row "))
    title, notes = shown[:at], shown[at + 3 :]

    assert notes == [*title, "second"]
    assert " ".join(title) == LONG_NOTE
    # no line could have taken the first word of the next one
    assert all(len(f"{line} {after.split()[0]}") > width for line, after in pairwise(title))


def test_styles_are_those_of_the_row_alone():
    shown = text(table(), colour=True).splitlines()
    assert shown[1].startswith("e+c")
    assert shown[2].startswith("\x1b[2msource")


def test_markdown():
    assert to_markdown(table(title="a_b", notes=["first", "second"])).splitlines() == [
        "**a_b**",
        "",
        "| row | mAP | images |",
        "| --- | ---: | ---: |",
        "| e+c | 1234.6 ± 2.2 | 12,345 |",
        "| source | 31.2 | - |",
        "",
        "first; second",
    ]


def test_csv_has_figures_and_deviations_in_columns():
    assert list(csv.reader(io.StringIO(to_csv(table(title="t", notes=["n"]))))) == [
        ["row", "mAP (%)", "mAP std (%)", "images"],
        ["e+c", "1234.5678", "2.25", "12345"],
        ["source", "31.25", "", ""],
    ]


class Page(HTMLParser):
    """Tags and texts of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        if data.strip():
            self.texts.append(data)


def test_html():
    page = to_html(table(title="t", notes=["first", "second"]))
    parsed = Page(page)
    cells = ["row", "mAP", "images", "e+c", "1234.6 ± 2.2", "12,345", "source", "31.2", "-"]
    assert parsed.texts == ["t", *cells, "first", "second"]
    assert parsed.tags.count("tr") == 3
    assert '<tr class="dim"><td style="text-align: left">source</td>' in page


def test_names_are_text_everywhere():
    evil = table(
        EVIL, title=EVIL, notes=[EVIL], columns=[Column(heading=EVIL), Column(heading="="), Column(heading="")]
    )

    assert text(evil, width=300).count(SHOWN) == 4
    assert "\x1b" not in text(evil, width=300)
    page = to_html(evil)
    assert Page(page).tags == Page(to_html(table("a", title="b", notes=["c"]))).tags
    assert Page(page).texts.count(SHOWN) == 4
    assert "\x1b" not in page
    header, first, _ = csv.reader(io.StringIO(to_csv(evil)))
    assert header[:2] == [SHOWN, "'="]
    assert first[0] == SHOWN
    assert next(csv.reader(io.StringIO(to_csv(table("=1+1")).split("\n")[1])))[0] == "'=1+1"


def test_markdown_of_names_is_text():
    rendered = to_markdown(table(EVIL)).splitlines()
    assert len(rendered) == 4
    # every character that Markdown would obey has a backslash in front
    assert r"\|\[red\]x\[/red\]\`\<b\>\&amp;\_a\_\*b\*" in rendered[2]
    assert len(re.findall(r"(?<!\\)\|", rendered[2])) == 4
    assert "| memory.num_neighbors=6 |" in to_markdown(table("memory.num_neighbors=6"))


@given(st.text(st.characters(), max_size=12))
def test_no_name_changes_the_shape(name):
    evil = table(name)
    assert len(list(csv.reader(io.StringIO(to_csv(evil))))) == 3
    assert len(to_markdown(evil).split("\n")) == 5
    assert Page(to_html(evil)).tags == Page(to_html(table("a"))).tags
    shown = text(evil, width=200)
    assert shown.count("\n") == 3
    assert not [c for c in shown.replace("\n", "") if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]


def test_a_row_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="expected 3 cells"):
        table(rows=[Row(cells=["a", 1])])


def test_blocks_are_apart():
    assert lines(apart([table(), table()]))[3:5] == ["", lines(table())[0]]
