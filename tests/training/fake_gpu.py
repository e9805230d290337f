"""A GPU that is not there: tensors on ``cuda`` without values, which a machine without one can compute with.

Built on torch's FakeTensorMode, in which an operation gives shape, type and device, and mixing devices raises.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_leaves

from reid_da.images.augment import _affine_rows

GPU = torch.device("cuda:0")
_META = torch.device("meta")
_aten = torch.ops.aten


class FakeGpu(FakeTensorMode):
    """The mode, which also counts how often a program would wait for the device.

    Tensors on the CPU are real and have values. Where a value of the device steers Python the program is given one: the
    answer to every question, which also says whether all values or none are other than zero; otherwise a 1. Copies to
    the CPU hold ones.

    Two things are beyond FakeTensorMode on a machine without a GPU. The backward pass asks the driver about the device
    of its tensors, so C++ is told ``meta`` in place of ``cuda``, which Python never sees. And a tensor on the CPU may
    be indexed by one on the GPU; here that raises, as it does with a real one.

    Attributes:
        answer: to questions that are asked of the device.
        waits: number of times that the program waits for the device, by the name of the operation. A copy to the device
            waits as well, for what was queued before it, since the memory that it comes from is not pinned.
    """

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.answer = True
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("device") == _META:
            kwargs["device"] = GPU
        device = None if kwargs.get("device") is None else torch.device(kwargs["device"])
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        if func is torch.ops.prim.device.default:
            return _META if is_on_gpu(args[0]) else args[0].device
        is_real = not any(isinstance(value, FakeTensor) for value in tensors)
        if is_real and (device is None or device.type == "cpu"):
            return func(*args, **kwargs)
        if func.overloadpacket is _aten.to:
            # comes as a whole in inference mode, and is taken for an operation on constants
            with self:
                return func.decompose(*args, **kwargs)
        if func is _aten._to_copy.default and device is not None and self._count_copy(args[0], device):
            return torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        if func is _aten.copy_.default and self._count_copy(args[1], args[0].device):
            return args[0].fill_(1)
        if func in _INDEXING:
            self._check_index(args[0], args[1])
        if func in _WAITING and is_on_gpu(args[0]):
            self.waits[func.overloadpacket.__name__] += 1
            with self:
                given = self._given(func, args[0])
            if given is not None:
                return given
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _count_copy(self, source: Tensor, device: torch.device) -> bool:
        """Count a copy from one device to another; whether it goes to the CPU."""
        if is_on_gpu(source) == (device.type == "cuda"):
            return False
        self.waits["copy to the CPU" if is_on_gpu(source) else "copy to the GPU"] += 1
        return is_on_gpu(source)

    def _given(self, func: Any, value: Tensor) -> Any:
        """What the program is given instead of a result that depends on values of the device, None where none does."""
        count = value.numel() if self.answer else 0
        if func is _aten._local_scalar_dense.default:
            return self.answer if value.dtype == torch.bool else 1.0 if value.is_floating_point() else 1
        if func is _aten.equal.default:
            return self.answer
        if func is _aten.nonzero.default:
            return value.new_zeros(count, value.ndim, dtype=torch.int64)
        if func is _aten.masked_select.default:
            return value.new_zeros(count)
        return None

    def _check_index(self, values: Tensor, indices: Any) -> None:
        indices = [index for index in indices if index is not None]
        if not is_on_gpu(values) and any(is_on_gpu(index) for index in indices):
            raise RuntimeError("not the same device: a tensor on the CPU is indexed by one on the GPU")
        if is_on_gpu(values):
            copied = sum(not is_on_gpu(index) for index in indices)
            if copied:
                self.waits["copy to the GPU"] += copied


_INDEXING = (_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default)
_WAITING = (
    _aten._local_scalar_dense.default,
    _aten.nonzero.default,
    _aten.masked_select.default,
    _aten.equal.default,
    # these look for the largest value to know the size of their result
    _aten.bincount.default,
    _aten.repeat_interleave.Tensor,
    _aten._unique2.default,
    _aten.unique_dim.default,
)
"""Operations whose result on a device has a size, or is a number, that the CPU must know."""


def is_on_gpu(value: object) -> bool:
    """Whether a value is a tensor of the GPU that is not there."""
    return isinstance(value, FakeTensor) and value.fake_device.type == "cuda"


@contextmanager
def fake_gpu() -> Iterator[FakeGpu]:
    """Work with a GPU that is not there; modules can be moved to it with ``to``, which FakeTensorMode cannot."""
    original = nn.Module.to

    def move(module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        if any(is_on_gpu(value) for value in module.state_dict().values()):
            return module
        device, *_ = torch._C._nn._parse_to(*args, **kwargs)
        if device is None or device.type != "cuda":
            return original(module, *args, **kwargs)
        for part in module.modules():
            for name, value in part._parameters.items():
                if value is not None:
                    part._parameters[name] = nn.Parameter(value.detach().to(GPU), requires_grad=value.requires_grad)
            for name, value in part._buffers.items():
                if value is not None:
                    part._buffers[name] = value.to(GPU)
        return module

    with FakeGpu() as mode, patch.object(nn.Module, "to", move):
        # holds tensors of the device from one call to the next
        _affine_rows.cache_clear()
        try:
            yield mode
        finally:
            _affine_rows.cache_clear()
