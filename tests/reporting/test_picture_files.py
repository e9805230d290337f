"""Pictures in files: formats by suffix, slides, titles, and the queries that somebody names."""

import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from reid_da.cli.output import check_picture
from reid_da.datasets import SampleTable
from reid_da.errors import InputError
from reid_da.reporting.picture_files import FORMATS, save_figure
from reid_da.reporting.queries import named_queries
from reid_da.reporting.ranked_lists import RankedLists, comparison_figure, slide_layout

MARKS = {"png": b"\x89PNG", "jpeg": b"\xff\xd8\xff", "svg": b"<?xml", "pdf": b"%PDF-"}


def figure() -> Figure:
    drawn = Figure(figsize=(3, 2), dpi=50, layout="constrained")
    drawn.subplots().plot([0, 1])
    return drawn


@pytest.mark.parametrize("suffix", [*FORMATS, ".PNG"])
def test_the_suffix_decides_the_format_and_the_file_is_the_same_each_time(suffix: str, tmp_path: Path) -> None:
    first, second = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    for path in (first, second):
        save_figure(figure(), path)
    assert first.read_bytes().startswith(MARKS[FORMATS[suffix.lower()]])
    if FORMATS[suffix.lower()] != "svg":  # whose names of clip paths are random
        assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("name", ["a.txt", "a", "a.png.tiff"])
def test_other_suffixes_are_one_clear_line_before_any_work(name: str, tmp_path: Path) -> None:
    for call in (lambda: check_picture(tmp_path / name), lambda: save_figure(figure(), tmp_path / name)):
        with pytest.raises(InputError, match=r"names no picture format; use \.png, \.svg, \.pdf, \.jpg"):
            call()
    assert not list(tmp_path.iterdir())
    check_picture(None)
    check_picture(tmp_path / "a.svg")


def test_a_slide_is_full_hd_with_a_title(tmp_path: Path) -> None:
    drawn = figure()
    save_figure(drawn, tmp_path / "a.png", title=r"cost: 5\$", slide=True)
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (1920, 1080)
    assert drawn.get_suptitle()


def people(tmp_path: Path) -> SampleTable:
    rows = [("cam1/anna/1.png", 0, 0), ("cam1/anna/2.png", 0, 0), ("cam2/ben/1.png", 1, 1), ("cam2/cy/3.png", 2, 1)]
    for path, _, _ in rows:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 16)).save(tmp_path / path)
    return SampleTable.from_rows("query", tmp_path, rows)


def test_queries_are_named_by_file_or_person(tmp_path: Path) -> None:
    query, names = people(tmp_path), {0: "anna", 1: "ben"}
    assert named_queries(query, ["ben", "3.png", "anna", "2"], person_names=names).tolist() == [2, 3, 0, 3]
    assert named_queries(query, ["cam1/anna/2.png", "ben/1.png"], person_names=names).tolist() == [1, 2]
    with pytest.raises(InputError, match=re.escape("query: '1.png' is cam1/anna/1.png, cam2/ben/1.png; name one")):
        named_queries(query, ["1.png"], person_names=names)
    with pytest.raises(InputError, match="query: has no query or person 'dora'; queries are such as cam1/anna/1.png"):
        named_queries(query, ["dora"], person_names=names)


@pytest.mark.parametrize("num_models", [1, 2, 3, 7])
@pytest.mark.parametrize("with_similarities", [False, True])
def test_lists_fill_a_slide(num_models: int, with_similarities: bool, tmp_path: Path) -> None:
    query = people(tmp_path)
    num_queries, num = slide_layout(num_models, with_similarities=with_similarities)
    rows = np.arange(num_queries) % len(query)
    lists = RankedLists(
        rows=rows,
        indices=np.full((num_queries, num), -1),
        is_match=np.zeros((num_queries, num), dtype=bool),
        distances=np.zeros((num_queries, num), dtype=np.float32),
    )
    drawn = comparison_figure(
        query,
        query,
        {str(number): lists for number in range(num_models)},
        camera_names=["a", "b"],
        similarities=with_similarities,
        slide=True,
    )
    width, height = drawn.get_size_inches()
    assert width / height == pytest.approx(16 / 9)
    share = drawn.axes[0].get_position()
    # at most the room of one more column stays empty
    assert share.height == pytest.approx(1)
    assert 0 <= 1 - share.width < 74 / 100 / width + 1e-9


def test_similarities_stand_below_the_images(tmp_path: Path) -> None:
    query = people(tmp_path)
    lists = RankedLists(
        rows=np.array([0]),
        indices=np.array([[1, 2]]),
        is_match=np.array([[True, False]]),
        distances=np.array([[0.25, 0.5]], dtype=np.float32),
    )
    shown = comparison_figure(query, query, {"": lists}, camera_names=["a", "b"], similarities=True)
    assert {"0.750", "0.500"} <= {text.get_text() for text in shown.axes[0].texts}
    named = comparison_figure(
        query, query, {"": lists}, camera_names=["a", "b"], similarities=True, person_names={0: "x"}
    )
    texts = {text.get_text() for text in named.axes[0].texts}
    assert "a 0.750" in texts
    assert any(text.endswith(" x") for text in texts)
    plain = comparison_figure(query, query, {"": lists}, camera_names=["a", "b"])
    assert "0.750" not in {text.get_text() for text in plain.axes[0].texts}
