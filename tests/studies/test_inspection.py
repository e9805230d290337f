"""What is said of trained models: which features are compared, and what cannot be said."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from reid_da.config import merge
from reid_da.datasets import load_dataset
from reid_da.datasets.pairs import draw_pairs, read_pairs
from reid_da.errors import InputError
from reid_da.evaluation.verification import verify
from reid_da.experiments.runs import train
from reid_da.images import TestTransform, decode_image
from reid_da.methods import settings_of
from reid_da.models.backbones import create_backbone
from reid_da.models.reid_net import ReIDNetwork
from reid_da.studies.inspection import angles_of_run, calibrate_run, compares_with_centers, verify_pairs
from reid_da.training.checkpoint import load_checkpoint, save_checkpoint
from reid_da.training.trained import TrainedModel, load_trained

SIZE = (32, 16)


def trained(test_feature="pooled"):
    """A network whose features have very different lengths, as those of trained ones have."""
    backbone = create_backbone("resnet18", width=0.125, weights="none", generator=torch.Generator().manual_seed(0))
    network = ReIDNetwork(
        backbone,
        num_classes=3,
        embedding_dim=8,
        test_feature=test_feature,
        generator=torch.Generator().manual_seed(1),
    )
    network.embedding_norm.running_mean.fill_(0.3)
    return TrainedModel(network=network.eval(), image_size=SIZE)


def raw_features(network, images):
    pooled = network.backbone(images)
    return pooled if network.test_feature == "pooled" else network.embed(pooled)


@pytest.mark.parametrize("test_feature", ["pooled", "embedding"])
def test_pairs_are_verified_by_features_of_the_length_that_they_have(small_sites, test_feature):
    pairs = draw_pairs(load_dataset(small_sites / "site-b"), 20)
    model = trained(test_feature)
    files = [pairs.images.path(row) for row in range(len(pairs.images))]
    decoded = np.stack([decode_image(file, size=SIZE, interpolation="bicubic") for file in files])
    pixels = torch.from_numpy(decoded).permute(0, 3, 1, 2)
    images = TestTransform(size=SIZE)(pixels)
    with torch.no_grad():
        plain, mirrored = (raw_features(model.network, view) for view in (images, images.flip(3)))
    assert not torch.allclose(plain.norm(dim=1), mirrored.norm(dim=1), rtol=1e-3)

    found = verify_pairs(model, pairs)

    summed = F.normalize((plain + mirrored).double())
    similarity = (summed[pairs.first] * summed[pairs.second]).sum(dim=1)
    assert found.similarity == pytest.approx(similarity.numpy(), abs=1e-6)
    both = torch.cat([plain, mirrored], dim=1)
    expected = verify(both[pairs.first], both[pairs.second], pairs.same, pairs.folds, mirrored=True)
    assert found.by_centred_cosine.threshold == pytest.approx(expected.by_centred_cosine.threshold, abs=1e-3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\na 1 2\na 1 b 1\n", "pairs.txt: all pairs are in one fold"),
        ("2 1\na 1 2\na 1 b 1\na 2 1\na 2 b 1\n", r"pairs.txt: 1 of 3 images cannot be decoded: .*b_0001.jpg \("),
    ],
)
def test_pairs_that_cannot_be_verified_are_told_by_their_file(small_sites, tmp_path, text, message):
    good = sorted((small_sites / "site-b" / "query").iterdir())[0].read_bytes()
    for name, content in (("a/a_0001", good), ("a/a_0002", good), ("b/b_0001", b"no picture")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.jpg").write_bytes(content)
    (tmp_path / "pairs.txt").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        verify_pairs(trained(), read_pairs(tmp_path / "pairs.txt"))
    assert "on_error" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pairs_of_one_kind_are_told_by_their_file(small_sites, tmp_path):
    image = sorted((small_sites / "site-b" / "query").iterdir())[0]
    (tmp_path / "pairs.csv").write_text(f"path1,path2,same\n{image},{image},1\n")
    with pytest.raises(InputError, match="pairs.csv: verification needs pairs of one person and of two; of 1 pairs 1"):
        verify_pairs(trained(), read_pairs(tmp_path / "pairs.csv"))


def test_rates_that_a_model_cannot_tell_are_refused(small_sites, small_settings, tmp_path, monkeypatch):
    class Constant(torch.nn.Module):
        def forward(self, images):
            return torch.ones(len(images), 2)

    run = train(small_settings.model_copy(update={"epochs": 1}), tmp_path / "run")
    blind = TrainedModel(network=Constant(), image_size=SIZE, settings=small_settings)
    monkeypatch.setattr("reid_da.studies.inspection.load_trained", lambda *_, **__: blind)
    with pytest.raises(InputError, match="pairs of two persons are too alike to this model .* of 0.1; give a higher"):
        calibrate_run(run.path, fprs=[0.1])


def changed(settings, **changes):
    """The settings with changes, some of another method, which takes what it knows of them."""
    data, model = settings.data.model_dump(mode="json"), settings.model.model_dump(mode="json")
    common = {"device": "cpu", "data": data, "model": model, "steps_per_epoch": 3, "batch": {"source": 8}}
    return settings_of(merge(common, changes), where="test")


@pytest.mark.parametrize(
    ("changes", "has_margin_head", "expected"),
    [
        ({"method": "supervised"}, False, False),
        ({"method": "supervised"}, True, True),
        ({"method": "supervised", "model": {"embedding": "none"}}, False, True),
        ({"method": "supervised", "source_loss": {"classification_weight": 0, "triplet_weight": 1}}, True, False),
        (
            {
                "method": "supervised",
                "model": {"embedding": "none"},
                "source_loss": {"classification_weight": 0, "triplet_weight": 1, "inter_weight": 1},
            },
            False,
            False,
        ),
        ({"method": "supervised", "source_loss": {"classification_weight": 0, "intra_weight": 1}}, False, True),
        ({"method": "camstyle", "source_loss": {"classification_weight": 0, "triplet_weight": 1}}, True, True),
        ({"method": "ecn", "loss_weight": 1}, True, False),
        ({"method": "ecn", "loss_weight": 0.9}, True, True),
        ({"method": "source"}, True, True),
    ],
)
def test_centres_that_no_embedding_was_compared_with_have_no_angles(small_settings, changes, has_margin_head, expected):
    settings = changed(small_settings, **changes)
    assert compares_with_centers(settings, has_margin_head=has_margin_head) is expected


def test_a_run_of_triplets_alone_and_one_with_a_nan(small_settings, tmp_path):
    triplets = {
        "method": "supervised",
        "epochs": 1,
        "model": {"embedding": "none"},
        "batch": {"instances": 2},
        "source_loss": {"classification_weight": 0, "triplet_weight": 1},
    }
    run = train(changed(small_settings, **triplets), tmp_path / "run")
    found = angles_of_run(run.path)["train"]
    assert (found.w_ec, found.w_inter) == (None, None)
    assert found.intra > 0

    folder = run.checkpoint_folder / "epoch_0001"
    checkpoint = load_checkpoint(folder)
    checkpoint.weights["backbone.layer3.0.conv1.weight"][0, 0, 1, 1] = torch.nan
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    description = {key: value for key, value in checkpoint.description.items() if key != "checksum"}
    save_checkpoint(folder, replace(checkpoint, description=description))
    for look in (load_trained, angles_of_run, lambda path: calibrate_run(path, fprs=[0.1])):
        with pytest.raises(
            InputError, match=r"epoch_0001: 1 of \d+ weight tensors hold NaN .*backbone.layer3.0.conv1.weight"
        ):
            look(run.path)


def test_images_whose_features_are_zero_are_named(small_sites):
    class Dark(torch.nn.Module):
        def forward(self, images):
            return 0 * images.mean((2, 3))

    pairs = draw_pairs(load_dataset(small_sites / "site-b"), 20)
    with pytest.raises(InputError, match=r"rows are all zeros; check the model or drop these images \(.*\.jpg"):
        verify_pairs(TrainedModel(network=Dark(), image_size=SIZE), pairs)
