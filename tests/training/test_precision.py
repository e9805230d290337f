"""bfloat16 in training: used where it can be trusted, recorded, and tried without a trace."""

import copy
import logging
import math

import pytest
import torch

from reid_da.config import merge
from reid_da.experiments.runs import resume, train
from reid_da.experiments.setup import build_trainer
from reid_da.methods import settings_of
from reid_da.styles.train import train_styles
from reid_da.styles.trained import load_style_settings
from reid_da.training.precision import usable_autocast
from reid_da.training.run_folder import RunFolder
from reid_da.training.streams import epoch_batches

CPU = torch.device("cpu")
TIMING = {"seconds", "images_per_second", "peak_memory_mb"}


def small(settings, *, autocast="bfloat16", **changes):
    """The settings with a network that is quick where bfloat16 is emulated."""
    changes = {"epochs": 1, "steps_per_epoch": 2, "memory": {"neighbors_from_epoch": 0}, **changes}
    tree = {"precision": {"autocast": autocast}, "model": {"width": 0.125}, **changes}
    return settings_of(merge(settings.model_dump(mode="json"), tree), where="test")


def numbers(run):
    """All records of a run but for what depends on the clock, and the precision."""
    ignored = {*TIMING, "autocast"}
    return [{key: value for key, value in record.items() if key not in ignored} for record in run.records()]


def used(run):
    return [record["autocast"] for record in run.records("train")]


def layer4(inputs, weight):
    return weight.shape[:3] == (64, 32, 3)


def warnings(caplog):
    assert all(record.levelno == logging.WARNING for record in caplog.records if "bfloat16" in record.getMessage())
    return [record.getMessage() for record in caplog.records if record.name.endswith(("precision", "bfloat16"))]


def test_bfloat16_is_used_where_it_is_right(small_settings, tmp_path, kernels, caplog):
    kernels.use(kernels.right)
    run = train(small(small_settings), tmp_path / "short")
    assert used(run) == ["bfloat16"]
    exact = train(small(small_settings, autocast="none"), tmp_path / "exact")
    assert all("autocast" not in record for record in exact.records())
    first, second = (each.records("train")[0]["loss_exemplar"] for each in (run, exact))
    assert first != second
    assert first == pytest.approx(second, rel=0.05)
    assert not warnings(caplog)


@pytest.mark.parametrize("fault", [4.0, math.nan])
def test_a_run_goes_on_in_float32_where_it_is_wrong(fault, small_settings, tmp_path, kernels, caplog):
    kernels.spoil(layer4, fault)
    run = train(small(small_settings), tmp_path / "guarded")
    assert used(run) == ["none"]
    exact = train(small(small_settings, autocast="none"), tmp_path / "exact")
    assert numbers(run) == numbers(exact)
    first, *_ = warnings(caplog)
    assert "\n" not in first
    assert "(Conv2d(32, 64, kernel_size=(3, 3), stride=(2, 2)" in first
    assert "going on in float32; set ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16" in first


def test_a_resumed_run_looks_again_and_records_what_it_uses(small_settings, tmp_path, kernels):
    def stop():
        raise KeyboardInterrupt

    kernels.use(kernels.right)
    settings = small(small_settings, epochs=2, tensorboard=True)
    trainer = build_trainer(settings, RunFolder.create(tmp_path, settings))
    trainer.evaluate = stop
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    # as if it went on with another processor
    kernels.spoil(layer4, math.nan)
    assert used(resume(tmp_path)) == ["bfloat16", "none"]


@pytest.mark.parametrize("method", ["stargan", "cyclegan"])
def test_styles_are_trained_in_float32_where_it_is_wrong(method, small_sites, tmp_path, kernels, caplog):
    kernels.spoil(lambda inputs, weight: weight.shape[1] == 3, math.nan)
    options = {"stargan": ["critic_steps=1", "batch=8"], "cyclegan": ["pairs=[[1, 2]]", "batch=4", "pool_size=3"]}
    tiny = ["data.image_size=[16, 8]", "epochs=1", "channels=4", "num_blocks=1", "device=cpu"]
    given = [f"method={method}", f"data.dataset={small_sites / 'site-b'}", *tiny, *options[method]]
    runs = []
    for autocast in ("bfloat16", "none"):
        settings = load_style_settings(None, [*given, f"precision.autocast={autocast}"])
        folder = train_styles(settings, tmp_path / autocast).path
        runs.append(RunFolder(folder if method == "stargan" else folder / "pair-1-2"))
    guarded, exact = runs
    assert used(guarded) == ["none"]
    assert numbers(guarded) == numbers(exact)
    assert "bfloat16 is computed wrongly on this processor (Conv2d(3, " in warnings(caplog)[0]


def test_trying_leaves_no_trace(small_settings, tmp_path):
    settings = small(small_settings, source_loss={"center_weight": 0.1})
    trainer = build_trainer(settings, RunFolder.create(tmp_path, settings))
    method = trainer.method
    plan = method.begin_epoch(0)
    method.trained.train()
    batches = next(epoch_batches(plan, seed=lambda _: 0, image_size=(32, 16), device=CPU))
    twin, random = copy.deepcopy(method), torch.get_rng_state()
    assert twin._plan is method._plan
    usable_autocast("bfloat16", method, batches, device=CPU)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in method.trained.parameters())
    modes = [[module.training for module in each.trained.modules()] for each in (method, twin)]
    assert modes[0] == modes[1]
    losses = method.step(batches)
    torch.set_rng_state(random)
    again = twin.step(batches)
    assert losses.keys() == again.keys()
    for ours, theirs in ((losses, again), (method.trained.state_dict(), twin.trained.state_dict())):
        for name, value in ours.items():
            assert torch.equal(value, theirs[name]), name


class Untouchable:
    """A method that nobody may look at."""

    def __getattr__(self, name):
        raise AssertionError(name)


@pytest.mark.parametrize(
    ("autocast", "device"), [("none", "cpu"), ("float16", "cpu"), ("none", "cuda"), ("bfloat16", "cuda")]
)
def test_only_bfloat16_on_a_cpu_is_looked_at(autocast, device):
    assert usable_autocast(autocast, Untouchable(), {}, device=torch.device(device)) == autocast
