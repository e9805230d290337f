"""From settings to a network."""

from dataclasses import replace

import torch

from reid_da.config import HeadSettings, ModelSettings
from reid_da.errors import InputError
from reid_da.losses.margin import MARGINS, Margin
from reid_da.models.backbones import create_backbone
from reid_da.models.camera_norm import normalize_by_camera
from reid_da.models.grouped_norm import group_batch_norms
from reid_da.models.reid_net import ReIDNetwork
from reid_da.models.shared_norm import share_batch_norms
from reid_da.world import ALONE, World


def build_network(
    model: ModelSettings,
    *,
    num_classes: int,
    image_size: tuple[int, int],
    head: HeadSettings | None = None,
    weights: str | None = None,
    generator: torch.Generator | None = None,
    world: World = ALONE,
) -> ReIDNetwork:
    """A network on the CPU, with the weights that it starts from.

    Args:
        model: its settings.
        num_classes: number of classes of the source branch.
        image_size: height and width of the images, which some backbones are built for.
        head: kind of its classifier; a linear one if None.
        weights: of the backbone instead of those of the settings.
        generator: source of random weights, torch's own if None.
        world: the processes that train it together.

    Raises:
        InputError: the weights cannot be read or do not fit.
    """
    head = head or HeadSettings()
    backbone = create_backbone(
        model.backbone,
        width=model.width,
        last_stride=model.last_stride,
        stem_relu=model.stem_relu,
        weights=weights or model.weights,
        pooling=model.pooling,
        image_size=image_size,
        generator=generator,
    )
    network = ReIDNetwork(
        backbone,
        num_classes=num_classes,
        embedding=model.embedding,
        embedding_dim=model.embedding_dim,
        neck_bias=model.neck_bias,
        dropout=model.dropout,
        target_dropout=model.target_dropout,
        test_feature=model.test_feature,
        margin=head_margin(head),
        center_init=head.init,
        sample_rate=head.sample_rate,
        freeze=model.freeze,
        bn_mode=model.bn_mode,
        generator=generator,
        world=world,
    )
    if model.camera_norm:
        _check_camera_norm(model)
        network.norm_groups = normalize_by_camera(network.backbone)
    group_batch_norms(network, model.samples_per_norm)
    # what comes behind the backbone sees the global batch in each process
    share_batch_norms(network.backbone, world)
    return network


def _check_camera_norm(model: ModelSettings) -> None:
    if model.samples_per_norm:
        raise InputError(
            "model.camera_norm: batch norms are either by camera or by so many images; set it to false, or "
            "model.samples_per_norm=0"
        )
    if model.bn_mode != "train":
        raise InputError(
            "model.camera_norm: set model.bn_mode=train; layers that keep their statistics in training know no cameras"
        )


def head_margin(head: HeadSettings) -> Margin | None:
    """The margin of a classifier by its settings; None for a linear one.

    Raises:
        InputError: a linear classifier has no margin.
    """
    given = {name: getattr(head, name) for name in ("scale", "m1", "m2", "m3") if getattr(head, name) is not None}
    if head.kind == "linear":
        if given:
            raise InputError(f"head.{next(iter(given))}: a linear classifier has none; set head.kind")
        if head.sample_rate < 1:
            raise InputError("head.sample_rate: a linear classifier has all classes in every step; set head.kind")
        return None
    return replace(MARGINS[head.kind], **given, beyond=head.beyond, straight_through=head.straight_through)
