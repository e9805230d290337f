"""Training and evaluation on a GPU that is not there: no device is mixed with another, and few steps wait for it."""

from collections import Counter

import loss_curves
import numpy as np
import pytest
import torch
from fake_gpu import GPU, fake_gpu, is_on_gpu
from harness import trainer_on_gpu

from reid_da.config import merge
from reid_da.evaluation import evaluate_distances, evaluate_retrieval, rerank, search
from reid_da.evaluation.expansion import alpha_query_expansion
from reid_da.images import TestTransform
from reid_da.losses.proxies import online_loss, online_positives, online_similarity, proxy_logits
from reid_da.models.backbones import create_backbone
from reid_da.models.inference import infer_in_batches
from reid_da.models.reid_net import ReIDNetwork

MIXED = "same device|two different devices|Device Propagation"
"""What torch says where devices are mixed, from 2.11 on."""
ONE_LOOK = {"_local_scalar_dense": 1}


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    return loss_curves.write_sites(tmp_path_factory.mktemp("sites"))


def train_epoch(trainer, gpu, epoch, *, answer):
    """Train an epoch; how often each step waits for the device, without what prepares its batch."""
    waits = []
    original = trainer.train_step

    def step(number, batches):
        assert all(is_on_gpu(value) for batch in batches.values() for value in (batch.images, batch.rows))
        gpu.waits.clear()
        gpu.answer = answer
        losses = original(number, batches)
        # whether weights are finite is asked at the end of an epoch
        gpu.answer = True
        assert all(is_on_gpu(loss) for loss in losses.values())
        waits.append(dict(gpu.waits))
        return losses

    trainer.epoch, trainer.train_step = epoch, step
    trainer.train_epoch()
    trainer.train_step = original
    return waits


@pytest.mark.parametrize(
    ("name", "epoch", "expected"),
    [
        ("ecn", 0, [{}]),
        # empty slots and equally near neighbours: once each for every 16,384 slots
        ("ecn", 1, [{"nonzero": 1, **ONE_LOOK}] * 2),
        # the same in the memory of the source, and the own slot is left out of the candidates
        ("ecn-gpp", 1, [{"nonzero": 4, "_local_scalar_dense": 2}] * 2),
        ("source", 0, [{}]),
        # that a batch holds several identities, for the triplet loss
        ("supervised", 0, [ONE_LOOK]),
        ("camstyle", 0, [{}]),
        # random cameras and mixtures, drawn on the CPU
        ("stargan", 0, [{"copy to the GPU": 2}] * 2),
        # which images are exchanged in the two pools
        ("cyclegan", 0, [{"copy to the GPU": 2}] * 2),
    ],
)
def test_a_method_trains_on_a_gpu_and_seldom_waits_for_it(sites, tmp_path, name, epoch, expected):
    changes = {} if name in loss_curves.STYLE_METHODS else {"steps_per_epoch": len(expected)}
    settings = loss_curves.settings(name, sites, changes)
    with fake_gpu() as gpu, trainer_on_gpu(settings, tmp_path / "unused") as trainer:
        assert train_epoch(trainer, gpu, epoch, answer=False) == expected
        assert all(is_on_gpu(value) for value in trainer.method.trained.state_dict().values())


VARIANTS = {
    "ties": {},
    "others than the own slot": {"memory": {"own_slot": "exclude"}},
    "views by statistics": {"views": {"style": "statistics"}},
    "views by histograms": {"views": {"style": "histogram"}},
    "several views": {"views": {"per_image": 2}, "batch": {"target": 4}},
    "memory in bfloat16": {"memory": {"dtype": "bfloat16"}},
    "colours and rectangles": {
        "augment": {"crop": "rect", "brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.1}
    },
    "larger images": {"data": {"image_size": [48, 24]}},
    "added gradients, clipped": {"steps_per_epoch": 2, "optimizer": {"accumulate": 2, "clip_norm": 1.0}},
    "adam": {"optimizer": {"kind": "adam"}},
    "dropout": {"model": {"dropout": 0.5}},
    "batch norms by camera": {"model": {"camera_norm": True}},
    "circle loss and sphereface": {"source_loss": {"circle_weight": 1.0}, "head": {"kind": "sphereface"}},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_of_ecn_train_on_a_gpu(sites, tmp_path, variant):
    changes = {"steps_per_epoch": 1, "memory": {"neighbors_from_epoch": 0}}
    settings = loss_curves.settings("ecn", sites, merge(changes, VARIANTS[variant]))
    with fake_gpu() as gpu, trainer_on_gpu(settings, tmp_path / "unused") as trainer:
        train_epoch(trainer, gpu, 0, answer=True)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"source_loss": {"center_weight": 1.0, "contrastive_weight": 1.0}}, {}),
        ({"source_loss": {"intra_weight": 1.0, "inter_weight": 1.0, "energy_weight": 1.0}}, {}),
        ({"source_loss": {"triplet_weight": 1.0, "triplet": "semi_hard"}}, {"nonzero": 2}),
        ({"source_loss": {"triplet_weight": 1.0, "triplet": "angular"}}, {"nonzero": 2}),
        ({"source_loss": {"circle_weight": 1.0}}, {"nonzero": 2}),
        ({"source_loss": {"marginal_weight": 1.0}}, {"nonzero": 1}),
        ({"head": {"kind": "sphereface", "scale": None}}, ONE_LOOK),
        # in which order the images go, and how many of them are of each camera
        ({"model": {"camera_norm": True}}, {"copy to the GPU": 2}),
    ],
    ids=str,
)
def test_terms_of_the_supervised_loss_train_on_a_gpu(sites, tmp_path, changes, expected):
    alone = {"steps_per_epoch": 1, "source_loss": {"triplet_weight": 0.0, "center_weight": 0.0}}
    settings = loss_curves.settings("supervised", sites, merge(alone, changes))
    with fake_gpu() as gpu, trainer_on_gpu(settings, tmp_path / "unused") as trainer:
        assert train_epoch(trainer, gpu, 0, answer=False) == [expected]


