"""What one process computes, two, three and four compute together."""

import os
import signal
import subprocess
import sys

import cases
import loss_curves
import pytest
import torch
from processes import together

from reid_da.errors import InputError
from reid_da.models.shared_norm import share_batch_norms
from reid_da.world import World

PARTS = {
    "collectives": (cases.collectives, ()),
    "batch norm": (cases.batch_norm, ()),
    "memory": (cases.memory, (7, torch.float64)),
    "memory with an empty shard": (cases.memory, (2, torch.float64)),
    "memory in float32": (cases.memory, (7, torch.float32)),
    "memory in bfloat16": (cases.memory, (7, torch.bfloat16)),
    "proxies": (cases.proxies, ([0, 2, 1, 0, 2, 0, 2, 1, 2], [0, 0, 0, 1, 1, 2, 3, 3, 4])),
    "proxies with an empty shard": (cases.proxies, ([0, 1], [0, 0])),
    "proxies of two clusters and cameras, with an empty shard": (cases.proxies, ([0, 1, 0], [0, 0, 1])),
    "sums": (cases.sums, ()),
    "means": (cases.means, ()),
    "index": (cases.index, ()),
    "quantised index": (cases.quantized_index, ()),
    "clusters": (cases.clusters, ()),
    "retrieval": (cases.retrieval, ()),
}
SHARED_IN_BOTH = ("spcl", "cap", "o2cap")
"""Trainings that are compared with two processes and with three."""
EXACT, ROUNDING = 1e-9, 5e-6
"""Largest differences in float64 and in float32."""


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    return loss_curves.write_sites(tmp_path_factory.mktemp("sites"))


def different(found, expected, *, tolerance):
    """Names of what differs."""
    assert found.keys() == expected.keys()
    return [name for name, value in expected.items() if not same(found[name], value, tolerance)]


def same(found, expected, tolerance):
    if not torch.is_tensor(expected):
        return found == expected
    if not expected.is_floating_point():
        return torch.equal(found, expected)
    return torch.allclose(found, expected, rtol=0, atol=tolerance, equal_nan=True)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_parts_are_those_of_one_process(tmp_path, size):
    found = together(size, cases.each, tmp_path, PARTS)
    expected = cases.each(World(), PARTS)
    for name, (_, arguments) in PARTS.items():
        narrow = torch.float32 in arguments or torch.bfloat16 in arguments
        tolerance = ROUNDING if narrow else EXACT
        assert different(found[name], expected[name], tolerance=tolerance) == [], name


def test_an_error_of_one_is_heard_by_all_whatever_they_exchange(tmp_path):
    found = together(3, cases.one_that_fails, tmp_path)
    assert found["heard"] == ["process 2: no such file"] * 3


def test_what_differs_is_named(tmp_path):
    found = together(2, cases.other_facts, tmp_path)
    assert found["heard"] == "process 1 differs from process 0 in the images: b and a; give all machines the same"
    assert cases.other_facts(World()) == {"heard": ""}


@pytest.fixture(scope="module")
def alone(sites):
    """Trainings in one process by name."""
    found = {}

    def train(name, dtype):
        if (name, dtype) not in found:
            found[name, dtype] = cases.training(World(), sites, name, dtype, sites / "unused")
        return found[name, dtype]

    return train


@pytest.mark.parametrize(
    ("name", "size"),
    [(name, 2 + number % 2) for number, name in enumerate(cases.TRAININGS)]
    + [(name, 3 - number % 2) for number, name in enumerate(cases.TRAININGS) if name in SHARED_IN_BOTH]
    + [("ecn", 4)],
)
def test_a_training_is_that_of_one_process(sites, alone, tmp_path, name, size):
    arguments = (sites, name, torch.float64, sites / "unused")
    found = together(size, cases.training, tmp_path, *arguments)
    assert different(found, alone(name, torch.float64), tolerance=EXACT) == []


def test_in_float32_it_differs_by_rounding(sites, alone, tmp_path):
    found = together(2, cases.training, tmp_path, sites, "ecn in groups", torch.float32, sites / "unused")
    assert different(found, alone("ecn in groups", torch.float32), tolerance=3e-4) == []


