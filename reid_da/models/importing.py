"""Weight files of other toolkits written anew: this package's names, one format, and a note of what they are."""

import hashlib
import importlib.util
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from reid_da.atomic import atomic_paths
from reid_da.errors import InputError
from reid_da.images.augment import IMAGENET_MEAN, IMAGENET_STD
from reid_da.models.backbones import BACKBONE_NAMES, backbone_skeleton
from reid_da.models.protocol import Backbone
from reid_da.models.timm import PREFIX, TimmBackbone
from reid_da.models.weight_notes import KEY, WeightNote
from reid_da.models.weights import (
    POWERS,
    WeightMatch,
    differences_of,
    lacks_stem_relu,
    match_state_dict,
    read_state_dict,
)

_VITS = {(192, 12): "tiny", (384, 12): "small", (768, 12): "base", (1024, 24): "large"}
"""Plain ViTs of timm by width and number of blocks."""
_LAST_STRIDE_1 = ("strong baseline (BoT)", "MMT", "SpCL or cluster-contrast", "FastReID")
"""Toolkits whose published ResNets do not halve the maps in the last stage."""


def import_weights(
    source: Path,
    output: Path,
    *,
    backbone: str | None = None,
    last_stride: int | None = None,
    image_size: tuple[int, int] = (256, 128),
) -> WeightNote:
    """Write the backbone of a weight file under this package's names, with a note in the file and a page beside it.

    Args:
        source: file of any toolkit that :func:`reid_da.models.match_state_dict` reads.
        output: ``.safetensors`` file to write; ``FILE.md`` beside it says what was taken and what was left.
        backbone: network that the file belongs to; None: the one that it fits.
        last_stride: stride of the last stage; None: as the toolkit trains its ResNets.
        image_size: height and width in pixels that position embeddings are interpolated to, if there are any.

    Raises:
        InputError: ``source`` cannot be read, fits no backbone or not the given one, or ``output`` has another suffix.
    """
    if output.suffix != ".safetensors":
        raise InputError(f"{output}: weights are written as safetensors; name the file {output.stem}.safetensors")
    if output.exists() and source.exists() and output.samefile(source):
        raise InputError(f"{output}: is the file to import; name another one with -o")
    state = read_state_dict(source)
    name, network, match = fitting_backbone(state, origin=str(source), name=backbone, image_size=image_size)
    weights = {
        key: value.to(torch.float32) if value.is_floating_point() else value for key, value in match.state.items()
    }
    remarks = differences_of(match)
    if match.layout == "TransReID" and isinstance(network, TimmBackbone):
        _fold_normalisation(weights)
        remarks.append(
            "TransReID normalises pixels with mean and standard deviation 0.5; the patch embedding was changed so that "
            "the usual ImageNet normalisation gives the same features"
        )
    has_power = any(key.startswith("pooling.") for key in weights)
    is_resnet = name.startswith("resnet")
    stem_relu = not lacks_stem_relu(match)
    has_fc512 = any(key.endswith("fc.0.weight") for key in match.ignored)  # torchreid's resnet50_fc512
    stride = (
        last_stride
        if last_stride is not None
        else (1 if is_resnet and (match.layout in _LAST_STRIDE_1 or has_fc512) else 2)
    )
    if stride not in (1, 2) or (stride == 1 and name.startswith(("osnet", PREFIX))):
        expected = "2" if name.startswith(("osnet", PREFIX)) else "1 or 2"
        raise InputError(f"last_stride: expected {expected} for {name}, got {stride}")
    note = WeightNote(
        backbone=name,
        layout=match.layout,
        last_stride=stride,
        stem_relu=stem_relu,
        pooling="gem" if has_power else "default",
        image_size=network.image_size,
        source=source.name,
        sha256=hashlib.sha256(source.read_bytes()).hexdigest(),
        taken=len(weights),
        parameters=sum(value.numel() for value in weights.values() if value.is_floating_point()),
        ignored=match.ignored,
        remarks=tuple(remarks),
    )
    page = output.with_name(f"{output.name}.md")
    with atomic_paths(output, page) as (temporary, temporary_page):
        contiguous = {key: value.contiguous() for key, value in weights.items()}
        save_file(contiguous, temporary, metadata={KEY: json.dumps(asdict(note)), "format": "pt"})
        temporary_page.write_text("\n".join(_page(note, output)) + "\n", encoding="utf-8")
    return note


