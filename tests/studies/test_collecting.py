"""Tables from run folders: the figures of the records, by hand, and what does not belong into one table."""

import json
import statistics
from pathlib import Path

import pytest

from reid_da.config import merge
from reid_da.errors import InputError
from reid_da.methods import load_settings, settings_of
from reid_da.studies import collecting
from reid_da.studies.ablation import row_of
from reid_da.studies.collecting import collect, published_beside, render
from reid_da.training.run_folder import RunFolder

MEAN_APS = {"source": (0.2, 0.3), "e+c": (0.3, 0.45), "e+c+n": (0.35, 0.5), "supervised": (0.6, 0.7)}


@pytest.fixture
def make_run(small_settings, tmp_path):
    """Function that writes the folder of a run of two epochs that was evaluated."""

    def make(path: str, name: str, mean_ap: float = 0.5, *, seed: int = 0, target: str = "site-b", **changes) -> Path:
        data = {"target": f"/data/{target}"}
        tree = {"name": name, "seed": seed, "data": data, **changes.pop("settings", {})}
        run = RunFolder.create(tmp_path / path, settings_of(merge(small_settings.tree, tree), where="test"))
        last = {"loss_source": 0.25, "peak_memory_mb": 1500, **changes}
        for epoch, more in ((1, {"seconds_prepared": 12, "peak_memory_mb": 1600}), (2, last)):
            run.log({"kind": "train", "epoch": epoch, "seconds": 60.0, **more})
        result = {"rank1": mean_ap, "mAP": mean_ap, "mAP_trapezoid": mean_ap, "mINP": mean_ap / 2, "num_queries": 4}
        run.log({"kind": "evaluation", "epoch": 2, **result})
        return run.path

    return make


@pytest.fixture
def ablation(make_run, tmp_path):
    """Folder that looks as ``ablate`` leaves it."""
    for name, mean_aps in MEAN_APS.items():
        for seed, mean_ap in enumerate(mean_aps):
            make_run(f"a2b/{name}-seed{seed}", name, mean_ap, seed=seed)
    make_run("a2b/pretrain-seed0", "pretraining", 0.1)
    make_run("a2b/e+c-seed0/pretrain", "pretraining", 0.1)
    return tmp_path / "a2b"


def test_a_folder_of_an_ablation_is_a_table(ablation):
    (collected,) = collect([ablation])
    assert (collected.title, collected.heading) == ("a2b", "row")
    assert [row.name for row in collected.rows] == ["source", "e+c", "e+c+n", "supervised"]
    lines = render([collected], ".md").splitlines()
    assert lines[2] == "| row | R-1 | mAP | mAP trap. | mINP | minutes | memory | gap closed |"
    assert lines[5].startswith("| e+c | 37.5 ± 10.6 | 37.5 ± 10.6 |")
    # the gap of each seed, not that of the means
    gaps = [(0.3 - 0.2) / 0.4, (0.45 - 0.3) / 0.4]
    assert lines[5].endswith(f"| 2.2 ± 0.0 | 1,600 ± 0 | {statistics.fmean(gaps):.0%} ± {statistics.stdev(gaps):.0%} |")
    assert lines[4].endswith("| 0% |")
    assert lines[7].endswith("| 100% |")
    assert "minutes: training of the row alone" in lines[-1]


def test_json_and_csv_have_the_same_figures(ablation):
    tables = collect([ablation], figures=["loss_source"])
    (table,) = json.loads(render(tables, ".json"))
    row = table["rows"][1]
    assert (table["table"], row["row"], row["seeds"]) == ("a2b", "e+c", 2)
    assert row["mean"]["minutes"] == pytest.approx(132 / 60)
    assert row["mean"]["loss_source"] == 0.25
    assert (row["gap_closed"], row["gap_closed_std"]) == pytest.approx((0.3125, 0.125 / 2**0.5))
    header, _, line, *_ = (text.split(",") for text in render(tables, ".csv").splitlines())
    cells = dict(zip(header, line, strict=True))
    assert float(cells["mAP (%)"]) == pytest.approx(37.5)
    assert float(cells["mAP std (%)"]) == pytest.approx(statistics.stdev([30, 45]))
    assert float(cells["gap closed"]) == pytest.approx(0.3125)
    assert float(cells["memory (MB)"]) == 1600
    assert render(tables, ".html").count("<tr") == 5


def test_runs_that_are_named_are_one_table_in_their_order(make_run):
    runs = [make_run("z", "z"), make_run("b1", "b", 0.3, seed=1), make_run("b0", "b", 0.2)]
    (collected,) = collect(runs)
    assert [(row.name, row.seeds) for row in collected.rows] == [("z", (0,)), ("b", (0, 1))]
    assert collected.title == ""
    assert [result["mAP"] for result in collected.rows[1].results] == [0.2, 0.3]


def test_each_folder_is_a_table_and_csv_holds_one(ablation, make_run):
    other = make_run("b2a/e+c-seed0", "e+c", target="site-a").parent
    tables = collect([ablation, other])
    assert [table.title for table in tables] == ["a2b", "b2a"]
    text = render(tables, ".md")
    assert text.index("**a2b**") < text.index("**b2a**")
    with pytest.raises(InputError, match=r"holds one table, and there are 2"):
        render(tables, ".csv")


