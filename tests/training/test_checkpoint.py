import errno
import io
import json
import shutil

import pytest
import torch

from reid_da import atomic
from reid_da.errors import InputError
from reid_da.methods.ecn import ECNSettings as ExperimentSettings
from reid_da.training import checkpoint as module
from reid_da.training import run_folder
from reid_da.training.checkpoint import Checkpoint, list_checkpoints, load_checkpoint, save_checkpoint
from reid_da.training.metrics_lines import is_report, metrics_line, parse_line
from reid_da.training.run_folder import RunFolder

NOTED = {"epoch": 3, "settings": "0" * 16, "fingerprints": {}}


def example(value=1.0):
    weights = {"w": torch.full((2, 3), value), "n": torch.tensor(4)}
    return Checkpoint(weights=weights, state={"a": {"b": torch.arange(3), "c": [1, "x"]}}, description=NOTED)


def test_what_is_saved_is_loaded(tmp_path):
    save_checkpoint(tmp_path / "c", example())
    loaded = load_checkpoint(tmp_path / "c")
    assert torch.equal(loaded.weights["w"], torch.ones(2, 3))
    assert torch.equal(loaded.state["a"]["b"], torch.arange(3))
    assert loaded.state["a"]["c"] == [1, "x"]
    assert loaded.description["epoch"] == 3


