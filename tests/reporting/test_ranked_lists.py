"""Ranked lists against a walk through the sorted gallery; what the pictures show of them, where and how framed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.cbook import is_math_text
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image

from reid_da.datasets import SampleTable
from reid_da.errors import InputError
from reid_da.reporting.ranked_lists import (
    RankedLists,
    check_picture,
    comparison_figure,
    draw_comparison,
    draw_ranked_lists,
    pick_queries,
    ranked_lists,
)

CAMERAS = ("c1", "c$2$", "the entrance")


def table(pids: list[int], camids: list[int], *, root: Path = Path(), name: str = "split") -> SampleTable:
    paths = tuple(f"{name}_{number:04d}.png" for number in range(len(pids)))
    return SampleTable(name=name, root=root, paths=paths, pids=np.array(pids), camids=np.array(camids))


def walk(
    distances: NDArray[Any], query: SampleTable, gallery: SampleTable, row: int, num: int
) -> list[tuple[int, bool]]:
    """Nearest valid images of one query and whether they match; equal distances in the order of the gallery."""
    found = []
    for index in sorted(range(len(gallery)), key=lambda index: (distances[row, index], index)):
        same_person = gallery.pids[index] == query.pids[row]
        if gallery.pids[index] == -1 or (same_person and gallery.camids[index] == query.camids[row]):
            continue
        found.append((index, bool(same_person)))
    return found[:num]


@given(st.integers(0, 10_000), st.integers(1, 12), st.sampled_from(["cosine", "euclidean"]))
def test_lists_agree_with_a_walk_through_the_gallery(seed: int, num: int, distance: str) -> None:
    rng = np.random.default_rng(seed)
    query = table(rng.integers(0, 3, 5).tolist(), rng.integers(0, 2, 5).tolist())
    gallery = table(rng.integers(-1, 3, 15).tolist(), rng.integers(0, 2, 15).tolist())
    query_features, gallery_features = rng.normal(size=(5, 3)), rng.normal(size=(15, 3))
    rows = rng.permutation(5)[:3]

    found = ranked_lists(
        torch.tensor(query_features),
        torch.tensor(gallery_features),
        query,
        gallery,
        rows=rows,
        num=num,
        distance=distance,
    )

    if distance == "cosine":
        query_features, gallery_features = (
            features / np.linalg.norm(features, axis=1, keepdims=True)
            for features in (query_features, gallery_features)
        )
    distances = np.linalg.norm(query_features[:, None] - gallery_features[None], axis=2)
    assert found.rows.tolist() == rows.tolist()
    for number, row in enumerate(rows):
        ranking = zip(found.indices[number].tolist(), found.is_match[number].tolist(), strict=True)
        assert [item for item in ranking if item[0] >= 0] == walk(distances, query, gallery, row, num)


def test_list_by_hand() -> None:
    query = table([7], [0])
    #                 own camera, junk, match, else, junk, match
    gallery = table([7, -1, 7, 8, -1, 7], [0, 1, 1, 0, 0, 2])
    features = torch.tensor([[0.0], [0.1], [0.2], [0.3], [0.4], [0.5]]) + 1

    found = ranked_lists(torch.ones(1, 1), features, query, gallery, rows=[0], num=5, distance="euclidean")

    assert found.indices.tolist() == [[2, 3, 5, -1, -1]]
    assert found.is_match.tolist() == [[True, False, True, False, False]]


def test_lists_of_unknown_people_are_refused() -> None:
    known, unknown = table([1], [0]), table([-2, 1], [1, 1], name="gallery")

    for query, gallery in ((known, unknown), (unknown, known)):
        with pytest.raises(InputError, match="gallery: ranked lists tell right from wrong by identities"):
            ranked_lists(torch.ones(len(query), 2), torch.ones(len(gallery), 2), query, gallery, rows=[0])


def test_features_of_other_images_are_refused() -> None:
    images = table([1, 2], [0, 1], name="gallery")

    with pytest.raises(InputError, match="gallery: expected features of 2 images, got 3"):
        ranked_lists(torch.ones(2, 2), torch.ones(3, 2), images, images, rows=[0])


def test_queries_are_of_different_people_spread_evenly() -> None:
    query = table([5, 5, 6, 7, 7, 8, 9], [0] * 7)
    has_match = np.array([False, True, True, True, True, False, True])

    assert pick_queries(query, has_match, num=3).tolist() == [1, 3, 6]
    assert pick_queries(query, has_match, num=2).tolist() == [1, 6]
    assert pick_queries(query, has_match, num=9).tolist() == [1, 2, 3, 6]
    assert pick_queries(query, np.zeros(7, dtype=bool), num=3).tolist() == []


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> tuple[SampleTable, SampleTable]:
    """Two queries and four gallery images, each of one colour: (10 * number, 0, 200) and (10 * number, 200, 0)."""
    root = tmp_path_factory.mktemp("images")
    query = table([1, 2], [0, 1], root=root, name="query")
    gallery = table([1, 2, 3, 3], [1, 0, 2, 2], root=root, name="gallery")
    for split, rest in ((query, (0, 200)), (gallery, (200, 0))):
        for number in range(len(split)):
            Image.new("RGB", (32, 64), (10 * number, *rest)).save(split.path(number))
    return query, gallery


def lists(indices: list[list[int]], is_match: list[list[bool]]) -> RankedLists:
    return RankedLists(rows=np.arange(2), indices=np.array(indices), is_match=np.array(is_match))


BEFORE = lists([[2, 0, 3], [3, 2, -1]], [[False, True, False], [False, False, False]])
AFTER = lists([[0, 2, 3], [1, 3, 2]], [[True, False, False], [True, False, False]])


def frames(figure: Figure) -> list[tuple[float, float, str, float]]:
    """Middle, colour and width of all frames."""
    patches = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    return [
        (*np.round(patch.get_center(), 3).tolist(), to_hex(patch.get_edgecolor()), patch.get_linewidth())
        for patch in patches
    ]


def pixel(figure: Figure, x: float, y: float) -> tuple[int, ...]:
    (image,) = figure.axes[0].images
    return tuple(np.asarray(image.get_array())[int(y), int(x)].tolist())


def labels(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_every_image_is_in_its_frame(tables: tuple[SampleTable, SampleTable]) -> None:
    figure = comparison_figure(*tables, {"": AFTER}, camera_names=CAMERAS)

    by_line: dict[float, list[tuple[float, tuple[int, ...], str]]] = {}
    for x, y, colour, _ in frames(figure):
        by_line.setdefault(y, []).append((x, pixel(figure, x, y), colour))
    grey, green, red = "#404040", "#1a7f37", "#d32f2f"
    seen = [[item[1:] for item in sorted(line)] for _, line in sorted(by_line.items())]
    assert seen == [
        [((0, 0, 200), grey), ((0, 200, 0), green), ((20, 200, 0), red), ((30, 200, 0), red)],
        [((10, 0, 200), grey), ((10, 200, 0), green), ((30, 200, 0), red), ((20, 200, 0), red)],
    ]


def test_persons_with_names_are_captioned_by_them(tables: tuple[SampleTable, SampleTable]) -> None:
    pid = int(tables[0].pids[AFTER.rows[0]])
    plain = labels(comparison_figure(*tables, {"": AFTER}, camera_names=CAMERAS))
    named = labels(comparison_figure(*tables, {"": AFTER}, camera_names=CAMERAS, person_names={pid: "anna"}))

    # the name in the place of the camera, which goes to a second line
    assert [text for text in named if "anna" in text]
    assert not any("anna" in text for text in plain)
    cameras = [text.split()[-1] for text in plain if text.startswith(("✔", "✗")) and "person" not in text]
    assert all(any(text.split()[-1:] == [camera] for text in named) for camera in cameras)
    assert len(named) > len(plain)


def test_right_and_wrong_differ_without_colour(tables: tuple[SampleTable, SampleTable]) -> None:
    figure = comparison_figure(*tables, {"": AFTER}, camera_names=CAMERAS)

    widths = {colour: width for _, _, colour, width in frames(figure)}
    assert widths["#1a7f37"] > 2 * widths["#d32f2f"]
    cameras = [text for text in labels(figure) if text.startswith(("✔", "✗")) and "person" not in text]
    assert cameras == [r"✔ c\$2\$", "✗ the ent…", "✗ the ent…", "✔ c1", "✗ the ent…", "✗ the ent…"]
    assert not any(is_math_text(text) for text in labels(figure))


def test_lists_of_two_models_stand_above_each_other(tables: tuple[SampleTable, SampleTable]) -> None:
    figure = comparison_figure(*tables, {"before": BEFORE, "after": AFTER}, camera_names=CAMERAS, title="a -> b")

    heights: dict[str, list[float]] = {}
    for x, y, *_ in frames(figure):
        heights.setdefault(str(pixel(figure, x, y)[2] == 200), []).append(y)
    queries, results = sorted(set(heights["True"])), sorted(set(heights["False"]))
    # each query beside its first strip, once
    assert len(heights["True"]) == 2
    assert queries == [results[0], results[2]]
    assert len(results) == 4
    # strips of one query are nearer to each other than to those of the next
    assert results[1] - results[0] == results[3] - results[2] < results[2] - results[1]
    assert labels(figure).count("before") == labels(figure).count("after") == 2
    assert {"a -> b", "query", "1", "2", "3"} < set(labels(figure))


def test_frames_hide_no_part_of_an_image(tables: tuple[SampleTable, SampleTable]) -> None:
    figure = comparison_figure(*tables, {"": AFTER}, camera_names=CAMERAS)

    for patch in figure.axes[0].patches:
        inside = patch.get_bbox().padded(-patch.get_linewidth() * 100 / 72 / 2)
        assert (inside.width, inside.height) == pytest.approx((64, 128))


def test_frames_stay_apart_and_inside(tables: tuple[SampleTable, SampleTable]) -> None:
    figure = comparison_figure(*tables, {"before": BEFORE, "after": AFTER}, camera_names=CAMERAS)
    width, height = (figure.get_size_inches() * 100).tolist()

    boxes = [patch.get_bbox().padded(patch.get_linewidth() * 100 / 72 / 2) for patch in figure.axes[0].patches]

    assert len(boxes) == 2 + 11
    for number, box in enumerate(boxes):
        assert box.xmin >= 0
        assert box.ymin >= 0
        assert box.xmax <= width
        assert box.ymax <= height
        assert not any(box.padded(-0.01).overlaps(other) for other in boxes[:number])


def test_image_that_cannot_be_read_is_grey(tables: tuple[SampleTable, SampleTable], tmp_path: Path) -> None:
    query, _ = tables
    nowhere = table([1, 2, 3, 3], [1, 0, 2, 2], root=tmp_path)

    figure = comparison_figure(query, nowhere, {"": AFTER}, camera_names=CAMERAS)

    colours = {pixel(figure, x, y) for x, y, colour, _ in frames(figure) if colour != "#404040"}
    assert colours == {(200, 200, 200)}


def test_models_must_have_seen_the_same_queries(tables: tuple[SampleTable, SampleTable]) -> None:
    others = RankedLists(rows=np.array([1, 0]), indices=AFTER.indices, is_match=AFTER.is_match)

    with pytest.raises(ValueError, match="not of the same queries"):
        comparison_figure(*tables, {"before": BEFORE, "after": others}, camera_names=CAMERAS)


@pytest.mark.parametrize(("num_queries", "num", "num_models"), [(500, 10, 1), (8, 500, 1), (100, 100, 2)])
def test_pictures_that_nobody_could_open_are_refused(num_queries: int, num: int, num_models: int) -> None:
    with pytest.raises(InputError, match=f"{num_queries} queries .*with {num} images each would make a picture of"):
        check_picture(num_queries=num_queries, num=num, num_models=num_models)
    check_picture(num_queries=50, num=10, num_models=1)


def test_files_are_pictures(tables: tuple[SampleTable, SampleTable], tmp_path: Path) -> None:
    draw_ranked_lists(*tables, AFTER, tmp_path / "one.png", camera_names=CAMERAS, title="one")
    draw_comparison(*tables, {"before": BEFORE, "after": AFTER}, tmp_path / "two.png", camera_names=CAMERAS)

    assert sorted(file.name for file in tmp_path.iterdir()) == ["one.png", "two.png"]
    sizes = []
    for name in ("one.png", "two.png"):
        with Image.open(tmp_path / name) as image:
            image.load()
            assert image.format == "PNG"
            # the first query fills its frame
            assert image.convert("RGB").getpixel((2 * (12 + 32), 2 * (52 + 64))) == (0, 0, 200)
            sizes.append(image.size)
    assert sizes[0][0] == sizes[1][0]
    assert sizes[0][1] < sizes[1][1] < 2 * sizes[0][1]
