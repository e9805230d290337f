import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from reid_da.config import dump_settings, merge
from reid_da.datasets import SampleTable
from reid_da.device import choose_device
from reid_da.errors import InputError
from reid_da.experiments import runs
from reid_da.experiments.domains import ExperimentContext
from reid_da.experiments.runs import final_result, resume, train, train_or_resume
from reid_da.experiments.setup import build_trainer
from reid_da.methods import settings_of
from reid_da.studies.ablation import ablate, sweep, sweep_values
from reid_da.training.checkpoint import load_checkpoint
from reid_da.training.run_folder import RunFolder, only_training
from reid_da.training.trained import load_trained

TIMING = {"seconds", "images_per_second", "peak_memory_mb"}


def changed(settings, **changes):
    return settings_of(merge(settings.model_dump(mode="json"), changes), where="test")


def numbers(run):
    """All records of a run but for what depends on the machine."""
    return [{key: value for key, value in record.items() if key not in TIMING} for record in run.records()]


def last(run):
    return run.last_checkpoint()


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_leaves_everything_that_explains_it(small_settings, tmp_path):
    run = train(small_settings, tmp_path / "run")
    assert last(run).description["epoch"] == 2
    assert run.settings() == small_settings
    train_records = run.records("train")
    assert [record["epoch"] for record in train_records] == [1, 2]
    first, second = train_records
    assert "loss_neighborhood" not in first
    assert {"loss_cross_entropy", "loss_exemplar", "loss_neighborhood", "lr_backbone", "lr_new"} <= second.keys()
    assert {
        "neighbors_cross_camera",
        "neighbors_camera_entropy",
        "neighbors_precision",
        "slots_unwritten",
    } <= first.keys()
    assert "neighbors_agreement" in second
    assert all(math.isfinite(value) for record in train_records for value in record.values() if value != "train")
    result = final_result(run)
    assert 0 < result["mAP_trapezoid"] <= result["mAP"] <= 1
    memory = last(run).state["method"]["memory"]
    assert memory["slots"].shape == (len(memory["last_update"]), 32)
    assert json.loads((run.path / "versions.json").read_text())["torch"] == torch.__version__


def test_the_same_seed_gives_the_same_numbers_and_another_one_others(small_settings, tmp_path):
    one, two, other = (
        train(changed(small_settings, epochs=1, seed=seed), tmp_path / name)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert numbers(one) == numbers(two)
    assert same(last(one).weights, last(two).weights)
    assert numbers(one) != numbers(other)


@pytest.mark.parametrize(("optimizer", "warned"), [({"warmup_epochs": 1}, True), ({"warmup_epochs": 0.5}, False)])
def test_a_warm_up_without_an_end_is_told(small_settings, tmp_path, optimizer, warned, caplog):
    train(changed(small_settings, epochs=1, pretrain=None, optimizer=optimizer), tmp_path / "run")
    told = "the learning rate never reaches optimizer.lr: optimizer.warmup_epochs is 1, and there are 1 epochs"
    assert (told in [record.getMessage() for record in caplog.records]) == warned


def test_rows_of_the_ablation_differ_in_their_terms_only(small_settings, tmp_path):
    table = ablate(small_settings, tmp_path, rows=("source", "e", "e+c", "e+n", "e+c+n", "supervised"))
    assert list(table) == ["source", "e", "e+c", "e+n", "e+c+n", "supervised"]
    records = {row: RunFolder.open(tmp_path / f"{row}-seed0").records("train")[-1] for row in table}
    terms = {row: {key for key in record if key.startswith("loss_")} for row, record in records.items()}
    assert terms["source"] == terms["supervised"] == {"loss_cross_entropy"}
    assert terms["e"] == terms["e+c"] == {"loss_cross_entropy", "loss_exemplar"}
    assert terms["e+n"] == terms["e+c+n"] == {"loss_cross_entropy", "loss_exemplar", "loss_neighborhood"}
    assert records["e"]["loss_exemplar"] != records["e+c"]["loss_exemplar"]


def test_an_ablation_goes_on_where_it_stopped_and_shares_the_stage_before(small_settings, tmp_path):
    settings = changed(small_settings, epochs=1, pretrain={"epochs": 1})
    before = ablate(settings, tmp_path, rows=("source", "e"), seeds=2)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("checkpoint.json")}
    assert len(times) == 6
    assert ablate(settings, tmp_path, rows=("source", "e"), seeds=2) == before
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("checkpoint.json")} == times
    with pytest.raises(InputError, match=r"holds a run with other settings \(loss_weight was 0.3 and is 0.5\); name"):
        ablate(changed(settings, loss_weight=0.5), tmp_path, rows=("e",))
    # moved, and with changes that alter no number
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    free = changed(settings, name="other", keep_checkpoints=1, device="auto")
    # a row that is complete stays in the table, in its place
    assert ablate(free, moved, rows=("e",), seeds=2) == before
    run = RunFolder.open(moved / "e-seed1")
    assert (run.settings().keep_checkpoints, run.settings().init_from) == (1, moved / "pretrain-seed1")
    with pytest.raises(InputError, match=r"init_from was .*pretrain-seed1 and is null"):
        train_or_resume(changed(run.settings(), init_from=None), run.path)
    with only_training(moved), pytest.raises(InputError, match="moved: is being trained by another process"):
        ablate(free, moved, rows=("e",))
    settings, tmp_path = free, moved
    with pytest.raises(InputError, match=r"unknown row 'n'.*valid: camstyle, .*e, e\+c"):
        ablate(settings, tmp_path, rows=("n",))


