"""NPID against its formula, and as a training without a source."""

import copy
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from reid_da.config import merge
from reid_da.experiments.runs import resume, train
from reid_da.experiments.setup import build_trainer
from reid_da.images import Batch
from reid_da.methods import settings_of
from reid_da.training.run_folder import RunFolder


@pytest.fixture
def npid(small_settings):
    changes = {"method": "npid", "data": {"source": None}, "model": {"dropout": 0.0, "target_dropout": "none"}}
    return settings_of(merge(small_settings.tree, changes), where="test")


def test_a_step_is_the_cross_entropy_of_the_own_slot_and_moves_it_by_half(npid, tmp_path):
    method = build_trainer(npid, RunFolder(tmp_path / "unused")).method
    method.begin_epoch(7)
    slots = method.memory.slots.double()
    assert slots.norm(dim=1).mean() == pytest.approx(1, abs=0.05)
    rows, images = torch.tensor([4, 9, 1]), torch.randn(3, 3, 32, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        features = copy.deepcopy(method.network).train()(images, "target").double()
    method.network.train()
    losses = method.step({"target": Batch(rows=rows, images=images)})
    log_p = (features @ slots.T / 0.07).log_softmax(dim=1)
    assert losses.keys() == {"exemplar"}
    assert losses["exemplar"].item() == pytest.approx(-log_p[range(3), rows].mean().item(), rel=1e-5)
    assert torch.equal(method.memory.slots.double(), slots)
    method.after_backward()
    expected = functional.normalize(0.5 * slots[rows] + 0.5 * features)
    torch.testing.assert_close(method.memory.slots[rows].double(), expected, atol=1e-6, rtol=0)


def test_it_trains_without_a_source_and_resumes(npid, tmp_path):
    whole = train(npid, tmp_path / "whole")
    assert "loss_exemplar" in whole.records("train")[-1]
    assert 0 < whole.records("evaluation")[-1]["mAP"] <= 1
    parts = train(npid, tmp_path / "parts")
    (parts.checkpoint_folder / "epoch_0002" / "state.pt").unlink()
    resumed, expected = resume(parts.path, skip_damaged=True).last_checkpoint(), whole.last_checkpoint()
    assert all(torch.equal(resumed.weights[name], value) for name, value in expected.weights.items())
    assert torch.equal(*(point.state["method"]["memory"]["slots"] for point in (resumed, expected)))


def test_the_documentation_shows_the_file_as_it_is():
    root = Path(__file__).parents[2]
    text = (root / "docs" / "extending.md").read_text(encoding="utf-8")
    shown = text.partition("+++ b/reid_da/methods/npid.py\n")[2].partition("```")[0].splitlines()[1:]
    assert "\n".join(line[1:] for line in shown) + "\n" == (root / "reid_da/methods/npid.py").read_text(
        encoding="utf-8"
    )
