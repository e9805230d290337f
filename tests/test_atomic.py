import errno
import os
import signal
import stat
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from reid_da.atomic import (
    LOCK_FILE,
    atomic_folder,
    atomic_path,
    atomic_paths,
    open_own,
    own_folder,
    remove_leftovers,
    write_text,
)
from reid_da.errors import InputError


def test_the_file_appears_when_the_block_ends(tmp_path):
    with atomic_path(tmp_path / "new" / "a.txt") as temporary:
        temporary.write_text("whole")
        assert not (tmp_path / "new" / "a.txt").exists()
    assert (tmp_path / "new" / "a.txt").read_text() == "whole"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.txt"]


def test_an_error_leaves_the_old_file_and_no_rubbish(tmp_path):
    write_text(tmp_path / "a.txt", "old")

    def write_half():
        with atomic_path(tmp_path / "a.txt") as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_permissions_are_those_of_an_ordinary_file(tmp_path):
    (tmp_path / "plain").write_text("")
    write_text(tmp_path / "atomic", "")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "atomic")}
    assert len(modes) == 1


def test_a_folder_has_one_owner_until_that_one_is_killed(tmp_path):
    program = (
        "import sys, time; from reid_da.atomic import own_folder; owned = own_folder(sys.argv[1]); owned.__enter__(); "
        "print('mine', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "folder")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"mine\n"
        with pytest.raises(BlockingIOError), own_folder(tmp_path / "folder"):
            pass
        process.send_signal(signal.SIGKILL)
    assert (tmp_path / "folder" / LOCK_FILE).exists()
    with own_folder(tmp_path / "folder"):
        pass
    assert not (tmp_path / "folder" / LOCK_FILE).exists()


def test_an_owned_folder_that_stays_empty_goes_with_its_parents(tmp_path):
    with own_folder(tmp_path / "a" / "b" / "c"):
        assert (tmp_path / "a" / "b" / "c").is_dir()
    assert list(tmp_path.iterdir()) == []
    with own_folder(tmp_path / "a" / "b"):
        write_text(tmp_path / "a" / "file", "kept")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["file"]


@pytest.mark.parametrize("place", ["/dev/null", "pipe", "link", "folder"])
def test_only_regular_files_are_replaced(tmp_path, place):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/null")
    (tmp_path / "folder").mkdir()
    target = tmp_path / place
    before = target.lstat()
    with pytest.raises(InputError, match="is a folder|is not a regular file"), atomic_path(target):
        pass
    assert target.lstat() == before


def test_a_link_to_a_file_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "victim").write_text("important")
    (tmp_path / "link").symlink_to(tmp_path / "victim")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "victim").read_text() == "important"
    assert not (tmp_path / "link").is_symlink()


def test_long_names_leave_room_for_the_temporary_one(tmp_path):
    write_text(tmp_path / (250 * "a"), "x")
    assert [len(path.name) for path in tmp_path.iterdir()] == [250]


def test_files_that_belong_together_appear_together(tmp_path):
    for name in "ab":
        write_text(tmp_path / name, "old")

    def full_disk():
        with atomic_paths(tmp_path / "a", tmp_path / "b") as (first, second):
            first.write_text("new")
            second.write_text("new")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left on device: .*a, .*b"):
        full_disk()
    assert [(tmp_path / name).read_text() for name in "ab"] == ["old", "old"]
    assert len(list(tmp_path.iterdir())) == 2
    with atomic_paths(tmp_path / "a", tmp_path / "b") as (first, second):
        first.write_text("1")
        second.write_text("2")
    assert [(tmp_path / name).read_text() for name in "ab"] == ["1", "2"]


def test_an_error_in_flushing_the_second_leaves_both_as_they_were(tmp_path, monkeypatch):
    for name in "ab":
        write_text(tmp_path / name, "old")
    fsync, calls = os.fsync, []

    def failing(descriptor):
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    def write_both():
        with atomic_paths(tmp_path / "a", tmp_path / "b") as paths:
            for path in paths:
                path.write_text("new")

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match="No space"):
        write_both()
    assert [(tmp_path / name).read_text() for name in "ab"] == ["old", "old"]


def test_files_in_a_folder_get_the_permissions_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic_folder(tmp_path / "folder") as temporary:
            save_file({"w": torch.zeros(2)}, temporary / "model.safetensors")
            (temporary / "private").touch(mode=0o600)
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "folder", *(tmp_path / "folder").iterdir())]
    assert modes == [0o750, 0o640, 0o640]


FULL = """
import resource, sys
import torch
from safetensors.torch import save_file
from reid_da.atomic import atomic_folder, recording
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
weights = {"w": torch.zeros(100_000)}
with atomic_folder(sys.argv[1]) as temporary:
    if sys.argv[2] == "torch":
        with recording(temporary / "state.pt") as stream:
            torch.save(weights, stream)
    else:
        save_file(weights, temporary / "model.safetensors")
"""


@pytest.mark.parametrize(("library", "file"), [("torch", "state.pt"), ("safetensors", "checkpoint")])
def test_errors_of_writing_name_the_file_whatever_the_library_makes_of_them(tmp_path, library, file):
    command = [sys.executable, "-c", FULL, str(tmp_path / "checkpoint"), library]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    last = outcome.stderr.splitlines()[-1]
    assert last.startswith("OSError: [Errno 27] File too large: ")
    assert last.endswith(f"{file}'")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mode", ["wb", "ab", "rb", "r+b"])
def test_our_own_files_are_never_links(tmp_path, mode):
    (tmp_path / "victim").write_text("important")
    (tmp_path / "metrics.jsonl").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic link"):
        open_own(tmp_path / "metrics.jsonl", mode)
    assert (tmp_path / "victim").read_text() == "important"
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="No such device|not a regular file"):
        open_own(tmp_path / "pipe", mode)


def test_our_own_files_are_opened_as_open_does(tmp_path):
    with open_own(tmp_path / "a", "w", encoding="utf-8") as stream:
        stream.write("ä")
    with open_own(tmp_path / "a", "ab") as stream:
        stream.write(b"b")
    assert (tmp_path / "a").read_bytes() == "äb".encode()
    with open_own(tmp_path / "a", "wb"):
        pass
    assert (tmp_path / "a").read_bytes() == b""


def test_errors_about_a_temporary_file_name_the_one_that_is_meant(tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError(errno.ENOSPC, "No space left on device", source, None, target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="No space left on device: '[^']*/a.txt'$"):
        write_text(tmp_path / "a.txt", "x")
    assert not list(tmp_path.iterdir())


def test_other_folders_are_no_leftovers(tmp_path):
    for name in (".epoch_0001.x_y1.tmp", ".tmp", "epoch_0001.tmp", ".epoch_0001.removed.tmp"):
        (tmp_path / name).mkdir()
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".tmp", "epoch_0001.tmp"]
