"""The lines of the plots are the figures of the records."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from reid_da.reporting.training_curves import draw_run, draw_sweep, run_figure, sweep_figure

RECORDS: list[dict[str, Any]] = [
    {"kind": "train", "epoch": 1, "loss_cross_entropy": 3.0, "neighbors_cross_camera": 0.1, "lr_new": 0.1},
    {
        "kind": "train",
        "epoch": 2,
        "loss_cross_entropy": 2.0,
        "loss_neighborhood": 1.5,
        "neighbors_cross_camera": None,
        "neighbors_agreement": 0.4,
    },
    {"kind": "evaluation", "epoch": 2, "rank1": 0.5, "rank5": 0.7, "mAP": 0.25, "num_queries": 10},
    {
        "kind": "train",
        "epoch": 3,
        "loss_cross_entropy": 1.0,
        "loss_neighborhood": 1.25,
        "neighbors_cross_camera": 0.3,
        "neighbors_precision": 0.6,
        "neighbors_agreement": 0.5,
    },
    {"kind": "evaluation", "epoch": 3, "rank1": 0.75, "mAP": 0.5},
]


def lines(axes: Axes) -> dict[str, list[tuple[float, float]]]:
    return {
        str(line.get_label()): [(float(x), float(y)) for x, y in zip(*line.get_data(), strict=True)]
        for line in axes.lines
    }


def seeds(*scores: float) -> list[dict[str, float]]:
    return [{"rank1": score, "mAP": score / 2} for score in scores]


def test_lines_of_a_run_are_its_records() -> None:
    losses, scores, neighbours = run_figure(RECORDS).axes

    assert lines(losses) == {"cross_entropy": [(1, 3), (2, 2), (3, 1)], "neighborhood": [(2, 1.5), (3, 1.25)]}
    assert lines(scores) == {"mAP": [(2, 25), (3, 50)], "rank-1": [(2, 50), (3, 75)]}
    shares = lines(neighbours)
    assert list(shares) == ["of the same person", "from another camera", "agreement with the epoch before"]
    assert shares["of the same person"] == [(3, 0.6)]
    assert shares["agreement with the epoch before"] == [(2, 0.4), (3, 0.5)]


def test_clusters_of_a_run_have_panels_of_their_own() -> None:
    records = [
        {"kind": "train", "epoch": epoch, "loss_intra": 1.0, "clusters": 10 + epoch, "clusters_outliers": 0.5 / epoch}
        for epoch in (1, 2)
    ]
    _, shares, numbers = run_figure(records).axes
    assert lines(shares) == {"outliers": [(1, 0.5), (2, 0.25)]}
    assert lines(numbers) == {"clusters": [(1, 11), (2, 12)]}
    assert not any(line.get_clip_on() for line in numbers.lines)


def test_a_single_point_has_its_value_and_axes_end_with_the_run() -> None:
    records = [
        {"kind": "evaluation", "epoch": 0, "rank1": 0.254, "mAP": 0.217},
        *({"kind": "train", "epoch": epoch, "loss_intra": 1.0} for epoch in range(1, 7)),
    ]
    losses, scores = run_figure(records).axes
    assert [text.get_text() for text in scores.texts] == ["21.7", "25.4"]
    assert all(text.get_ha() == "left" for text in scores.texts)
    assert losses.get_xlim() == scores.get_xlim()
    at_the_end = [*records[1:], {"kind": "evaluation", "epoch": 6, "rank1": 0.254, "mAP": 0.217}]
    _, scores = run_figure(at_the_end).axes
    assert all(text.get_ha() == "right" for text in scores.texts)


def test_value_that_was_not_finite_is_a_gap() -> None:
    *_, neighbours = run_figure(RECORDS).axes

    (first, gap, last) = lines(neighbours)["from another camera"]
    assert (first, last) == ((1, 0.1), (3, 0.3))
    assert gap[0] == 2
    assert math.isnan(gap[1])


def test_panels_have_titles_labels_and_legends_and_begin_at_zero() -> None:
    figure = run_figure(RECORDS, title="run $1$ of 2")

    assert figure.get_suptitle() == r"run \$1\$ of 2"
    assert [axes.get_title() for axes in figure.axes] == [
        "losses, as weighted in their sum",
        "evaluation on the target, %",
        "neighbours in the memory, shares",
    ]
    for axes in figure.axes:
        assert axes.get_xlabel() == "epoch"
        assert axes.get_xlim()[0] == axes.get_ylim()[0] == 0
        assert axes.get_legend() is not None


def test_panels_without_figures_are_left_out() -> None:
    source_only = [{"kind": "train", "epoch": 1, "loss_cross_entropy": 3.0, "neighbors_agreement": None}]

    (losses,) = run_figure(source_only).axes

    assert lines(losses) == {"cross_entropy": [(1, 3)]}


def test_run_without_an_epoch_says_so() -> None:
    (axes,) = run_figure([]).axes

    assert axes.lines[:] == []
    assert [text.get_text() for text in axes.texts] == ["no epoch yet"]


def test_lines_of_a_panel_can_be_told_apart_without_colour() -> None:
    many = [{"kind": "train", "epoch": 1, **{f"loss_{number}": 1.0 for number in range(6)}}]

    (axes,) = run_figure(many).axes

    assert len({line.get_marker() for line in axes.lines}) == 6
    assert len({line.get_color() for line in axes.lines}) == 6


def test_long_run_has_few_markers() -> None:
    records = [{"kind": "train", "epoch": epoch, "loss_all": 1.0} for epoch in range(1, 1001)]

    (axes,) = run_figure(records).axes

    every = axes.lines[0].get_markevery()
    assert isinstance(every, int)
    assert 1000 / every <= 12
    assert len(lines(axes)["all"]) == 1000


def test_sweep_shows_means_and_spreads_from_left_to_right() -> None:
    results = {"a -> b": [seeds(0.2, 0.4), seeds(0.5, 0.5), seeds(0.1, 0.3)]}

    rank1, mean_ap = sweep_figure([0.05, 1.0, 0.01], results, xlabel="memory.temperature", log=True).axes

    for axes, scale in ((rank1, 1), (mean_ap, 0.5)):
        (container,) = axes.containers
        points, _, (bars,) = container.lines
        assert list(points.get_xdata()) == [0.01, 0.05, 1]
        assert list(points.get_ydata()) == pytest.approx([20 * scale, 30 * scale, 50 * scale])
        heights = [float(np.ptp(segment[:, 1])) for segment in bars.get_segments()]
        # the standard deviation of two values is their distance over the root of 2; a bar goes up and down
        assert heights == pytest.approx([2 * 20 / math.sqrt(2) * scale, 2 * 20 / math.sqrt(2) * scale, 0])
        assert axes.get_xscale() == "log"
        assert axes.get_xlabel() == "memory.temperature"
        assert sorted(label.get_text() for label in axes.get_xticklabels()) == ["0.01", "0.05", "1"]
    assert (rank1.get_ylabel(), mean_ap.get_ylabel()) == ("rank-1 (%)", "mAP (%)")


def test_each_line_of_a_sweep_has_its_name() -> None:
    results = {"a -> b": [seeds(0.2)], "b -> a": [seeds(0.1)]}

    for axes in sweep_figure([6], results, xlabel="k").axes:
        legend = axes.get_legend()
        assert legend is not None
        assert [text.get_text() for text in legend.get_texts()] == ["a -> b", "b -> a"]


def test_values_that_are_names_stand_side_by_side_unconnected() -> None:
    figure = sweep_figure(["overwrite", "exclude"], {"": [seeds(0.2), seeds(0.3)]}, xlabel="memory.own_slot", log=True)

    for axes in figure.axes:
        points = axes.containers[0].lines[0]
        assert list(points.get_xdata()) == [0, 1]
        assert points.get_linestyle() == "None"
        assert axes.get_xscale() == "linear"
        assert [label.get_text() for label in axes.get_xticklabels()] == ["overwrite", "exclude"]
        assert axes.get_legend() is None


def test_agreement_of_neighbours_has_a_panel_with_labels_and_without() -> None:
    alone = [({"neighbors_agreement": 0.7},), ({"neighbors_agreement": 0.8},)]
    (axes,) = sweep_figure([0.1, 0.9], {"": alone}, xlabel="loss_weight").axes
    assert axes.get_ylabel() == "neighbours kept (%)"
    assert list(axes.containers[0].lines[0].get_ydata()) == pytest.approx([70, 80])

    mixed = [({"rank1": 0.5, "mAP": 0.4, "neighbors_agreement": 0.7},), ({"rank1": 0.6, "mAP": 0.5},)]
    *scores, kept = sweep_figure([0.1, 0.9], {"": mixed}, xlabel="loss_weight").axes
    assert [axes.get_ylabel() for axes in scores] == ["rank-1 (%)", "mAP (%)"]
    assert list(kept.containers[0].lines[0].get_ydata()) == pytest.approx([70, math.nan], nan_ok=True)


def test_values_far_apart_get_a_logarithmic_axis() -> None:
    def scale(values: list[float], log: bool | None) -> str:
        results = {"": [seeds(0.2) for _ in values]}
        return sweep_figure(values, results, xlabel="memory.temperature", log=log).axes[0].get_xscale()

    assert scale([0.01, 0.05, 1], None) == "log"
    assert scale([0.1, 0.5, 0.9], None) == scale([-1, 1], None) == scale([0, 30], None) == "linear"
    assert scale([0.01, 1], False) == "linear"


def test_labels_of_ticks_do_not_lie_on_each_other() -> None:
    values = [0.01, 0.14, 0.1, 0.2, 1]
    axes = sweep_figure(values, {"": [seeds(0.2) for _ in values]}, xlabel="memory.temperature").axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.01", "", "0.1", "0.2", "1"]


def test_no_logarithm_of_zero() -> None:
    figure = sweep_figure([0, 0.5], {"": [seeds(0.2), seeds(0.3)]}, xlabel="loss_weight", log=True)

    assert {axes.get_xscale() for axes in figure.axes} == {"linear"}


def test_files_are_pictures(tmp_path: Path) -> None:
    draw_run(RECORDS, tmp_path / "run.png", title="run")
    draw_sweep([0.1, 1], {"": [seeds(0.2), seeds(0.3)]}, tmp_path / "sweep.png", xlabel="k", log=True)

    assert sorted(file.name for file in tmp_path.iterdir()) == ["run.png", "sweep.png"]
    for name, panels in (("run.png", 3), ("sweep.png", 2)):
        with Image.open(tmp_path / name) as image:
            image.load()
            assert image.format == "PNG"
            assert image.size == (int(panels * 4.7 * 110), int(3.8 * 110))


def test_the_evaluation_before_adaptation_is_a_dotted_line_and_nothing_is_cut_off() -> None:
    records = [
        {"kind": "train", "epoch": 1, "loss_source": 1.0, "clusters_ami_pids": -0.1, "clusters_agreement": 0.2},
        *({"kind": "evaluation", "epoch": epoch, "mAP": mean_ap} for epoch, mean_ap in ((0, 0.25), (1, 0.5))),
    ]
    figure = run_figure(records)
    losses, evaluation, clusters = figure.axes
    (baseline,) = [line for line in evaluation.get_lines() if line.get_linestyle() == ":" and len(line.get_xdata())]
    assert list(baseline.get_ydata()) == [25, 25]
    assert "before adaptation" in {text.get_text() for text in evaluation.get_legend().get_texts()}
    assert clusters.get_ylim()[0] <= -0.1
    assert losses.get_ylim()[0] == 0
    assert all(axes.get_xlim()[1] >= 1 for axes in figure.axes)
    # with nothing to compare there is no line
    alone = run_figure([records[1]])
    assert "before adaptation" not in {text.get_text() for text in alone.axes[-1].get_legend().get_texts()}


def test_many_panels_stand_in_two_rows() -> None:
    records = [
        {"kind": "train", "epoch": 1, "loss_a": 1.0, "clusters": 3, "clusters_outliers": 0.1, "neighbors_precision": 1},
        {"kind": "evaluation", "epoch": 1, "mAP": 0.5},
    ]
    figure = run_figure(records)
    width, height = figure.get_size_inches()
    assert len(figure.axes) == 5
    assert width < 2 * height
