"""Fitting the weights of other toolkits to a network, by their names."""

import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from reid_da.errors import InputError, first_few
from reid_da.models.protocol import Backbone
from reid_da.models.weight_files import read_state_dict as read_state_dict
from reid_da.models.weight_notes import read_note

logger = logging.getLogger(__name__)

_WRAPPINGS = re.compile(r"^(?:module\.|_orig_mod\.)+")
"""What data-parallel training and torch.compile put in front of all names."""
_PREFIXES = ("", "backbone.", "base.", "model.", "encoder.", "reid.backbone.", "model.backbone.", "net.", "network.")
"""Where toolkits keep the backbone in their networks."""
_TOOLKITS = (  # a name that gives the layout away; the first that occurs counts
    ("FastReID", r"heads\."),
    ("mmtracking", r"(?:reid\.)?head\.(?:fcs\.|fc_out\.|bn\.)"),
    ("layumi", r"classifier\d?\.add_block\."),
    ("TransReID", r"base\.cls_token$"),
    ("SpCL or cluster-contrast", r"base\.7\."),
    ("MMT", r"base\.6\."),
    ("strong baseline (BoT)", r"bottleneck\."),
    ("official ECN", r"base\."),
    ("DINO", r"backbone\.cls_token$"),
    ("reid-da", r"backbone\."),
    ("timm", r"cls_token$"),
    ("torchvision or torchreid", ""),
)
_DIFFERENCES = {
    "FastReID": "FastReID pools the stem without padding and normalises features in its head",
}
_WITHOUT_STEM_RELU = ("MMT", "strong baseline (BoT)")
"""Toolkits whose ResNets have no ReLU after the first convolution; the strong baseline's with IBN have it."""
_WHOLE = (  # parts behind the backbone, by their names in other toolkits and in ReIDNetwork
    ("feat.", "embedding."),
    ("feat_bn.", "embedding_norm."),
    ("bottleneck.", "embedding_norm."),
)
POWERS = ("gap.p", "heads.pool_layer.p")
"""Names of the power of a GeM pooling: cluster-contrast's and FastReID's."""
_HEADS = (
    *("classifier", "fc.", "fc_norm.", "embedding", "feat.", "feat_bn.", "bottleneck", "head.", "heads.", "head_dist."),
    *("gap.", "gem.", "pooling.", "b1.", "b2.", "last_linear.", "pixel_", "pre_logits.", "sie_embed", "dist_token"),
)
"""Starts of names of what other networks put behind, or beside, the backbone."""
_IN_THE_BACKBONE = ("usam_",)
"""Starts of names of layers that stand outside of the backbone's prefix and yet change its maps."""


@dataclass(frozen=True, kw_only=True)
class WeightMatch:
    """What a network takes from a weight file.

    Attributes:
        layout: toolkit whose names the file has.
        state: the weights by their names in the network, ready for ``load_state_dict(..., strict=False)``.
        ignored: names in the file that the network has no use for: classifiers and other heads.
        missing: names in the network that the file lacks: batch counters, which no result depends on, and the power of
            a pooling that no weights were trained with.
    """

    layout: str
    state: dict[str, Tensor] = field(repr=False)
    ignored: tuple[str, ...]
    missing: tuple[str, ...]


def match_state_dict(state: Mapping[str, Tensor], model: nn.Module, *, origin: str = "state dict") -> WeightMatch:
    """Weights of ``state`` under the names of ``model``, which they fit completely.

    Recognises the names of torchvision, torchreid, timm, the official ECN code (Zhong et al., CVPR 2019), FastReID, the
    strong baseline (BoT), MMT, SpCL, cluster-contrast, layumi's baseline, mmtracking, TransReID, DINO and this package,
    each with or without the ``module.`` of data-parallel training. Heads that ``model`` lacks are left out.

    Args:
        state: weights by name.
        model: a :class:`reid_da.models.Backbone` or a network that holds one as ``backbone``.
        origin: what ``state`` came from, for messages.

    Raises:
        InputError: none of the weights belongs to ``model``, or some are missing, not known, of another shape or of
            another type.
    """
    backbone = model if isinstance(model, Backbone) else model.backbone
    assert isinstance(backbone, Backbone)
    own = "" if model is backbone else "backbone."
    expected = model.state_dict()
    names = {_WRAPPINGS.sub("", name): name for name in state}
    prefix, inner = _inner_names(names, backbone, {name.removeprefix(own) for name in expected})
    targets: dict[str, str | None] = {name: own + found for name, found in inner.items()}
    for name in names:
        if targets.get(name) not in expected:
            targets[name] = _outer_name(name, own)
    sources = {target: names[name] for name, target in targets.items() if target is not None and target in expected}
    if not sources:
        raise InputError(
            f"{origin}: holds no weight of this network; found {first_few(state)}, expected {first_few(expected)}"
        )
    matched = {name: backbone.fitted(name.removeprefix(own), state[source]) for name, source in sources.items()}
    missing = [name for name in expected if name not in matched]
    left_over = [name for name, target in targets.items() if target not in expected]
    required = [name for name in missing if not name.endswith("num_batches_tracked")]
    faults = {
        "missing": [name for name in required if not name.startswith(f"{own}pooling.")],
        "not in the network": [names[name] for name in left_over if _is_fault(name, prefix, inner, is_whole=bool(own))],
        "of another shape": [
            f"{sources[name]} {_shape(value)} instead of {_shape(expected[name])}"
            for name, value in matched.items()
            if value.shape != expected[name].shape
        ],
        "of another type": [
            f"{sources[name]} {_dtype(value)} instead of {_dtype(expected[name])}"
            for name, value in matched.items()
            if value.is_floating_point() != expected[name].is_floating_point()
        ],
    }
    if any(faults.values()):
        texts = [f"{len(found)} {fault} ({first_few(found)})" for fault, found in faults.items() if found]
        raise InputError(f"{origin}: does not fit this network; weights: {'; '.join(texts)}")
    return WeightMatch(
        layout=next(toolkit for toolkit, mark in _TOOLKITS if any(re.match(mark, name) for name in names)),
        state=matched,
        ignored=tuple(names[name] for name in left_over),
        missing=tuple(missing),
    )


