"""Supervised training with any sum of losses and any head."""

import math
import shutil
from dataclasses import replace

import pytest
import torch

from reid_da.config import HeadSettings, SourceLossSettings, merge
from reid_da.errors import InputError
from reid_da.experiments.runs import resume, train
from reid_da.experiments.setup import build_trainer
from reid_da.images import Batch
from reid_da.losses.margin import Margin
from reid_da.losses.margin_head import MarginHead
from reid_da.methods import settings_of
from reid_da.methods._labelled import LabelledLosses
from reid_da.models.backbones import create_backbone
from reid_da.models.building import head_margin
from reid_da.models.reid_net import ReIDNetwork
from reid_da.studies.ablation import compare
from reid_da.studies.inspection import angles_of_run
from reid_da.training.run_folder import RunFolder

EVERY_TERM = {
    "triplet_weight": 0.5,
    "contrastive_weight": 0.1,
    "center_weight": 0.01,
    "circle_weight": 0.1,
    "range_weight": 0.01,
    "marginal_weight": 0.1,
    "intra_weight": 0.1,
    "inter_weight": 0.1,
    "energy_weight": 0.1,
}


def supervised(settings, **changes):
    tree = merge(settings.model_dump(mode="json"), {"method": "supervised", "data": {"source": None}, **changes})
    return settings_of(tree, where="test")


