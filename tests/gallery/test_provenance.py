from pathlib import Path

import pytest

from reid_da.errors import InputError
from reid_da.gallery.provenance import Origin, origins, parse_time, stamp, time_text

ROOT = Path("crops")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-11-26T08:30:15", 1795681815.0),
        ("2026-11-26T08:30:15Z", 1795681815.0),
        ("2026-11-26T10:30:15+02:00", 1795681815.0),
        ("20261126083015", 1795681815.0),
        ("20261126_083015", 1795681815.0),
        ("1795681815.5", 1795681815.5),
        ("250", 10.0),
    ],
)
def test_times(text, seconds):
    fps = 25 if text == "250" else 1
    assert parse_time(text, fps=fps) == seconds


@pytest.mark.parametrize("text", ["", "noon", "2026-13-40T99:00:00", "1e9", "nan", "inf", "٣", "9" * 40])
def test_what_is_no_time(text):
    with pytest.raises(InputError, match="is no time"):
        parse_time(text)


def test_stamps_in_names():
    assert stamp("cam1_2026-11-26_08-30-15_0042.jpg") == 1795681815.0
    assert stamp("20269926083015.jpg") is None
    assert stamp("c1s1_000451_03.jpg") is None
    assert stamp("120261126083015.jpg") is None


def test_times_as_text():
    assert time_text(1795681815.0) == "2026-11-26 08:30:15"
    assert time_text(12.5) == "12.5 s"
    assert time_text(None) == time_text(float("nan")) == ""
    assert time_text(1e300) == "1e+300 s"


def test_names_folders_and_patterns():
    assert origins(ROOT, ["0007_c03_f1.jpg", "0000_c2_f1.jpg"])[0] == [Origin("3"), Origin("2")]
    assert origins(ROOT, ["cam01/20261126083015.jpg"])[0] == [Origin("cam01", 1795681815.0)]
    assert origins(ROOT, ["gate/a.jpg", "hall/b.jpg"], layout="camera-folders")[0] == [Origin("gate"), Origin("hall")]
    assert origins(ROOT, ["a.jpg", "b.jpg"])[0] == [Origin(), Origin()]
    pattern = r"(?P<camera>\w)-(?P<time>\d+)-(?P<track>\w+)"
    assert origins(ROOT, ["x/g-50-t1.jpg"], pattern=pattern, fps=25)[0] == [Origin("g", 2.0, "t1")]


def test_what_names_do_not_tell_is_asked():
    with pytest.raises(InputError, match="--layout camera-folders"):
        origins(ROOT, ["gate/a.jpg", "hall/b.jpg"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": "("}, "not a regular expression"),
        ({"pattern": r"(?P<pid>\d+)"}, "has the groups"),
        ({"pattern": r"(?P<camera>z)"}, "do not match"),
        ({"pattern": r"(?P<time>\w+)"}, "is no time"),
        ({"pattern": r"(?P<camera>a)", "layout": "flat"}, "give one of"),
        ({"layout": "folders"}, "unknown layout"),
        ({"fps": 0}, "above 0"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(InputError, match=message):
        origins(ROOT, ["a.jpg"], **options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("camera\n1", "no column path"),
        ("path,camera\na.jpg", "as many fields"),
        ("path,time\na.jpg,noon", "row 1: 'noon' is no time"),
        ("path,camera\nb.jpg,1", "no row for 1 of 1 images: a.jpg"),
        ("path\n\xff", "has no row"),
        (None, "No such file"),
    ],
)
def test_tables_that_do_not_fit(tmp_path, text, message):
    table = tmp_path / "table.csv"
    if text is not None:
        table.write_text(text)
    with pytest.raises(InputError, match=message):
        origins(tmp_path, ["a.jpg"], table=table)


def test_a_formula_guard_is_taken_away(tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("path,camera,time\na.jpg,'=gate,3\n")
    assert origins(tmp_path, ["a.jpg"], table=table)[0] == [Origin("=gate", 3.0)]
