"""Peak memory, in a process of its own: the peak of the test's process has long been reached by other tests."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from reid_da import device

SCRIPT = """
import torch
from reid_da.device import peak_memory, reset_peak_memory
cpu = torch.device("cpu")
reset_peak_memory(cpu)
before = peak_memory(cpu)
held = torch.ones(150_000_000, dtype=torch.uint8)
full = peak_memory(cpu)
del held
after = peak_memory(cpu)
reset_peak_memory(cpu)
print(full - before, after - full, after - peak_memory(cpu))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux resets the peak")
def test_peak_of_the_process_counts_from_the_reset():
    outcome = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    gained, lost, reset = map(int, outcome.stdout.split())
    assert gained == pytest.approx(150e6, rel=0.2)
    assert abs(lost) < 5e6  # Linux counts pages of each processor in batches
    assert reset == pytest.approx(150e6, rel=0.2)


def test_memory_of_a_gpu_is_that_of_torch(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", calls.append)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda gpu: 10**9 + gpu.index)
    gpu = torch.device("cuda:3")
    device.reset_peak_memory(gpu)
    assert calls == [gpu]
    assert device.peak_memory(gpu) == 10**9 + 3


def test_systems_that_do_not_tell(monkeypatch):
    class NoSuchFile:
        def __init__(self, path: str) -> None:
            pass

        def read_text(self, encoding: str) -> str:
            raise FileNotFoundError

    cpu = torch.device("cpu")
    told = device.peak_memory(cpu)
    monkeypatch.setattr(device, "Path", NoSuchFile)
    assert device.peak_memory(cpu) > 0.9 * told  # of getrusage
    monkeypatch.setitem(sys.modules, "resource", None)
    assert device.peak_memory(cpu) is None