def test_a_flat_index_finds_the_neighbours_that_the_loss_finds(small_settings, tmp_path):
    memory = {"neighbor_search": "flat", "neighbor_refresh": "step", "neighbors_from_epoch": 1}
    indexed = train(changed(small_settings, memory=memory), tmp_path / "indexed")
    exact = train(small_settings, tmp_path / "exact")
    got, expected = (run.records("train")[-1]["loss_neighborhood"] for run in (indexed, exact))
    assert got == pytest.approx(expected, rel=1e-4)


def test_sweep_varies_one_setting(small_settings, tmp_path):
    results = sweep(changed(small_settings, epochs=1), tmp_path, key="memory.temperature", values=[0.05, 0.5])
    assert list(results) == ["0.05", "0.5"]
    run = RunFolder.open(tmp_path / "memory.temperature=0.5-seed0")
    assert run.settings().memory.temperature == 0.5


def test_values_of_a_sweep_are_those_of_the_settings(small_settings):
    assert sweep_values(small_settings, key="memory.temperature", values=["1e-1", 1]) == [0.1, 1.0]
    assert sweep_values(small_settings, key="data.image_size", values=[[32, 16]]) == [[32, 16]]


@pytest.mark.parametrize(
    ("key", "values", "message"),
    [
        ("memory.temperature", [0.1, "1e-1"], "memory.temperature: the value 0.1 is given twice"),
        ("memory.temperature", [0.05, -1], "memory.temperature=-1: .* should be greater than 0"),
        ("memory", [{"temperature": 1}], "memory: is a group of settings"),
        ("seed", [1, 2], "seed: cannot be swept, --seeds repeats"),
        ("name", ["a"], "name: cannot be swept"),
    ],
)
def test_a_sweep_is_refused_before_it_trains(small_settings, tmp_path, key, values, message):
    with pytest.raises(InputError, match=message):
        sweep(small_settings, tmp_path / "sweep", key=key, values=values)
    assert not (tmp_path / "sweep").exists()


def test_an_ablation_is_refused_before_it_trains(small_settings, tmp_path):
    run = RunFolder.create(tmp_path / "table" / "supervised-seed1", changed(small_settings, loss_weight=0.5))
    with pytest.raises(
        InputError,
        match=r"seed1: holds .*seed was 0 and is 1, .*method was ecn",
    ):
        ablate(small_settings, tmp_path / "table", rows=("e", "supervised"), seeds=2)
    assert RunFolder(tmp_path / "table").runs_inside == [run.path]
    with pytest.raises(InputError, match="nowhere: no such file"):
        ablate(changed(small_settings, data={"source": "nowhere"}), tmp_path / "a" / "b", rows=("e",))
    assert not (tmp_path / "a").exists()


