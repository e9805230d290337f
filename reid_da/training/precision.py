"""The precision that a training computes in: the one that the settings ask for, where it can be trusted."""

import copy
import logging
from collections.abc import Mapping
from typing import Literal

import torch

from reid_da.images import Batch
from reid_da.methods.protocol import Method
from reid_da.models.bfloat16 import REMEDY, first_wrong_layer, recording_layers

logger = logging.getLogger(__name__)

Autocast = Literal["none", "bfloat16", "float16"]
"""Type that forward passes are computed in; ``none``: float32."""


def usable_autocast(
    autocast: Autocast, method: Method, batches: Mapping[str, Batch], *, device: torch.device
) -> Autocast:
    """The precision of the settings, or ``none`` where that is bfloat16 and the CPU computes a layer wrongly in it.

    A copy of the method makes one forward step in float32, to see which layers are called with which shapes; each
    distinct one is then compared alone (:func:`reid_da.models.bfloat16.compare_layer`), forward and backward. Neither
    the method nor torch's random numbers are changed. A disagreement is a line in the log.

    Args:
        autocast: that the settings ask for.
        method: in training mode, as it is before a step.
        batches: of the step.
        device: where the method computes; only a CPU is looked at.
    """
    if autocast != "bfloat16" or device.type != "cpu":
        return autocast
    probe = copy.deepcopy(method)
    with torch.random.fork_rng(devices=[]), recording_layers(probe.trained) as calls:
        probe.step(batches)
    wrong = first_wrong_layer(calls.items())
    if wrong is None:
        return autocast
    logger.warning("bfloat16 is computed wrongly on this processor (%s): going on in float32; %s", wrong, REMEDY)
    return "none"
