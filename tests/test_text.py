"""Names of others on terminals, in spreadsheets and in pictures."""

import csv
import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from rich.console import Console

from reid_da.text import csv_cell, from_csv_cell, markup, picture_text, printable

ANY_TEXT = st.text(st.characters(), max_size=20)


@given(ANY_TEXT)
def test_nothing_printed_controls_a_terminal(text):
    shown = printable(text)
    assert not [character for character in shown if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")]
    shown.encode("utf-8")
    assert printable(shown) == shown


def test_what_is_left_alone_and_what_is_not():
    assert printable("Kamera ² 北京 é 👩‍🔬") == "Kamera ² 北京 é 👩‍🔬"
    assert printable("a\x1b]0;title\x07\nb\u202e\udce4") == r"a\x1b]0;title\x07\nb\u202e\xe4"
    assert printable("a\nb", keep_lines=True) == "a\nb"


def test_markup_is_printed_as_it_is():
    stream = io.StringIO()
    Console(file=stream, force_terminal=True, width=80).print(markup("[red]x[/] \x1b[31m"), highlight=False)
    assert stream.getvalue() == "[red]x[/] \\x1b[31m\n"


@given(ANY_TEXT)
def test_csv_cells_come_back(text):
    assert from_csv_cell(csv_cell(text)) == text


@pytest.mark.parametrize("text", ["=1+1", "+cmd|' /C calc'!A0", "@SUM(A1)", "-2+3", "\t=1", "'=1"])
def test_no_cell_is_a_formula(text):
    assert csv_cell(text) == "'" + text


@pytest.mark.parametrize("text", ["-1", "12", "+3.5", "c1", "it's", "'quoted'", ""])
def test_other_cells_stay(text):
    stream = io.StringIO()
    csv.writer(stream).writerow([csv_cell(text), ""])
    assert next(csv.reader([stream.getvalue()]))[0] == text


@pytest.mark.parametrize("name", [r"$\q$", "$", "a$b$c", "\udce4", "\x1b", "a_b^{"])
def test_pictures_take_any_name(name, tmp_path):
    figure = Figure()
    axes = figure.subplots()
    axes.plot([0, 1], label=picture_text(name))
    axes.set_title(picture_text(name))
    axes.set_xticks([0], [picture_text(name)])
    axes.legend()
    figure.savefig(tmp_path / "a.png")
    assert axes.get_title().count("$") == name.count("$")
