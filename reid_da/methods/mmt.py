"""MMT: two networks that learn from each other's mean teachers on clusters of the target (Ge et al., ICLR 2020).

It needs no source of its own: what it starts from does, a pretraining or ``init_from``.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from reid_da.clustering import ClusteringSettings
from reid_da.config import (
    FREE,
    AugmentSettings,
    Count,
    ModelSettings,
    OptimizerSettings,
    Settings,
    Share,
)
from reid_da.errors import InputError
from reid_da.images import Batch
from reid_da.losses.metric import batch_hard_triplet_loss
from reid_da.losses.mutual import soft_cross_entropy, soft_triplet_loss
from reid_da.methods._pseudo_labels import (
    PseudoLabelMethod,
    PseudoLabels,
    PseudoLabelSettings,
    check_instances,
    require_embedding,
)
from reid_da.methods.cluster_contrast import STRONG_AUGMENT, STRONG_MODEL, STRONG_OPTIMIZER
from reid_da.methods.protocol import Context, EpochPlan, Rows
from reid_da.models.reid_net import ReIDNetwork
from reid_da.models.running_mean import copy_for_mean, follow


class BatchSettings(Settings):
    """Size of a batch."""

    target: Count = Field(default=64, description="target images in a step, each in two augmentations")
    instances: Count = Field(default=4, description="images of each cluster in a batch")


class MutualSettings(Settings):
    """Teachers, and the losses."""

    keep: Share = Field(
        default=0.999, description="share of a teacher's weights that a step keeps, after the first steps"
    )
    soft_classification: Share = Field(
        default=0.5, description="weight of the cross-entropy with the other teacher; the labels have the rest"
    )
    soft_triplet: Share = Field(
        default=0.8, description="weight of the triplet loss with the other teacher; the labels have the rest"
    )
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)


class MMTSettings(PseudoLabelSettings):
    """Settings of MMT; the defaults are those of the authors' code with DBSCAN (yxgeee/MMT@057e1ea)."""

    method: Literal["mmt"] = Field(
        default="mmt", description="two networks that teach each other on clusters of the target; needs no source"
    )
    epochs: Count = 40
    steps_per_epoch: int = Field(default=400, ge=0, description="0: one pass over a group of images of each cluster")
    init_second: Path | None = Field(
        default=None,
        description="run or weights file that the second network starts from; by default that of the first",
        json_schema_extra=FREE,
    )
    batch: BatchSettings = BatchSettings()
    mutual: MutualSettings = MutualSettings()
    clustering: ClusteringSettings = ClusteringSettings(k1=20, convention="reranking", eps_share=0.0016)
    model: ModelSettings = STRONG_MODEL.model_copy(update={"pooling": "default"})
    augment: AugmentSettings = STRONG_AUGMENT
    optimizer: OptimizerSettings = STRONG_OPTIMIZER.model_copy(update={"schedule": "constant"})


class _Outputs(NamedTuple):
    """What a network makes of a batch: (B, F) pooled features, (B, C) logits of the clusters."""

    pooled: Tensor
    logits: Tensor


