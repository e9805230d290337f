"""Training of camera styles from a data set to generators."""

import shutil
from functools import partial

import pytest
import torch

from reid_da.datasets import load_dataset
from reid_da.errors import InputError
from reid_da.images import open_images
from reid_da.images.augment import random_sized_rect_crop_boxes
from reid_da.reporting.style_pictures import draw_views
from reid_da.seeds import derived_seed
from reid_da.styles.train import _trainer, resume_styles, train_styles
from reid_da.styles.trained import load_generator, load_style_settings
from reid_da.styles.training_images import StyleImages, style_plan
from reid_da.training.run_folder import RunFolder
from reid_da.training.streams import epoch_batches

TINY = ["device=cpu", "data.image_size=[16, 8]", "channels=8", "num_blocks=1", "batch=8"]
STARGAN = [*TINY, "method=stargan", "critic_steps=2"]
CYCLEGAN = [*TINY, "method=cyclegan", "batch=4", "pool_size=6"]


def settings(data, *overrides, method=STARGAN):
    return load_style_settings(None, [f"data.dataset={data}", *method, *overrides])


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


STARGAN_CHANGES = ["epochs=25", "optimizer.lr=0.002", "optimizer.schedule=constant", "average=0.9", "camera_weight=3"]
CYCLEGAN_CHANGES = ["epochs=8", "optimizer.lr=0.001", "average=0.9"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "changes", "part", "loss"),
    [
        (STARGAN, STARGAN_CHANGES, "", "loss_generator_camera"),
        (CYCLEGAN, CYCLEGAN_CHANGES, "pair-1-2", "loss_cycle"),
    ],
    ids=["stargan", "cyclegan"],
)
def test_a_trained_generator_swaps_the_colours_of_two_cameras(flat, tmp_path, method, changes, part, loss):
    run = train_styles(settings(flat, *changes, method=method), tmp_path / "run")
    losses = RunFolder.open(run.path / part).records("train")
    assert losses[-1][loss] < losses[0][loss] / 2
    trained = load_generator(run.path)
    transfer, loaded, num_cameras = trained.transfer, trained.settings, trained.num_cameras
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


def test_the_generator_may_take_the_batch_of_the_last_critic_step(flat, tmp_path):
    seen = []
    chosen = settings(flat, "epochs=1", "generator_batch=critic")
    trainer = _trainer(chosen, StyleImages.open(chosen), RunFolder(tmp_path / "run"), None, title="")
    star = trainer.method
    star._critic_losses, star._generator_losses = (
        lambda *tensors, kind=kind, losses=losses: (seen.append((kind, *tensors)), losses(*tensors))[1]
        for kind, losses in (("critic", star._critic_losses), ("generator", star._generator_losses))
    )
    trainer.train_epoch()
    assert [kind for kind, *_ in seen] == 2 * ["critic", "critic", "generator"] + ["critic", "critic"]
    for critic, generator in ((1, 2), (4, 5)):
        assert all(torch.equal(*pair) for pair in zip(seen[critic][1:], seen[generator][1:], strict=True))
        assert not torch.equal(seen[critic - 1][1], seen[critic][1])


def test_resuming_before_a_step_of_the_generator_keeps_its_batch(flat, tmp_path):
    # 8 steps an epoch: the first one ends with a step of the critic that the generator's follows
    chosen = settings(flat, "epochs=2", "keep_checkpoints=5", "generator_batch=critic")
    whole = train_styles(chosen, tmp_path / "whole")
    parts = train_styles(chosen, tmp_path / "parts")
    (parts.checkpoint_folder / "epoch_0002" / "state.pt").unlink()
    resumed = resume_styles(parts.path, skip_damaged=True).last_checkpoint()
    assert same(resumed.weights, whole.last_checkpoint().weights)