def network(margin=None):
    backbone = create_backbone("resnet18", width=0.125, weights="none", generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    options = {"embedding": "none", "dropout": 0.0, "freeze": "none", "bn_mode": "train"}
    return ReIDNetwork(backbone, num_classes=3, margin=margin, generator=generator, **options)


def batch():
    images = torch.randn(6, 3, 32, 16, generator=torch.Generator().manual_seed(2))
    return Batch(rows=torch.tensor([5, 0, 3, 1, 4, 2]), images=images, labels=LABELS)


LABELS = torch.tensor([2, 0, 1, 0, 2, 1])


def test_every_term_is_trained_logged_and_weighted():
    settings = SourceLossSettings(**EVERY_TERM)
    method = LabelledLosses(network(Margin(m3=0.35)).train(), settings=settings)
    losses = method.losses(batch())
    assert set(losses) == {"cross_entropy"} | {name.removesuffix("_weight") for name in EVERY_TERM}
    gradients = torch.autograd.grad(sum(losses.values()), list(method.network.parameters()), allow_unused=True)
    assert all(gradient is None or torch.isfinite(gradient).all() for gradient in gradients)
    doubled = SourceLossSettings(classification_weight=2, **{name: 2 * value for name, value in EVERY_TERM.items()})
    twice = LabelledLosses(network(Margin(m3=0.35)).train(), settings=doubled).losses(batch())
    for name, loss in losses.items():
        assert twice[name].item() == pytest.approx(2 * loss.item(), rel=1e-5)


def test_labels_are_those_of_the_batch():
    model = network().eval()
    loss = LabelledLosses(model, settings=SourceLossSettings()).losses(batch())["cross_entropy"]
    logits = model.source_logits(model.embed(model.backbone(batch().images)))
    expected = -logits.log_softmax(1)[range(6), LABELS].mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_only_the_hardest_of_a_batch_are_trained_on():
    model = network().eval()
    each = torch.nn.functional.cross_entropy(
        model.source_logits(model.embed(model.backbone(batch().images))), LABELS, reduction="none"
    )
    for share, count in ((0.5, 3), (0.8, 4), (0.1, 1), (1.0, 6)):
        settings = SourceLossSettings(hardest_share=share, classification_weight=2)
        loss = LabelledLosses(model, settings=settings).losses(batch())["cross_entropy"]
        expected = 2 * sum(sorted(each.tolist())[-count:]) / count
        assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_centres_move_after_the_backward_pass_only():
    method = LabelledLosses(network().train(), settings=SourceLossSettings(center_weight=0.1))
    method.losses(batch())
    assert (method.centers.centers == 0).all()
    method.after_backward()
    moved = method.centers.centers.clone()
    assert (moved.norm(dim=1) > 0).all()
    method.after_backward()
    assert torch.equal(method.centers.centers, moved)


def test_nothing_to_train_on_is_an_error():
    with pytest.raises(InputError, match="source_loss: all weights are 0"):
        LabelledLosses(network(), settings=SourceLossSettings(classification_weight=0))


def test_a_head_takes_its_kind_and_what_is_given():
    assert head_margin(HeadSettings()) is None
    assert head_margin(HeadSettings(kind="arcface")) == Margin(m2=0.5, scale=64.0)
    assert head_margin(HeadSettings(kind="arcface", m2=0.3, scale=30)) == Margin(m2=0.3, scale=30)
    sphereface = head_margin(HeadSettings(kind="sphereface"))
    assert (sphereface.m1, sphereface.scale, sphereface.annealed) == (4.0, None, True)
    with pytest.raises(InputError, match="head.m2: a linear classifier has none; set head.kind"):
        head_margin(HeadSettings(m2=0.3))
    with pytest.raises(InputError, match="head.sample_rate: a linear classifier has all classes in every step"):
        head_margin(HeadSettings(sample_rate=0.5))


def test_sampled_classes_change_with_the_step_and_the_seed():
    def curve(seed):
        model = network(Margin(m3=0.35)).train()
        model.classifier.sample_rate = 0.5
        method, losses = LabelledLosses(model, settings=SourceLossSettings(), seed=seed), []
        for _ in range(6):
            losses.append(method.losses(replace(batch(), labels=torch.zeros_like(LABELS)))["cross_entropy"].item())
            method.after_backward()
        return losses

    # nothing is trained here: all that differs is with which of the two other classes the first one is compared
    assert len(set(curve(0))) > 1
    assert curve(0) == curve(0) != curve(1)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_a_margin_head_has_the_loss_of_its_logits(share):
    model = network(Margin(m2=0.5, scale=16)).eval()
    settings = SourceLossSettings(hardest_share=share, label_smoothing=0.1)
    loss = LabelledLosses(model, settings=settings).losses(batch())["cross_entropy"]
    logits = model.source_logits(model.embed(model.backbone(batch().images)), LABELS)
    each = torch.nn.functional.cross_entropy(logits, LABELS, label_smoothing=0.1, reduction="none")
    assert loss.item() == pytest.approx(each.topk(int(6 * share)).values.mean().item(), rel=1e-5)


def test_a_network_with_a_margin_head_gives_margined_logits_to_labels_alone():
    model = network(Margin(m2=0.5, scale=16)).eval()
    assert isinstance(model.classifier, MarginHead)
    embeddings = model.embed(model.backbone(batch().images))
    plain = model.source_logits(embeddings)
    assert torch.equal(model(batch().images, "source"), plain)
    margined = model.source_logits(embeddings, LABELS)
    own = torch.nn.functional.one_hot(LABELS, 3).bool()
    assert (margined[own] < plain[own]).all()
    assert torch.equal(margined[~own], plain[~own])


def test_what_is_compared_at_test_time_is_a_choice():
    model = network().eval()
    model.embedding_norm.running_mean.fill_(0.5)
    pooled = model(batch().images)
    model.test_feature = "embedding"
    embedding = model(batch().images)
    assert torch.allclose(embedding, model(batch().images, "target"))
    assert not torch.allclose(embedding, pooled)


@pytest.mark.parametrize("kind", ["norm_softmax", "sphereface", "cosface", "arcface", "combined"])
def test_every_head_trains_and_resumes(small_settings, tmp_path, kind):
    settings = supervised(
        small_settings,
        head={"kind": kind},
        source_loss={"center_weight": 0.01},
        model={"embedding": "none", "test_feature": "embedding"},
        optimizer={"kind": "adam", "lr": 0.001},
    )
    whole = train(settings, tmp_path / "whole")
    assert math.isfinite(whole.records("train")[-1]["loss_cross_entropy"])
    parts = train(settings, tmp_path / "parts")
    (parts.checkpoint_folder / "epoch_0002" / "state.pt").unlink()
    resumed = resume(parts.path, skip_damaged=True).last_checkpoint()
    expected = whole.last_checkpoint()
    assert all(torch.equal(resumed.weights[name], value) for name, value in expected.weights.items())
    centers = [point.state["method"]["labelled"]["centers"]["centers"] for point in (resumed, expected)]
    assert torch.equal(*centers)
    if kind == "sphereface":
        assert expected.weights["classifier.steps"] == 6


def test_adam_keeps_the_lower_rate_of_the_backbone(small_settings, tmp_path):
    settings = supervised(small_settings, optimizer={"kind": "adam", "lr": 0.01, "backbone_lr_factor": 0.1})
    optimizer = build_trainer(settings, RunFolder(tmp_path / "unused")).optimizer
    assert isinstance(optimizer, torch.optim.Adam)
    assert {group["name"]: group["lr"] for group in optimizer.param_groups} == {"backbone": 0.001, "new": 0.01}


def test_experiments_are_compared_by_their_names(small_settings, tmp_path):
    first = supervised(small_settings, name="plain", epochs=1)
    second = supervised(small_settings, name="margin", epochs=1, head={"kind": "cosface"})
    results = compare([first, second], tmp_path, seeds=2)
    assert [(name, len(figures)) for name, figures in results.items()] == [("plain", 2), ("margin", 2)]
    assert RunFolder.open(tmp_path / "margin" / "margin-seed1").settings().head.kind == "cosface"
    with pytest.raises(InputError, match="2 experiments are called 'plain'"):
        compare([first, first], tmp_path)


def test_angles_of_a_run(small_settings, small_sites, tmp_path, caplog):
    model = {"embedding": "none"}
    run = train(supervised(small_settings, epochs=1, head={"kind": "arcface"}, model=model), tmp_path / "run")
    found = angles_of_run(run.path, feature="embedding")
    # pooled features, which this run compares, have nothing to do with the centres
    plain = angles_of_run(run.path)["train"]
    assert (plain.feature, plain.w_inter) == ("pooled", None)
    assert plain.intra != found["train"].intra
    assert list(found) == ["train", "site-b (market1501) gallery"]
    assert found["train"].num_classes == 5
    assert found["train"].w_inter is not None
    assert found["site-b (market1501) gallery"].w_inter is None
    other = angles_of_run(run.path, data=small_sites / "site-a", feature="embedding")
    assert list(other) == ["train", "site-a (dukemtmcreid) gallery"]
    assert other["train"].intra == found["train"].intra
    linear = train(supervised(small_settings, epochs=1), tmp_path / "linear")
    assert angles_of_run(linear.path, feature="embedding")["train"].w_ec is None
    shutil.copytree(small_sites / "site-a" / "bounding_box_train", tmp_path / "crops" / "c1")
    with pytest.raises(InputError, match="crops: has no gallery images of known people; give a data set that has"):
        angles_of_run(run.path, data=tmp_path / "crops")
    target = {"source": str(small_sites / "site-a"), "target": str(tmp_path / "crops")}
    unlabelled = settings_of(merge(small_settings.model_dump(mode="json"), {"epochs": 1, "data": target}), where="test")
    adapted = train(unlabelled, tmp_path / "adapted")
    with caplog.at_level("WARNING"):
        assert list(angles_of_run(adapted.path)) == ["train"]
    assert "crops: has no gallery images of known people, only training images are looked at" in caplog.text
    with pytest.raises(InputError, match="is not a run"):
        angles_of_run(run.checkpoint_folder / "epoch_0001" / "model.safetensors")
