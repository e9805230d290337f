"""A margin head that several processes share, in a run with checkpoints."""

import cases
import loss_curves
import torch
from processes import together

from reid_da.world import World

CHANGES = {
    "method": "supervised",
    "head": {"kind": "arcface", "scale": 8.0, "sample_rate": 0.5},
    "model": {"embedding": "none", "target_dropout": "none", "test_feature": "embedding"},
    "optimizer": {"lr": 2e-4},
}


def test_a_run_is_resumed_by_another_number_of_processes(tmp_path):
    sites, folder = loss_curves.write_sites(tmp_path / "sites"), tmp_path / "parts"
    whole = cases.run(World(), sites, tmp_path / "whole", 3, CHANGES)
    together(3, cases.run, tmp_path / "first", sites, folder, 1, CHANGES)
    together(2, cases.run, tmp_path / "second", sites, folder, 2, CHANGES)
    last = cases.run(World(), sites, folder, 3, CHANGES)
    assert whole["classifier.weight"].shape == (4, 64)
    for name, value in whole.items():
        if name != "records":
            torch.testing.assert_close(last[name], value, rtol=0, atol=1e-4)
