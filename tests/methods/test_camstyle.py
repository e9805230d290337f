"""CamStyle as a method, and batches with several views of an image."""

import pytest
import torch
from torch.nn import functional

from reid_da.config import merge
from reid_da.datasets import load_dataset
from reid_da.errors import InputError
from reid_da.experiments.runs import resume, train
from reid_da.experiments.setup import build_trainer
from reid_da.images import Batch
from reid_da.methods import settings_of
from reid_da.training.run_folder import RunFolder

LABELS = torch.tensor([0, 0, 1, 1, 2, 2])


def changed(settings, **changes):
    return settings_of(merge(settings.model_dump(mode="json"), changes), where="test")


def trainer(settings, tmp_path):
    return build_trainer(settings, RunFolder(tmp_path / "unused"))


def epoch(trainer):
    return list(trainer.batches(trainer.method.begin_epoch(0)))


def batches():
    images = torch.randn(7, 3, 32, 16, generator=torch.Generator().manual_seed(2))
    rows = torch.tensor([5, 0, 3, 1, 4, 2, 0])
    return {
        name: Batch(rows=rows[part], images=images[part], labels=LABELS[rows[part]])
        for name, part in (("source", slice(4)), ("restyled", slice(4, None)))
    }


def test_restyled_images_have_smoothed_labels_and_statistics_of_their_own(small_settings, tmp_path):
    method = trainer(changed(small_settings, method="camstyle", model={"dropout": 0.0}), tmp_path).method
    network = method.network.train()
    losses = method.step(batches())
    assert set(losses) == {"cross_entropy", "restyled"}
    for name, smoothing in (("cross_entropy", 0.0), ("restyled", 0.1)):
        batch = batches()["source" if name == "cross_entropy" else "restyled"]
        logits = network.source_logits(network.embed(network.backbone(batch.images)), batch.labels).double()
        wanted = (1 - smoothing) * functional.one_hot(batch.labels, logits.shape[1]) + smoothing / logits.shape[1]
        assert losses[name].item() == pytest.approx(-(wanted * logits.log_softmax(1)).sum(1).mean().item(), rel=1e-5)


@pytest.mark.parametrize("cameras", ["target", "source"])
def test_streams_of_restyled_images(small_settings, tmp_path, cameras):
    settings = changed(
        small_settings, method="camstyle", camstyle={"cameras": cameras}, batch={"source": 8, "restyled": 5}
    )
    made = trainer(settings, tmp_path)
    source = load_dataset(settings.data.source).train
    for step in epoch(made):
        assert {name: len(batch.rows) for name, batch in step.items()} == {"source": 8, "restyled": 5}
        restyled = step["restyled"]
        assert restyled.images.shape == (5, 3, 32, 16)
        assert restyled.rows.max() < len(source)
        assert torch.equal(restyled.labels, torch.from_numpy(source.labels())[restyled.rows])
    assert made.fingerprints["source"] == source.content_fingerprint(labels=True)


def test_a_killed_run_of_camstyle_goes_on(small_settings, tmp_path):
    settings = changed(small_settings, method="camstyle", keep_checkpoints=5, batch={"restyled": 4})
    whole = train(settings, tmp_path / "whole")
    parts = train(settings, tmp_path / "parts")
    (parts.checkpoint_folder / "epoch_0002" / "state.pt").unlink()
    resumed = resume(parts.path, skip_damaged=True)
    expected = whole.last_checkpoint().weights
    found = resumed.last_checkpoint().weights
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert whole.records("train")[-1]["loss_restyled"] > 0


def test_source_images_in_target_styles_need_a_style_that_can(small_settings, tmp_path):
    settings = changed(small_settings, method="camstyle", views={"style": "files"})
    with pytest.raises(InputError, match="views.style: 'files' has no source images in the target's styles; choose"):
        trainer(settings, tmp_path)


def test_several_views_of_each_target_image(small_settings, tmp_path):
    settings = changed(small_settings, views={"per_image": 3}, batch={"target": 4}, augment={"flip": 0.0, "erase": 0.0})
    settings = changed(settings, augment={"crop": "none"})
    for step in epoch(trainer(settings, tmp_path)):
        index, images = step["target"].rows, step["target"].images
        assert torch.equal(index, index[::3].repeat_interleave(3))
        assert len(set(index.tolist())) == 4
        for views in images.split(3):
            assert not torch.equal(views[0], views[1])
            assert not torch.equal(views[1], views[2])
            assert not torch.equal(views[0], views[2])


def test_training_with_several_views_fills_the_memory(small_settings, tmp_path):
    run = train(changed(small_settings, epochs=1, views={"per_image": 2}), tmp_path / "run")
    assert run.records("train")[0]["slots_norm_max"] == pytest.approx(1, abs=1e-5)


def test_more_views_than_cameras(small_settings, tmp_path):
    settings = changed(small_settings, views={"per_image": 30})
    with pytest.raises(InputError, match="views.per_image is 30, but an image has 6 different views; lower it"):
        trainer(settings, tmp_path)
