"""The published numbers keep what the paper says of itself, and only the published data sets get them."""

from pathlib import Path

import numpy as np
import pytest

from reid_da.datasets import Dataset, SampleTable, load_dataset
from reid_da.methods import load_settings
from reid_da.reporting.published_results import (
    PublishedRow,
    published_comparators,
    published_name,
    published_row,
    published_rows,
    published_sweep,
    quoted_rows,
)
from reid_da.reporting.result_tables import ResultRow, ablation_table
from reid_da.reporting.tables import to_markdown
from reid_da.studies.ablation import ROWS as ROWS_OF_TABLES

D_TO_M = ("dukemtmcreid", "market1501")
M_TO_D = ("market1501", "dukemtmcreid")
ROWS = ("supervised", "source", "e", "e+c", "e+n", "e+c+n")


def table(name: str, *, images: int, ids: int, junk: int = 0, distractors: int = 0) -> SampleTable:
    """Images of ``ids`` identities from 1, then images of pid -1 and of pid 0."""
    pids = np.concatenate([np.arange(images) % ids + 1, np.full(junk, -1), np.zeros(distractors)]).astype(np.int64)
    paths = tuple(f"{name}/{number:06d}.jpg" for number in range(len(pids)))
    return SampleTable(name=name, root=Path(), paths=paths, pids=pids, camids=np.zeros(len(pids)))


def market(*, train_images: int = 12936, with_test: bool = True, data_format: str = "market1501") -> Dataset:
    """A data set with the counts of Market-1501."""
    nobody = SampleTable.from_rows("empty", Path(), [])
    query = table("query", images=3368, ids=750) if with_test else nobody
    gallery = table("gallery", images=15913 - 2798, ids=750, junk=3819, distractors=2798) if with_test else nobody
    return Dataset(
        name="market",
        format=data_format,
        root=Path(),
        train=table("train", images=train_images, ids=751),
        query=query,
        gallery=gallery,
        camera_names=("c1",),
        distractor_pid=0,
    )


def test_data_set_with_all_published_counts_is_the_published_one() -> None:
    assert published_name(market()) == "market1501"
    assert published_name(market(with_test=False)) == "market1501"


@pytest.mark.parametrize(
    "other", [market(train_images=12935), market(train_images=900), market(data_format="manifest")], ids=repr
)
def test_other_data_have_no_published_name(other: Dataset) -> None:
    assert published_name(other) is None


@pytest.mark.parametrize("site", ["site-a", "site-b"])
def test_rendered_data_have_no_published_name(rendered: Path, site: str) -> None:
    dataset = load_dataset(rendered / site)

    assert dataset.format in ("market1501", "dukemtmcreid")
    assert published_name(dataset) is None


@pytest.mark.parametrize("data_format", ["msmt17", "msmt17-market"])
def test_both_layouts_of_msmt17_are_one_data_set(data_format: str) -> None:
    dataset = Dataset(
        name="msmt17",
        format=data_format,
        root=Path(),
        train=table("train", images=32621, ids=1041),
        query=table("query", images=11659, ids=3060),
        gallery=table("gallery", images=82161, ids=3060),
        camera_names=("c1",),
    )

    assert published_name(dataset) == "msmt17"


def test_record_holds_fractions_under_the_keys_of_an_evaluation() -> None:
    row = published_row(*D_TO_M, "e")

    assert row == PublishedRow(
        name="e",
        origin="Zhong et al., CVPR 2019, Table 2",
        rank1=0.487,
        rank5=0.674,
        rank10=0.74,
        rank20=0.802,
        mean_ap_trapezoid=0.21,
    )
    assert row.to_json() == {"rank1": 0.487, "rank5": 0.674, "rank10": 0.74, "rank20": 0.802, "mAP_trapezoid": 0.21}


@pytest.mark.parametrize(("pair", "percent"), [(D_TO_M, 49), (M_TO_D, 60)])
def test_full_method_closes_the_known_part_of_the_gap(pair: tuple[str, str], percent: int) -> None:
    rows = {name: published_row(*pair, name) for name in ("source", "supervised", "e+c+n")}
    source, supervised, full = (row.mean_ap_trapezoid for row in rows.values() if row and row.mean_ap_trapezoid)

    assert round(100 * (full - source) / (supervised - source)) == percent


