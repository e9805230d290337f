"""Figures of the tables against numpy and by hand; their text as a terminal of 80 columns shows it."""

import io
import json
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from reid_da.reporting.published_results import published_rows, published_sweep
from reid_da.reporting.result_tables import (
    ResultRow,
    ablation_table,
    before_after_table,
    gap_closed,
    gaps_closed,
    setting_text,
    summarize,
    sweep_rows,
    sweep_table,
    to_json,
)
from reid_da.reporting.tables import to_markdown

FRACTIONS = st.floats(min_value=0, max_value=1, allow_subnormal=False)


def figures(mean_ap: float) -> dict[str, float]:
    """An evaluation whose other figures lie around its mAP."""
    return {
        "rank1": mean_ap + 0.2,
        "rank5": mean_ap + 0.3,
        "rank10": mean_ap + 0.35,
        "rank20": mean_ap + 0.4,
        "mAP": mean_ap,
        "mAP_trapezoid": mean_ap - 0.01,
        "mINP": mean_ap / 2,
        "num_queries": 1206,
        "num_valid_queries": 1198,
    }


def row(name: str, *mean_aps: float) -> ResultRow:
    return ResultRow(name=name, results=tuple(map(figures, mean_aps)))


SUPERVISED, SOURCE, FULL = (
    row("supervised", 0.5, 0.52, 0.54),
    row("source", 0.3, 0.32, 0.34),
    row("e+c+n", 0.4, 0.42, 0.44),
)
PAPER = published_rows("dukemtmcreid", "market1501")


def text(renderable: RenderableType, *, width: int = 80) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=width).print(renderable)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def cells(line: str) -> list[str]:
    return line.split()


@given(st.lists(FRACTIONS, min_size=2, max_size=6))
def test_summary_agrees_with_numpy(values: list[float]) -> None:
    summary = summarize([{"mAP": value, "rank1": 1.0} for value in values])

    assert summary.mean["mAP"] == pytest.approx(np.mean(values), abs=1e-12)
    assert summary.std["mAP"] == pytest.approx(np.std(values, ddof=1), abs=1e-12)
    assert (summary.mean["rank1"], summary.std["rank1"]) == (1.0, 0.0)


def test_one_seed_has_no_spread() -> None:
    summary = summarize([{"mAP": 0.25, "num_queries": 7}])

    assert summary.mean == {"mAP": 0.25, "num_queries": 7}
    assert summary.std == {"mAP": None, "num_queries": None}


@pytest.mark.parametrize("results", [[], [{"mAP": 0.1}, {"rank1": 0.1}], [{"mAP": 0.1}, {"mAP": 0.1, "rank1": 0.1}]])
def test_results_that_cannot_be_averaged_are_refused(results: list[dict[str, float]]) -> None:
    with pytest.raises(ValueError, match="same figures"):
        summarize(results)


def test_row_without_results_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'e\+c' has no results"):
        ResultRow(name="e+c", results=())


@given(FRACTIONS, FRACTIONS, FRACTIONS)
def test_gap_closed_leads_from_the_source_to_the_row(value: float, source: float, supervised: float) -> None:
    gap = gap_closed(value, source, supervised)

    if supervised <= source:
        assert gap is None
    else:
        assert gap is not None
        assert math.isclose(source + gap * (supervised - source), value, abs_tol=1e-9)


def test_gaps_of_a_table_by_hand() -> None:
    rows = {"source": 0.2, "e": 0.1, "e+c+n": 0.5, "supervised": 0.6}

    assert gaps_closed(rows) == pytest.approx({"source": 0, "e": -0.25, "e+c+n": 0.75, "supervised": 1})


@pytest.mark.parametrize("rows", [{"source": 0.2, "e": 0.3}, {"supervised": 0.2}, {"source": 0.2, "supervised": 0.2}])
def test_no_gap_without_two_ends(rows: dict[str, float]) -> None:
    assert gaps_closed(rows) == {}