@pytest.mark.parametrize("name", ["model.safetensors", "state.pt", "checkpoint.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_damage_is_noticed(tmp_path, name, damage):
    save_checkpoint(tmp_path / "c", example())
    file = tmp_path / "c" / name
    content = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    else:
        content[len(content) // 2] ^= 0xFF
        file.write_bytes(content[: len(content) // 2] if damage == "cut" else content)
    with pytest.raises(InputError):
        load_checkpoint(tmp_path / "c")


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    save_checkpoint(tmp_path / "epoch_0001", example())
    monkeypatch.setattr(module.torch, "save", full)
    with pytest.raises(InputError, match="epoch_0002: the disk is full, .* the one before is kept"):
        save_checkpoint(tmp_path / "epoch_0002", example())
    assert [path.name for path in tmp_path.iterdir()] == ["epoch_0001"]


class Full(io.FileIO):
    """A file on a full disk."""

    def write(self, _: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_that_is_full_inside_the_state_is_told_in_one_line(tmp_path, monkeypatch):
    """torch answers an error of the file that it writes to with one of its own, without the cause."""
    monkeypatch.setattr(atomic, "open_own", Full)
    with pytest.raises(InputError, match="epoch_0002: the disk is full, .* the one before is kept"):
        save_checkpoint(tmp_path / "epoch_0002", example())
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_full_at_the_metrics_names_them(tmp_path, monkeypatch):
    run = RunFolder.create(tmp_path / "run", ExperimentSettings(name="x"))
    monkeypatch.setattr(run_folder, "open_own", lambda path, *_, **__: io.TextIOWrapper(Full(path, "wb")))
    with pytest.raises(OSError, match=r"No space left on device: .*metrics.jsonl"):
        run.log({"kind": "train"})


def test_metrics_are_not_written_through_a_link(tmp_path):
    run = RunFolder.create(tmp_path / "run", ExperimentSettings(name="x"))
    run.metrics_file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="metrics.jsonl"):
        run.log({"kind": "train"})
    assert not (tmp_path / "elsewhere").exists()


def test_a_run_keeps_the_newest_checkpoints_and_the_metrics_that_belong_to_them(tmp_path):
    run = RunFolder.create(tmp_path / "run", ExperimentSettings(name="x"))
    for epoch in (1, 2, 3):
        run.log({"kind": "train", "epoch": epoch, "loss": float("nan") if epoch == 2 else 0.5})
        run.save(epoch, example(epoch), keep=2)
    run.log({"kind": "train", "epoch": 4})
    assert [path.name for path in list_checkpoints(run.checkpoint_folder)] == ["epoch_0002", "epoch_0003"]
    last = RunFolder.open(tmp_path / "run").last_checkpoint()
    assert last.weights["w"][0, 0] == 3
    run.forget_metrics_after(last)
    assert [record["epoch"] for record in run.records("train")] == [1, 2, 3]
    assert run.records()[1]["loss"] is None
    with pytest.raises(InputError, match="tells of 3 epochs .* but there is no checkpoint"):
        run.forget_metrics_after(None)


def test_metrics_of_an_epoch_that_was_never_saved_are_forgotten(tmp_path):
    run = RunFolder.create(tmp_path / "run", ExperimentSettings())
    run.log({"kind": "train", "epoch": 1})
    run.forget_metrics_after(None)
    assert run.records() == []


def test_folders_with_other_names_are_neither_counted_nor_removed(tmp_path):
    run = RunFolder.create(tmp_path / "run", ExperimentSettings())
    run.save(9999, example(1), keep=2)
    names = ("epoch_best", "epoch_9998_copy", "epoch_00001", "epoch_0000.bak")
    for name in names:
        shutil.copytree(run.checkpoint_folder / "epoch_9999", run.checkpoint_folder / name)
    for epoch in (10000, 10001):
        run.save(epoch, example(epoch), keep=2)
    assert [path.name for path in list_checkpoints(run.checkpoint_folder)] == ["epoch_10000", "epoch_10001"]
    assert run.last_checkpoint().description["epoch"] == 10001
    assert all((run.checkpoint_folder / name).is_dir() for name in names)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epoch": 7}, "damaged or changed"),
        ({"epoch": 7, "checksum": None}, "it is of epoch 7, and the folder is not"),
        ({"epoch": -2, "checksum": None}, "it is of epoch -2"),
        ({"format": 9}, "has format 9, and this version reads formats 1 and 2"),
    ],
)
def test_a_description_that_was_edited_is_refused(tmp_path, change, message):
    run = RunFolder.create(tmp_path / "run", ExperimentSettings())
    file = run.save(1, example(), keep=1) / "checkpoint.json"
    edited = {**json.loads(file.read_text()), **change}
    file.write_text(json.dumps({key: value for key, value in edited.items() if value is not None}))
    with pytest.raises(InputError, match=message):
        run.last_checkpoint()


def test_a_checkpoint_that_is_replaced_while_it_is_read_is_no_damage(tmp_path, monkeypatch):
    run = RunFolder.create(tmp_path / "run", ExperimentSettings())
    run.save(1, example(1), keep=1)
    load = run_folder.load_checkpoint

    def replaced(folder):
        if folder.name == "epoch_0001":
            run.save(2, example(2), keep=1)
        return load(folder)

    monkeypatch.setattr(run_folder, "load_checkpoint", replaced)
    assert run.last_checkpoint().description["epoch"] == 2


@pytest.mark.parametrize("content", ["metrics.jsonl", "image.jpg", "checkpoints"])
def test_a_folder_that_holds_something_else_is_no_place_for_a_run(tmp_path, content):
    (tmp_path / content).write_text("precious")
    with pytest.raises(InputError, match=rf"is not empty and holds no run \(found {content}\); name a new folder"):
        RunFolder.create(tmp_path, ExperimentSettings())
    assert [path.name for path in tmp_path.iterdir()] == [content]
    assert (tmp_path / content).read_text() == "precious"


def test_a_damaged_checkpoint_is_refused_or_passed_over(tmp_path):
    run = RunFolder.create(tmp_path, ExperimentSettings())
    for epoch in (1, 2):
        run.save(epoch, example(epoch), keep=5)
    (run.checkpoint_folder / "epoch_0002" / "state.pt").write_bytes(b"")
    with pytest.raises(InputError, match=r"state.pt: damaged or cut off.*--skip-damaged"):
        run.last_checkpoint()
    assert run.last_checkpoint(skip_damaged=True).weights["w"][0, 0] == 1
    # nothing is removed by reading; the training that comes to that epoch sets the damaged one aside
    assert sorted(path.name for path in run.checkpoint_folder.iterdir()) == ["epoch_0001", "epoch_0002"]
    run.save(2, example(2), keep=5)
    assert run.last_checkpoint().weights["w"][0, 0] == 2
    assert (run.checkpoint_folder / "epoch_0002.unreadable1" / "state.pt").read_bytes() == b""


def test_if_all_checkpoints_are_damaged_none_is_passed_over(tmp_path, caplog):
    run = RunFolder.create(tmp_path, ExperimentSettings())
    for epoch in (1, 2):
        folder = run.save(epoch, example(epoch), keep=5)
        noted = json.loads((folder / "checkpoint.json").read_text())
        del noted["fingerprints"], noted["checksum"]
        (folder / "checkpoint.json").write_text(json.dumps(noted))
    with pytest.raises(InputError, match=r"epoch_0002/checkpoint.json: damaged: fingerprints is missing; resume"):
        run.last_checkpoint()
    with pytest.raises(InputError, match=r"checkpoints: no checkpoint can be read; remove this folder"):
        run.last_checkpoint(skip_damaged=True)
    assert len(list_checkpoints(run.checkpoint_folder)) == 2
    assert "skipped: " in caplog.text


@pytest.mark.parametrize("damage", [b'{"kind": "tra', b"\xff\xfe", b"null", b"\0\0\0"])
def test_damaged_metrics_are_named(tmp_path, damage):
    run = RunFolder.create(tmp_path, ExperimentSettings())
    run.log({"kind": "train", "epoch": 1})
    whole = run.metrics_file.read_bytes()
    run.metrics_file.write_bytes(whole + damage)
    with pytest.raises(InputError, match=r"metrics.jsonl: line 2 is damaged; restore the file, or remove the line"):
        run.records()
    run.metrics_file.write_bytes(whole)
    run.save(1, example(), keep=1)
    run.metrics_file.write_bytes(whole[:10])
    with pytest.raises(InputError, match=r"metrics.jsonl: was cut off or changed since the checkpoint was written"):
        run.forget_metrics_after(run.last_checkpoint())
    assert run.metrics_file.read_bytes() == whole[:10]


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "is empty or cut off"), ("seed: 1\n", "is empty or cut off"), ("[1", "is not YAML"), ("\xff", "is not YAML")],
)
def test_damaged_settings_are_named(tmp_path, content, message):
    run = RunFolder.create(tmp_path, ExperimentSettings())
    run.config_file.write_bytes(content.encode("latin-1"))
    for read in (run.settings, lambda: run.name):
        with pytest.raises(InputError, match=f"config.yaml: {message}") as caught:
            read()
        assert "\n" not in str(caught.value)


