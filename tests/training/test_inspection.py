"""What is said of trained models: which features are compared, and what cannot be said."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from reid_da.datasets import load_dataset
from reid_da.datasets.pairs import draw_pairs
from reid_da.evaluation.verification import verify
from reid_da.images import TestTransform, decode_image
from reid_da.models.backbones import create_backbone
from reid_da.models.reid_net import ReIDNetwork
from reid_da.training.inspection import verify_pairs
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
