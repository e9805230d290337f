import signal
import stat
import subprocess
import sys

import pytest

from reid_da.atomic import LOCK_FILE, atomic_path, own_folder, write_text


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
