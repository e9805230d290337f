"""Pseudo-labels of a domain, made anew in each epoch from the features of its images."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from reid_da.centering import center_cameras
from reid_da.clustering import (
    ClusteringSettings,
    ClusterResult,
    adjusted_mutual_information,
    cluster_at_eps,
    cluster_camera_entropy,
    cluster_means,
    find_collapse,
    remedy,
)
from reid_da.config import AugmentSettings, ExperimentSettings, ModelSettings, ViewSettings
from reid_da.errors import InputError
from reid_da.features import Labels
from reid_da.images import IdentitySampler, OneView, Sampler
from reid_da.methods.protocol import NO_LABEL, Context, Domain, Held, Method, Role, StreamPlan

logger = logging.getLogger(__name__)

LEAST_CLUSTERS = 2
"""With fewer there is nothing to tell apart."""


class PseudoLabelSettings(ExperimentSettings):
    """What all methods on pseudo-labels have."""

    camera: bool = Field(
        default=False,
        description="show each target image in the style of a random camera of the target, as ECN does (in none of the "
        "papers)",
    )
    views: ViewSettings = ViewSettings()
    clustering: ClusteringSettings = ClusteringSettings()

    @property
    def shown_views(self) -> ViewSettings | None:
        """Camera styles in which training shows the images; None: as they are."""
        return self.views if self.camera else None


class PseudoLabels:
    """Clusters of the images of a domain, and what they were an epoch before.

    Args:
        domain: the images.
        settings: of the clustering.
        context: of the run.
        views: camera styles in which training shows the images, one of them at random each time; None: as they are.

    Attributes:
        labels: (N,) int64 cluster of each image of the domain, -1 for outliers and images that cannot be decoded.

    Raises:
        InputError: cameras are to be compared or centred, and there is one; styles are averaged, and there are none.
    """

    def __init__(
        self, domain: Domain, settings: ClusteringSettings, context: Context, views: ViewSettings | None = None
    ) -> None:
        if settings.metric == "camera_jaccard":
            require_cameras(domain, what="clustering.metric=camera_jaccard", instead="clustering.metric=jaccard")
        if settings.center_cameras:
            require_cameras(domain, what="clustering.center_cameras", instead="clustering.center_cameras=false")
        if settings.over_styles and views is None:
            raise InputError(
                "clustering.over_styles averages over camera styles, which the method does not use: set camera=true, "
                "where the method has it, or clustering.over_styles=false"
            )
        self.domain = domain
        self.settings = settings
        self.shown = domain if views is None else context.styled(domain, views)
        self.labels: Tensor | None = None
        self._context = context
        self._collapse: str | None = None

    def extract(self, network: nn.Module) -> Tensor:
        """(M, D) float32 features of unit length of the images that can be decoded, on the CPU.

        With ``clustering.over_styles`` they are means over all camera styles.
        """
        rows = self.domain.rows
        if not self.settings.over_styles:
            return self._context.extract(network, self.domain)[rows]
        views = [replace(self.domain, images=OneView(self.shown.images, view)) for view in range(self.shown.num_views)]
        return functional.normalize(
            sum((self._context.extract(network, view)[rows] for view in views), torch.zeros(()))
        )

    def assign(self, features: Tensor, *, epoch: int) -> dict[str, float]:
        """Cluster the images; figures about the clusters, of which only ``clusters_ami_pids`` needs labels.

        Where fewer than two clusters are found, the labels of the epoch before are kept.

        Args:
            features: (M, D) of the images that can be decoded.
            epoch: from 0; the first one has no labels to fall back to.

        Raises:
            InputError: there are too few clusters, and no labels from before.
        """
        return self.accept(self.find(features, epoch=epoch)[0], epoch=epoch)

    def find(self, features: Tensor, *, epoch: int, eps: Sequence[float | None] = (None,)) -> tuple[ClusterResult, ...]:
        """Clusters of the images that can be decoded at one or several values of eps, None for that of the settings.

        Warns where those at the first one have collapsed, once until they recover or collapse otherwise.

        Args:
            features: (M, D) of the images that can be decoded.
            epoch: from 0.
            eps: one value for each result.
        """
        camids = self.domain.camids[self.domain.rows]
        results = cluster_at_eps(
            (center_cameras(features, camids) if self.settings.center_cameras else features).to(self._context.device),
            camids.numpy(),
            settings=self.settings,
            eps=eps,
            seed=self._context.seed("clustering", epoch),
            world=self._context.world,
        )
        self._warn_of_collapse(results[0], epoch=epoch)
        return results

    def _warn_of_collapse(self, found: ClusterResult, *, epoch: int) -> None:
        if found.num_clusters < LEAST_CLUSTERS:  # an error, or the labels are kept with a warning of its own
            return
        before = None if self.labels is None else self.num_clusters
        collapse = find_collapse(found, settings=self.settings, before=before)
        if collapse is not None and collapse.kind != self._collapse:
            logger.warning("epoch %d: %s", epoch + 1, collapse.message)
        self._collapse = None if collapse is None else collapse.kind

    def accept(self, found: ClusterResult, *, epoch: int) -> dict[str, float]:
        """Let clusters of the images that can be decoded be the current ones; see :meth:`assign`.

        Raises:
            InputError: there are too few clusters, and no labels from before.
        """
        if found.num_clusters < LEAST_CLUSTERS and self.labels is not None:
            logger.warning(
                "epoch %d: clustering found %d clusters; the labels of the epoch before are kept; %s",
                epoch + 1,
                found.num_clusters,
                remedy(found, settings=self.settings, join=found.num_clusters == 0),
            )
            return {"clusters_kept": 1.0}
        found.require_clusters(LEAST_CLUSTERS)
        return self.take(found.labels) | _figures_of(found, self.domain.camids[self.domain.rows].numpy())

    def take(self, labels: Labels) -> dict[str, float]:
        """Let (M,) labels of the images that can be decoded be the current ones; how they agree with those before."""
        before = self.labels
        self.labels = torch.full((len(self.domain),), NO_LABEL)
        self.labels[self.domain.rows] = torch.from_numpy(labels)
        figures = {}
        if before is not None:
            figures["clusters_agreement"] = adjusted_mutual_information(before.numpy(), self.labels.numpy())
        if self.domain.pids is not None:
            labelled = self.labels != NO_LABEL
            figures["clusters_ami_pids"] = adjusted_mutual_information(
                self.labels[labelled].numpy(), self.domain.pids[labelled].numpy()
            )
        return figures

    @property
    def num_clusters(self) -> int:
        """Number of clusters."""
        assert self.labels is not None
        return int(self.labels.max()) + 1

    def classes(self, features: Tensor) -> tuple[Tensor, Labels, int]:
        """(M, D) features of the images that can be decoded, their (M,) clusters, -1 for none, and how many there are.

        Args:
            features: (M, D) of the images that can be decoded.
        """
        assert self.labels is not None
        return features, self.labels[self.domain.rows].numpy(), self.num_clusters

    def means(self, features: Tensor) -> Tensor:
        """(C, D) mean features of the clusters, of unit length, on the device of the run.

        Args:
            features: (M, D) of the images that can be decoded.
        """
        return cluster_means(*self.classes(features)[:2]).to(self._context.device)

    def stream(
        self,
        *,
        size: int,
        instances: int,
        augment: AugmentSettings,
        labels: Tensor | None = None,
        once: bool = False,
    ) -> StreamPlan:
        """Batches with several images of each cluster; with fewer clusters than a batch wants, of all there are.

        Args:
            size: images in a batch.
            instances: images of each cluster.
            augment: random changes of the images.
            labels: (N,) int64 groups to draw from instead of the clusters, such as those of a camera.
            once: let every cluster come once in a pass, however large it is.
        """
        groups = self.labels if labels is None else labels
        assert groups is not None
        count = len(torch.unique(groups[groups != NO_LABEL]))
        wanted = size // instances
        if count < wanted:
            logger.warning("batch.target asks for %d clusters, and there are %d: smaller batches", wanted, count)
        sampler = IdentitySampler(min(wanted, count), instances, once)
        return self.stream_of(sampler, augment=augment, labels=groups)

    def stream_of(self, sampler: Sampler, *, augment: AugmentSettings, labels: Tensor) -> StreamPlan:
        """Batches as a sampler draws them from the images with labels, in random camera styles if there are any."""
        views = 1 if self.shown.num_views else 0
        return StreamPlan(domain=self.shown, sampler=sampler, augment=augment, labels=labels, views=views)

    def state_dict(self) -> dict[str, Any]:
        """The labels."""
        return {} if self.labels is None else {"labels": self.labels}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self.labels = state.get("labels")


class PseudoLabelMethod(Method):
    """A method that clusters the images of the target in each epoch."""

    @classmethod
    def holds(cls, settings: PseudoLabelSettings, sizes: Mapping[Role, int], dim: int) -> tuple[Held, ...]:
        """Features of all images, in every process, and the sparse distances that the first process makes of them."""
        clustering, images = settings.clustering, sizes["target"]
        is_by_camera = clustering.metric == "camera_jaccard"
        length = clustering.k1_intra + clustering.k1_inter + 2 if is_by_camera else clustering.k1 + 1
        features = Held(name="features to cluster", rows=2 * images, row_bytes=4 * dim, remedy="model.embedding_dim")
        # lists of int64; rows of about twice as many neighbours, and distances to those of neighbours, of 12 bytes each
        graph = 8 * length + 12 * 2 * length + 12 * length * length // 2
        remedy = "clustering.k1, clustering.k1_inter, clustering.algorithm=dbscan"
        return features, Held(name="distances (first process)", rows=images, row_bytes=graph, remedy=remedy)


def require_cameras(domain: Domain, *, what: str, instead: str) -> None:
    """See to it that images are of several cameras, which are known.

    Args:
        domain: the images.
        what: compares cameras, for the message.
        instead: settings that need none.

    Raises:
        InputError: they are of one camera, or of unknown ones.
    """
    if len(domain.table.cameras) < 2:
        raise InputError(
            f"{domain.table.root}: has one camera or unknown ones, and {what} needs several; use {instead}"
        )


def require_embedding(model: ModelSettings) -> None:
    """See to it that the features that are clustered, and tested, are those that the loss acts on.

    Raises:
        InputError: they are not.
    """
    if model.test_feature == "pooled" and model.embedding != "identity":
        raise InputError(
            "model.test_feature is pooled, but clusters are made of what is trained; set model.test_feature=embedding"
        )


def check_instances(*, size: int, instances: int) -> None:
    """See to it that a batch consists of groups.

    Raises:
        InputError: it does not.
    """
    if size % instances or instances < 2:
        raise InputError(f"batch.target is {size}: expected a multiple of batch.instances, {instances}, of at least 2")


def _figures_of(found: ClusterResult, camids: Labels) -> dict[str, float]:
    return {
        "clusters": float(found.num_clusters),
        "clusters_outliers": found.outlier_share,
        "clusters_largest": found.largest_share,
        "clusters_camera_entropy": cluster_camera_entropy(found.labels, np.asarray(camids)),
    }