@pytest.mark.parametrize("pair", [D_TO_M, M_TO_D])
def test_figures_of_the_ablation_are_in_the_order_that_the_paper_tells(pair: tuple[str, str]) -> None:
    rows = {name: row for name, row in published_rows(*pair).items() if name in ROWS}
    figures = [list(row.to_json().values()) for row in rows.values()]

    assert tuple(rows) == ROWS
    for *ranks, mean_ap in figures:
        assert len(ranks) == 4
        assert 0 < mean_ap < ranks[0] < ranks[1] < ranks[2] < ranks[3] < 1
    by_row = dict(zip(ROWS, np.array(figures), strict=True))
    for weaker, stronger in (("source", "e"), ("e", "e+n"), ("e", "e+c"), ("e+c", "e+c+n"), ("e+c+n", "supervised")):
        # at rank 20 the paper has E above E+N
        assert (by_row[weaker] < by_row[stronger])[[0, 1, 2, 4]].all()


@pytest.mark.parametrize("pair", [D_TO_M, M_TO_D])
def test_sweep_agrees_with_the_ablation_at_the_chosen_temperature_and_falls_on_both_sides(
    pair: tuple[str, str],
) -> None:
    sweep = published_sweep(*pair, "memory.temperature")
    chosen, full = sweep["0.05"], published_row(*pair, "e+c+n")

    assert list(sweep) == ["0.01", "0.03", "0.05", "0.1", "0.5", "1"]
    assert full is not None
    assert (chosen.rank1, chosen.mean_ap_trapezoid) == (full.rank1, full.mean_ap_trapezoid)
    assert chosen.rank5 is None
    assert set(chosen.to_json()) == {"rank1", "mAP_trapezoid"}
    maps = [row.mean_ap_trapezoid or 0 for row in sweep.values()]
    assert maps[:3] == sorted(maps[:3])
    assert maps[2:] == sorted(maps[2:], reverse=True)


@pytest.mark.parametrize(("pair", "count"), [(D_TO_M, 12), (M_TO_D, 11)])
def test_full_method_is_above_all_comparators(pair: tuple[str, str], count: int) -> None:
    full = published_row(*pair, "e+c+n")
    comparators = published_comparators(*pair)

    assert full is not None
    assert len(comparators) == count
    assert comparators[-1].name == "HHL"
    for row in comparators:
        assert row.origin.endswith("Table 4")
        assert row.rank20 is None
        figures = list(row.to_json().items())
        assert figures
        assert all(value < full.to_json()[key] for key, value in figures)


def test_camstyle_is_quoted_from_another_table() -> None:
    row = published_row(*D_TO_M, "camstyle")
    assert row is not None
    assert row.origin.endswith("Table 4")
    assert (row.rank1, row.rank20, row.mean_ap_trapezoid) == (0.588, None, 0.274)


def test_msmt17_has_one_row_and_one_comparator_for_each_source() -> None:
    for source, mean_ap, other in (("market1501", 0.085, 0.029), ("dukemtmcreid", 0.102, 0.033)):
        row = published_row(source, "msmt17", "e+c+n")
        (ptgan,) = published_comparators(source, "msmt17")

        assert row is not None
        assert row.origin.endswith("Table 5")
        assert (row.mean_ap_trapezoid, row.rank20) == (mean_ap, None)
        assert (ptgan.name, ptgan.origin, ptgan.mean_ap_trapezoid) == ("PTGAN", row.origin, other)
        assert next(iter(published_rows(source, "msmt17"))) == "e+c+n"


ALONE = {"cluster-contrast", "cap", "o2cap"}


@pytest.mark.parametrize("pair", [(None, "market1501"), ("dukemtmcreid", None), ("market1501", "market1501")])
def test_other_pairs_have_nothing_but_methods_without_a_source(pair: tuple[str | None, str | None]) -> None:
    assert set(published_rows(*pair)) == (set() if pair[1] is None else ALONE)
    assert published_sweep(*pair, "memory.temperature") == {}
    assert published_comparators(*pair) == ()


