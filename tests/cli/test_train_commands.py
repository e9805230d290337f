import json
import shutil
from pathlib import Path

import pytest
import yaml

from reid_da.config import dump_settings
from reid_da.errors import InputError
from reid_da.evaluation.calibration import load_calibration
from reid_da.methods import METHODS, load_settings
from reid_da.styles.trained import load_style_settings
from reid_da.training import loop
from reid_da.training.run_folder import RunFolder


@pytest.fixture
def config(small_settings, tmp_path):
    file = tmp_path / "small.yaml"
    file.write_text(dump_settings(small_settings))
    return file


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run"


def test_train_then_everything_that_a_run_is_good_for(run, config, folder, tmp_path):
    outcome = run("train", config, "pretrain={epochs: 1}", "epochs=1", "name=mine", "-o", folder)
    assert outcome.status == 0
    assert "mine: on the target, before and after" in outcome.out
    assert "change" in outcome.out
    final = RunFolder.open(folder).records("evaluation")[-1]

    record = json.loads(run("train", "--resume", folder, "--json").out)
    assert record["mAP"] == final["mAP"]
    record = json.loads(run("evaluate", folder, "--json").out)
    assert record["mAP"] == pytest.approx(final["mAP"], abs=1e-6)
    kept = [json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()]
    assert [(entry["epoch"], entry["mAP"]) for entry in kept] == [(1, record["mAP"])]
    both = json.loads(run("evaluate", folder / "pretrain", folder, "--json").out)
    assert both[str(folder)]["mAP"] == record["mAP"] != both[str(folder / "pretrain")]["mAP"]
    checkpoint = folder / "checkpoints" / "epoch_0001"
    assert json.loads(run("evaluate", checkpoint, "--rerank", "--json").out)["without_rerank"]["mAP"] == record["mAP"]

    assert run("curves", folder).status == 0
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    picture = tmp_path / "lists.png"
    outcome = run("ranked-lists", folder / "pretrain", folder, "--num-queries", 2, "--num", 3, "-o", picture)
    assert outcome.status == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert run("extract", folder, tmp_path / "nothing.jpg", "-o", tmp_path / "f.npz").status == 2


def test_ablate(run, config, folder):
    outcome = run("ablate", config, "epochs=1", "--rows", "source,e+c,supervised", "--seeds", 2, "-o", folder, "--json")
    assert outcome.status == 0
    rows = json.loads(outcome.out)
    assert [(row["row"], row["seeds"]) for row in rows] == [("source", 2), ("e+c", 2), ("supervised", 2)]
    assert {"rank1", "rank20", "mAP", "mAP_trapezoid", "mINP"} <= rows[0]["mean"].keys() == rows[0]["std"].keys()
    assert rows == json.loads((folder / "table.json").read_text())
    assert "| e+c |" in (folder / "table.md").read_text()
    table = run("ablate", config, "epochs=1", "--rows", "Supervised, E+C", "--seeds", 2, "-o", folder)
    assert rows == json.loads((folder / "table.json").read_text())
    assert "R-10" in table.out
    assert "±" in table.out


