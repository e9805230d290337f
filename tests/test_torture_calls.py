"""The failing system of tools/torture.py: each kind of call is caught, counted, and fails when it should."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parent.parent / "tools"
PROGRAM = """
import fcntl, json, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from torture_calls import Calls
root, kind, number, error = Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
calls = Calls(root, kind=kind, number=number, error=error)
calls.install()

def work(folder):
    (folder / "made").mkdir()
    with (folder / "a").open("w", encoding="utf-8") as file:
        file.write("x" * 10)
        file.flush()
        os.fsync(file.fileno())
        fcntl.flock(file, fcntl.LOCK_EX)
    (folder / "a").chmod(0o600)
    (folder / "a").replace(folder / "b")
    with (folder / "b").open("rb", buffering=0) as file:
        assert file.read(3) == b"xxx"
    assert (folder / "b").read_text() == "x" * 10
    os.stat(folder / "b")
    sorted(os.listdir(folder))
    (folder / "b").unlink()

try:
    work(Path(sys.argv[6]))
    outcome = None
except OSError as caught:
    outcome = caught.errno
print(json.dumps([outcome, calls.counts]))
"""


def attempt(
    root: Path, folder: Path, *, kind: str = "", number: int = 0, error: int = 0
) -> subprocess.CompletedProcess:
    folder.mkdir()
    command = [sys.executable, "-c", PROGRAM, TOOLS, root, kind, str(number), str(error), folder]
    return subprocess.run(command, capture_output=True, text=True, check=False)


KINDS = ("open", "read", "write", "fsync", "rename", "mkdir", "unlink", "stat", "list", "chmod", "lock")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_call_fails_when_it_should(tmp_path: Path, kind: str) -> None:
    outcome = attempt(tmp_path, tmp_path / "work", kind=kind, number=1, error=errno.EIO)
    assert json.loads(outcome.stdout)[0] == errno.EIO
    outcome = attempt(tmp_path, tmp_path / "more", kind=kind, number=50, error=errno.EIO)
    assert json.loads(outcome.stdout)[0] is None


def test_counts_are_those_of_the_folder(tmp_path: Path) -> None:
    counts = json.loads(attempt(tmp_path, tmp_path / "work").stdout)[1]
    assert set(counts) == set(KINDS)
    assert (counts["mkdir"], counts["rename"], counts["fsync"], counts["lock"]) == (1, 1, 1, 1)
    elsewhere = attempt(tmp_path / "elsewhere", tmp_path / "other", kind="mkdir", number=1, error=errno.EIO)
    assert json.loads(elsewhere.stdout) == [None, {}]


def test_a_kill_at_a_call(tmp_path: Path) -> None:
    outcome = attempt(tmp_path, tmp_path / "work", kind="rename", number=1)
    assert outcome.returncode == -9
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["a", "made"]
