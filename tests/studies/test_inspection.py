"""What is said of trained models: which features are compared, and what cannot be said."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from reid_da.datasets import load_dataset
from reid_da.datasets.pairs import draw_pairs, read_pairs
from reid_da.errors import InputError
from reid_da.evaluation.verification import verify
from reid_da.images import TestTransform, decode_image
from reid_da.models.backbones import create_backbone
from reid_da.models.reid_net import ReIDNetwork
from reid_da.studies.inspection import calibrate_run, verify_pairs
from reid_da.training.runs import train
from reid_da.training.trained import TrainedModel

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