@pytest.mark.parametrize("pair", [D_TO_M, M_TO_D, ("market1501", "msmt17"), ("dukemtmcreid", "msmt17")])
def test_every_method_that_was_published_has_a_row_by_a_rule_that_is_not_stated(pair: tuple[str, str]) -> None:
    rows = published_rows(*pair)
    adapted = {"ecn-gpp", "mmt", "spcl"} | ({"clusters"} if pair[1] != "msmt17" else set())

    assert {name for name, row in rows.items() if row.mean_ap is not None} == adapted | ALONE
    assert adapted | ALONE <= set(ROWS_OF_TABLES)
    ecn, spcl = rows["e+c+n"], rows["spcl"]
    for name in adapted | ALONE:
        figures = rows[name].to_json()
        assert "mAP_trapezoid" not in figures
        assert 0 < figures["mAP"] < figures["rank1"] < 1
        assert figures["mAP"] > (ecn.mean_ap_trapezoid or 1)
    assert (spcl.mean_ap or 0) > (rows["ecn-gpp"].mean_ap or 1)


def test_rows_of_other_methods_stand_below_the_measured_ones_with_their_place() -> None:
    measured = [ResultRow(name=name, results=({"rank1": 0.5, "mAP": 0.3},)) for name in ("spcl", "x")]
    text = to_markdown(ablation_table(measured, published=published_rows(*D_TO_M)))

    assert "|   paper | 90.3 | 76.7 |" in text
    assert "paper: SpCL, Ge et al., NeurIPS 2020, as quoted by OpenUnReID" in text
    assert "the rule of its mAP is not stated" in text


def test_what_the_paper_does_not_print_is_absent() -> None:
    assert published_row(*D_TO_M, "c") is None
    assert published_sweep(*D_TO_M, "memory.momentum_rate") == {}


def test_comparators_stand_below_the_measured_rows() -> None:
    measured = [
        ResultRow(name=name, results=({"rank1": 0.5, "mAP": 0.3, "mAP_trapezoid": 0.29},)) for name in ("x", "y")
    ]
    quoted = quoted_rows(*M_TO_D, beside=["x", "y"])
    lines = to_markdown(ablation_table(measured, quoted=quoted)).splitlines()

    assert [line.split(" | ")[0] for line in lines[2:5]] == ["| x", "| y", "| LOMO †"]
    assert "| HHL † | 46.9 | - | 27.2 |" in lines
    assert "| ECN † | 63.3 | - | 40.4 |" in lines
    assert "†: not measured here but printed in Zhong et al., CVPR 2019, Table 2 and Zhong et al." in lines[-1]


@pytest.mark.parametrize(("pair", "origin"), [(D_TO_M, "Table 4"), (("market1501", "msmt17"), "Table 5")])
def test_rows_that_stand_beside_measured_ones_are_not_quoted_again(pair: tuple[str, str], origin: str) -> None:
    names = [row.name for row in quoted_rows(*pair, beside=["camstyle", "e+c+n"])]

    assert names == [row.name for row in published_comparators(*pair) if row.name != "CamStyle"]
    assert {row.origin for row in published_comparators(*pair)} == {f"Zhong et al., CVPR 2019, {origin}"}
    assert quoted_rows(None, pair[1], beside=[]) == ()


@pytest.mark.parametrize(("key", "value"), [("loss_weight", "0.3"), ("memory.num_neighbors", "6")])
def test_curves_without_numbers_have_the_point_of_the_full_method(key: str, value: str) -> None:
    for pair in (D_TO_M, M_TO_D, ("dukemtmcreid", "msmt17")):
        sweep, full = published_sweep(*pair, key), published_row(*pair, "e+c+n")
        assert full is not None
        assert list(sweep) == [value]
        assert sweep[value].to_json() == full.to_json()
    assert published_sweep(None, None, key) == {}
    assert published_sweep(*D_TO_M, "epochs") == {}


def test_settings_of_the_chosen_points_are_those_of_the_presets() -> None:
    settings = load_settings("experiments/duke2market/e_c_n.yaml", ())
    assert (settings.loss_weight, settings.memory.num_neighbors) == (0.3, 6)
