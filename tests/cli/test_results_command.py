"""``reid-da results`` writes what it prints, in the format of the suffix."""

import json

import pytest

from reid_da.config import merge
from reid_da.methods import settings_of
from reid_da.training.run_folder import RunFolder


@pytest.fixture
def folder(small_settings, tmp_path):
    made = RunFolder.create(tmp_path / "run", settings_of(merge(small_settings.tree, {"name": "[a]|b"}), where="test"))
    made.log({"kind": "train", "epoch": 2, "seconds": 90.0, "loss_source": 0.125})
    made.log({"kind": "evaluation", "epoch": 2, "mAP": 0.5, "rank1": 0.75, "num_queries": 3})
    return made.path


def test_results(run, folder, tmp_path):
    printed = run("results", folder, "--figure", "loss_source").out.splitlines()
    assert printed[0].split() == ["row", "R-1", "mAP", "minutes", "loss_source"]
    assert printed[1].split() == ["[a]|b", "75.0", "50.0", "1.5", "0.125"]
    for suffix, piece in (
        (".md", r"| \[a\]\|b | 75.0 |"),
        (".html", "<td"),
        (".csv", "[a]|b,75,50,1.5"),
        (".json", "{"),
    ):
        file = tmp_path / "new" / f"table{suffix}"
        outcome = run("results", folder, "-o", file)
        assert (outcome.status, outcome.out) == (0, "")
        assert piece in file.read_text()
    (table,) = json.loads(run("results", folder, "--json").out)
    assert table["rows"][0]["mean"]["mAP"] == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"), [(["-o", "a.txt"], "the suffix decides"), (["missing"], "missing: not")]
)
def test_mistakes_are_one_line(run, folder, arguments, message):
    outcome = run("results", folder, *arguments)
    assert outcome.status == 2
    assert outcome.err.count("\n") == 1
    assert message in outcome.err