def test_rows_have_methods_of_their_own_and_tell_when_they_will_be_equal(small_settings, tmp_path, caplog):
    settings = changed(small_settings, method="source", epochs=1)
    table = ablate(settings, tmp_path, rows=("e+n",))
    assert list(table) == ["e+n"]
    assert "loss_exemplar" in RunFolder.open(tmp_path / "e+n-seed0").records("train")[-1]
    assert "memory.neighbors_from_epoch is 1, and there are 1 epochs" in caplog.text


def test_sweep_over_paths_has_folders_of_one_name_each(small_settings, tmp_path):
    cache = tmp_path / "packs"
    sweep(changed(small_settings, epochs=1), tmp_path / "sweep", key="data.cache_dir", values=[str(cache)])
    (folder,) = (tmp_path / "sweep").glob("data.cache_dir=*-packs-seed0")
    assert RunFolder.open(folder).settings().data.cache_dir == cache


def test_a_sweep_on_a_target_without_labels_tells_what_needs_none(small_settings, small_sites, tmp_path):
    images = sorted((small_sites / "site-b" / "bounding_box_train").glob("*.jpg"))
    for number, image in enumerate(images):
        camera = tmp_path / "crops" / f"cam{number % 2 + 1}"
        camera.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, camera)
    settings = changed(small_settings, data={"target": str(tmp_path / "crops")})
    results = sweep(settings, tmp_path / "sweep", key="loss_weight", values=[0.1, 0.9])
    for value, ((key, agreement),) in ((value, seeds[0].items()) for value, seeds in results.items()):
        run = RunFolder.open(tmp_path / "sweep" / f"loss_weight={value}-seed0")
        assert (key, agreement) == ("neighbors_agreement", run.records("train")[-1]["neighbors_agreement"])
        assert 0 < agreement < 1
    with pytest.raises(InputError, match="the runs are complete, but they cannot be compared"):
        sweep(changed(settings, epochs=1), tmp_path / "short", key="loss_weight", values=[0.1])


@pytest.mark.parametrize("stages", [2, 3])
def test_the_stage_before_hands_its_weights_on(small_settings, tmp_path, stages, caplog):
    stage = {"epochs": 1, "optimizer": {"lr": 0.01}}
    if stages == 3:
        stage = {"method": "ecn", "epochs": 1, "pretrain": stage}
    with caplog.at_level("INFO"):
        run = train(changed(small_settings, epochs=1, optimizer={"lr": 1e-12}, pretrain=stage), tmp_path)
    titles = [record.getMessage().partition(":")[0] for record in caplog.records if "stage " in record.getMessage()]
    assert titles == [f"stage {number} of {stages}" for number in range(1, stages + 1)]
    first = tmp_path.joinpath(*["pretrain"] * (stages - 1))
    weights, before = last(run).weights, last(RunFolder.open(first)).weights
    assert torch.allclose(weights["backbone.conv1.weight"], before["backbone.conv1.weight"], atol=1e-6)
    assert torch.allclose(weights["classifier.weight"], before["classifier.weight"], atol=1e-6)


def test_gradients_may_be_added_up_and_arithmetic_be_shorter(small_settings, tmp_path):
    precision = {"autocast": "bfloat16"}
    optimizer = {"accumulate": 3, "clip_norm": 1.0, "schedule": "one_cycle"}
    data = {"image_size": [64, 32]}
    run = train(changed(small_settings, epochs=1, data=data, precision=precision, optimizer=optimizer), tmp_path)
    (record,) = run.records("train")
    assert math.isfinite(record["loss_exemplar"])
    assert record["autocast"] in ("bfloat16", "none")


