"""TensorBoard events against the metrics that they copy."""

import io
import sys

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from reid_da.config import merge
from reid_da.errors import InputError
from reid_da.experiments.runs import resume, train
from reid_da.methods import settings_of
from reid_da.training.events import TensorBoardEvents
from reid_da.training.run_folder import RunFolder


def scalars(folder):
    """Values by epoch and tag."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def test_events_hold_what_the_metrics_hold_also_after_a_resumption(small_settings, tmp_path):
    settings = settings_of(merge(small_settings.model_dump(mode="json"), {"tensorboard": True}), where="test")
    run = train(settings, tmp_path / "run")
    first = scalars(run.events_folder)
    losses = {record["epoch"]: record["loss_exemplar"] for record in run.records("train")}
    assert first["loss/exemplar"] == pytest.approx(losses)
    results = {record["epoch"]: record["mAP"] for record in run.records("evaluation")}
    assert first["evaluation/mAP"] == pytest.approx(results)
    assert first["neighbors/cross_camera"]
    assert first["lr/backbone"]
    # what the last epoch logged is forgotten with its checkpoint, and comes again
    (run.checkpoint_folder / "epoch_0002" / "state.pt").unlink()
    resume(run.path, skip_damaged=True)
    timing = {"train/seconds", "train/images_per_second", "train/peak_memory_mb"}
    second = scalars(run.events_folder)
    assert {tag: second[tag] for tag in second if tag not in timing} == {
        tag: first[tag] for tag in first if tag not in timing
    }


def test_pictures_come_back_after_a_resumption_and_may_be_removed(tmp_path):
    run = RunFolder(tmp_path)
    for epoch, level in ((1, 10), (2, 20), (3, 30)):
        Image.new("RGB", (4, 8), (level, 0, 0)).save(tmp_path / f"{epoch}.png")
        run.log({"kind": "samples", "epoch": epoch, "picture": f"{epoch}.png"})
    run.log({"kind": "train", "epoch": 3, "loss_cycle": 0.5})
    (tmp_path / "2.png").unlink()
    for _ in range(2):
        TensorBoardEvents(run.events_folder, run.records(), pictures=run.path)
        events = EventAccumulator(str(run.events_folder))
        events.Reload()
        images = events.Images("samples")
        assert [event.step for event in images] == [1, 3]
        with Image.open(io.BytesIO(images[1].encoded_image_string)) as image:
            assert (image.size, image.getpixel((0, 0))) == ((4, 8), (30, 0, 0))
        assert events.Tags()["scalars"] == ["loss/cycle"]


def test_events_are_off_unless_asked_for_and_name_their_extra(small_settings, tmp_path, monkeypatch):
    settings = settings_of(merge(small_settings.model_dump(mode="json"), {"epochs": 1}), where="test")
    assert not train(settings, tmp_path / "without").events_folder.exists()
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match=r"pip install 'reid-da\[tensorboard\]'"):
        train(settings.model_copy(update={"tensorboard": True}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
