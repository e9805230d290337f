"""The tools are part of no package, and have to follow it nevertheless."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parent.parent / "tools"
SCRIPTS = sorted(path.stem for path in TOOLS.glob("*.py"))


@pytest.fixture
def as_script(monkeypatch):
    """The folder of the tools is the first that Python looks for modules in, as it is for a script there."""
    monkeypatch.syspath_prepend(str(TOOLS))
    known = set(sys.modules)
    yield
    for name in set(sys.modules) - known:
        if name in SCRIPTS:
            del sys.modules[name]


@pytest.mark.parametrize("name", SCRIPTS)
def test_imports(name, as_script):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "reid_da":
            raise
        pytest.skip(f"needs {error.name}, which is not installed")


def shown_by(tool, *options):
    """What a tool prints as a process of its own: some of them change what belongs to the process."""
    command = [sys.executable, str(TOOLS / tool), *map(str, options)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout


def test_a_training_is_measured(small_sites):
    sites = [f"data.source={small_sites / 'site-a'}", f"data.target={small_sites / 'site-b'}"]
    tiny = ["model.width=0.125", "data.image_size=[32,16]", "batch={source: 8, target: 8}", "model.camera_norm=true"]
    preset = TOOLS.parent / "experiments" / "rendered" / "site-a2site-b.yaml"
    options = ["--steps", 1, "--turns", 1, "--slots", 100, "--device", "cpu"]
    shown = shown_by("bench_training.py", *options, "--", preset, *sites, *tiny)
    assert "| training loop |" in shown
    assert "| 100 |" in shown


def test_loading_is_measured():
    shown = shown_by("bench_loading.py", "--images", 130, "--cores", 1, "--turns", 1)
    assert shown.count("packed cache + batch loader") == 2