def test_weights_that_are_not_finite_are_never_saved(small_settings, tmp_path, monkeypatch):
    backward = torch.autograd.backward
    calls = []

    def spoilt(loss):
        backward(loss)
        calls.append(loss)
        # the last update of the second epoch: no loss comes after it that would tell
        if len(calls) == 6:
            spoil.grad.fill_(math.nan)

    trainer = build_trainer(small_settings, RunFolder.create(tmp_path / "run", small_settings))
    spoil = trainer.method.trained.backbone.layer4[0].conv1.weight
    monkeypatch.setattr(torch.autograd, "backward", spoilt)
    with pytest.raises(InputError, match=r"epoch 2 left nan in backbone.layer4.0.conv1.weight; the last checkpoint"):
        trainer.fit()
    assert last(RunFolder.open(tmp_path / "run")).description["epoch"] == 1


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(small_settings, tmp_path):
    settings = changed(small_settings, epochs=3, optimizer={"schedule": "step", "milestones": [1], "decay": 1e30})
    with pytest.raises(InputError, match=r"the loss \w+ became (nan|inf) in step \d of epoch 2; the last checkpoint"):
        train(settings, tmp_path)
    assert last(RunFolder.open(tmp_path)).description["epoch"] == 1
    with pytest.raises(InputError, match=r"of epoch 1; there is no checkpoint yet; lower optimizer.lr"):
        train(changed(settings, optimizer={"lr": 1e30}), tmp_path / "first")


def test_a_loss_that_is_not_finite_before_any_update_is_not_blamed_on_the_rate(small_settings, tmp_path):
    settings = changed(small_settings, memory={"temperature": 1e-320})
    with pytest.raises(
        InputError, match=r"the loss exemplar became nan in step 1 of epoch 1; .* such as a temperature"
    ):
        train(settings, tmp_path / "run")