def features(*shape):
    return torch.rand(*shape, device=GPU)


def test_the_online_association_does_not_wait_for_a_gpu():
    with fake_gpu() as gpu:
        vectors, images = features(9, 8), features(5, 8).requires_grad_()
        proxies, camids = (torch.zeros(count, dtype=torch.int64, device=GPU) for count in (5, 9))
        gpu.waits.clear()
        logits = proxy_logits(images, vectors, temperature=0.07)
        similarity = online_similarity(logits.detach() * 0.07, vectors, proxies, balance=0.15)
        positives = online_positives(similarity, camids, num_cameras=3, num_positives=3)
        loss = online_loss(logits, similarity, positives, camids[proxies], num_negatives=4)
        loss.backward()
        assert positives.shape == (5, 3)
        assert is_on_gpu(loss)
        assert is_on_gpu(images.grad)
        assert gpu.waits == {}


def test_features_are_extracted_on_a_gpu():
    backbone = create_backbone("resnet18", width=0.125, weights="none")
    network = ReIDNetwork(backbone, num_classes=3, embedding_dim=8)
    images = torch.zeros(10, 3, 40, 20, dtype=torch.uint8)
    with fake_gpu() as gpu:
        network.to(GPU)
        gpu.waits.clear()
        found = infer_in_batches(
            network,
            lambda rows: images[rows],
            len(images),
            prepare=TestTransform(size=(32, 16)),
            batch_size=4,
            device=GPU,
            autocast=False,
            store_on=torch.device("cpu"),
        )
        assert found.shape == (10, backbone.feature_dim)
        # three batches there and back, two constants of the normalisation; whether the features are finite
        assert gpu.waits == Counter({"copy to the GPU": 3 + 2, "copy to the CPU": 3, "_local_scalar_dense": 3})


PIDS, CAMIDS = np.array([1, 2, 3]), np.array([0, 0, 1])
GALLERY_PIDS, GALLERY_CAMIDS = np.array([1, 2, 3, 1, 2, 3, 4]), np.array([1, 1, 0, 2, 2, 2, 0])


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_retrieval_is_evaluated_on_a_gpu(distance):
    with fake_gpu() as gpu:
        gpu.answer = False
        result = evaluate_retrieval(
            features(3, 8), PIDS, CAMIDS, features(7, 8), GALLERY_PIDS, GALLERY_CAMIDS, distance=distance
        )
        assert result.num_valid_queries == 3


def test_a_gallery_is_searched_on_a_gpu():
    with fake_gpu() as gpu:
        gpu.answer = False
        found = search(features(3, 8), features(7, 8), num_neighbors=2)
        assert is_on_gpu(found.distances)
        assert is_on_gpu(found.indices)


def test_queries_are_expanded_and_distances_ranked_anew_on_a_gpu():
    with fake_gpu() as gpu:
        gpu.answer = False
        query, gallery = features(3, 8), features(7, 8)
        alpha_query_expansion(query, gallery, num_neighbors=2)
        distances = rerank(query, gallery, k1=3, k2=2)
        evaluate_distances(distances, PIDS, CAMIDS, GALLERY_PIDS, GALLERY_CAMIDS)


def test_the_fake_gpu_finds_what_a_gpu_would_refuse():
    with fake_gpu() as gpu:
        here, there = torch.ones(3), torch.ones(3, device=GPU)
        which = torch.zeros(2, dtype=torch.int64)
        with pytest.raises(RuntimeError, match=MIXED):
            here + there
        with pytest.raises(RuntimeError, match=MIXED):
            torch.cat([here, there])
        with pytest.raises(RuntimeError, match=MIXED):
            here[which.to(GPU)]
        with pytest.raises(RuntimeError, match=MIXED):
            torch.nn.functional.cross_entropy(torch.ones(2, 3, device=GPU, requires_grad=True), which)
        assert here.sum().item() == 3
        gpu.waits.clear()
        assert there[which].device == GPU
        assert there.sum().item() == 1.0
        assert there[there > 0].shape == (3,)
        assert there.cpu().device.type == "cpu"
        assert dict(gpu.waits) == {
            "copy to the GPU": 1,
            "_local_scalar_dense": 1,
            "nonzero": 1,
            "copy to the CPU": 1,
        }
        weight = torch.ones(3, device=GPU, requires_grad=True)
        (weight * there).sum().backward()
        assert weight.grad.device == GPU
