"""Where bfloat16 can be trusted on a CPU.

Matrix libraries compute some shapes wrongly in bfloat16 on some processors: oneDNN 3.12, which torch 2.14 uses, a
strided convolution of very small maps on processors with AMX. Two comparisons with float32 find such faults. In
extraction the features are compared. In training each layer is compared alone, forward and backward, with inputs that
bfloat16 holds exactly. Only the rounding of the result is left then, and a threshold can tell right from wrong, which
it cannot for the gradients of a deep network.
"""

import copy
import logging
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

logger = logging.getLogger(__name__)

FEATURE_AGREEMENT = 0.999
"""Lowest cosine between the features of an image in bfloat16 and in float32 at which bfloat16 is used."""
LAYER_AGREEMENT = 0.9999
"""The same for a result of one layer. Rounding to eight bits alone leaves 1 - 2e-6; a wrong shape gave 0.8 or NaN."""
REMEDY = "set ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 if the processor has AMX, or precision.autocast=none"
"""What to do where bfloat16 is computed wrongly."""

# By model and shape of its input: which kernels run, and so whether they are right, depends on nothing else
_agreements: WeakKeyDictionary[nn.Module, dict[torch.Size, bool]] = WeakKeyDictionary()


def features_in_bfloat16(model: nn.Module, images: Tensor) -> Tensor:
    """(B, D) features of ``model`` under bfloat16 autocast, or in float32 where bfloat16 does not agree with it.

    On a CPU the first batch of each shape is computed both ways; a line in the log tells of the first shape that does
    not agree. On other devices nothing is compared.

    Args:
        model: images to features, in evaluation mode.
        images: (B, 3, H, W) float32 input.
    """
    if images.device.type != "cpu":
        return _under_autocast(model, images)
    agreed = _agreements.setdefault(model, {})
    if images.shape in agreed:
        return _under_autocast(model, images) if agreed[images.shape] else _exactly(model, images)
    exact, rough = _exactly(model, images), _under_autocast(model, images)
    cosine = lowest_cosine(exact, rough)
    if cosine < FEATURE_AGREEMENT and all(agreed.values()):
        logger.warning(
            "bfloat16 gives other features than float32 on this processor (batch of %s: %s): going on in float32; %s",
            "x".join(map(str, images.shape)),
            _describe(cosine),
            REMEDY,
        )
    agreed[images.shape] = cosine >= FEATURE_AGREEMENT
    return rough if agreed[images.shape] else exact


def lowest_cosine(exact: Tensor, rough: Tensor) -> float:
    """Lowest cosine between rows of two (N, ...) tensors; -1 if a value is not finite, 1 between rows of zeros."""
    exact, rough = exact.detach().flatten(1).double(), rough.detach().flatten(1).double()
    if not bool(exact.isfinite().all() and rough.isfinite().all()):
        return -1.0
    cosines = F.cosine_similarity(exact, rough)
    both_zero = ~(exact.any(dim=1) | rough.any(dim=1))
    return float(cosines.masked_fill(both_zero, 1.0).min())


