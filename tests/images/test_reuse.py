"""Memory that is given out anew: only when nothing lies in it any more."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from reid_da.config import AugmentSettings
from reid_da.images import TrainTransform
from reid_da.images.reuse import ReusedMemory


def test_memory_is_given_out_anew_when_its_tensor_is_gone() -> None:
    memory = ReusedMemory()
    first = memory.empty((4, 3))
    assert (first.shape, first.dtype, first.is_contiguous()) == ((4, 3), torch.float32, True)
    place = first.data_ptr()
    del first
    # what is smaller fits, too
    smaller = memory.empty((5, 2))
    assert smaller.data_ptr() == place
    assert smaller.shape == (5, 2)


@pytest.mark.parametrize("use", [Tensor.detach, Tensor.numpy, lambda tensor: tensor.view(2, 4)[1:], Tensor.t])
def test_memory_in_use_is_kept_whoever_uses_it(use: Callable[[Tensor], object]) -> None:
    memory = ReusedMemory()
    tensor = memory.empty((8,))
    place, user = tensor.data_ptr(), use(tensor)
    del tensor
    other = memory.empty((8,))
    assert other.data_ptr() != place
    del user
    assert memory.empty((8,)).data_ptr() == place


def test_memory_too_small_is_dropped() -> None:
    memory = ReusedMemory()
    del_me = memory.empty((4,))
    del del_me
    larger = memory.empty((4000,)).fill_(3)
    assert larger.sum() == 12000
    assert memory.empty((0, 3)).shape == (0, 3)


def test_threads_get_memory_of_their_own() -> None:
    memory = ReusedMemory()

    def fill(number: int) -> bool:
        tensor = memory.empty((1000,)).fill_(number)
        return all(bool((tensor == number).all()) for _ in range(5))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(fill, range(200)))


def test_batches_that_are_kept_stay_as_they_are() -> None:
    images = torch.randint(256, (6, 3, 16, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    transform, again = (TrainTransform(AugmentSettings(), size=(16, 8), seed=0) for _ in range(2))
    kept = [transform(images) for _ in range(20)]
    assert all(torch.equal(batch, again(images)) for batch in kept)
    assert len({batch.data_ptr() for batch in kept}) == 20