@pytest.mark.parametrize("size", [[16, 8], [16, 16], [24, 8]])
def test_crops_have_the_shape_of_the_images(flat, size):
    images = StyleImages.open(settings(flat, f"data.image_size={size}"))
    plan = style_plan(settings(flat, f"data.image_size={size}"), images, {"images": images.rows()}, crop_area=0.79)
    sides = random_sized_rect_crop_boxes(
        4,
        tuple(size),
        scale=plan.streams["images"].augment.crop_scale,
        aspect=plan.streams["images"].augment.crop_aspect,
        generator=torch.Generator().manual_seed(0),
    )[:, 2:]
    assert sides.tolist() == [[round(0.79**0.5 * side) for side in size]] * 4


def test_critic_and_generator_take_turns_and_both_are_logged(flat, tmp_path):
    run = train_styles(settings(flat, "epochs=1", "critic_steps=3"), tmp_path / "run", draw=draw_views)
    (record,) = run.records("train")
    names = {"critic", "critic_camera", "penalty", "generator", "generator_camera", "cycle"}
    assert {f"loss_{name}" for name in names} <= record.keys()
    assert record["loss_penalty"] > 0
    assert (run.path / "samples" / "epoch_0001.png").read_bytes().startswith(b"\x89PNG")
    assert run.records("samples") == [{"kind": "samples", "epoch": 1, "picture": "samples/epoch_0001.png"}]
    assert run.records("evaluation") == []


def test_cyclegans_are_runs_of_pairs_that_give_each_style(three, tmp_path, caplog):
    caplog.set_level("INFO")
    drawn = []

    def draw(views, table, rows, path, **options):
        drawn.append((path, table.camids[rows].tolist(), options["cameras"], options["back"].shape))

    chosen = settings(three, "epochs=1", "pairs=[[15, 1], [1, 2], [1, 15]]", method=CYCLEGAN)
    run = train_styles(chosen, tmp_path / "run", draw=draw)
    assert [path.name for path in run.runs_inside] == ["pair-1-15", "pair-1-2"]
    assert "cameras 1 and 15 (pair 2 of 2), epoch 1/1: loss " in caplog.text
    folder = run.path / "pair-1-15"
    (record,) = RunFolder.open(folder).records("train")
    assert {f"loss_{name}" for name in ("adversarial", "cycle", "identity", "discriminator")} <= record.keys()
    assert [path.parent.parent for path, *_ in drawn] == [run.path / "pair-1-2", folder]
    assert drawn[1][1:] == ([0, 0, 0, 14, 14, 14], (0, 14), (6, 3, 16, 8))
    trained = load_generator(run.path)
    transfer = trained.transfer
    assert (trained.settings, trained.num_cameras) == (chosen, 15)
    assert trained.fingerprint == load_dataset(three).train.fingerprint
    images = torch.zeros(3, 3, 16, 8, dtype=torch.uint8)
    styled = transfer(images, torch.tensor([0, 14, 0]), torch.tensor([14, 0, 1]))
    alone = load_generator(folder).transfer
    assert torch.equal(alone(images[:2], torch.tensor([0, 14]), torch.tensor([14, 0])), styled[:2])
    with pytest.raises(InputError, match="no generator from camera 2 to camera 15"):
        transfer(images, torch.tensor([0, 1, 0]), torch.tensor([14, 14, 1]))
    with pytest.raises(InputError, match="no generator from camera 1 to camera 2: .* pairs 1-15"):
        alone(images[:1], torch.tensor([0]), torch.tensor([1]))