def test_whatever_stops_a_run_at_its_beginning_does_not_block_the_next_try(small_settings, tmp_path, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(runs, "build_trainer", broken)
        with pytest.raises(RuntimeError):
            train(small_settings, tmp_path / "a" / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_being_trained_is_left_alone(small_settings, tmp_path):
    settings = changed(small_settings, epochs=1)
    run = train(settings, tmp_path / "run")
    metrics = run.metrics_file.read_text() + '{"kind": "train", "epoch": 2}\n'
    run.metrics_file.write_text(metrics)
    with run.training():
        for again in (lambda: resume(run.path), lambda: train_or_resume(settings, run.path)):
            with pytest.raises(InputError, match="run: is being trained by another process"):
                again()
        # the way of the camera styles, which open the run later
        trainer = build_trainer(settings, RunFolder.open(run.path))
        with pytest.raises(InputError, match="run: is being trained by another process"):
            trainer.resume(last(run))
    assert run.metrics_file.read_text() == metrics


def test_a_checkpoint_of_other_settings_is_refused(small_settings, tmp_path):
    run = train(changed(small_settings, epochs=1), tmp_path)
    run.config_file.write_text(dump_settings(changed(small_settings, epochs=1, loss_weight=0.5)))
    with pytest.raises(InputError, match=r"\(loss_weight was 0.3 and is 0.5\); undo the change"):
        resume(tmp_path)
    # an edited stride would give features of another network without a word
    run.config_file.write_text(dump_settings(changed(small_settings, epochs=1, model={"last_stride": 1})))
    with pytest.raises(InputError, match=r"\(model.last_stride was 2 and is 1\); undo the change"):
        load_trained(tmp_path)
    with pytest.raises(InputError, match="holds a run with other settings"):
        train_or_resume(changed(small_settings, epochs=1, loss_weight=0.4), tmp_path)


def test_a_run_of_an_earlier_version_has_the_defaults_of_new_settings(small_settings, tmp_path):
    run = train(changed(small_settings, epochs=1), tmp_path)
    file = run.checkpoint_folder / "epoch_0001" / "checkpoint.json"
    description = json.loads(file.read_text())
    del description["settings"]["memory"]["own_slot"], description["checksum"]
    file.write_text(json.dumps(description))
    assert last(resume(tmp_path)).description["epoch"] == 1
    # earlier versions noted a hash of the settings, and the paths of the images alone
    description["settings"] = "0" * 16
    description["fingerprints"] = {role: text.partition("-")[0] for role, text in description["fingerprints"].items()}
    file.write_text(json.dumps(description))
    assert last(resume(tmp_path, ["epochs=2"])).description["epoch"] == 2


@pytest.mark.parametrize(
    ("site", "swap", "message"),
    [
        ("site-a", "labels", "the source identities or cameras of the images are not those"),
        ("site-a", "cameras", "the source identities or cameras of the images are not those"),
        ("site-b", "cameras", "the target identities or cameras of the images are not those"),
        ("site-b", "names", "the target images are not those"),
    ],
)
def test_a_checkpoint_of_other_data_is_refused(small_settings, small_sites, tmp_path, site, swap, message):
    role = "source" if site == "site-a" else "target"
    root = tmp_path / "data"
    shutil.copytree(small_sites / site / "bounding_box_train", root / "bounding_box_train")
    rows = [
        [f"bounding_box_train/{path.name}", path.name[:4], path.name[6], "train"]
        for path in sorted((root / "bounding_box_train").iterdir())
    ]

    def write() -> str:
        lines = ["path,pid,camid,split", *(",".join(row) for row in rows)]
        (root / "manifest.csv").write_text("\n".join(lines) + "\n")
        return str(root / "manifest.csv")

    settings = changed(small_settings, epochs=1, data={role: write()})
    settings = changed(settings, data={"target": settings.data.source}) if role == "source" else settings
    settings = changed(settings, data={"target": str(small_sites / "site-b")}) if role == "source" else settings
    run = train(settings, tmp_path / "run")
    resume(run.path)
    if swap == "names":
        (root / rows[0][0]).rename(root / "bounding_box_train" / "other.jpg")
        rows[0][0] = "bounding_box_train/other.jpg"
    else:
        column = 1 if swap == "labels" else 2
        first, second = rows[0], next(row for row in rows if row[column] != rows[0][column])
        first[column], second[column] = second[column], first[column]
    write()
    with pytest.raises(InputError, match=message):
        resume(run.path)


def test_a_target_without_identities_may_get_them_between_kill_and_resume(small_settings, small_sites, tmp_path):
    # they are for reporting only
    table = SampleTable(name="x", root=small_sites, paths=("a", "b"), pids=np.array([1, 2]), camids=np.array([0, 1]))
    other = SampleTable(name="x", root=small_sites, paths=("a", "b"), pids=np.array([2, 1]), camids=np.array([0, 1]))
    assert table.content_fingerprint(labels=False) == other.content_fingerprint(labels=False)
    assert table.content_fingerprint(labels=True) != other.content_fingerprint(labels=True)


def test_everything_is_checked_before_pretraining(small_settings, small_sites, tmp_path):
    # no query has a match: every person of the gallery is seen by the query's own camera alone
    target = shutil.copytree(small_sites / "site-b", tmp_path / "site")
    for image in (target / "bounding_box_test").iterdir():
        image.rename(image.with_name("0000" + image.name[4:]))
    settings = changed(small_settings, pretrain={"epochs": 1}, data={"target": str(target)})
    with pytest.raises(InputError, match="no query has a true match in the gallery"):
        train(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_target_with_one_camera_is_evaluated_within_it(small_settings, small_sites, tmp_path, caplog):
    target = tmp_path / "site"
    for split in ("bounding_box_train", "query", "bounding_box_test"):
        (target / split).mkdir(parents=True)
        for image in (small_sites / "site-b" / split).iterdir():
            shutil.copy(image, target / split / f"{image.name[:5]}c1{image.name[7:]}")
    invariance = {"camera": False}
    run = train(
        changed(small_settings, epochs=1, invariance=invariance, data={"target": str(target)}), tmp_path / "run"
    )
    assert 0 < final_result(run)["mAP"] <= 1
    assert "has one camera or unknown ones, so matches within the camera count" in caplog.text


def test_a_resumed_run_may_change_what_leaves_its_numbers_alone(small_settings, small_sites, tmp_path):
    run = train(changed(small_settings, epochs=1), tmp_path / "run")
    moved = shutil.copytree(small_sites / "site-b", tmp_path / "moved" / "site-b")
    resume(run.path, [f"data.target={moved}", "epochs=2", "keep_checkpoints=5"])
    assert run.settings().data.target == moved
    assert [record["epoch"] for record in run.records("train")] == [1, 2]
    moved = moved.rename(tmp_path / "again")
    with pytest.raises(
        InputError, match=r"no such file or folder; where data.target has moved to, .* data.target=PATH"
    ):
        resume(run.path)
    resume(run.path, [f"data.target={moved}"])
    with pytest.raises(InputError, match=r"loss_weight cannot be changed, epoch 2 is trained with the old value"):
        resume(run.path, ["loss_weight=0.5"])
    with pytest.raises(InputError, match="epochs: .* is trained for 2 epochs already"):
        resume(run.path, ["epochs=1"])
    staged = changed(small_settings, epochs=1, pretrain={"epochs": 1}, optimizer={"lr": 1e30})
    with pytest.raises(InputError, match="the loss .* became"):
        train(changed(staged, pretrain={"optimizer": {"lr": 0.01}}), tmp_path / "staged")
    resume(tmp_path / "staged", ["optimizer.lr=0.01"])
    assert last(RunFolder.open(tmp_path / "staged")).description["epoch"] == 1


def test_an_evaluation_that_was_interrupted_is_made_up_for(small_settings, tmp_path):
    whole = train(small_settings, tmp_path / "whole")
    run = train(small_settings, tmp_path / "run")
    lines = run.metrics_file.read_text().splitlines(keepends=True)
    assert json.loads(lines[-1])["kind"] == "evaluation"
    run.metrics_file.write_text("".join(lines[:-1]))
    resume(run.path)
    assert numbers(run) == numbers(whole)
    # and one that is there is not made again
    before = run.metrics_file.read_bytes()
    resume(run.path)
    assert run.metrics_file.read_bytes() == before


def test_a_run_whose_checkpoints_are_gone_is_not_begun_anew(small_settings, tmp_path):
    run = train(small_settings, tmp_path / "run")
    metrics = run.metrics_file.read_bytes()
    shutil.rmtree(run.checkpoint_folder)
    with pytest.raises(InputError, match="tells of 2 epochs .* but there is no checkpoint in .*; restore that folder"):
        resume(run.path)
    assert run.metrics_file.read_bytes() == metrics


def test_nor_is_one_whose_only_checkpoint_is_gone(small_settings, tmp_path):
    run = train(changed(small_settings, epochs=1, evaluate_every=1), tmp_path / "run")
    metrics = run.metrics_file.read_bytes()
    shutil.rmtree(run.checkpoint_folder)
    with pytest.raises(InputError, match="tells of 1 epochs that were trained, but there is no checkpoint"):
        resume(run.path)
    assert run.metrics_file.read_bytes() == metrics
    # what a kill before the first checkpoint leaves is begun anew
    lines = metrics.splitlines(keepends=True)
    kinds = [json.loads(line)["kind"] for line in lines]
    assert kinds[-1] == "evaluation"
    run.metrics_file.write_bytes(b"".join(lines[: kinds.index("train") + 1]))
    resume(run.path)
    assert run.has_checkpoint(1)


def test_metrics_that_were_changed_are_named(small_settings, tmp_path):
    run = train(small_settings, tmp_path / "run")
    run.metrics_file.write_bytes(run.metrics_file.read_bytes().replace(b"loss", b"lost", 1))
    with pytest.raises(InputError, match="metrics.jsonl: was cut off or changed since the checkpoint was written"):
        resume(run.path)


@pytest.mark.parametrize(("method", "has_baseline"), [("ecn", True), ("source", False)])
def test_adaptation_is_measured_from_the_model_that_it_starts_from(small_settings, tmp_path, method, has_baseline):
    settings = changed(small_settings, method=method, epochs=1)
    if has_baseline:
        settings = changed(settings, pretrain={"epochs": 1})
    run = train(settings, tmp_path / "run")
    epochs = [record["epoch"] for record in run.records("evaluation")]
    assert epochs == ([0, 1] if has_baseline else [1])
    if has_baseline:
        before = final_result(RunFolder.open(run.path / "pretrain"))
        assert run.records("evaluation")[0]["mAP"] == before["mAP"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"target": None}}, "data.target is not set: give the folder of the target data set"),
        ({"batch": {"target": 5000}}, "batch.target is 5000, but there are .* target images; lower it"),
        ({"batch": {"source": 8, "instances": 3}}, "batch.source is 8, which is not a multiple of batch.instances, 3"),
        ({"views": {"style": "files"}}, "camstyle"),
        ({"invariance": {"exemplar": False}}, "invariance.exemplar: camera and neighborhood build on it"),
        ({"batch": {"source": 1}}, "batch.source is 1, and batch normalisation takes at least 2 images; raise it"),
        ({"batch": {"target": 1}}, "batch.target is 1, and batch normalisation takes at least 2 images; raise it"),
        ({"device": "cuda:99"}, "device: 'cuda:99' is not available"),
        ({"device": "meta"}, "device: expected auto, cpu, cuda, cuda:N or mps, got 'meta'"),
        ({"device": "cpu:3"}, "device: expected auto, cpu, cuda, cuda:N or mps, got 'cpu:3'"),
        ({"init_from": "nowhere.pt"}, "nowhere.pt"),
    ],
)
def test_settings_that_do_not_fit_the_data(small_settings, tmp_path, changes, message):
    with pytest.raises(InputError, match=message) as caught:
        train(changed(small_settings, **changes), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
    if "init_from" not in changes:
        with pytest.raises(InputError, match=message):
            train(changed(small_settings, **changes, pretrain={"epochs": 1}), tmp_path / "run")
        # nothing was trained before the mistake was found
        assert not (tmp_path / "run").exists()


def test_a_device_is_there_or_refused_with_one_line(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(InputError, match="device: 'mps' is not available: PyTorch finds no Apple GPU; device=auto"):
        choose_device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert (choose_device("cuda:1"), choose_device("auto")) == ("cuda:1", "cuda")
    with pytest.raises(InputError, match="there are 2 GPUs, counted from 0"):
        choose_device("cuda:2")


PROGRAM = "import sys, pathlib; from reid_da.experiments.runs import train_or_resume; "
PROGRAM += "from reid_da.methods import load_settings; "
PROGRAM += "import torch; torch.set_num_threads(1); "
PROGRAM += "train_or_resume(load_settings(sys.argv[1]), pathlib.Path(sys.argv[2]))"


def kill_when(process, condition) -> bool:
    """Kill the process as soon as the condition holds; False if it ended before."""
    while process.poll() is None:
        if condition():
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.0005)
    assert process.returncode == 0
    return False


@pytest.mark.parametrize("split", ["query", "bounding_box_test", "bounding_box_train"])
def test_a_broken_image_stops_a_run_at_its_beginning_or_is_left_out(small_settings, small_sites, tmp_path, split):
    target = shutil.copytree(small_sites / "site-b", tmp_path / "site")
    broken = sorted((target / split).iterdir())[-1]
    broken.write_bytes(broken.read_bytes()[:300])
    settings = changed(small_settings, epochs=1, data={"target": str(target)})
    with pytest.raises(InputError, match=broken.name):
        train(settings, tmp_path / "stopped")
    assert not (tmp_path / "stopped").exists()
    run = train(changed(settings, data={"on_error": "skip"}), tmp_path / "run")
    whole = len(list((small_sites / "site-b" / "query").iterdir()))
    assert final_result(run)["num_queries"] == whole - (split == "query")


def test_a_checkpoint_of_the_authors_may_be_the_beginning(small_settings, tmp_path):
    def build_network(settings, num_classes):
        return ExperimentContext(settings).network(num_classes=num_classes)

    trained = build_network(changed(small_settings, seed=5), num_classes=9)
    names = {"backbone.": "base.", "embedding.": "feat.", "embedding_norm.": "feat_bn."}

    def official(name):
        return next((name.replace(ours, theirs, 1) for ours, theirs in names.items() if name.startswith(ours)), name)

    state = {f"module.{official(name)}": value for name, value in trained.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 60}, tmp_path / "ecn.pth.tar")
    settings = changed(small_settings, init_from=str(tmp_path / "ecn.pth.tar"))
    same_classes, others = build_network(settings, num_classes=9), build_network(settings, num_classes=7)
    assert same(same_classes.state_dict(), trained.state_dict())
    kept = {name: value for name, value in trained.state_dict().items() if not name.startswith("classifier.")}
    assert same({name: others.state_dict()[name] for name in kept}, kept)
    assert len(others.classifier.weight) == 7
    del state["module.feat.weight"]
    torch.save({"state_dict": state}, tmp_path / "ecn.pth.tar")
    with pytest.raises(
        InputError, match=r"ecn.pth.tar: does not fit this network; weights: 1 missing \(embedding.weight"
    ):
        build_network(settings, num_classes=9)


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_with_the_numbers_of_an_unbroken_one(small_settings, tmp_path):
    settings = changed(small_settings, epochs=5, keep_checkpoints=2, pretrain={"epochs": 1})
    unbroken = train(settings, tmp_path / "unbroken")
    config, folder = tmp_path / "config.yaml", tmp_path / "killed"
    config.write_text(dump_settings(settings))
    rng = random.Random(0)

    def is_writing() -> bool:
        return any(folder.glob("checkpoints/.epoch_*.tmp"))

    def after(seconds: float):
        deadline: list[float] = []

        def condition() -> bool:
            if not deadline and (folder / "metrics.jsonl").exists():
                deadline.append(time.monotonic() + seconds)
            return bool(deadline) and time.monotonic() > deadline[0]

        return condition

    kills = 0
    for condition in (is_writing, after(rng.uniform(0, 1)), is_writing, after(rng.uniform(0, 2))):
        command = [sys.executable, "-c", PROGRAM, str(config), str(folder)]
        kills += kill_when(subprocess.Popen(command, start_new_session=True), condition)
    assert kills >= 2
    resumed = train_or_resume(settings, folder)
    assert numbers(resumed) == numbers(unbroken)
    assert same(last(resumed).weights, last(unbroken).weights)
    for name in ("slots", "last_update"):
        assert torch.equal(*(last(run).state["method"]["memory"][name] for run in (resumed, unbroken)))