def test_a_run_is_resumed_by_another_number_of_processes(sites, tmp_path):
    whole = cases.run(World(), sites, tmp_path / "whole", 3, {"pretrain": {"method": "source", "epochs": 1}})
    folder, changes = tmp_path / "parts", {"pretrain": {"method": "source", "epochs": 1}}
    together(3, cases.run, tmp_path / "first", sites, folder, 1, changes)
    together(2, cases.run, tmp_path / "second", sites, folder, 2, changes)
    last = cases.run(World(), sites, folder, 3, changes)
    records, expected = last.pop("records"), whole.pop("records")
    assert different(last, whole, tolerance=3e-4) == []
    assert [(record["kind"], record["epoch"]) for record in records] == [
        (record["kind"], record["epoch"]) for record in expected
    ]
    losses = [[record["loss_exemplar"] for record in kept if "loss_exemplar" in record] for kept in (records, expected)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert not list(folder.rglob("*.tmp"))


def test_a_hybrid_memory_is_resumed_by_another_number_of_processes(sites, tmp_path):
    # small steps: differences of rounding grow with them
    folder, changes = tmp_path / "parts", {**cases.TRAININGS["spcl"], "optimizer": {"lr": 2e-5}}
    whole = cases.run(World(), sites, tmp_path / "whole", 3, changes)
    together(3, cases.run, tmp_path / "first", sites, folder, 1, changes)
    assert (folder / "checkpoints" / "epoch_0001" / "rows.safetensors").exists()
    together(2, cases.run, tmp_path / "second", sites, folder, 2, changes)
    last = cases.run(World(), sites, folder, 3, changes)
    records, expected = last.pop("records"), whole.pop("records")
    assert last["memory slots"].shape == (4 + 24, 64)
    assert different(last, whole, tolerance=3e-4) == []
    losses = [[record["loss_target"] for record in kept if "loss_target" in record] for kept in (records, expected)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_rows_of_a_checkpoint_do_not_tell_of_processes(sites, tmp_path):
    together(3, cases.run, tmp_path / "meeting", sites, tmp_path / "run", 1, {})
    checkpoint = tmp_path / "run" / "checkpoints" / "epoch_0001"
    from reid_da.training.checkpoint import load_checkpoint

    loaded = load_checkpoint(checkpoint)
    assert loaded.description["format"] == 2
    memory = loaded.state["method"]["memory"]
    assert memory["slots"].shape == (24, 32)
    assert memory["last_update"].read(slice(5, 9)).tolist() == memory["last_update"].read().tolist()[5:9]
    (checkpoint / "rows.safetensors").write_bytes((checkpoint / "rows.safetensors").read_bytes()[:-1] + b"?")
    with pytest.raises(InputError, match="rows.safetensors: damaged or cut off"):
        load_checkpoint(checkpoint)


def test_a_network_that_drops_at_random_is_refused():
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.1))
    with pytest.raises(InputError, match=r"^1: this network drops values at random, which one process can train alone"):
        share_batch_norms(network, World(0, 2))
    share_batch_norms(network, World())


# ------------------------------------------------------------------------------------------------- on the command line


def start(size, port, config, folder, *overrides, environment=None):
    """Processes of ``reid-da train``, as torchrun would start them; one may have an environment of its own."""
    own = environment or {}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "reid_da", "train", str(config), *overrides, "-o", str(folder)],
            env={
                **os.environ,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(size),
                "MASTER_ADDR": "localhost",
                "MASTER_PORT": str(port),
                "OMP_NUM_THREADS": "1",
                **own.get(rank, {}),
            },
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def ends(processes):
    """Exit status and what was said, of each process."""
    said = [process.communicate(timeout=120) for process in processes]
    return [process.returncode for process in processes], [error for _, error in said], [text for text, _ in said]


def lines_of_errors(texts):
    return [line for text in texts for line in text.splitlines() if line.startswith("error:")]


@pytest.fixture
def config(sites, tmp_path):
    import yaml
    from harness import TINY, merge

    file = tmp_path / "tiny.yaml"
    changes = {"name": "tiny", "data": {"source": str(sites / "source"), "target": str(sites / "target")}}
    file.write_text(yaml.safe_dump(merge({**TINY, "label_free": False}, changes)), encoding="utf-8")
    return file


def test_a_mistake_is_one_line_of_one_process(config, tmp_path, free_port):
    statuses, errors, outputs = ends(
        start(2, free_port, config, tmp_path / "run", "batch.target=1", "views.per_image=1")
    )
    assert statuses == [2, 2]
    assert len(lines_of_errors(errors)) == 1
    assert "Traceback" not in "".join(errors)
    assert outputs == ["", ""]


def test_the_end_of_one_process_ends_all(config, tmp_path, free_port):
    processes = start(2, free_port, config, tmp_path / "run", "epochs=100000", "keep_checkpoints=1")
    try:
        while not (tmp_path / "run" / "checkpoints" / "epoch_0001").exists():
            assert processes[0].poll() is None, processes[0].communicate()[1]
        processes[1].send_signal(signal.SIGKILL)
        statuses, errors, _ = ends(processes)
    finally:
        for process in processes:
            process.kill()
    assert statuses == [2, -signal.SIGKILL]
    assert len(lines_of_errors(errors)) == 1
    assert "another process has ended" in errors[0]
    assert "Traceback" not in errors[0]


def test_other_commands_are_for_one_process(config, monkeypatch, capsys):
    from reid_da.cli import main

    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, line in (("0", "error: ablate: runs in one process; start it without torchrun\n"), ("1", "")):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit) as ended:
            main(["ablate", str(config)])
        assert ended.value.code == 2
        assert capsys.readouterr().err == line


def test_other_data_on_one_machine_are_found_at_the_start(sites, config, tmp_path, free_port):
    other = loss_curves.write_coded_site(tmp_path / "other", pids=(21, 22, 23, 24), num_cameras=3, per_camera=2)
    processes = start(1, free_port, config, tmp_path / "a", environment={0: {"WORLD_SIZE": "2"}})
    processes += start(
        1, free_port, config, tmp_path / "a", f"data.target={other}", environment={0: {"RANK": "1", "WORLD_SIZE": "2"}}
    )
    statuses, errors, _ = ends(processes)
    assert statuses == [2, 2]
    (line,) = lines_of_errors(errors)
    assert "process 1 differs from process 0 in the settings" in line
