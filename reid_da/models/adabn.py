"""AdaBN: batch-norm statistics of the images that a model is used on (Li et al., 2016, arXiv 1603.04779)."""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from reid_da.device import full_precision
from reid_da.errors import InputError
from reid_da.models.grouped_norm import GroupedBatchNorm1d, GroupedBatchNorm2d
from reid_da.models.inference import device_of


def with_batch_norms_of(network: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """A copy of a network whose batch-norm layers have the statistics of other images; weights stay as they are.

    Each layer takes the mean over the batches of their means and (unbiased) variances, all layers in one pass, in which
    every layer sees what the ones before it make of the batch's own statistics. Batches should be random and of
    one size: a batch of one person varies less than the data.

    Args:
        network: is left as it is.
        batches: (B, 3, H, W) normalised images each, B at least 2.

    Raises:
        InputError: the network has no batch-norm layer with running statistics, or there are no batches.
    """
    adapted = copy.deepcopy(network).eval()
    layers = [module for module in adapted.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not layers:
        raise InputError("AdaBN: the network has no batch-norm layer whose statistics could be replaced")
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # torch's sign for the mean over all batches
        layer.train()
        if isinstance(layer, GroupedBatchNorm1d | GroupedBatchNorm2d):
            layer.samples = 0  # the whole batch, not groups of it
    device = device_of(adapted)
    has_images = False
    with torch.inference_mode(), full_precision():
        for images in batches:
            adapted(images.to(device))
            has_images = True
    if not has_images:
        raise InputError("AdaBN: there are no images to take the statistics from")
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    return adapted.eval()
