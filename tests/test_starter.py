import shutil

import pytest
import torch

from reid_da.errors import InputError
from reid_da.experiments import starter
from reid_da.experiments.domains import ExperimentContext
from reid_da.experiments.setup import check_possible, warn_if_slow
from reid_da.experiments.starter import write_starter
from reid_da.methods import EXPERIMENTS, METHODS, load_settings
from reid_da.models import create_backbone
from reid_da.presets import PRESETS, settings_file


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr(starter, "imagenet_weights_available", lambda name: False)


@pytest.fixture
def crops(small_sites, tmp_path):
    """Crops without identities of the first cameras of site-b, in a folder for each."""
    for file in (small_sites / "site-b" / "bounding_box_train").glob("*.jpg"):
        folder = tmp_path / "crops" / f"cam{file.name.split('_c')[1][0]}"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder / f"{abs(hash(file.name))}.jpg")
    return tmp_path / "crops"


def test_presets_are_settings_and_bases_by_name(tmp_path):
    own = {"o2cap", "small", "small-source", "small-target", "small-weights"}
    assert set(METHODS) - {"camstyle", "source", "supervised"} | own == set(PRESETS)
    for name in PRESETS:
        load_settings(name)
    (tmp_path / "mine.yaml").write_text("base: spcl\nepochs: 3\n")
    settings = load_settings(tmp_path / "mine.yaml")
    assert (settings.method, settings.epochs, settings.steps_per_epoch) == ("spcl", 3, 400)
    (tmp_path / "bad.yaml").write_text("base: spck\n")
    with pytest.raises(
        InputError, match=r"bad\.yaml.*no such file, and no preset of this name .*spcl|spck: no such file"
    ):
        load_settings(tmp_path / "bad.yaml")


def test_a_file_of_the_name_of_a_preset_comes_first(tmp_path):
    (tmp_path / "cap").write_text("epochs: 1\n")
    assert settings_file("cap", tmp_path) == tmp_path / "cap"
    assert settings_file("cap", tmp_path / "elsewhere").name == "cap.yaml"


@pytest.mark.parametrize(
    ("has_source", "stages"), [(False, ["npid", "cap"]), (True, ["source", "ecn", "cap"])], ids=["target", "source"]
)
def test_what_is_written_for_a_cpu_can_be_trained(has_source, stages, crops, small_sites, tmp_path):
    source = str(small_sites / "site-a") if has_source else None
    written = write_starter(tmp_path / "mine.yaml", target=str(crops), source=source, cpu=True)
    settings = load_settings(tmp_path / "mine.yaml")
    trained = [settings]
    while stage := EXPERIMENTS.stage(trained[0]):
        trained.insert(0, stage)
    assert [stage.method for stage in trained] == stages
    assert [stage.epochs for stage in trained] == ([20, 30, 15] if has_source else [10, 20])
    assert len({stage.model.camera_norm for stage in trained}) == 1
    assert (settings.device, settings.model.weights, settings.name) == ("cpu", "none", "mine")
    assert settings.batch.target <= sum(1 for _ in crops.rglob("*.jpg"))
    # worth nothing to a network that has nothing to start from
    assert settings.model.camera_norm is has_source
    assert any("random weights" in note for note in written.notes)
    check_possible(settings)


def test_a_labelled_test_set_beside_unlabelled_cameras(crops, small_sites, small_settings):
    def context(**data):
        changed = {**small_settings.data.model_dump(), "target": crops, **data}
        return ExperimentContext(load_settings({**small_settings.tree, "data": changed}), bare=True)

    assert context().test_images() is None
    images = context(test=small_sites / "site-b").test_images()
    assert images.query.table.root == small_sites / "site-b"
    with pytest.raises(InputError, match="data.test: .*has no query and gallery.*--test-only"):
        context(test=crops).test_images()


def test_a_test_set_is_checked_before_it_is_written(crops, small_sites, tmp_path):
    write_starter(tmp_path / "mine.yaml", target=str(crops), test=str(small_sites / "site-b"), cpu=True)
    assert load_settings(tmp_path / "mine.yaml").data.test == small_sites / "site-b"
    with pytest.raises(InputError, match="no query and gallery.*--test-only"):
        write_starter(tmp_path / "other.yaml", target=str(crops), test=str(crops), cpu=True)
    assert not (tmp_path / "other.yaml").exists()


def test_one_camera_means_no_method_that_compares_cameras(crops, small_sites, tmp_path):
    camera = next(crops.iterdir())
    write_starter(tmp_path / "alone.yaml", target=f"{camera}#layout=flat", cpu=True)
    settings = load_settings(tmp_path / "alone.yaml")
    assert settings.method == "cluster-contrast"
    check_possible(settings)
    source = str(small_sites / "site-a")
    write_starter(tmp_path / "both.yaml", target=f"{camera}#layout=flat", source=source, cpu=True)
    both = load_settings(tmp_path / "both.yaml")
    assert (both.method, both.invariance.camera, both.model.camera_norm) == ("ecn", False, False)


def test_pretrained_weights_decide_the_backbone(crops, tmp_path):
    torch.save(create_backbone("osnet_x0_25", weights="none").state_dict(), tmp_path / "osnet.pth")
    write_starter(tmp_path / "mine.yaml", target=str(crops), weights=str(tmp_path / "osnet.pth"), cpu=True)
    settings = load_settings(tmp_path / "mine.yaml")
    assert (settings.model.backbone, settings.model.width, settings.pretrain) == ("osnet_x0_25", 1.0, None)
    assert settings.model.camera_norm
    assert (settings.method, settings.online.weight, settings.optimizer.warmup_epochs) == ("cap", 1.0, 0)
    check_possible(settings)
    camera = next(crops.iterdir())
    write_starter(tmp_path / "one.yaml", target=f"{camera}#layout=flat", weights=str(tmp_path / "osnet.pth"), cpu=True)
    alone = load_settings(tmp_path / "one.yaml")
    assert (alone.method, alone.pretrain, alone.model.camera_norm) == ("cluster-contrast", None, False)
    torch.save({"w": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="fits none of the backbones"):
        write_starter(tmp_path / "x.yaml", weights=str(tmp_path / "other.pth"))


def test_a_gpu_gets_the_published_size(monkeypatch, crops, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "H100")
    written = write_starter(tmp_path / "mine.yaml", target=str(crops))
    settings = load_settings(tmp_path / "mine.yaml")
    assert (settings.method, settings.model.backbone, settings.data.image_size) == ("cap", "resnet50", (256, 128))
    assert "H100" in written.text
    assert any("--weights PATH or model.weights=PATH" in note for note in written.notes)


def test_files_are_not_replaced_unasked(tmp_path):
    write_starter(tmp_path / "mine.yaml", cpu=True)
    with pytest.raises(InputError, match="--overwrite"):
        write_starter(tmp_path / "mine.yaml", cpu=True)
    write_starter(tmp_path / "mine.yaml", cpu=True, overwrite=True)
    with pytest.raises(InputError, match="settings are YAML"):
        write_starter(tmp_path / "mine.txt")


def test_a_large_network_on_a_cpu_is_warned_of(caplog):
    warn_if_slow(load_settings("spcl", ["device=cpu"]))
    assert "resnet50 on images of 256x128 is slow on a CPU" in caplog.text
    caplog.clear()
    warn_if_slow(load_settings("small", ["device=cpu"]))
    assert not caplog.text