class MMT(PseudoLabelMethod):
    """Each epoch: clusters of the teachers' mean features; each step: labels, and the other teacher's opinion.

    Args:
        settings: of the experiment.
        context: seeds and device of the run, and what it may ask for.

    Attributes:
        students: the two networks that are trained.
        teachers: their running means, of which the first is tested.
    """

    Settings = MMTSettings
    rows: ClassVar[Rows] = {"mmt": {"method": "mmt"}}
    table = ("source", "mmt", "supervised")
    inference_part = "teacher_1."
    num_networks = 2
    num_teachers = 2

    def __init__(self, settings: MMTSettings, context: Context) -> None:
        batch = settings.batch
        check_instances(size=batch.target, instances=batch.instances)
        if batch.target == batch.instances:
            raise InputError(
                f"batch.target is {batch.target}: a triplet loss needs two clusters in a batch; raise it to "
                f"{2 * batch.instances}"
            )
        require_embedding(settings.model)
        self.settings = settings
        self.context = context
        self.target = PseudoLabels(context.domain("target"), settings.clustering, context, settings.shown_views)
        self.students = (
            context.network(num_classes=0),
            context.network(num_classes=0, purpose="weights 2", start=settings.init_second),
        )
        self.teachers = tuple(copy_for_mean(student) for student in self.students)
        self.trained = nn.ModuleDict()
        for number, (student, teacher) in enumerate(zip(self.students, self.teachers, strict=True), 1):
            self.trained[f"student_{number}"] = student
            self.trained[f"teacher_{number}"] = teacher
        self.eps: float | None = None
        self.updates = 0

    @property
    def inference(self) -> nn.Module:
        """The first teacher."""
        return self.teachers[0]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Those of the two students, joined by name."""
        optimizer = self.settings.optimizer
        rates = {"lr_new": optimizer.lr, "lr_backbone": optimizer.lr * optimizer.backbone_lr_factor}
        first, second = (student.parameter_groups(**rates) for student in self.students)
        return [{**one, "params": [*one["params"], *other["params"]]} for one, other in zip(first, second, strict=True)]

    def begin_epoch(self, epoch: int) -> EpochPlan:
        """Cluster the target; the means of the clusters are the rows of all classifiers, the optimiser begins anew."""
        settings, batch = self.settings, self.settings.batch
        features = torch.stack([self.target.extract(teacher) for teacher in self.teachers]).mean(dim=0)
        found = self.target.find(features, epoch=epoch, eps=(self.eps,))[0]
        if self.eps is None:
            self._keep_eps(found.eps)
        figures = self.target.accept(found, epoch=epoch)
        self._classify(self.target.means(functional.normalize(features)))
        stream = self.target.stream(size=batch.target, instances=batch.instances, augment=settings.augment, once=True)
        views = {f"target_{number}": replace(stream, purpose="target", pixels=f"target {number}") for number in (1, 2)}
        steps = settings.steps_per_epoch or stream.num_batches(self.context.seed("target order", epoch))
        return EpochPlan(streams=views, steps=steps, new_optimizer=True, figures=figures)

    def step(self, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        """Weighted losses by name: equation 9 of the paper, with the weights of the authors' code.

        Args:
            batches: ``target_1`` and ``target_2``, the same images in two augmentations.
        """
        views, mutual = (batches["target_1"], batches["target_2"]), self.settings.mutual
        labels = views[0].labels
        assert labels is not None
        students = [_outputs(network, view) for network, view in zip(self.students, views, strict=True)]
        # in training mode too: the running statistics of a teacher are of the images that it sees
        with torch.no_grad():
            teachers = [_outputs(network, view) for network, view in zip(self.teachers, views, strict=True)]
        losses: dict[str, list[Tensor]] = {name: [] for name in _weights(mutual)}
        for student, teacher in zip(students, reversed(teachers), strict=True):
            losses["cross_entropy"].append(
                functional.cross_entropy(student.logits, labels, label_smoothing=mutual.label_smoothing)
            )
            losses["triplet"].append(batch_hard_triplet_loss(student.pooled, labels))
            losses["soft_cross_entropy"].append(soft_cross_entropy(student.logits, teacher.logits))
            losses["soft_triplet"].append(soft_triplet_loss(student.pooled, teacher.pooled, labels))
        return {name: weight * torch.stack(losses[name]).sum() for name, weight in _weights(mutual).items()}

    def after_update(self) -> None:
        """Let the teachers follow, from the students' weights as they are after the very first update."""
        keep = min(1 - 1 / (self.updates + 1), self.settings.mutual.keep)
        for teacher, student in zip(self.teachers, self.students, strict=True):
            follow(teacher, student, keep=keep)
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        """Labels, the limit of the first epoch, and how far the teachers are; the clusters size the classifiers."""
        return {"target": self.target.state_dict(), "eps": self.eps, "updates": self.updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state, with classifiers of its clusters."""
        self.target.load_state_dict(state["target"])
        self.updates = int(state["updates"])
        if state["eps"] is not None:
            self._keep_eps(float(state["eps"]))
        parameter = next(self.students[0].parameters())
        self._classify(parameter.new_zeros(self.target.num_clusters, self.students[0].embedding_dim))

    def _keep_eps(self, eps: float | None) -> None:
        """Let a limit that was found as a share of the distances be that of all later epochs."""
        self.eps = eps
        if self.settings.clustering.eps_share is not None and eps is not None:
            self.target.settings = self.settings.clustering.model_copy(update={"eps": eps, "eps_share": None})

    def _classify(self, rows: Tensor) -> None:
        """Let (C, D) vectors be the rows of all classifiers, as parameters of that size."""
        for networks, is_trained in ((self.students, True), (self.teachers, False)):
            for network in networks:
                classifier = cast(nn.Linear, network.classifier)
                classifier.out_features = len(rows)
                classifier.weight = nn.Parameter(rows.to(classifier.weight, copy=True), requires_grad=is_trained)
                if classifier.bias is not None:
                    bias = classifier.weight.new_zeros(len(rows))
                    classifier.bias = nn.Parameter(bias, requires_grad=is_trained)


def _outputs(network: ReIDNetwork, batch: Batch) -> _Outputs:
    pooled = network.pooled(batch.images, batch.cameras)
    return _Outputs(pooled, network.source_logits(network.embed(pooled)).to(pooled.dtype))


def _weights(mutual: MutualSettings) -> dict[str, float]:
    """Weights of the losses by name."""
    return {
        "cross_entropy": 1 - mutual.soft_classification,
        "triplet": 1 - mutual.soft_triplet,
        "soft_cross_entropy": mutual.soft_classification,
        "soft_triplet": mutual.soft_triplet,
    }
