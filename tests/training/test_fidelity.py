"""The presets of other people's recipes against those recipes in plain tensor operations, in float64, step by step.

The recipes are those of the authors' code, which was run beside these presets too: docs/fidelity.md has the figures.
"""

from pathlib import Path

import harness
import pytest
import torch
from coded_site import write_coded_site
from torch import Tensor

from reid_da.experiments.setup import build_trainer
from reid_da.images import Batch
from reid_da.methods import load_settings
from reid_da.training.run_folder import RunFolder
from reid_da.training.schedule import learning_rate_factor

PRESETS = Path(__file__).parent.parent.parent / "experiments"
NUM_PIDS, EPOCHS, STEPS = 6, 3, 7
SMALL = [
    "model.backbone=resnet18",
    "model.width=0.125",
    "model.weights=none",
    "model.dropout=0",
    "data.image_size=[32,16]",
    "data.cache=never",
    "batch.source=8",
    "batch.instances=2",
    "device=cpu",
    "precision.channels_last=false",
    "evaluate_every=0",
]


@pytest.fixture
def site(tmp_path):
    return write_coded_site(tmp_path / "site", pids=tuple(range(1, NUM_PIDS + 1)), num_cameras=2, per_camera=1)


def trainer_of(preset, site, folder, *overrides):
    settings = load_settings(PRESETS / "supervised" / preset, [*SMALL, f"data.target={site}", *overrides])
    trainer = build_trainer(settings, RunFolder(folder))
    trainer.method.network.double()
    trainer.begin_optimizer()
    trainer.method.network.train()
    trainer.steps = STEPS
    return trainer


def batches():
    generator = torch.Generator().manual_seed(5)
    for epoch in range(EPOCHS):
        for step in range(STEPS):
            images = torch.randn(8, 3, 32, 16, generator=generator, dtype=torch.float64)
            labels = torch.randperm(NUM_PIDS, generator=generator)[:4].repeat_interleave(2)
            yield epoch, step, images, labels