def test_a_sweep_is_told_by_its_names(make_run):
    for value in ("0.1", "0.05", "1e-05"):
        folder = make_run(f"sweep/memory.temperature={value}-seed0", f"memory.temperature={value}").parent
    (collected,) = collect([folder])
    assert collected.heading == "memory.temperature"
    assert [row.name for row in collected.rows] == ["1e-05", "0.05", "0.1"]


def test_a_comparison_has_a_folder_for_each_experiment(make_run, tmp_path):
    for name in ("softmax", "arcface"):
        for seed in (0, 1):
            make_run(f"comparison/{name}/{name}-seed{seed}", name, seed=seed)
    (collected,) = collect([tmp_path / "comparison"])
    assert [(row.name, row.seeds) for row in collected.rows] == [("arcface", (0, 1)), ("softmax", (0, 1))]


def test_cost_is_absent_where_a_record_lacks_it(make_run):
    old = make_run("old", "a", seed=1)
    file = old / "metrics.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()]
    cost = {"seconds", "peak_memory_mb", "crc32"}
    lines = [json.dumps({key: value for key, value in record.items() if key not in cost}) for record in records]
    file.write_text("".join(f"{line}\n" for line in lines))
    (collected,) = collect([old, make_run("new", "a")])
    assert not {"minutes", "peak_memory_mb"} & collected.rows[0].results[0].keys()
    assert "minutes" not in render([collected], ".md")


def test_what_does_not_belong_together_is_refused(make_run, tmp_path):
    run = make_run("run", "a")
    with pytest.raises(InputError, match=r"again: is called 'a' with seed 0, and so is .*run; leave one out"):
        collect([run, make_run("again", "a")])
    with pytest.raises(InputError, match=r"its target is site-a, that of .*run is site-b; figures on different test"):
        collect([run, make_run("other", "b", target="site-a")])
    with pytest.raises(InputError, match=r"unknown .*run: figure 'loss_sorce' \(did you mean 'loss_source'"):
        collect([run], figures=["loss_sorce"])
    with pytest.raises(InputError, match="epoch 3 is not done; is the run complete"):
        collect([make_run("short", "a", settings={"epochs": 3})])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: not a run folder"):
        collect([tmp_path / "empty"])
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for line in lines if '"evaluation"' not in line))
    with pytest.raises(InputError, match="only one of them has mAP"):
        collect([run, make_run("seed1", "a", seed=1)])
    with pytest.raises(InputError, match="nothing was measured"):
        collect([run])


def test_published_data_have_the_rows_of_the_paper(make_run, monkeypatch):
    monkeypatch.setattr("reid_da.studies.collecting.published_pair", lambda data: ("dukemtmcreid", "market1501"))
    (collected,) = collect([make_run("run", "e+c+n")])
    text = render([collected], ".md")
    assert "|   paper | 75.1 | - | 43.0 |" in text
    assert "| HHL † | 62.2 | - | 31.4 |" in text
    assert "ECN †" not in text


@pytest.mark.parametrize("pair", ["duke2market", "market2duke", "market2msmt17", "rendered", "real"])
def test_experiment_files_are_the_rows_that_their_names_say(pair):
    rows = {"cap": "cap", "o2cap": "o2cap", "cluster_contrast": "cluster-contrast", "clusters": "clusters"}
    rows |= {"spcl": "spcl", "mmt": "mmt", "npid": "npid", "camstyle": "camstyle"}
    rows |= {} if pair == "rendered" else {"e_c_n": "e+c+n"}
    for file, row in rows.items():
        assert row_of(load_settings(f"experiments/{pair}/{file}.yaml")) == row
    assert load_settings(f"experiments/{pair}/ecn_gpp.yaml").method == "ecn-gpp"


def test_published_rows_stand_beside_experiments_whatever_they_are_called(monkeypatch):
    monkeypatch.setattr(collecting, "published_pair", lambda data: ("dukemtmcreid", "market1501"))
    names = ("spcl", "o2cap", "ecn_gpp", "e_c_n")
    published, quoted = published_beside([load_settings(f"experiments/duke2market/{name}.yaml") for name in names])
    figures = {name: row.mean_ap or row.mean_ap_trapezoid for name, row in published.items()}
    assert figures == {
        "duke2market-spcl": 0.767,
        "duke2market-o2cap": 0.827,
        "duke2market-ecn-gpp": 0.638,
        "duke2market-e_c_n": 0.43,
    }
    assert "ECN" not in {row.name for row in quoted}


def test_experiments_on_different_pairs_have_nothing_published_beside_them(monkeypatch):
    monkeypatch.setattr(collecting, "published_pair", lambda data: ("dukemtmcreid", data.target.name))
    files = ("experiments/duke2market/spcl.yaml", "experiments/market2duke/spcl.yaml")
    assert published_beside([load_settings(file) for file in files]) == ({}, ())
