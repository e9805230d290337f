"""Trainings of the methods on pseudo-labels, and of ECN++: killed, resumed, with a source and without one."""

import pytest
import torch

from reid_da.config import merge
from reid_da.experiments import runs
from reid_da.experiments.runs import resume, train
from reid_da.experiments.setup import build_trainer
from reid_da.methods import settings_of
from reid_da.training.run_folder import RunFolder
from reid_da.training.trained import load_trained

TIMING = {"seconds", "images_per_second", "seconds_prepared", "peak_memory_mb"}
METHODS = {
    "cap": {"batch": {"target": 16}, "data": {"source": None}, "proxies": {"inter_from_epoch": 1}},
    "o2cap": {
        "method": "cap",
        "batch": {"target": 16},
        "data": {"source": None},
        "proxies": {"intra_weight": 0.0, "inter_from_epoch": 0},
        "online": {"weight": 1.0, "from_epoch": 1},
    },
    "cluster-contrast": {"data": {"source": None}},
    "cluster-contrast-source": {"method": "cluster-contrast"},
    "clusters": {"data": {"source": None}},
    "clusters-source": {"method": "clusters"},
    "spcl": {"data": {"source": None}},
    "spcl-source": {"method": "spcl", "model": {"samples_per_norm": 4}},
    "mmt": {},
    "ecn-gpp": {"memory": {"num_neighbors": 10}, "positives": {"widths": [8], "threshold": 0.4}},
    "clusters-by-camera": {"method": "clusters", "camera": True, "model": {"camera_norm": True}},
    "mmt-by-camera": {"method": "mmt", "model": {"camera_norm": True}},
    "cap-by-camera": {"method": "cap", "batch": {"target": 16}, "model": {"camera_norm": True}},
    "spcl-by-camera": {"method": "spcl", "model": {"camera_norm": True}},
    "mmt-kmeans": {"method": "mmt", "clustering": {"algorithm": "kmeans", "num_clusters": 6, "eps_share": None}},
}


@pytest.fixture
def settings(small_settings, request):
    changes = {
        "method": request.param,
        "evaluate_every": 2,
        "model": {"width": 0.25, "embedding": "none", "dropout": 0.0, "target_dropout": "none"},
        "batch": {"target": 8, "instances": 2},
        "optimizer": {"kind": "adam", "lr": 1e-3},
        "steps_per_epoch": 2,
    }
    if request.param != "ecn-gpp":
        changes["clustering"] = {"k1": 5, "k2": 2, "min_samples": 2, "eps_share": None}
    tree = merge(
        merge(small_settings.tree, {**changes, "model": {**changes["model"], "test_feature": "embedding"}}),
        METHODS[request.param],
    )
    return settings_of(tree, where="test")


def records(run):
    return [{name: value for name, value in record.items() if name not in TIMING} for record in run.records()]


@pytest.mark.parametrize("settings", METHODS, indirect=True)
def test_a_training_that_is_killed_inside_an_epoch_goes_on_to_the_same_numbers(settings, tmp_path, monkeypatch):
    unbroken = train(settings, tmp_path / "unbroken")
    assert 0 < unbroken.records("evaluation")[-1]["mAP"] <= 1

    def build_killed(*args, **kwargs):
        trainer = build_trainer(*args, **kwargs)
        step, steps = trainer.method.step, []

        def killed_in_the_second_epoch(batches):
            steps.append(trainer.epoch)
            if steps.count(1) == 2:
                raise KeyboardInterrupt
            return step(batches)

        trainer.method.step = killed_in_the_second_epoch
        return trainer

    with monkeypatch.context() as patch:
        patch.setattr(runs, "build_trainer", build_killed)
        with pytest.raises(KeyboardInterrupt):
            train(settings, tmp_path / "killed")
    killed = RunFolder(tmp_path / "killed")
    assert killed.last_checkpoint().description["epoch"] == 1
    found, expected = resume(killed.path).last_checkpoint(), unbroken.last_checkpoint()
    assert found.weights.keys() == expected.weights.keys()
    assert all(torch.equal(found.weights[name], value) for name, value in expected.weights.items())
    assert records(killed) == records(unbroken)
    # the run is opened as any other: its network for inference alone
    model = load_trained(unbroken.path)
    assert model is not None
