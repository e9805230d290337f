"""Figures of camera styles at their places in the table, and a picture of them."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

from reid_da.evaluation.style_quality import ContentScores, camera_scores
from reid_da.reporting.style_tables import draw_style_check, style_table
from reid_da.reporting.tables import to_markdown
from reid_da.styles.check import FrechetScores, StyleCheck, StyleScores


def style(name: str, seen: list[int]) -> StyleScores:
    """Four views of two images for the first two of three cameras."""
    own, wanted = torch.tensor([[0, 0, 1, 1], [1, 1, 0, 0]])
    return StyleScores(
        name=name,
        num_fakes=4,
        camera=camera_scores(torch.eye(3)[torch.tensor(seen)], own, wanted),
        content=ContentScores(rank1=0.25, mean_reciprocal_rank=0.4567),
        frechet=FrechetScores(mean=12.345, by_camera=(12.345, None, None)),
    )


@pytest.fixture
def check() -> StyleCheck:
    return StyleCheck(
        table="site/train",
        num_trained=1000,
        num_images=2,
        num_cameras=3,
        classifier_accuracy=0.875,
        guess_accuracy=0.5,
        styles=(style("identity", [0, 0, 1, 1]), style("files:[my] $tyle", [1, 1, 0, 2])),
    )


def without_model(check: StyleCheck) -> StyleCheck:
    return replace(check, styles=tuple(replace(style, content=None, frechet=None) for style in check.styles))


def text(check: StyleCheck) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=200).print(style_table(check))
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def test_a_line_for_each_style(check: StyleCheck) -> None:
    title, header, identity, ours, *notes = text(check)

    assert title == "site/train: camera styles"
    assert header.split("  ")[0] == "style"
    assert identity.split() == ["identity", "0.0", "100.0", "25.0", "0.457", "12.35"]
    assert ours.split() == ["files:[my]", "$tyle", "75.0", "0.0", "25.0", "0.457", "12.35"]
    assert "2 real images, 4 views of each style" in notes[0]
    assert "trained on 1,000 other images, it is right about 87.5 % of these (50.0 % by guessing)" in " ".join(notes)


def test_without_a_model_there_is_no_content(check: StyleCheck) -> None:
    lines = text(without_model(check))
    assert lines[2].split() == ["identity", "0.0", "100.0", "-", "-", "-"]
    assert "Fréchet:" not in " ".join(lines)


def test_a_classifier_that_guesses_is_told_below(check: StyleCheck) -> None:
    assert "hardly tells the cameras apart" not in " ".join(text(check))
    assert "hardly tells the cameras apart" in " ".join(text(replace(check, classifier_accuracy=0.7)))


def test_markdown(check: StyleCheck) -> None:
    lines = to_markdown(style_table(check)).splitlines()
    assert lines[0] == "**site/train: camera styles**"
    assert lines[3] == "| --- | ---: | ---: | ---: | ---: | ---: |"
    assert lines[4] == "| identity | 0.0 | 100.0 | 25.0 | 0.457 | 12.35 |"
    assert lines[7].startswith("2 real images, 4 views of each style; ")


@pytest.mark.parametrize("has_model", [True, False])
def test_file_is_a_picture(check: StyleCheck, tmp_path: Path, has_model: bool) -> None:
    path = tmp_path / "check.png"
    draw_style_check(check if has_model else without_model(check), path, camera_names=("hall", "gate $1$", "stairs"))
    with Image.open(path) as image:
        assert image.format == "PNG"
        colours = {colour for _, colour in image.convert("RGB").getcolors(2**20) or []}
    assert {(0x30, 0x63, 0x8E), (0xE0, 0x90, 0x2F)} <= colours
    assert [file.name for file in tmp_path.iterdir()] == ["check.png"]