def fitting_backbone(
    state: Mapping[str, Tensor], *, origin: str, name: str | None = None, image_size: tuple[int, int] = (256, 128)
) -> tuple[str, Backbone, WeightMatch]:
    """Name of the backbone that weights fit, a skeleton of the backbone, and what it would take.

    Args:
        state: weights by name.
        origin: what they came from, for messages.
        name: backbone to try alone; None: all of :data:`BACKBONE_NAMES`, and the plain ViTs of timm.
        image_size: height and width in pixels, for backbones that are built for one size.

    Raises:
        InputError: they fit none, or not the named one, or the one that they seem to be of needs a package.
    """
    vit = _vit_name(state)
    if name is None and vit is not None:
        if importlib.util.find_spec("timm") is None:
            raise InputError(f"{origin}: holds a ViT ({vit}), which needs timm: pip install 'reid-da[timm]'")
        name = vit
    if name is not None:
        network, match = _matched(state, name, origin=origin, image_size=image_size)
        return name, network, match
    for candidate in BACKBONE_NAMES:
        try:
            network, match = _matched(state, candidate, origin=origin, image_size=image_size)
        except InputError:
            continue
        return candidate, network, match
    raise InputError(f"{origin}: fits none of the backbones {', '.join(BACKBONE_NAMES)}; see docs/weights.md")


def _matched(
    state: Mapping[str, Tensor], name: str, *, origin: str, image_size: tuple[int, int]
) -> tuple[Backbone, WeightMatch]:
    """The backbone and its match, with GeM pooling where the file has a power for it."""
    has_power = any(key.endswith(POWERS) for key in state)
    network = backbone_skeleton(name, pooling="gem" if has_power else "default", image_size=image_size)
    return network, match_state_dict(state, network, origin=origin)


def _vit_name(state: Mapping[str, Tensor]) -> str | None:
    """Name of the ViT of timm that has as many blocks of the same width as weights named like those of a ViT."""
    embeddings = [value for name, value in state.items() if name.endswith("pos_embed") and value.ndim == 3]
    blocks = {name.rpartition("blocks.")[2].partition(".")[0] for name in state if "blocks." in name}
    patches = [value for name, value in state.items() if name.endswith("patch_embed.proj.weight")]
    if not embeddings or not patches:
        return None
    size = _VITS.get((embeddings[0].shape[2], len({block for block in blocks if block.isdigit()})))
    return None if size is None else f"{PREFIX}vit_{size}_patch{patches[0].shape[-1]}_224"


def _fold_normalisation(weights: dict[str, Tensor]) -> None:
    """Let the patch embedding take pixels normalised as for ImageNet instead of by a mean and deviation of 0.5.

    With x = (p - mean) / std, what the weights want is (p - 0.5) / 0.5 = 2 std x + 2 mean - 1 for each colour, and a
    convolution without padding takes in both factor and offset exactly.
    """
    key, bias = "network.patch_embed.proj.weight", "network.patch_embed.proj.bias"
    mean, std = (torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    kernel = weights[key].double()
    weights[bias] = (weights[bias].double() + (kernel * (2 * mean - 1)).sum((1, 2, 3))).float()
    weights[key] = (kernel * 2 * std).float()


def _page(note: WeightNote, output: Path) -> Iterator[str]:
    yield f"# {output.name}\n"
    yield f"Weights of `{note.backbone}`, imported from `{note.source}` (layout: {note.layout}).\n"
    yield f"- SHA-256 of the original: `{note.sha256}`"
    yield f"- taken: {note.taken} tensors, {note.parameters:,} values"
    yield f"- left out: {', '.join(f'`{name}`' for name in note.ignored) or 'nothing'}"
    for remark in note.remarks:
        yield f"- {remark}"
    yield f"\n```yaml\n{note.yaml(Path(output.name))}\n```\n"
    yield "The licence is that of the original weights, and the terms of the data that they were trained on apply."
