"""Locks: one owner at a time, none after a kill, and nothing that a planted file could suffer from."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from reid_da import locks
from reid_da.locks import lock_file

HOLD = """
import sys, time
from pathlib import Path
{prelude}
from reid_da.locks import lock_file
with lock_file(Path(sys.argv[1])) as is_held:
    print(is_held, flush=True)
    time.sleep(60)
"""
WITHOUT_FCNTL = """
import os, types
sys.modules["fcntl"] = None
windows = types.ModuleType("msvcrt")
windows.LK_NBLCK = 2
windows.locking = lambda descriptor, mode, size: os.lockf(descriptor, os.F_TLOCK, size)
sys.modules["msvcrt"] = windows
"""


@pytest.mark.parametrize("prelude", ["", WITHOUT_FCNTL])
def test_one_owner_until_it_is_killed(tmp_path, prelude):
    file = tmp_path / "a.lock"
    command = [sys.executable, "-c", HOLD.format(prelude=prelude), str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"True\n"
        second = subprocess.run(command, capture_output=True, check=False)
        assert b"BlockingIOError" in second.stderr
        process.send_signal(signal.SIGKILL)
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"True\n"
        process.send_signal(signal.SIGKILL)


def test_the_file_goes_when_the_lock_does(tmp_path):
    with lock_file(tmp_path / "a.lock") as is_held:
        assert is_held
        assert (tmp_path / "a.lock").exists()
        with pytest.raises(BlockingIOError), lock_file(tmp_path / "a.lock"):
            pass
    assert not list(tmp_path.iterdir())


def test_never_two_owners(tmp_path):
    inside, most = [], []

    def work():
        for _ in range(5):
            with lock_file(tmp_path / "a.lock", on_wait=lambda: None):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.001)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert len(most) == 20
    assert set(most) == {1}


def test_waiting_is_told_once(tmp_path):
    told = []
    with lock_file(tmp_path / "a.lock"):
        thread = threading.Thread(
            target=lambda: lock_file(tmp_path / "a.lock", on_wait=lambda: told.append(1)).__enter__()
        )
        thread.start()
        time.sleep(0.2)
        assert thread.is_alive()
    thread.join(timeout=10)
    assert told == [1]


@pytest.mark.parametrize("is_there", [True, False])
def test_planted_links_are_not_followed(tmp_path, is_there):
    if is_there:
        (tmp_path / "victim").write_text("important")
    (tmp_path / "a.lock").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="is a symbolic link, which is not followed"), lock_file(tmp_path / "a.lock"):
        pass
    assert (tmp_path / "victim").exists() == is_there
    assert not is_there or (tmp_path / "victim").read_text() == "important"


def test_what_lies_in_the_place_of_a_lock_is_not_written_to(tmp_path):
    (tmp_path / "victim").write_text("important")
    os.link(tmp_path / "victim", tmp_path / "a.lock")
    with lock_file(tmp_path / "a.lock"):
        pass
    assert (tmp_path / "victim").read_text() == "important"
    os.mkfifo(tmp_path / "b.lock")
    with pytest.raises(OSError, match="is not a regular file"), lock_file(tmp_path / "b.lock"):
        pass


def test_a_file_system_without_locks_lets_everybody_in(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with lock_file(tmp_path / "a.lock") as first, lock_file(tmp_path / "a.lock") as second:
        assert (first, second) == (False, False)


def test_other_errors_are_not_taken_for_that(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with pytest.raises(OSError, match="Input/output error"), lock_file(tmp_path / "a.lock"):
        pass