def test_cyclegans_of_all_pairs_resume_to_the_numbers_of_an_unbroken_training(three, tmp_path, caplog):
    chosen = settings(three, "epochs=3", "average=0.5", "keep_checkpoints=5", method=CYCLEGAN)
    whole, parts = (train_styles(chosen, tmp_path / name) for name in ("whole", "parts"))
    names = ["pair-1-15", "pair-1-2", "pair-2-15"]
    assert [path.name for path in parts.runs_inside] == names
    # as if it had been stopped in the second pair, and before the third
    for epoch in (2, 3):
        shutil.rmtree(parts.path / "pair-1-15" / "checkpoints" / f"epoch_{epoch:04d}")
    shutil.rmtree(parts.path / "pair-2-15")
    with pytest.raises(InputError, match="camera 2 to camera 15"):
        load_generator(parts.path).transfer(torch.zeros(1, 3, 16, 8), torch.tensor([1]), torch.tensor([14]))
    first = (parts.path / "pair-1-2" / "metrics.jsonl").read_text()
    caplog.set_level("INFO")
    resume_styles(parts.path)
    assert "cameras 1 and 2 (pair 1 of 3): complete" in caplog.text
    assert (parts.path / "pair-1-2" / "metrics.jsonl").read_text() == first
    for name in names:
        resumed, expected = (RunFolder.open(run.path / name).last_checkpoint() for run in (parts, whole))
        assert same(resumed.weights, expected.weights)
        pools = [state["method"]["pools"] for state in (resumed.state, expected.state)]
        assert len(pools[0]["first"]["images"]) == 6
        assert all(torch.equal(pools[0][key]["images"], pools[1][key]["images"]) for key in ("first", "second"))
        records = [RunFolder.open(run.path / name).records("train") for run in (parts, whole)]
        losses = [[record["loss_discriminator"] for record in each] for each in records]
        assert losses[0] == losses[1]