def test_sweep(run, config, folder):
    outcome = run("sweep", config, "loss_weight=0.1,0.9", "epochs=1", "-o", folder)
    assert outcome.status == 0
    assert "loss_weight" in outcome.out
    assert (folder / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert [row["row"] for row in json.loads((folder / "table.json").read_text())] == ["0.1", "0.9"]


def test_an_ablation_needs_no_data_that_its_rows_do_not_need(run, config, folder):
    outcome = run("ablate", config, "epochs=1", "data.source=/nowhere", "--rows", "supervised", "-o", folder)
    assert outcome.status == 0
    assert "| supervised |" in (folder / "table.md").read_text()


def test_compare(run, config, small_settings, folder, tmp_path):
    other = tmp_path / "arcface.yaml"
    other.write_text(f"base: {config.name}\nname: arcface\nhead: {{kind: arcface}}\n")
    arguments = ("compare", config, other, "method=supervised", "epochs=1", "-o", folder)
    assert run(*arguments).status == 0
    assert (folder / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert "| arcface |" in (folder / "table.md").read_text()
    rows = json.loads(run(*arguments, "--json").out)
    assert [row["row"] for row in rows] == ["experiment", "arcface"]

    picture = tmp_path / "angles.png"
    outcome = run("angles", folder / "arcface" / "arcface-seed0", "-o", picture)
    assert outcome.status == 0
    assert "W-EC" in outcome.out
    assert picture.read_bytes().startswith(b"\x89PNG")
    record = json.loads(run("angles", folder / "arcface" / "arcface-seed0", "--json").out)
    assert record["train"]["num_classes"] == 5
    assert sum(record["train"]["positive_pairs"]) > 0


def test_a_stopped_training_tells_how_to_go_on(run, config, folder, monkeypatch):
    train_epoch, epochs = loop.Trainer.train_epoch, []

    def stopped(trainer):
        epochs.append(trainer.epoch)
        if len(epochs) in (1, 3, 4):
            raise KeyboardInterrupt
        return train_epoch(trainer)

    monkeypatch.setattr(loop.Trainer, "train_epoch", stopped)
    outcome = run("train", config, "-o", folder)
    assert (outcome.status, folder.exists()) == (130, False)
    assert outcome.err.endswith(
        "stopped before the end of the first epoch; nothing was saved, run the same command again\n"
    )
    outcome = run("train", config, "-o", folder)
    assert outcome.status == 130
    assert outcome.err.endswith(f"stopped; resume with `reid-da train --resume {folder}`\n")
    outcome = run("ablate", config, "--rows", "e", "-o", folder / "table")
    assert (outcome.status, (folder / "table").exists()) == (130, False)
    assert outcome.err.endswith("stopped; run the same command again to resume\n")
    assert run("train", "--resume", folder).status == 0


def test_verify(run, config, small_sites, folder, tmp_path):
    run("train", config, "epochs=1", "-o", folder)
    picture = tmp_path / "roc.png"
    outcome = run("verify", folder, "--from", small_sites / "site-b", "--pairs", 40, "-o", picture)
    assert outcome.status == 0
    assert "20 same-person pairs, 20 different-person pairs, 10 folds" in outcome.out
    assert "needs 1,000,000 pairs" in outcome.out
    assert picture.read_bytes().startswith(b"\x89PNG")
    record = json.loads(run("verify", folder, "--from", small_sites / "site-b", "--pairs", 40, "--json").out)
    assert 0 <= record["by_distance"]["mean"] <= 1
    assert record["identification"] == {}  # everybody in these small sites has a query


def test_calibrate(run, config, small_sites, folder, tmp_path):
    run("train", config, "epochs=1", "-o", folder)
    outcome = run("calibrate", folder, "--fpr", "0.1", "--fpr", "1e-9")
    assert outcome.status == 0
    assert "too few pairs to tell" in outcome.out
    assert (folder / "calibration.png").read_bytes().startswith(b"\x89PNG")
    stored = load_calibration(folder / "calibration.json")
    record = json.loads(run("evaluate", folder, "--operating-point", "0.1", "--json").out)
    expected = next(point for point in record["operating_points"] if point["fpr"] == 0.1)
    assert stored.threshold(0.1) == pytest.approx(expected["threshold"], abs=1e-4)
    assert sum(stored.positives) == stored.num_positive_pairs == record["num_positive_pairs"]
    with pytest.raises(InputError, match="no threshold for a false positive rate of 1e-09, only for 0.1"):
        stored.threshold(1e-9)
    assert [point.fpr for point in stored.points] == [0.1]
    outcome = run("calibrate", folder, "--fpr", "1e-9")
    assert outcome.status == 2
    assert "pairs of two persons are too few to tell a false positive rate of 1e-09; give a higher" in outcome.err
    assert load_calibration(folder / "calibration.json") == stored
    one_camera = tmp_path / "one"
    for split in ("bounding_box_train", "query", "bounding_box_test"):
        (one_camera / split).mkdir(parents=True)
        for file in sorted((small_sites / "site-b" / split).glob("*_c1*")):
            shutil.copy(file, one_camera / split)
    outcome = run("calibrate", folder, "--data", one_camera)
    assert "one: no query has a true match in the gallery: every gallery image of a query's identity" in outcome.err
    assert "or give images that at least two cameras took of the same people" in outcome.err
    assert "same_camera" not in outcome.err
    record = json.loads(run("calibrate", folder, "--data", small_sites / "site-a", "--json").out)
    assert record["data"] == "site-a (dukemtmcreid)"
    assert [point["fpr"] for point in record["points"]] == [1e-2, 1e-3, 1e-4]
    with pytest.raises(InputError, match="not calibrated yet: reid-da calibrate"):
        load_calibration(folder / "pretrain" / "calibration.json")
    (folder / "calibration.json").write_text("{}")
    with pytest.raises(InputError, match="is not a calibration"):
        load_calibration(folder / "calibration.json")


def test_camera_styles(run, small_sites, folder):
    sizes = ("data.image_size=[16, 8]", "channels=2", "num_blocks=1", "critic_steps=1")
    arguments = (*sizes, "epochs=1", "tensorboard=true", "device=cpu")
    outcome = run("camstyle", "train", small_sites / "site-b", *arguments, "-o", folder)
    assert outcome.status == 0
    assert (folder / "samples" / "epoch_0001.png").read_bytes().startswith(b"\x89PNG")
    assert any((folder / "tensorboard").iterdir())
    assert run("camstyle", "train", "--resume", folder).status == 0
    assert "give either DATA or --resume RUN" in run("camstyle", "train").err


def test_camera_styles_of_pairs(run, small_sites, folder):
    arguments = ("data.image_size=[16, 8]", "channels=2", "num_blocks=1", "epochs=1", "device=cpu", "pairs=[[1, 2]]")
    outcome = run("camstyle", "train", small_sites / "site-b", "--method", "cyclegan", *arguments, "-o", folder)
    assert outcome.status == 0
    assert (folder / "pair-1-2" / "samples" / "epoch_0001.png").read_bytes().startswith(b"\x89PNG")
    assert run("camstyle", "train", "--resume", folder).status == 0
    outcome = run("camstyle", "train", small_sites / "site-b", "--method", "cylegan", "-o", folder / "new")
    assert outcome.status == 2
    assert "unknown method 'cylegan' (did you mean 'cyclegan'?)" in outcome.err


def test_settings_prints_what_a_file_comes_to(run, config):
    shown = yaml.safe_load(run("settings", config, "loss_weight=0.5").out)
    assert shown["loss_weight"] == 0.5
    assert yaml.safe_load(run("settings").out) == yaml.safe_load(dump_settings(load_settings(None)))


@pytest.mark.parametrize("method", METHODS)
def test_settings_of_a_method_are_those_that_count(run, method):
    text = run("settings", "--method", method).out
    assert yaml.safe_load(text) == yaml.safe_load(dump_settings(METHODS[method].Settings()))
    assert ("memory:" in text) == (method in ("ecn", "ecn-gpp"))
    # what a key means, its range, its choices
    assert "# learning rate of new layers; above 0" in text
    assert "one of sgd, adam" in text


def test_one_section_of_the_settings(run):
    text = run("settings", "memory").out
    assert list(yaml.safe_load(text)) == ["memory"]
    assert "# beta of the paper; above 0\n  temperature: 0.05" in text
    assert "unknown section 'memry' (did you mean 'memory'?)" in run("settings", "memry").err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "give either CONFIG or --resume RUN"),
        (["train", "{config}", "memory.temprature=1"], "did you mean 'memory.temperature'"),
        (["train", "{config}", "-o", "{there}"], "there is a run already; resume it (reid-da train --resume"),
        (["train", "--resume", "{tmp}"], "not a run folder"),
        (["ablate", "{config}", "--rows", "e,x", "-o", "{tmp}/a"], "unknown row 'x'"),
        (["sweep", "{config}", "loss_weight", "-o", "{tmp}/s"], "should be key=value,value"),
        (["sweep", "{config}", "loss_weight=[1", "-o", "{tmp}/s"], "'loss_weight=[1': is not YAML"),
        (["sweep", "{config}", "data.image_size=[32,16],[32, 16]", "-o", "{tmp}/s"], "[32, 16] is given twice"),
        (["sweep", "{config}", "loss_weight=0.1,2", "-o", "{tmp}/s"], "should be less than or equal to 1, got 2"),
        (["ablate", "{config}", "--rows", " ,", "-o", "{tmp}/a"], "--rows: name at least one row"),
        (["sweep", "{config}", "loss_wait=1", "-o", "{tmp}/s"], "did you mean 'loss_weight'"),
        (["compare", "epochs=1"], "give the YAML files of the experiments to compare"),
        (["compare", "{config}", "{config}", "-o", "{tmp}/c"], "2 experiments are called 'experiment'"),
        (["angles", "{tmp}"], "not a run folder"),
        (["verify", "{there}"], "give either PAIRS, a file, or --from DATA"),
        (["calibrate", "{tmp}"], "not a run folder"),
        (["calibrate", "{there}", "--fpr", "2"], "--fpr: expected a false positive rate above 0 and at most 1, got 2"),
        (["evaluate", "{there}", "--operating-point", "2"], "--operating-point: expected a false positive rate"),
        (["curves", "{there}"], "nothing to draw yet"),
        (["evaluate", "{there}"], "the run has no checkpoint yet"),
    ],
)
def test_mistakes_end_with_one_line_and_status_2(run, config, tmp_path, arguments, message):
    there = RunFolder.create(tmp_path / "there", load_settings(config)).path
    outcome = run(*(text.format(config=config, tmp=tmp_path, there=there) for text in arguments))
    assert outcome.status == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


def test_every_experiment_file_is_valid():
    files = sorted((Path(__file__).parent.parent.parent / "experiments").rglob("*.yaml"))
    assert len(files) > 20
    for file in files:
        load = load_style_settings if file.parent.name == "styles" else load_settings
        load(file)
