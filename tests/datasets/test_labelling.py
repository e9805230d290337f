"""Labelling a few people by hand, and patterns that are suggested for names that no layout fits."""

import csv
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from reid_da.datasets import import_folder, load_dataset
from reid_da.datasets.labelling import write_template
from reid_da.datasets.patterns import suggested_pattern
from reid_da.errors import InputError


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    """Two unlabelled cameras of six images each, with a name that HTML and URLs would misread."""
    for camera in ("cam1", "cam2"):
        (tmp_path / "crops" / camera).mkdir(parents=True)
        for number in (1, 2, 3, 10, 11, 12):
            name = f"{number} & 'x'#.png" if number == 3 else f"{number}.png"
            Image.new("RGB", (32, 64), (number, number, number)).save(tmp_path / "crops" / camera / name)
    return tmp_path / "crops"


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def label(file: Path, people: dict[str, str]) -> None:
    """Fill in the column pid, as somebody would in a spreadsheet."""
    found = rows(file)
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(found[0]))
        writer.writeheader()
        writer.writerows({**row, "pid": people.get(row["path"], "")} for row in found)


def test_a_filled_in_table_becomes_a_test_set_that_keeps_the_names(crops: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    assert write_template(crops, table) == 12
    assert [Path(row["path"]).stem for row in rows(table)][:6] == ["1", "2", "3 & 'x'#", "10", "11", "12"]
    people = {f"crops/cam{camera}/{number}.png": name for camera in (1, 2) for number, name in ((1, "eve"), (2, "ada"))}
    label(table, people)
    manifest = import_folder(table, output=tmp_path / "test.csv", test_share=1.0)
    dataset = load_dataset(manifest)
    assert (len(dataset.train), len(dataset.query), len(dataset.gallery)) == (8, 2, 2)
    assert dataset.person_names == {1: "ada", 2: "eve"}
    assert dataset.camera_names == ("cam1", "cam2")
    assert {row["pid"] for row in rows(manifest)} == {"", "ada", "eve"}
    assert all(path.is_file() for split in dataset.splits.values() for path in map(split.path, range(len(split))))


def test_a_table_in_another_folder_names_its_images_all_the_same(crops: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    write_template(crops, tmp_path / "elsewhere" / "labels.csv", per_camera=2)
    assert len(load_dataset(tmp_path / "elsewhere" / "labels.csv").train) == 4
    people = {row["path"]: f"p{number // 2}" for number, row in enumerate(rows(tmp_path / "elsewhere" / "labels.csv"))}
    label(tmp_path / "elsewhere" / "labels.csv", people)
    with pytest.raises(InputError, match=r"labels\.csv: is the table to import; name another file with -o"):
        import_folder(
            tmp_path / "elsewhere" / "labels.csv", output=tmp_path / "elsewhere" / "labels.csv", overwrite=True
        )
    with pytest.raises(InputError, match="no identity of the test half was seen by two cameras"):
        import_folder(tmp_path / "elsewhere" / "labels.csv", output=tmp_path / "t.csv", test_share=1.0)
    with pytest.raises(InputError, match="leave layout and pattern out"):
        import_folder(tmp_path / "elsewhere" / "labels.csv", output=tmp_path / "t.csv", layout="flat")


class Images(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.sources.append(unquote(dict(attrs)["src"] or ""))


def test_the_page_shows_the_images_in_the_order_of_the_table(crops: Path, tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    page = tmp_path / "pages" / "labels.html"
    write_template(crops, tmp_path / "labels.csv", page=page)
    parser = Images()
    parser.feed(page.read_text())
    shown = [(page.parent / source).resolve() for source in parser.sources]
    assert shown == [(tmp_path / row["path"]).resolve() for row in rows(tmp_path / "labels.csv")]
    assert all(path.is_file() for path in shown)
    with pytest.raises(InputError, match="labels.csv: exists, and may hold labels"):
        write_template(crops, tmp_path / "labels.csv")
    with pytest.raises(InputError, match="x.txt: is written as CSV; name it x.csv"):
        write_template(crops, tmp_path / "x.txt")


@pytest.mark.parametrize(
    ("path", "person", "camera"),
    [
        ("0007-S2-C3-00123.jpg", "0007", "3"),
        ("anna_03_0001.jpg", "anna", "03"),
        ("day1/0001_cam12_f3.png", "0001", "12"),
        ("anna/cam3.png", "anna", "3"),
        ("cam3_001.jpg", None, "3"),
        ("ben[1]_cam2.jpg", "ben[1]", "2"),
        ("person.cam-3.1.jpg", "person", "3"),
        ("a.jpg", None, None),
    ],
)
def test_patterns_are_made_of_the_name(path: str, person: str | None, camera: str | None) -> None:
    text = suggested_pattern(path)
    if camera is None:
        assert text is None
        return
    assert text is not None
    pattern = re.fullmatch(r"--pattern '(.*)' \(.*\)", text)[1]  # type: ignore[index]
    found = re.match(pattern, path if "/" in pattern else path.rpartition("/")[2])
    assert found is not None
    assert (found.groupdict().get("pid"), found["camera"]) == (person, camera)


@given(
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20).map(lambda name: name + ".jpg")
)
def test_a_suggestion_fits_its_own_name(name: str) -> None:
    text = suggested_pattern(name)
    if text is not None:
        pattern = text.partition("--pattern '")[2].rpartition("' (")[0]
        assert re.match(pattern, name if "/" in pattern else name.rpartition("/")[2])


def test_questions_and_refusals_suggest_a_pattern_for_the_failing_name(tmp_path: Path) -> None:
    for name in ("anna-S1-C2-1.jpg", "ben-S1-C3-1.jpg"):
        Image.new("RGB", (8, 16)).save(tmp_path / name)
    suggestion = re.escape(
        r"--pattern '(?P<pid>[^-]+)-S\d+-C(?P<camera>\d+)' (anna-S1-C2-1.jpg: person anna, camera 2)"
    )
    with pytest.raises(InputError, match=f"the names do not tell person and camera.* {suggestion}"):
        load_dataset(tmp_path)
    with pytest.raises(InputError, match=f"2 of 2 image names do not match.*what fits this name is {suggestion}"):
        load_dataset(tmp_path, pattern=r"(?P<pid>\d+)_c(?P<camera>\d+)")
    found = load_dataset(tmp_path, pattern=r"(?P<pid>[^-]+)-S\d+-C(?P<camera>\d+)")
    assert (found.person_names, found.camera_names) == ({1: "anna", 2: "ben"}, ("2", "3"))
