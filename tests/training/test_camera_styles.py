"""Training of camera styles from a data set to a generator."""

import pytest
import torch

from reid_da.config import load_style_settings
from reid_da.datasets import load_dataset
from reid_da.errors import InputError
from reid_da.images import open_images
from reid_da.reporting.style_pictures import draw_views
from reid_da.training.camera_styles import load_generator, resume_styles, train_styles

TINY = ["device=cpu", "data.image_size=[16, 8]", "channels=8", "num_blocks=1", "batch=8", "critic_steps=2"]


def settings(flat, *overrides):
    return load_style_settings(None, [f"data.dataset={flat}", *TINY, *overrides])


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_a_trained_generator_swaps_the_colours_of_two_cameras(flat, tmp_path):
    changes = ("epochs=25", "optimizer.lr=0.002", "optimizer.schedule=constant", "average=0.9", "camera_weight=3")
    run = train_styles(settings(flat, *changes), tmp_path / "run")
    losses = run.records("train")
    assert losses[-1]["loss_generator_camera"] < losses[0]["loss_generator_camera"] / 2
    transfer, loaded, num_cameras = load_generator(run.path)
    assert (loaded.data.image_size, num_cameras) == ((16, 8), 2)
    table = load_dataset(flat).train
    images = open_images(table, size=(16, 8), cache="never").gather(torch.arange(len(table)))
    camids = torch.tensor(table.camids)
    for own, other in ((0, 1), (1, 0)):
        styled = transfer(images[camids == own], camids[camids == own], torch.full((32,), other)).float()
        colour, theirs, ours = (
            x.float().mean(dim=(0, 2, 3)) for x in (styled, images[camids == other], images[camids == own])
        )
        # nearer to the other camera's colour than to that of its own
        assert (colour - theirs).norm() < (colour - ours).norm()


def test_a_resumed_training_ends_with_the_numbers_of_an_unbroken_one(flat, tmp_path):
    chosen = settings(flat, "epochs=3", "average=0.5", "keep_checkpoints=5")
    whole = train_styles(chosen, tmp_path / "whole")
    parts = train_styles(chosen, tmp_path / "parts")
    for epoch in (2, 3):
        (parts.checkpoint_folder / f"epoch_{epoch:04d}" / "state.pt").unlink()
    resumed = resume_styles(parts.path, skip_damaged=True).last_checkpoint()
    expected = whole.last_checkpoint()
    assert same(resumed.weights, expected.weights)
    assert resumed.state["method"] == expected.state["method"] == {"steps": 24}


def test_critic_and_generator_take_turns_and_both_are_logged(flat, tmp_path):
    run = train_styles(settings(flat, "epochs=1", "critic_steps=3"), tmp_path / "run", draw=draw_views)
    (record,) = run.records("train")
    names = {"critic", "critic_camera", "penalty", "generator", "generator_camera", "cycle"}
    assert {f"loss_{name}" for name in names} <= record.keys()
    assert record["loss_penalty"] > 0
    assert (run.path / "samples" / "epoch_0001.png").read_bytes().startswith(b"\x89PNG")
    assert run.records("evaluation") == []


def test_the_running_mean_follows_the_generator(flat, tmp_path):
    run = train_styles(settings(flat, "epochs=1", "average=0.9"), tmp_path / "run")
    weights = run.last_checkpoint().weights
    pairs = [(weights[name], weights[name.replace("average", "generator")]) for name in weights if "average" in name]
    assert pairs
    assert any(not torch.equal(mean, value) for mean, value in pairs)
    assert all((mean - value).abs().max() < 0.1 for mean, value in pairs)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.dataset=null"], "data.dataset is not set"),
        (["batch=500"], "batch is 500, but there are 64 images; lower it"),
        (["data.image_size=[20, 10]"], "cannot be halved"),
    ],
)
def test_settings_that_do_not_fit(flat, tmp_path, overrides, message):
    with pytest.raises(InputError, match=message):
        train_styles(settings(flat, *overrides), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_mistakes_in_settings_of_styles():
    with pytest.raises(InputError, match="unknown key 'cycle_wieght' .did you mean 'cycle_weight'"):
        load_style_settings(None, ["cycle_wieght=3"])
    with pytest.raises(InputError, match="batch: Input should be greater than or equal to 1"):
        load_style_settings(None, ["batch=0"])
