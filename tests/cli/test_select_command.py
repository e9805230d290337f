"""``reid-da select`` tells what it took and why, and that labels took no part."""

import json

import pytest

from reid_da.training.run_folder import RunFolder


@pytest.fixture
def runs(small_settings, tmp_path):
    for name, stable, precision in (("a", 0.7, 0.3), ("b", 0.9, 0.4)):
        made = RunFolder.create(tmp_path / "runs" / name, small_settings)
        for epoch in (2, 4):
            figures = {"clusters_stable": stable - (4 - epoch) / 10, "clusters_outliers": 0.25}
            made.log({"kind": "label_free", "epoch": epoch, **figures})
            made.log({"kind": "evaluation", "epoch": epoch, "mAP": precision, "rank1": precision})
    return tmp_path / "runs"


def test_select(run, runs):
    printed = run("select", runs, "--study").out
    lines = printed.splitlines()
    assert lines[0].split() == ["run", "epoch", "stable", "clusters", "outliers", "mAP", "(hidden)"]
    assert lines[1].split() == ["b", "4", "*", "0.900", "0.250", "40.0"]
    assert "epoch 4: for the largest stable clusters" in " ".join(printed.split())
    assert "weighted tau" in printed
    answer = json.loads(run("select", runs, "--last", "--json").out)
    assert [candidate["epoch"] for candidate in answer["candidates"]] == [4, 4]
    assert answer["candidates"][0] == {
        "run": str(runs / "b"),
        "epoch": 4,
        "checkpoint": False,
        "figures": {"clusters_stable": 0.9, "clusters_outliers": 0.25},
        "hidden_mAP": 0.4,
    }


@pytest.mark.parametrize(
    ("arguments", "message"), [(["--by", "density"], "density"), (["--by", "x"], "'x'"), (["missing"], "missing")]
)
def test_what_select_refuses(run, runs, arguments, message):
    outcome = run("select", runs, *arguments)
    assert outcome.status == 2
    assert message in outcome.err
