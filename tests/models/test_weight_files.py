"""Files of Python 2, wrapped weights, and tensors that are no weights."""

import argparse
import io
import os
import pickle
import types
import warnings
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from reid_da.errors import InputError
from reid_da.models.weight_files import read_state_dict


class Python2Pickler(pickle._Pickler):
    """Writes strings of both kinds as Python 2 does: as bytes without an encoding."""

    dispatch: ClassVar[dict[type, object]] = dict(pickle._Pickler.dispatch)

    def save_string(self, value: str | bytes) -> None:
        raw = value.encode("latin1") if isinstance(value, str) else value
        assert len(raw) < 256
        self.write(pickle.SHORT_BINSTRING + bytes([len(raw)]) + raw)
        self.memoize(value)

    dispatch[str] = save_string
    dispatch[bytes] = save_string


def save_as_python2(content: object, path: Path) -> None:
    def dump(value: object, file: io.BytesIO, protocol: int) -> None:
        Python2Pickler(file, protocol).dump(value)

    module = types.SimpleNamespace(__name__="python2", Pickler=Python2Pickler, dump=dump)
    torch.save(content, path, pickle_module=module, _use_new_zipfile_serialization=False)


WEIGHT = torch.arange(6.0).view(2, 3)


def test_files_of_python_2(tmp_path: Path) -> None:
    # the rank-1 of a checkpoint of torchreid is a number of numpy, whose bytes are no UTF-8
    content = {"state_dict": {"conv1.weight": WEIGHT}, "rank1": np.float64(0.912), "epoch": 60}
    save_as_python2(content, tmp_path / "old.pth.tar")
    with pytest.raises(UnicodeDecodeError), torch.serialization.safe_globals(_numbers()):
        torch.load(tmp_path / "old.pth.tar", weights_only=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state = read_state_dict(tmp_path / "old.pth.tar")
    assert list(state) == ["conv1.weight"]
    assert torch.equal(state["conv1.weight"], WEIGHT)


def _numbers() -> list[object]:
    function = np.float64(0).__reduce__()[0]
    return [function, np.dtype, type(np.dtype("float64"))]


class _Command:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.trace),)


def test_code_in_a_file_of_python_2_is_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    # the bytes come first, so that the file is read a second time as one of Python 2
    save_as_python2({"rank1": np.float64(0.912), "extra": _Command(trace)}, tmp_path / "old.pth")
    with pytest.raises(InputError, match=r"old.pth: holds a Python object \(posix.mkdir\)"):
        read_state_dict(tmp_path / "old.pth")
    assert not trace.exists()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"teacher": state, "student": {"other": torch.ones(1)}, "args": argparse.Namespace(arch="vit")},
        lambda state: {"model": {"state_dict": state}},
        lambda state: {"state_dict": state, "meta": {"CLASSES": ("person",), "time": "now"}},
        lambda state: {"model_state_dict": state, "epoch": 3},
    ],
)
def test_wrapped_weights(wrap, tmp_path: Path) -> None:
    torch.save(wrap({"conv1.weight": WEIGHT}), tmp_path / "weights.pth")
    assert list(read_state_dict(tmp_path / "weights.pth")) == ["conv1.weight"]


def damaged(value: float, dtype: torch.dtype = torch.float32) -> Tensor:
    tensor = torch.zeros(2, 3, dtype=dtype)
    tensor[1, 2] = value
    return tensor


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize(
    "value",
    [
        damaged(float("nan")),
        damaged(float("inf")),
        damaged(float("-inf"), torch.float16),
        damaged(float("nan"), torch.bfloat16),
        damaged(1e300, torch.float64),
    ],
)
def test_values_that_are_not_finite_are_named(value: Tensor, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights.{suffix}"
    state = {"conv1.weight": WEIGHT, "layer1.0.bn1.bias": value}
    save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
    with pytest.raises(InputError, match=rf"^{path}: layer1.0.bn1.bias is not finite: it holds NaN or infinity"):
        read_state_dict(path)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (torch.ones(2, dtype=torch.complex64), "complex64"),
        (torch.ones(2, dtype=torch.bool), "bool"),
        (torch.ones(2, dtype=torch.uint8), "uint8"),
        (torch.ones(2, dtype=torch.float8_e4m3fn), "float8_e4m3fn"),
    ],
)
def test_tensors_that_are_no_weights(value: Tensor, kind: str, tmp_path: Path) -> None:
    torch.save({"conv1.weight": WEIGHT, "bn1.bias": value}, tmp_path / "weights.pth")
    with pytest.raises(
        InputError, match=rf"weights.pth: bn1.bias is a tensor of a kind that no weight has \({kind}\)"
    ) as caught:
        read_state_dict(tmp_path / "weights.pth")
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch announces that these kinds will change, or are not checked
@pytest.mark.parametrize("kind", ["sparse_coo", "sparse_csr", "qint8"])
def test_weights_in_forms_for_inference(kind: str, tmp_path: Path) -> None:
    dense = torch.eye(2)
    value = {
        "sparse_coo": dense.to_sparse(),
        "sparse_csr": dense.to_sparse_csr(),
        "qint8": torch.quantize_per_tensor(dense, 0.1, 0, torch.qint8),
    }[kind]
    torch.save({"bn1.bias": value}, tmp_path / "weights.pth")
    with pytest.raises(InputError, match=rf"bn1.bias is a tensor of a kind that no weight has \({kind}\)"):
        read_state_dict(tmp_path / "weights.pth")


@pytest.mark.parametrize("value", [torch.ones(1).expand(10**12), torch.empty(3, device="meta")])
def test_tensors_that_claim_more_than_the_file_holds(value: Tensor, tmp_path: Path) -> None:
    torch.save({"conv1.weight": value}, tmp_path / "weights.pth")
    with pytest.raises(InputError, match=r"conv1.weight claims more values than the file holds"):
        read_state_dict(tmp_path / "weights.pth")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_read(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.save({"conv1.weight": WEIGHT.to(dtype), "counter": torch.tensor(3)}, tmp_path / "weights.pth")
    assert read_state_dict(tmp_path / "weights.pth")["conv1.weight"].dtype == dtype
