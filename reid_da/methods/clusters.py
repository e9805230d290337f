"""The strong clustering baseline: clusters of target images as classes, with a source or without one.

Cross-entropy with smoothed labels and the soft-margin triplet loss, as OpenUnReID (open-mmlab/OpenUnReID@c3e3ada,
``tools/strong_baseline``) puts together what Song et al. (Pattern Recognition 2020) and others began.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from reid_da.clustering import cluster_means
from reid_da.config import (
    AugmentSettings,
    Count,
    ModelSettings,
    OptimizerSettings,
    Settings,
    SourceLossSettings,
)
from reid_da.errors import InputError
from reid_da.images import Batch
from reid_da.methods._labelled import LabelledLosses
from reid_da.methods._pseudo_labels import (
    PseudoLabelMethod,
    PseudoLabels,
    PseudoLabelSettings,
    check_instances,
    require_embedding,
)
from reid_da.methods._streams import labelled_stream
from reid_da.methods.cluster_contrast import STRONG_AUGMENT, STRONG_MODEL, STRONG_OPTIMIZER
from reid_da.methods.protocol import Context, Domain, EpochPlan, Rows, StreamPlan


class BatchSettings(Settings):
    """Sizes of the batches of a step."""

    target: Count = Field(default=64, description="target images in a step")
    instances: Count = Field(default=4, description="images of each cluster, and of each source identity, in a batch")
    source: Count = Field(default=64, description="source images in a step, where there is a source")


class ClustersSettings(PseudoLabelSettings):
    """Settings of the strong clustering baseline; the defaults are those of OpenUnReID."""

    method: Literal["clusters"] = Field(
        default="clusters",
        description="classify clusters of the target, made anew each epoch; a source is optional",
    )
    epochs: Count = 50
    steps_per_epoch: int = Field(default=400, ge=0, description="0: one pass over the images that have a cluster")
    source_weight: float = Field(default=1.0, ge=0, description="weight of the source's loss; 0: no source")
    batch: BatchSettings = BatchSettings()
    source_loss: SourceLossSettings = SourceLossSettings(label_smoothing=0.1, triplet_weight=1.0)
    model: ModelSettings = STRONG_MODEL
    augment: AugmentSettings = STRONG_AUGMENT
    optimizer: OptimizerSettings = STRONG_OPTIMIZER.model_copy(update={"schedule": "constant"})


class Clusters(PseudoLabelMethod):
    """Each epoch: features, clusters, their means as rows of the classifier, an optimiser that begins anew.

    Classes of the source have rows behind those of the clusters. Departures: in the authors' code these rows begin at
    random and go on from epoch to epoch, while here they are set to class means like those of the clusters,
    so that no part of the classifier outgrows the other; the triplet loss there has no gradient for the positive and
    the negative of an anchor; and the running statistics of the domains can be kept apart there.

    Args:
        settings: of the experiment.
        context: seeds and device of the run, and what it may ask for.
    """

    Settings = ClustersSettings
    rows: ClassVar[Rows] = {"clusters": {"method": "clusters"}}
    table = ("source", "clusters", "supervised")

    def __init__(self, settings: ClustersSettings, context: Context) -> None:
        check_instances(size=settings.batch.target, instances=settings.batch.instances)
        require_embedding(settings.model)
        _check_triplets(settings)
        self.settings = settings
        self.context = context
        self.target = PseudoLabels(context.domain("target"), settings.clustering, context, settings.shown_views)
        self._source: Domain | None = None
        self._source_stream: StreamPlan | None = None
        if settings.data.source is not None and settings.source_weight:
            self._source = context.domain("source")
            sizes = settings.batch
            self._source_stream = labelled_stream(
                self._source, size=sizes.source, instances=sizes.instances, augment=settings.augment
            )
            # raises where there are fewer identities than a batch wants
            self._source_stream.num_batches(context.seed("source order", 0))
        self.trained = self.network = context.network(num_classes=0)
        self._losses = self._new_losses(epoch=0)

    def begin_epoch(self, epoch: int) -> EpochPlan:
        """Cluster the target, and let the means of the classes be the rows of the classifier."""
        settings, batch = self.settings, self.settings.batch
        features = self.target.extract(self.network)
        figures = self.target.assign(features, epoch=epoch)
        means = [self.target.means(features)]
        if self._source is not None:
            means.append(self._source_means(self._source))
        self._set_classifier(torch.cat(means))
        self._losses = self._new_losses(epoch=epoch)
        streams = {"target": self.target.stream(size=batch.target, instances=batch.instances, augment=settings.augment)}
        if self._source_stream is not None:
            streams["source"] = self._source_stream
        steps = settings.steps_per_epoch or streams["target"].num_batches(self.context.seed("target order", epoch))
        return EpochPlan(streams=streams, steps=steps, new_optimizer=True, figures=figures)

    def step(self, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        """Weighted losses by name."""
        losses = {}
        if self._source_stream is not None:
            # first, so that the running statistics take over the target last
            source = batches["source"]
            assert source.labels is not None
            shifted = replace(source, labels=source.labels + self.target.num_clusters)
            for name, loss in self._losses["source"].losses(shifted).items():
                losses[f"source_{name}"] = self.settings.source_weight * loss
        return losses | self._losses["target"].losses(batches["target"])

    def after_backward(self) -> None:
        """Move the class centres, where the losses have any."""
        for losses in self._losses.values():
            losses.after_backward()

    def state_dict(self) -> dict[str, Any]:
        """The labels; class centres are made anew with each epoch."""
        return {"target": self.target.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state, with a classifier for its clusters."""
        self.target.load_state_dict(state["target"])
        num_classes = self.target.num_clusters + (0 if self._source is None else self._source.num_classes)
        self._set_classifier(self.network.classifier.weight.new_zeros(num_classes, self.network.embedding_dim))

    def _set_classifier(self, rows: Tensor) -> None:
        """Let (C, D) vectors be the rows of the classifier, as a parameter of that size; its biases are 0."""
        classifier = self.network.classifier
        assert isinstance(classifier, nn.Linear)
        classifier.out_features = len(rows)
        classifier.weight = nn.Parameter(rows.to(classifier.weight, copy=True))
        if classifier.bias is not None:
            classifier.bias = nn.Parameter(classifier.weight.new_zeros(len(rows)))

    def _source_means(self, source: Domain) -> Tensor:
        """(C, D) mean features of the classes of the source, of unit length."""
        features = self.context.extract(self.network, source)[source.rows]
        return cluster_means(features, source.labels[source.rows].numpy()).to(self.context.device)

    def _new_losses(self, *, epoch: int) -> dict[str, LabelledLosses]:
        roles = ("target",) if self._source_stream is None else ("source", "target")
        return {
            role: LabelledLosses(
                self.network, settings=self.settings.source_loss, seed=self.context.seed(f"{role} centers", epoch)
            )
            for role in roles
        }


def _check_triplets(settings: ClustersSettings) -> None:
    """See to it that a batch has two classes, where the triplet loss asks for negatives.

    Raises:
        InputError: it has one.
    """
    for role in ("target", "source") if settings.data.source is not None and settings.source_weight else ("target",):
        size = getattr(settings.batch, role)
        if settings.source_loss.triplet_weight and size < 2 * settings.batch.instances:
            raise InputError(
                f"batch.{role} is {size}: a triplet loss needs two classes in a batch; raise it to "
                f"{2 * settings.batch.instances}"
            )