def test_a_run_that_is_not_complete_says_which_epoch_its_model_is_of(small_settings, tmp_path, caplog):
    run = train(changed(small_settings, keep_checkpoints=2), tmp_path)
    with caplog.at_level("INFO", logger="reid_da"):
        assert load_trained(tmp_path).epoch == 2
        assert load_trained(run.checkpoint_folder / "epoch_0001").epoch == 1
    assert "not complete" not in caplog.text
    shutil.rmtree(run.checkpoint_folder / "epoch_0002")
    with caplog.at_level("INFO", logger="reid_da"):
        assert load_trained(tmp_path).epoch == 1
    assert f"{tmp_path}: not complete; this is the model after epoch 1 of 2" in caplog.text


def test_a_damaged_checkpoint_is_passed_over_if_asked(small_settings, tmp_path):
    run = train(small_settings, tmp_path / "run")
    expected = last(run).weights
    newest: Path = run.checkpoint_folder / "epoch_0002"
    (newest / "state.pt").write_bytes((newest / "state.pt").read_bytes()[:100])
    with pytest.raises(InputError, match="damaged or cut off"):
        resume(run.path)
    with pytest.raises(InputError, match="damaged or cut off"):
        load_trained(run.path)
    assert load_trained(run.checkpoint_folder / "epoch_0001").image_size == (32, 16)
    assert same(last(resume(run.path, skip_damaged=True)).weights, expected)
    assert load_checkpoint(newest).description["epoch"] == 2