def test_ablation_in_the_layout_of_the_paper() -> None:
    lines = text(ablation_table([SUPERVISED, SOURCE, FULL], title="[a] -> b"))

    assert lines == [
        "[a] -> b",
        "row          R-1   R-5  R-10  R-20   mAP  mAP trap.  mINP  gap closed",
        "supervised  72.0  82.0  87.0  92.0  52.0       51.0  26.0        100%",
        "            ±2.0  ±2.0  ±2.0  ±2.0  ±2.0       ±2.0  ±1.0",
        "source      52.0  62.0  67.0  72.0  32.0       31.0  16.0          0%",
        "            ±2.0  ±2.0  ±2.0  ±2.0  ±2.0       ±2.0  ±1.0",
        "e+c+n       62.0  72.0  77.0  82.0  42.0       41.0  21.0         50%",
        "            ±2.0  ±2.0  ±2.0  ±2.0  ±2.0       ±2.0  ±1.0         ±0%",
        "percent; mean and sample standard deviation of 3 seeds, last epoch",
        "mAP: mean of the precisions at the true matches",
        "mAP trap.: the same by the trapezoidal rule, as ECN's paper has it",
        "mINP: number of true matches over the rank of the last",
        "gap closed: (row - source) / (supervised - source) in mAP, of each seed",
    ]


def test_published_rows_stand_below_the_measured_ones() -> None:
    lines = text(ablation_table([SUPERVISED, SOURCE, FULL], published=PAPER))

    starts = [cells(line)[0] for line in lines[1:10]]
    assert starts == ["supervised", "±2.0", "paper", "source", "±2.0", "paper", "e+c+n", "±2.0", "paper"]
    assert cells(lines[9]) == ["paper", "75.1", "87.6", "91.6", "94.5", "-", "43.0", "-", "49%"]
    assert lines[-1] == "paper: Zhong et al., CVPR 2019, Table 2; its gap in mAP trap."


def test_published_row_without_a_measured_one_counts_for_the_gap_alone() -> None:
    lines = text(ablation_table([FULL], published=PAPER))

    assert [cells(line)[-1] for line in lines[1:4]] == ["-", "±1.0", "49%"]
    assert not any("95.5" in line for line in lines)


def test_published_rows_without_the_ends_have_no_gap() -> None:
    lines = text(ablation_table([row("e+c+n", 0.08)], published=published_rows("market1501", "msmt17")))

    assert cells(lines[0])[-1] == "mINP"
    assert cells(lines[2]) == ["paper", "25.3", "36.3", "42.1", "-", "-", "8.5", "-"]
    assert lines[-1] == "paper: Zhong et al., CVPR 2019, Table 5"


def test_seeds_that_are_missing_are_told() -> None:
    lines = text(ablation_table([row("e", 0.1), row("e+c", 0.2, 0.3, 0.4)]))

    assert cells(lines[1]) == ["e", "30.0", "40.0", "45.0", "50.0", "10.0", "9.0", "5.0"]
    assert cells(lines[3])[0] == "±10.0"
    assert " ".join(lines).count("sample standard deviation of 1 to 3 seeds, last epoch") == 1


@pytest.mark.parametrize("width", [80, 60, 40])
def test_narrow_terminal_shows_every_digit(width: int) -> None:
    table = ablation_table([row("a very long name for a row of the table", 0.6, 0.2), SUPERVISED, SOURCE])

    narrow, wide = (Counter("".join(text(table, width=columns))) for columns in (width, 200))

    assert {character: narrow[character] for character in "0123456789.±"} == {
        character: wide[character] for character in "0123456789.±"
    }


@pytest.mark.parametrize(
    ("value", "name"),
    [(0.05, "0.05"), (1.0, "1"), (1, "1"), (1234567, "1234567"), (True, "True"), ("bfloat16", "bfloat16")],
)
def test_names_of_values(value: float | str, name: str) -> None:
    assert setting_text(value) == name


def test_sweep_with_published_values() -> None:
    results = [[figures(0.2)], [figures(0.4)], [figures(0.3)]]
    published = published_sweep("market1501", "dukemtmcreid", "memory.temperature")

    lines = text(sweep_table("memory.temperature", [0.02, 0.05, 1], results, published=published, title="sweep"))

    assert lines[0] == "sweep"
    assert cells(lines[1])[0] == "memory.temperature"
    assert [cells(line)[:2] for line in lines[2:7]] == [
        ["0.02", "40.0"],
        ["0.05", "60.0"],
        ["paper", "63.3"],
        ["1", "50.0"],
        ["paper", "40.2"],
    ]
    assert lines[7] == "percent; one seed, last epoch"
    assert lines[-1] == "paper: Zhong et al., CVPR 2019, Table 1"