def load_weights(model: nn.Module, path: str | os.PathLike[str]) -> WeightMatch:
    """Load a weight file into ``model`` and return what was taken from it; see :func:`match_state_dict`.

    Raises:
        InputError: the file cannot be read or does not fit; ``model`` is unchanged then.
    """
    match = match_state_dict(read_state_dict(path), model, origin=str(path))
    model.load_state_dict(match.state, strict=False)
    left_out = f"; not needed: {first_few(match.ignored, limit=8)}" if match.ignored else ""
    logger.info("%s: %d weights (%s)%s", path, len(match.state), match.layout, left_out)
    has_stem_relu = any(
        isinstance(module, nn.ReLU) for name, module in model.named_modules() if name in ("relu", "backbone.relu")
    )
    differences = differences_of(match)
    note = read_note(Path(path))
    if has_stem_relu and (lacks_stem_relu(match) if note is None else not note.stem_relu):
        differences.append("its ResNets have no ReLU after the first convolution (stem_relu=false, --no-stem-relu)")
    origin = match.layout if note is None else note.layout
    for difference in differences:
        logger.warning("%s: %s; features of this network differ from those of %s", path, difference, origin)
    return match


def differences_of(match: WeightMatch) -> list[str]:
    """What makes features differ from those of the toolkit that wrote the weights, whatever the network's settings."""
    found = [_DIFFERENCES[match.layout]] if match.layout in _DIFFERENCES else []
    if any("sie_embed" in name for name in match.ignored):
        found.append("the file adds an embedding of the camera to the patches, which is left out")
    return found


def lacks_stem_relu(match: WeightMatch) -> bool:
    """Whether the weights are of a ResNet without the ReLU after its first convolution."""
    has_ibn = any(".IN." in name for name in match.state)
    return match.layout in _WITHOUT_STEM_RELU and (match.layout == "MMT" or not has_ibn)


def _inner_names(names: Mapping[str, str], backbone: Backbone, expected: set[str]) -> tuple[str, dict[str, str]]:
    """The prefix of the file's backbone that fits best, and the names of its weights in ``backbone``."""
    found = [(prefix, backbone.names_in(names, prefix)) for prefix in _PREFIXES]
    return max(found, key=lambda candidate: len(expected.intersection(candidate[1].values())))


def _outer_name(name: str, own: str) -> str | None:
    """Name in the network of a weight that stands outside of a file's backbone, None if there is no such place.

    Args:
        name: name in the file.
        own: prefix of the backbone in the network; empty if the network is a bare backbone.
    """
    if name in POWERS:
        return f"{own}pooling.p"
    if not own:
        return None
    return next((new + name[len(old) :] for old, new in _WHOLE if name.startswith(old)), name)


def _is_fault(name: str, prefix: str, inner: Mapping[str, str], *, is_whole: bool) -> bool:
    """Whether a weight that the network has no place for shows that the file is of another network."""
    if name in inner:
        return not name.removeprefix(prefix).startswith(_HEADS)
    if name.startswith(_IN_THE_BACKBONE):
        return True
    # what belongs to the backbone and yet has no name in it is superseded by something else in the file
    return is_whole and not name.startswith((*_HEADS, *([prefix] if prefix else [])))


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def hash_weights(update: Callable[[bytes], object], network: nn.Module) -> None:
    """Feed names, shapes, types and values of all weights of a network to a hash, by its ``update``."""
    for name, tensor in sorted(network.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        update(repr((name, tuple(values.shape), str(values.dtype))).encode())
        update(values.flatten().view(torch.uint8).numpy().tobytes())
