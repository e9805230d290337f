"""The memory of a training, planned, against what is there once it is built."""

import json

import harness
import pytest
import torch

from reid_da.cli import main
from reid_da.cli.plan import parse_bytes
from reid_da.errors import InputError
from reid_da.evaluation.image_features import extract_features
from reid_da.experiments import plan as planning
from reid_da.experiments.setup import build_trainer
from reid_da.models.backbones import create_backbone
from reid_da.models.building import build_network
from reid_da.training.run_folder import RunFolder


def settings(coded_sites, changes=None):
    return harness.experiment(coded_sites / "source", coded_sites / "target", changes)


def parts_of(stage):
    return {part.name: part.count for part in stage.parts}


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_weights_memory_and_optimiser_are_those_of_the_training(coded_sites, tmp_path, kind):
    tiny = settings(coded_sites, {"optimizer": {"kind": kind}, "epochs": 1})
    (stage,) = planning.plan(tiny)
    trainer = build_trainer(tiny, RunFolder(tmp_path))
    trainer.train_epoch()
    found, method = parts_of(stage), trainer.method
    assert found["weights"] == sum(value.nbytes for value in method.trained.state_dict().values())
    assert found["exemplar memory"] == method.memory.slots.nbytes
    of_parameters = [
        value.nbytes
        for state in trainer.optimizer.state.values()
        for value in state.values()
        if torch.is_tensor(value) and value.ndim
    ]
    assert found["optimiser"] == sum(of_parameters)


def test_activations_are_what_autograd_keeps():
    backbone = create_backbone("resnet18", width=0.25, weights="none")
    kept, _ = planning._kept_by(create_backbone("resnet18", width=0.25, weights="none"), (32, 16))
    of_weights = {value.data_ptr() for value in (*backbone.parameters(), *backbone.buffers())}
    seen = {}

    def keep(value):
        storage = value.untyped_storage()
        if storage.data_ptr() not in of_weights:
            # held, so that no two have the same place
            seen[storage.data_ptr()] = value
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        backbone.train()(torch.zeros(8, 3, 32, 16))
    real = sum(value.untyped_storage().nbytes() for value in seen.values()) / 8
    assert kept == pytest.approx(real, rel=1e-3)


def test_extraction_is_planned_in_the_batches_that_it_takes(coded_sites):
    class Images:
        size, failed = (32, 16), ()

        def __len__(self):
            return 1000

        def gather(self, index, views=None):
            return torch.zeros(len(index), 3, 32, 16, dtype=torch.uint8)

    backbone = create_backbone("resnet18", width=0.25, weights="none")
    seen = []
    backbone.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    extract_features(backbone, Images(), normalize=False)
    (stage,) = planning.plan(settings(coded_sites, {"model": {"backbone": "resnet18", "width": 0.25}}))
    _, largest = planning._kept_by(backbone, (32, 16))
    assert parts_of(stage)["extraction"] == 2 * largest * max(seen)


def test_extraction_by_camera_takes_a_copy_of_the_network(coded_sites):
    found, by_camera = (
        parts_of(planning.plan(settings(coded_sites, {"model": {"camera_norm": value}}))[0]) for value in (False, True)
    )
    network = build_network(settings(coded_sites).model, num_classes=0, image_size=(32, 16), weights="none")
    copied = sum(value.nbytes for value in network.state_dict().values())
    assert by_camera["extraction"] - found["extraction"] == copied


def test_processes_share_what_they_share(coded_sites):
    alone, shared = (parts_of(planning.plan(settings(coded_sites), processes=size)[0]) for size in (1, 4))
    assert alone["exemplar memory"] == 18 * 32 * 4
    assert shared["exemplar memory"] == 5 * 32 * 4
    assert shared["weights"] == alone["weights"]
    assert shared["activations"] == pytest.approx(alone["activations"] / 4)


@pytest.mark.parametrize(
    ("method", "name", "rows"), [("spcl", "hybrid memory, means", 36), ("cap", "proxies (at most)", 18)]
)
def test_memories_of_clustering_methods_are_shared(coded_sites, method, name, rows):
    neck = {"embedding": "none", "target_dropout": "none", "test_feature": "embedding"}
    changes = {"method": method, "model": neck, "batch": {"instances": 2}}
    alone, shared = (parts_of(planning.plan(settings(coded_sites, changes), processes=size)[0]) for size in (1, 4))
    assert alone[name] == rows * 64 * 4
    assert shared[name] == -(-rows // 4) * 64 * 4


@pytest.mark.parametrize(("kind", "size"), [("exact", None), ("ivf", 4 * 32 + 8), ("ivf_pq", 32 // 8 + 8)])
def test_an_index_of_the_memory_is_planned(coded_sites, kind, size):
    changes = {"memory": {"neighbor_search": kind}}
    found = parts_of(planning.plan(settings(coded_sites, changes), processes=4)[0])
    assert found.get("index") == (None if size is None else 5 * size)


def test_training_and_extraction_take_turns(coded_sites):
    (stage,) = planning.plan(settings(coded_sites))
    found = parts_of(stage)
    least = min(found["activations"], found["extraction"])
    assert stage.total == sum(found.values()) - least - found["image cache"]


@pytest.mark.parametrize("method", ["source", "camstyle", "mmt", "spcl", "cap", "clusters", "cluster-contrast", "npid"])
def test_every_method_can_be_planned(coded_sites, method):
    neck = {"embedding": "none", "target_dropout": "none", "test_feature": "embedding"}
    (stage,) = planning.plan(settings(coded_sites, {"method": method, "model": neck, "batch": {"instances": 2}}))
    assert stage.total > 0
    assert ("features to cluster" in parts_of(stage)) == (
        method in ("mmt", "spcl", "cap", "clusters", "cluster-contrast")
    )


def test_stages_before_are_planned_too(coded_sites, tmp_path, capsys):
    file = tmp_path / "tiny.yaml"
    tree = harness.merge(harness.TINY, {"pretrain": {"method": "source", "epochs": 1}})
    tree["data"] = {
        "source": str(coded_sites / "source"),
        "target": str(coded_sites / "target"),
        "image_size": [32, 16],
    }
    file.write_text(json.dumps(tree), encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        main(["plan", str(file), "--memory", "1MB"])
    assert ended.value.code == 1
    shown = capsys.readouterr().out
    assert "stage 1 of 2: source, 1 epochs" in shown
    assert "stage 2 of 2: ecn, 3 epochs" in shown
    assert "do not fit into 1MB; " in shown
    with pytest.raises(SystemExit) as ended:
        main(["plan", str(file), "--memory", "1TB", "--json"])
    assert ended.value.code == 0
    stages = json.loads(capsys.readouterr().out)
    assert [stage["stage"] for stage in stages] == ["source, 1 epochs", "ecn, 3 epochs"]


@pytest.mark.parametrize(("text", "number"), [("80GB", 80 * 10**9), ("1.5 tb", 1.5 * 10**12), ("512", 512)])
def test_sizes_are_parsed(text, number):
    assert parse_bytes(text) == number


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "80 gigabytes", "1e9"])
def test_other_sizes_are_refused(text):
    with pytest.raises(InputError, match="--memory: expected a size such as 80GB"):
        parse_bytes(text)