def test_leftovers_of_a_killed_process_are_no_checkpoint(tmp_path):
    run = RunFolder.create(tmp_path, ExperimentSettings())
    leftover = run.checkpoint_folder / ".epoch_0001.abc.tmp"
    leftover.mkdir(parents=True)
    (leftover / "model.safetensors").write_bytes(b"half")
    assert RunFolder.open(tmp_path).last_checkpoint() is None
    # it may be what a training is writing right now
    assert leftover.exists()
    with run.training():
        assert not leftover.exists()


def test_a_run_is_trained_by_one_process_at_a_time(tmp_path):
    run = RunFolder.create(tmp_path / "run", ExperimentSettings())
    before = sorted(path.name for path in run.path.iterdir())
    with run.training(), run.training():
        with (
            pytest.raises(InputError, match="run: is being trained by another process"),
            RunFolder(run.path).training(),
        ):
            pass
        with pytest.raises(InputError, match="is being trained by another process"):
            RunFolder.create(run.path, ExperimentSettings())
    with RunFolder.open(run.path).training():
        pass
    assert sorted(path.name for path in run.path.iterdir()) == before


def test_a_run_that_came_to_nothing_takes_its_folders_with_it(tmp_path):
    run = RunFolder.create(tmp_path / "a" / "b" / "run", ExperimentSettings())
    with run.training():
        run.discard_if_unused()
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]
    run.discard_if_unused()
    assert list(tmp_path.iterdir()) == []


def test_run_folders_are_neither_overwritten_nor_made_up(tmp_path):
    run = RunFolder.create(tmp_path, ExperimentSettings(name="mine"))
    assert run.settings().name == "mine"
    assert set(json.loads((tmp_path / "versions.json").read_text())) >= {"torch", "git", "python", "device"}
    with pytest.raises(InputError, match="there is a run already"):
        RunFolder.create(tmp_path, ExperimentSettings())
    with pytest.raises(InputError, match=r"other: not a run folder: it has no config.yaml"):
        RunFolder.open(tmp_path / "other")


def test_every_changed_byte_of_a_line_of_metrics_is_noticed_or_changes_no_figure() -> None:
    record = {"kind": "evaluation", "epoch": 3, "mAP": 0.1234, "name": "ü"}
    line = metrics_line(record).encode()
    assert parse_line(line) == record
    assert is_report(line, epoch=3)
    for place in range(len(line) - 1):
        for bit in range(8):
            changed = bytearray(line)
            changed[place] ^= 1 << bit
            found = parse_line(bytes(changed)) or record
            assert {key: found.get(key) for key in record} == record
    # lines of earlier versions
    assert parse_line(b'{"kind": "train", "epoch": 1}\n') == {"kind": "train", "epoch": 1}
    assert parse_line(b"[" * 100_000) is None