@dataclass(frozen=True, kw_only=True)
class TensorLayout:
    """Shape and strides of a tensor, in elements, and whether a gradient for it is asked for."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    has_gradient: bool

    @classmethod
    def of(cls, tensor: Tensor, *, has_gradient: bool) -> "TensorLayout":
        """Layout of ``tensor``, without gaps and overlaps."""
        strides = torch.empty_like(tensor, device="meta").stride()
        return cls(shape=tuple(tensor.shape), strides=strides, has_gradient=has_gradient)

    def draw(self, generator: torch.Generator, *, scale: float = 1.0) -> Tensor:
        """Normal values that bfloat16 holds exactly, as float32."""
        values = torch.empty_strided(self.shape, self.strides).normal_(std=scale, generator=generator)
        return values.bfloat16().float().requires_grad_(self.has_gradient)


@dataclass(frozen=True, kw_only=True)
class LayerCall:
    """A call of a convolution or a linear layer, as far as the choice of its kernels depends on it.

    Attributes:
        description: kind and options of the layer.
        inputs: layout of its input.
        parameters: layout of its parameters by name.
    """

    description: str
    inputs: TensorLayout
    parameters: tuple[tuple[str, TensorLayout], ...]

    def __str__(self) -> str:
        return f"{self.description} on {'x'.join(map(str, self.inputs.shape))}"


@contextmanager
def recording_layers(network: nn.Module) -> Iterator[dict[LayerCall, nn.Module]]:
    """Collect the distinct calls of layers that autocast moves to bfloat16, each with a layer that was called so."""
    calls: dict[LayerCall, nn.Module] = {}

    def note(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        # whoever calls without gradients now may want one in another step
        wants_gradient = args[0].requires_grad or not torch.is_grad_enabled()
        parameters = tuple(
            (name, TensorLayout.of(value, has_gradient=value.requires_grad)) for name, value in layer.named_parameters()
        )
        inputs = TensorLayout.of(args[0], has_gradient=wants_gradient)
        calls.setdefault(LayerCall(description=repr(layer), inputs=inputs, parameters=parameters), layer)

    layers = [module for module in network.modules() if isinstance(module, _ConvNd | nn.Linear)]
    handles = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


_cosines: dict[LayerCall, dict[str, float]] = {}


def compare_layer(layer: nn.Module, call: LayerCall) -> dict[str, float]:
    """Cosine between bfloat16 and float32 of what one layer computes on the CPU: its output and the gradients wanted.

    The layer computes with random numbers in place of its parameters, and is left as it is. A value that is not finite
    gives -1. A call that was compared before is not compared again.

    Args:
        layer: the layer; its values do not matter.
        call: how it is called.

    Returns:
        Cosines by ``output``, ``gradient of input`` and ``gradient of PARAMETER``.
    """
    if call not in _cosines:
        _cosines[call] = _compare_layer(copy.deepcopy(layer).to_empty(device="cpu"), call)
    return _cosines[call]


def first_wrong_layer(calls: Iterable[tuple[LayerCall, nn.Module]]) -> str | None:
    """The first of some calls that bfloat16 computes wrongly, and in what, or None if there is none."""
    for call, layer in calls:
        for what, cosine in compare_layer(layer, call).items():
            if cosine < LAYER_AGREEMENT:
                return f"{call}: {what}, {_describe(cosine)}"
    return None


def forget_comparisons() -> None:
    """Compare everything anew, as when the kernels have changed."""
    _agreements.clear()
    _cosines.clear()


def _compare_layer(layer: nn.Module, call: LayerCall) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    inputs = call.inputs.draw(generator)
    # of the size that trained weights have, so that a fault that adds something shows against the result
    parameters = {
        name: layout.draw(generator, scale=(layout.shape[0] / math.prod(layout.shape)) ** 0.5)
        for name, layout in call.parameters
    }
    names = {"input": inputs, **parameters}
    wanted = {name: value for name, value in names.items() if value.requires_grad}

    def results(*, autocast: bool, gradient: Tensor | None) -> tuple[Tensor, ...]:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output: Tensor = torch.func.functional_call(layer, parameters, (inputs,))
        if not wanted:
            return (output,)
        if gradient is None:
            gradient = torch.empty_like(output).normal_(generator=generator).bfloat16().float()
            gradients.append(gradient)
        return output, *torch.autograd.grad(output, list(wanted.values()), gradient.to(output.dtype))

    gradients: list[Tensor] = []
    with torch.inference_mode(False), torch.enable_grad():
        exact = results(autocast=False, gradient=None)
        cosines = [1.0] * len(exact)
        # some faults show only where memory that was used before is not cleared
        for _ in range(2):
            _leave_nan_behind(exact)
            rough = results(autocast=True, gradient=gradients[0] if gradients else None)
            found = (lowest_cosine(a[None], b[None]) for a, b in zip(exact, rough, strict=True))
            cosines = [min(pair) for pair in zip(cosines, found, strict=True)]
    return dict(zip(["output", *(f"gradient of {name}" for name in wanted)], cosines, strict=True))


def _leave_nan_behind(sizes_of: Iterable[Tensor]) -> None:
    """Fill memory of the sizes of tensors, in both precisions, with NaN and give it back."""
    kinds = (torch.float32, torch.bfloat16)
    # held together until all are filled, so that each lies elsewhere
    held = [torch.full_like(value, torch.nan, dtype=dtype) for value in sizes_of for dtype in kinds]
    held.clear()


def _exactly(model: nn.Module, images: Tensor) -> Tensor:
    with torch.autocast(images.device.type, enabled=False):
        features: Tensor = model(images)
    return features


def _under_autocast(model: nn.Module, images: Tensor) -> Tensor:
    with torch.autocast(images.device.type, torch.bfloat16):
        features: Tensor = model(images)
    return features


def _describe(cosine: float) -> str:
    return "not finite" if cosine == -1 else f"cosine {cosine:.5f}"