def test_a_pair_with_a_damaged_checkpoint_is_not_complete(three, tmp_path, caplog):
    run = train_styles(settings(three, "epochs=1", "pairs=[[1, 2]]", method=CYCLEGAN), tmp_path / "run")
    (weights,) = run.path.glob("pair-1-2/checkpoints/*/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    caplog.set_level("INFO")
    with pytest.raises(InputError, match="damaged or cut off: .*; resume the training with --skip-damaged"):
        resume_styles(run.path)
    with pytest.raises(InputError, match="pair-1-2/checkpoints: no checkpoint can be read; remove this folder"):
        resume_styles(run.path, skip_damaged=True)
    shutil.rmtree(weights.parent.parent)
    resume_styles(run.path)
    assert "complete" not in caplog.text
    load_generator(run.path)
    resume_styles(run.path, skip_damaged=True)
    assert "cameras 1 and 2 (pair 1 of 1): complete" in caplog.text


def test_pairs_that_are_added_to_the_settings_are_trained_by_resuming(three, tmp_path):
    run = train_styles(settings(three, "epochs=1", "pairs=[[1, 2]]", method=CYCLEGAN), tmp_path / "run")
    first = RunFolder.open(run.path / "pair-1-2").last_checkpoint()
    text = run.config_file.read_text()
    run.config_file.write_text(text.replace("pairs:\n- - 1\n  - 2\n", "pairs: [[1, 2], [2, 15]]\n"))
    resume_styles(run.path)
    assert [path.name for path in run.runs_inside] == ["pair-1-2", "pair-2-15"]
    assert same(RunFolder.open(run.path / "pair-1-2").last_checkpoint().weights, first.weights)
    assert load_generator(run.path).transfer.missing_pairs([0, 1, 14]) == [(0, 14)]


def test_a_run_of_one_pair_is_resumed_by_itself(three, tmp_path):
    run = train_styles(settings(three, "epochs=1", "pairs=[[1, 2]]", method=CYCLEGAN), tmp_path / "run")
    pair = run.path / "pair-1-2"
    expected = RunFolder.open(pair).last_checkpoint()
    shutil.rmtree(pair / "checkpoints")
    with pytest.raises(InputError, match="the run has no checkpoint yet"):
        load_generator(run.path)
    resume_styles(pair)
    assert RunFolder.open(pair).runs_inside == []
    assert same(RunFolder.open(pair).last_checkpoint().weights, expected.weights)


def test_a_smaller_camera_is_seen_again_in_an_order_of_its_own(flat):
    chosen = settings(flat, "flip=0", method=CYCLEGAN)
    images = StyleImages.open(chosen)
    rows = {"first": images.rows(0), "second": images.rows(1)[:8]}
    plan = style_plan(chosen, images, rows, crop_area=1.0)
    assert plan.steps == 8

    def batches(epoch):
        seed = partial(derived_seed, chosen.seed)
        size, device = chosen.data.image_size, torch.device("cpu")
        return list(epoch_batches(plan, seed=lambda what: seed(what, epoch), image_size=size, device=device))

    epochs = [batches(epoch) for epoch in (0, 0, 1)]
    first, second = ([torch.cat([b[name].rows for b in epoch]) for epoch in epochs] for name in ("first", "second"))
    assert torch.equal(first[0].sort().values, rows["first"])
    # 32 images of the one are four times the 8 of the other, each time in another order
    assert all(torch.equal(part.sort().values, rows["second"]) for part in second[0].split(8))
    assert not torch.equal(*second[0].split(8)[:2])
    for index in (first, second):
        assert torch.equal(index[0], index[1])
        assert not torch.equal(index[0], index[2])
    values = epochs[0][0]["first"].images
    assert values.min() >= -1 - 1e-5
    assert values[:, 0].mean() > 0 > values[:, 2].mean()


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
        (["data.image_size=[4, 4]"], "image_size: .* 4x4 are no multiples of 4 from 8 on; use a size such as 64x32"),
        (["epochs=1", "critic_steps=8"], "8 steps in all are steps of the critic, as critic_steps=8 come before"),
        (["method=cyclegan", "batch=33"], "batch is 33, but there are 32 images of camera 1; lower it, or leave"),
        (["method=cyclegan", "data.image_size=[20, 10]"], "image_size: 20x10 does not fit the generator"),
        (["method=cyclegan", "pairs=[[1, 1]]"], "pairs: 1 and 1 are one camera; a pair needs two"),
        (["method=cyclegan", "pairs=[[1, 2], [1, 9]]"], "no training images of camera 9, only of 1, 2"),
        (["method=cyclegan", "pair=[3, 1]"], "no training images of camera 3, only of 1, 2"),
    ],
)
def test_settings_that_do_not_fit(flat, tmp_path, overrides, message):
    with pytest.raises(InputError, match=message):
        train_styles(settings(flat, *overrides, method=TINY), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_error_before_the_first_step_leaves_no_folder(flat, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise ValueError("broken")

    monkeypatch.setattr(StyleImages, "open", broken)
    with pytest.raises(ValueError, match="broken"):
        train_styles(settings(flat), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "change", [("channels: 8", "channels: 4"), ("method: stargan", "method: cyclegan\npair: [1, 2]")]
)
def test_weights_that_do_not_fit_the_settings(flat, tmp_path, change):
    run = train_styles(settings(flat, "epochs=1"), tmp_path / "run")
    text = run.config_file.read_text().replace("critic_steps: 2\n", "").replace("camera_weight: 1.0\n", "")
    run.config_file.write_text(text.replace("penalty_weight: 10.0\n", "").replace(*change))
    with pytest.raises(InputError, match=r"run: its checkpoints do not fit its config.yaml: .*; undo the change"):
        load_generator(run.path)


def test_a_run_of_another_kind(small_settings, tmp_path):
    run = RunFolder.create(tmp_path / "run", small_settings)
    for use in (load_generator, resume_styles):
        with pytest.raises(InputError, match="run: is a run of reid-da train, not of reid-da camstyle train"):
            use(run.path)
    run.config_file.write_text("method: stylegan")
    with pytest.raises(InputError, match="unknown method 'stylegan'"):
        load_generator(run.path)


def test_mistakes_in_settings_of_styles():
    with pytest.raises(InputError, match="unknown key 'cycle_wieght' .did you mean 'cycle_weight'"):
        load_style_settings(None, ["cycle_wieght=3"])
    with pytest.raises(InputError, match="batch: Input should be greater than or equal to 1"):
        load_style_settings(None, ["batch=0"])
