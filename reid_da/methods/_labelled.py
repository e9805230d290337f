"""Supervised losses: any sum of classification, metric losses and angles, on labelled images."""

from collections.abc import Mapping
from typing import Any

from torch import Generator, Tensor

from reid_da.config import SourceLossSettings
from reid_da.errors import InputError
from reid_da.images import Batch
from reid_da.losses import metric
from reid_da.losses.centers import ClassCenters
from reid_da.losses.margin_head import MarginHead
from reid_da.models.reid_net import ReIDNetwork


class LabelledLosses:
    """The losses of a batch of labelled images, and the class centres that some of them keep.

    Args:
        network: the shared network, on its device.
        settings: weights and constants of the terms.
        seed: of class centres that begin at random, and of classes that are sampled.

    Attributes:
        embeddings: (B, D) of the last batch, without gradients.

    Raises:
        InputError: no term is left.
    """

    def __init__(self, network: ReIDNetwork, *, settings: SourceLossSettings, seed: int = 0) -> None:
        if not any(value for name, value in settings if name.endswith("_weight")):
            raise InputError("source_loss: all weights are 0, nothing is left to train on; set one of them")
        self.network = network
        self.settings = settings
        self._seed = seed
        self._shard = network.classifier.shard if isinstance(network.classifier, MarginHead) else None
        self.centers: ClassCenters | None = None
        if settings.center_weight:
            self.centers = ClassCenters(
                len(network.classifier.weight) if self._shard is None else self._shard.total,
                network.backbone.feature_dim,
                rule=settings.center_rule,
                generator=Generator().manual_seed(seed),
            )
            self.centers.to(network.classifier.weight.device)
        self.embeddings: Tensor | None = None
        self._seen: tuple[Tensor, Tensor] | None = None

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Weighted losses by name; their sum is what is minimised.

        Args:
            batch: labelled images.
        """
        settings, label = self.settings, batch.labels
        assert label is not None
        pooled = self.network.pooled(batch.images, batch.cameras)
        embeddings = self.network.embed(pooled)
        losses: dict[str, Tensor] = {}
        if settings.classification_weight:
            losses["cross_entropy"] = settings.classification_weight * self._cross_entropy(embeddings, label)
        losses |= self._on_pairs(pooled, label) | self._on_centers(pooled, embeddings, label)
        self.embeddings = embeddings.detach()
        self._seen = pooled.detach(), label
        return losses

    def after_backward(self) -> None:
        """Move the class centres of the last batch, whose gradients have come from those before, and count the step."""
        if isinstance(self.network.classifier, MarginHead):
            self.network.classifier.count_step()
        if self.centers is not None and self._seen is not None:
            self.centers.update(*self._seen, rate=self.settings.center_rate)
        self._seen = None

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the network."""
        return {} if self.centers is None else {"centers": self.centers.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        if self.centers is not None:
            self.centers.load_state_dict(state["centers"])

    def _cross_entropy(self, embeddings: Tensor, label: Tensor) -> Tensor:
        share = self.settings.hardest_share
        loss = self.network.source_cross_entropy(
            embeddings,
            label,
            label_smoothing=self.settings.label_smoothing,
            reduction="mean" if share == 1 else "none",
            seed=self._seed,
        )
        return loss if share == 1 else loss.topk(max(int(len(loss) * share), 1)).values.mean()

    def _on_pairs(self, pooled: Tensor, label: Tensor) -> dict[str, Tensor]:
        settings = self.settings
        losses = {}
        if settings.triplet_weight:
            losses["triplet"] = settings.triplet_weight * self._triplet(pooled, label)
        if settings.contrastive_weight:
            loss = metric.contrastive_loss(pooled, label, margin=settings.contrastive_margin)
            losses["contrastive"] = settings.contrastive_weight * loss
        if settings.circle_weight:
            loss = metric.circle_loss(pooled, label, margin=settings.circle_margin, scale=settings.circle_scale)
            losses["circle"] = settings.circle_weight * loss
        if settings.range_weight:
            losses["range"] = settings.range_weight * metric.range_loss(pooled, label, margin=settings.range_margin)
        if settings.marginal_weight:
            threshold, margin = settings.marginal_threshold, settings.marginal_margin
            loss = metric.marginal_loss(pooled, label, threshold=threshold, margin=margin)
            losses["marginal"] = settings.marginal_weight * loss
        return losses

    def _triplet(self, pooled: Tensor, label: Tensor) -> Tensor:
        margin = self.settings.triplet_margin
        if self.settings.triplet == "semi_hard":
            return metric.semi_hard_triplet_loss(pooled, label, margin=margin or 0.2)
        if self.settings.triplet in ("angular", "angular_hard"):
            negatives: metric.Negatives = "hard" if self.settings.triplet == "angular_hard" else "semi_hard"
            return metric.angular_triplet_loss(pooled, label, margin=margin or 0.35, negatives=negatives)
        return metric.batch_hard_triplet_loss(pooled, label, margin=margin)

    def _on_centers(self, pooled: Tensor, embeddings: Tensor, label: Tensor) -> dict[str, Tensor]:
        settings, weight = self.settings, self.network.classifier.weight
        losses = {}
        if self.centers is not None:
            loss = metric.center_loss(pooled, label, self.centers.centers)
            # by the rule of SGD the loss is the squared distance, not half of it
            losses["center"] = settings.center_weight * (2 * loss if settings.center_rule == "sgd" else loss)
        if settings.intra_weight:
            losses["intra"] = settings.intra_weight * metric.intra_loss(embeddings, weight, label, shard=self._shard)
        if settings.inter_weight:
            losses["inter"] = settings.inter_weight * metric.inter_loss(weight, label, shard=self._shard)
        if settings.energy_weight:
            energy = metric.hyperspherical_energy(weight, label, power=settings.energy_power, shard=self._shard)
            losses["energy"] = settings.energy_weight * energy
        return losses
