"""Inference in batches: values, modes, prefetching and errors."""

import threading
from contextlib import suppress

import pytest
import torch
from torch import Tensor, nn

from reid_da.errors import InputError
from reid_da.models.inference import evaluating, infer_in_batches

CPU = torch.device("cpu")


class Flatten(nn.Module):
    """Sum and first value of each image, and whether the module is training."""

    def forward(self, images: Tensor) -> Tensor:
        mode = torch.full((len(images),), float(self.training))
        return torch.stack([images.sum((1, 2, 3)), images[:, 0, 0, 0], mode], dim=1)


def infer(images: Tensor, *, batch_size: int = 2) -> Tensor:
    return infer_in_batches(
        Flatten(),
        lambda rows: images[rows],
        len(images),
        prepare=lambda batch: batch + 1,
        batch_size=batch_size,
        device=CPU,
        autocast=False,
        store_on=CPU,
    )


@pytest.mark.parametrize("batch_size", [1, 2, 5, 9])
def test_rows_are_in_order_whatever_the_batches(batch_size: int) -> None:
    images = torch.arange(5 * 12, dtype=torch.float32).view(5, 3, 2, 2)
    outputs = infer(images, batch_size=batch_size)
    sums = [sum(range(12 * row, 12 * row + 12)) + 12.0 for row in range(5)]
    assert outputs[:, 0].tolist() == sums
    assert outputs[:, 1].tolist() == [12.0 * row + 1 for row in range(5)]
    assert outputs[:, 2].tolist() == [0.0] * 5


def test_next_batch_is_loaded_while_one_is_computed() -> None:
    second_loaded = threading.Event()

    class WaitForSecond(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            assert second_loaded.wait(timeout=10)
            return images[:, :, 0, 0]

    def load(rows: slice) -> Tensor:
        assert threading.current_thread() is not threading.main_thread()
        if rows.start == 1:
            second_loaded.set()
        return torch.ones(1, 3, 1, 1)

    outputs = infer_in_batches(
        WaitForSecond(), load, 2, prepare=lambda x: x, batch_size=1, device=CPU, autocast=False, store_on=CPU
    )
    assert torch.equal(outputs, torch.ones(2, 3))


def test_every_module_returns_to_its_mode() -> None:
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm2d(3), nn.ReLU()).train()
    model[1].eval()
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == [True, True, False, True]
    with pytest.raises(KeyError), evaluating(model):
        raise KeyError
    assert [module.training for module in model.modules()] == [True, True, False, True]


def test_errors() -> None:
    with pytest.raises(InputError, match="there are no images"):
        infer(torch.zeros(0, 3, 2, 2))
    with pytest.raises(InputError, match="batch_size: expected at least 1, got -1"):
        infer(torch.zeros(1, 3, 2, 2), batch_size=-1)

    def fail(_: slice) -> Tensor:
        raise InputError("image 3 is broken")

    with pytest.raises(InputError, match="image 3 is broken"):
        infer_in_batches(
            Flatten(), fail, 2, prepare=lambda x: x, batch_size=1, device=CPU, autocast=False, store_on=CPU
        )


def test_a_gpu_may_not_round_to_three_digits() -> None:
    convolutions, seen = torch.backends.cudnn.conv, []

    class Look(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(convolutions.fp32_precision)
            return images.mean((2, 3))

    before = convolutions.fp32_precision
    convolutions.fp32_precision = "tf32"
    try:
        for fault in (0.0, float("nan")):
            with suppress(InputError):
                infer_in_batches(
                    Look(),
                    lambda rows: torch.full((rows.stop - rows.start, 3, 1, 1), fault),  # noqa: B023
                    3,
                    prepare=lambda batch: batch,
                    batch_size=2,
                    device=CPU,
                    autocast=False,
                    store_on=CPU,
                )
            assert convolutions.fp32_precision == "tf32"
    finally:
        convolutions.fp32_precision = before
    assert set(seen) == {"ieee"}