def normalised(values: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return (values - values.mean(0)) / (values.var(0, unbiased=False) + 1e-5).sqrt() * weight + bias


def strong_baseline_loss(pooled: Tensor, labels: Tensor, neck: Tensor, classifier: Tensor, centers: Tensor) -> Tensor:
    """Smoothed labels, hardest triplets and the squared distance to the centres, with the weight 0.0005."""
    log_shares = (normalised(pooled, neck, torch.zeros_like(neck)) @ classifier.T).log_softmax(1)
    wanted = torch.full_like(log_shares, 0.1 / NUM_PIDS)
    wanted[torch.arange(len(labels)), labels] += 0.9
    distances = (pooled[:, None] - pooled[None]).square().sum(2).clamp(min=1e-12).sqrt()
    triplets = []
    for row, label in zip(distances, labels, strict=True):
        triplets.append((row[labels == label].max() - row[labels != label].min() + 0.3).clamp(min=0))
    to_all = (pooled[:, None] - centers[None]).square().sum(2)
    own = torch.nn.functional.one_hot(labels, NUM_PIDS)
    to_own = (to_all * own).clamp(1e-12, 1e12).sum() / len(labels)
    return -(wanted * log_shares).sum(1).mean() + torch.stack(triplets).mean() + 0.0005 * to_own


def test_twenty_one_steps_of_the_strong_baseline(site, tmp_path):
    with harness._KeepFloat64():
        trainer = trainer_of("bnneck.yaml", site, tmp_path / "run")
        network, ours = trainer.method.network, trainer.method.labelled.centers.double()
        copy = trainer_of("bnneck.yaml", site, tmp_path / "copy").method.network
        centers = ours.centers.clone().requires_grad_()
        neck, classifier = (
            x.detach().clone().requires_grad_() for x in (copy.embedding_norm.weight, copy.classifier.weight)
        )
        adam = torch.optim.Adam([*copy.backbone.parameters(), neck, classifier], lr=3.5e-4, weight_decay=5e-4)
        sgd = torch.optim.SGD([centers], lr=0.5)
        assert abs(float(centers.detach().std()) - 1) < 0.1
        for epoch, step, images, labels in batches():
            # epochs 1, 2, 3 of ten with a rate that grows from a hundredth
            adam.param_groups[0]["lr"] = 3.5e-4 * (0.01 * (1 - (epoch + 1) / 10) + (epoch + 1) / 10)
            loss = strong_baseline_loss(copy.backbone(images), labels, neck, classifier, centers)
            adam.zero_grad()
            sgd.zero_grad()
            loss.backward()
            adam.step()
            centers.grad /= 0.0005
            sgd.step()
            trainer.epoch = epoch
            found = trainer.train_step(step, {"source": Batch(rows=labels, images=images, labels=labels)})
            assert sum(found.values()).item() == pytest.approx(loss.item(), rel=1e-9)
        torch.testing.assert_close(ours.centers, centers.detach(), rtol=0, atol=1e-9)
        assert not network.embedding_norm.bias.any()


@pytest.mark.parametrize(
    "change",
    [
        "model.neck_bias=true",
        "model.stem_relu=true",
        "source_loss.center_rule=paper",
        "source_loss.center_rate=0.4",
        "source_loss.label_smoothing=0",
        "source_loss.triplet_margin=0.2",
        "optimizer.warmup=steps",
        "optimizer.weight_decay=0",
    ],
)
def test_the_losses_of_the_strong_baseline_depend_on_every_part(site, tmp_path, change):
    curves = []
    for folder, overrides in (("plain", []), ("changed", [change])):
        with harness._KeepFloat64():
            trainer = trainer_of("bnneck.yaml", site, tmp_path / folder, *overrides)
            trainer.method.labelled.centers.double()
            curve = []
            for epoch, step, images, labels in batches():
                if epoch == 0:
                    found = trainer.train_step(step, {"source": Batch(rows=labels, images=images, labels=labels)})
                    curve.append(sum(found.values()).item())
            curves.append(curve)
    assert max(abs(a - b) for a, b in zip(*curves, strict=True)) > 1e-7


def test_twenty_one_steps_of_spherereid(site, tmp_path):
    with harness._KeepFloat64():
        small = ["model.embedding_dim=16"]
        trainer = trainer_of("spherereid.yaml", site, tmp_path / "run", *small)
        copy = trainer_of("spherereid.yaml", site, tmp_path / "copy", *small).method.network
        adam = torch.optim.Adam(copy.parameters(), lr=1e-3)
        first, linear, second = copy.embedding.norm, copy.embedding.linear, copy.embedding_norm
        for epoch, step, images, labels in batches():
            adam.param_groups[0]["lr"] = 1e-5 * 100 ** (epoch / 20)
            hidden = normalised(copy.backbone(images), first.weight, first.bias) @ linear.weight.T + linear.bias
            h, w = normalised(hidden, second.weight, second.bias), copy.classifier.weight
            cosines = h @ w.T / h.norm(dim=1, keepdim=True) / w.norm(dim=1)
            each = torch.logsumexp(14 * cosines, 1) - 14 * cosines[torch.arange(len(labels)), labels]
            loss = each.sort(descending=True).values[: int(len(labels) * 0.8)].mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
            trainer.epoch = epoch
            found = trainer.train_step(step, {"source": Batch(rows=labels, images=images, labels=labels)})
            assert sum(found.values()).item() == pytest.approx(loss.item(), rel=1e-9)


@pytest.mark.parametrize(
    ("preset", "rates"),
    [
        # recorded from WarmupMultiStepLR of reid-strong-baseline, stepped before each epoch as its trainer does
        (
            "bnneck.yaml",
            {0: 3.815e-5, 1: 7.28e-5, 8: 3.1535e-4, 9: 3.5e-4, 38: 3.5e-4, 39: 3.5e-5, 68: 3.5e-5, 69: 3.5e-6},
        ),
        # recorded from lr_scheduler of CoinCheung/SphereReID
        (
            "spherereid.yaml",
            {0: 1e-5, 1: 1.2589254e-5, 2: 1.5848932e-5, 19: 7.9432823e-4, 20: 1e-3, 89: 1e-3, 90: 1e-4, 130: 1e-5},
        ),
    ],
)
def test_learning_rates_by_epoch(preset, rates):
    settings = load_settings(PRESETS / "supervised" / preset, [])
    for epoch, rate in rates.items():
        for part in (0.0, 0.9):
            factor = learning_rate_factor(epoch + part, settings.optimizer, epochs=settings.epochs)
            assert settings.optimizer.lr * factor == pytest.approx(rate, rel=1e-7)
