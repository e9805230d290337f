"""The formats: how each is written, and how what was written is run."""

import contextlib
import importlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reid_da.errors import InputError
from reid_da.images.augment import IMAGENET_MEAN, IMAGENET_STD

Format = Literal["onnx", "torchscript", "safetensors"]
"""Formats of exported models."""
FORMATS: dict[str, str] = {"onnx": ".onnx", "torchscript": ".pt", "safetensors": ".safetensors"}
"""The formats, and how the names of their files usually end."""
Pixels = Literal["uint8", "normalized"]
"""Input of an exported network: pixels, or pixels that are normalised outside of it."""
OPSET = 18
"""Version of the operators of ONNX."""


class Exportable(nn.Module):
    """A network as it is exported: images of a fixed size in, unit vectors out.

    Attributes:
        network: (B, 3, H, W) normalised images to (B, D) features.
        pixels: ``uint8`` for RGB pixels from 0 to 255, which are normalised inside; or ``normalized``.
    """

    factor: Tensor
    offset: Tensor

    def __init__(self, network: nn.Module, *, pixels: Pixels) -> None:
        super().__init__()
        self.network, self.pixels = network, pixels
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        self.register_buffer("factor", 1 / (255 * std), persistent=False)
        self.register_buffer("offset", -mean / std, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(B, D) float32 features of unit length of (B, 3, H, W) images."""
        if self.pixels == "uint8":
            images = images.float() * self.factor + self.offset
        return F.normalize(self.network(images))


class OnnxNetwork(nn.Module):
    """An ONNX file, run by onnxruntime on the CPU behind the call of a network.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        runtime = _required("onnxruntime")
        self._session: Any = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def forward(self, images: Tensor) -> Tensor:
        """(B, D) features."""
        (features,) = self._session.run(["features"], {"images": images.cpu().contiguous().numpy()})
        return torch.from_numpy(features)


def check_can_write(kind: Format) -> None:
    """Refuse a format whose packages are missing.

    Raises:
        InputError: they are.
    """
    if kind == "onnx":
        for name in ("onnx", "onnxscript", "onnxruntime"):
            _required(name)


def write_onnx(path: Path, model: Exportable, *, image_size: tuple[int, int]) -> None:
    """Write a network as ONNX; the number of images is free, their size is not."""
    images = _example(model, image_size)
    batch = torch.export.Dim("batch", min=1)
    with _silence():
        program = torch.onnx.export(
            model,
            (images,),
            input_names=["images"],
            output_names=["features"],
            dynamic_shapes={"images": {0: batch}},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        program.save(str(path), external_data=False)


def write_torchscript(path: Path, model: Exportable, *, image_size: tuple[int, int]) -> None:
    """Write a network as TorchScript, which C++ and older PyTorch run."""
    with _silence(), torch.no_grad():
        traced = torch.jit.trace(model, _example(model, image_size))  # type: ignore[no-untyped-call]
        traced.save(str(path))


def open_torchscript(path: Path) -> nn.Module:
    """A TorchScript file as a network."""
    with _silence():
        loaded: nn.Module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    return loaded


def _example(model: Exportable, image_size: tuple[int, int]) -> Tensor:
    # two images: a single one would be taken for a constant
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, *image_size), dtype=torch.uint8, generator=generator)
    return pixels if model.pixels == "uint8" else pixels.float() / 255


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep to ourselves what the exporters tell about their own future."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _required(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(f"format onnx needs the package {name}: pip install 'reid-da[onnx]'") from error