def test_agreement_has_a_column_and_stands_alone_where_there_are_no_labels() -> None:
    measured = ResultRow(name="0.1", results=({**figures(0.4), "neighbors_agreement": 0.618},))
    alone = ResultRow(name="0.2", results=({"neighbors_agreement": 0.7}, {"neighbors_agreement": 0.72}))

    header, _, first, second = to_markdown(ablation_table([measured, SOURCE, SUPERVISED])).splitlines()[:4]
    assert header.endswith("| mINP | kept | gap closed |")
    assert first.endswith("| 20.0 | 61.8 | 50% |")  # of seed 0 alone
    assert second.endswith("| - | 0% |")
    header, _, line, _, notes = to_markdown(ablation_table([alone], heading="loss_weight")).splitlines()
    assert (header, line) == ("| loss_weight | kept |", "| 0.2 | 71.0 ± 1.4 |")
    assert "takes no labels" in notes
    assert "mAP" not in notes
    assert "kept" not in to_markdown(ablation_table([SOURCE]))


def test_sweep_with_results_missing_is_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        sweep_rows([0.1, 0.2], [[figures(0.2)]])


def test_before_and_after() -> None:
    lines = text(before_after_table(figures(0.25), figures(0.375), names=("[source]", "e+c+n"), title="site-b"))

    assert lines[:5] == [
        "site-b",
        "            R-1    R-5   R-10   R-20    mAP  mAP trap.  mINP",
        "[source]   45.0   55.0   60.0   65.0   25.0       24.0  12.5",
        "e+c+n      57.5   67.5   72.5   77.5   37.5       36.5  18.8",
        "change    +12.5  +12.5  +12.5  +12.5  +12.5      +12.5  +6.2",
    ]
    assert lines[5] == "percent; 1,198 of 1,206 queries have a true match and count"


def test_markdown_is_a_table_with_its_notes() -> None:
    lines = to_markdown(ablation_table([SOURCE, SUPERVISED], published=PAPER, heading="what")).split("\n")

    assert lines[:4] == [
        "| what | R-1 | R-5 | R-10 | R-20 | mAP | mAP trap. | mINP | gap closed |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| source | 52.0 ± 2.0 | 62.0 ± 2.0 | 67.0 ± 2.0 | 72.0 ± 2.0 | 32.0 ± 2.0 | 31.0 ± 2.0 | 16.0 ± 1.0 | 0% |",
        "|   paper | 43.1 | 58.8 | 67.3 | 74.3 | - | 17.7 | - | 0% |",
    ]
    assert len({line.count("|") for line in lines[:6]}) == 1
    assert lines[6] == ""
    assert lines[7].startswith("percent; mean and sample standard deviation of 3 seeds, last epoch; mAP: ")
    assert lines[8:] == [""]


def test_json_of_an_ablation() -> None:
    rows = json.loads(json.dumps(to_json([SUPERVISED, SOURCE, FULL]), allow_nan=False))

    assert [entry["row"] for entry in rows] == ["supervised", "source", "e+c+n"]
    assert [entry["gap_closed"] for entry in rows] == pytest.approx([1, 0, 0.5])
    for entry in rows:
        assert set(entry) == {"row", "seeds", "mean", "std", "gap_closed", "gap_closed_std"}
        assert entry["seeds"] == 3
        assert set(entry["mean"]) == set(entry["std"]) == set(figures(0))
    assert rows[2]["mean"]["mAP"] == pytest.approx(0.42)
    assert rows[2]["std"]["mAP"] == pytest.approx(0.02)


def test_json_with_one_seed_and_no_ends() -> None:
    (entry,) = json.loads(json.dumps(to_json([row("e", 0.1)]), allow_nan=False))

    assert (entry["seeds"], entry["std"]["mAP"], entry["gap_closed"]) == (1, None, None)
