import io
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from reid_da.errors import InputError
from reid_da.memory.exemplar import ExemplarMemory, momentum_schedule

NUM_SLOTS, DIM = 7, 5


def filled_memory(*, dtype=torch.float64, seed=0, **options):
    memory = ExemplarMemory(NUM_SLOTS, DIM, dtype=dtype, **options)
    memory.update(torch.tensor([0, 1, 2, 3]), features(4, seed=seed), momentum=0.0)
    return memory


def features(count, *, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return 1.4 * torch.randn(count, DIM, generator=generator, dtype=torch.float64)


def sequential(slots, index, batch, momentum):
    """Lists of floats, one sample after the other."""
    slots = slots.tolist()
    for i, feature in zip(index, batch.tolist(), strict=True):
        moved = [momentum * old + (1 - momentum) * new for old, new in zip(slots[i], feature, strict=True)]
        norm = math.sqrt(math.fsum(value * value for value in moved))
        slots[i] = [value / norm for value in moved] if norm else moved
    return torch.tensor(slots, dtype=torch.float64)


def test_starts_empty_and_without_parameters():
    memory = ExemplarMemory(NUM_SLOTS, DIM)
    assert not list(memory.parameters())
    assert memory.slots.dtype == torch.float32
    assert not memory.slots.any()
    assert memory.ages().tolist() == [-1] * NUM_SLOTS


@given(
    index=st.lists(st.integers(0, NUM_SLOTS - 1), max_size=12),
    momentum=st.sampled_from([0.0, 0.01, 0.5, 0.59, 1.0]),
    seed=st.integers(0, 1000),
)
def test_update_equals_one_sample_after_the_other(index, momentum, seed):
    memory = filled_memory(seed=seed)
    batch = features(len(index), seed=seed + 1)
    expected = sequential(memory.slots, index, batch, momentum)
    untouched = [slot for slot in range(NUM_SLOTS) if slot not in index]
    before = memory.slots[untouched].clone()
    memory.update(torch.tensor(index, dtype=torch.int64), batch, momentum=momentum)
    torch.testing.assert_close(memory.slots, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(memory.slots[untouched], before)


@pytest.mark.parametrize("repeats", [1, 2, 3])
def test_a_known_number_of_repeats_changes_nothing(repeats):
    index = torch.tensor([3, 0, 5, 6]).repeat(repeats)[torch.randperm(4 * repeats)]
    batch = features(len(index))
    found_out, told = filled_memory(), filled_memory()
    found_out.update(index, batch, momentum=0.3)
    told.update(index, batch, momentum=0.3, repeats=repeats)
    assert torch.equal(found_out.slots, told.slots)
    assert found_out.ages().tolist() == told.ages().tolist()


def test_order_of_duplicates_matters():
    # with momentum 0.5 the later of two opposite corners pulls harder
    memory = ExemplarMemory(1, 2, dtype=torch.float64)
    memory.update(torch.tensor([0, 0]), torch.tensor([[1.0, 0.0], [0.0, 1.0]]), momentum=0.0)
    assert memory.slots.tolist() == [[0.0, 1.0]]
    memory.update(torch.tensor([0, 0]), torch.tensor([[3.0, -1.0], [0.0, 2.0]]), momentum=0.5)
    # (3, -1)/2 + (0, 1)/2 = (1.5, 0) -> (1, 0); then (0.5, 1) -> (0.5, 1) / sqrt(1.25)
    assert memory.slots[0].tolist() == pytest.approx([0.5 / math.sqrt(1.25), 1 / math.sqrt(1.25)])


def test_a_vector_of_length_zero_stays():
    memory = filled_memory()
    memory.update(torch.tensor([0, 5]), torch.zeros(2, DIM), momentum=0.0)
    assert not memory.slots[[0, 5]].any()
    memory.update(torch.tensor([1]), -memory.slots[1:2], momentum=0.5)
    assert not memory.slots[1].any()


def test_update_takes_no_gradient():
    memory = filled_memory()
    batch = features(2).requires_grad_()
    memory.update(torch.tensor([4, 4]), batch, momentum=0.5)
    assert not memory.slots.requires_grad
    assert batch.grad is None


@pytest.mark.parametrize("batch_dtype", [torch.float32, torch.bfloat16])
def test_bfloat16_storage_rounds_once(batch_dtype):
    narrow, wide = filled_memory(dtype=torch.bfloat16), filled_memory()
    index = torch.tensor([0, 1, 4])
    batch = features(3).to(batch_dtype)
    wide.slots.copy_(narrow.slots)
    for memory in (narrow, wide):
        memory.update(index, batch, momentum=0.3)
    assert narrow.slots.dtype == torch.bfloat16
    assert torch.equal(narrow.slots, wide.slots.bfloat16())
    torch.testing.assert_close(narrow.norms()[index], torch.ones(3), rtol=0, atol=2**-8)


def test_ages_and_norms():
    memory = filled_memory()
    memory.update(torch.tensor([1, 4, 4]), features(3), momentum=0.5)
    memory.update(torch.tensor([2]), features(1), momentum=0.5)
    assert memory.ages().tolist() == [2, 1, 0, 2, 1, -1, -1]
    assert memory.ages().dtype == torch.int32
    assert memory.norms().tolist() == pytest.approx([1, 1, 1, 1, 1, 0, 0])


def test_norms_of_a_memory_of_many_blocks():
    memory = ExemplarMemory(20000, 2)
    memory.slots[:, 0] = torch.arange(20000)
    assert torch.equal(memory.norms(), torch.arange(20000.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_dict_round_trip(dtype):
    saved = filled_memory(dtype=dtype, fingerprint="0123456789abcdef")
    file = io.BytesIO()
    torch.save(saved.state_dict(), file)
    file.seek(0)
    loaded = ExemplarMemory(NUM_SLOTS, DIM, fingerprint="0123456789abcdef", dtype=dtype)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    for memory in (saved, loaded):
        memory.update(torch.tensor([3, 6, 3]), features(3), momentum=0.4)
    assert torch.equal(saved.slots, loaded.slots)
    assert saved.ages().tolist() == loaded.ages().tolist()
    assert all(isinstance(value, torch.Tensor) for value in saved.state_dict().values())


def test_memory_of_another_size_is_refused():
    memory = ExemplarMemory(NUM_SLOTS, DIM + 1)
    with pytest.raises(InputError, match="has 7 slots of 5 values but this data and model need 7 slots of 6 values"):
        memory.load_state_dict(filled_memory().state_dict())


def test_memory_of_other_images_is_refused_before_anything_is_copied():
    method = nn.ModuleDict({"memory": ExemplarMemory(NUM_SLOTS, DIM, fingerprint="feed")})
    state = {f"memory.{name}": value for name, value in filled_memory(fingerprint="beef").state_dict().items()}
    with pytest.raises(InputError, match="fingerprint 'beef', these have 'feed'"):
        method.load_state_dict(state)
    assert not method["memory"].slots.any()


def test_update_errors():
    memory = ExemplarMemory(NUM_SLOTS, DIM)
    with pytest.raises(ValueError, match=r"expected index \(B,\) and features \(B, 5\), got \(2,\) and \(3, 5\)"):
        memory.update(torch.tensor([0, 1]), torch.ones(3, DIM), momentum=0.5)
    with pytest.raises(ValueError, match=r"got \(2, 1\) and \(2, 5\)"):
        memory.update(torch.tensor([[0], [1]]), torch.ones(2, DIM), momentum=0.5)
    for momentum in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"share in 0\.\.1"):
            memory.update(torch.tensor([0]), torch.ones(1, DIM), momentum=momentum)


def test_momentum_schedule():
    assert [momentum_schedule(epoch) for epoch in (0, 1, 59)] == pytest.approx([0.0, 0.01, 0.59])
    assert momentum_schedule(120) == 1.0
    assert momentum_schedule(59, maximum=0.2) == 0.2
    assert momentum_schedule(30, num_epochs=60) == pytest.approx(0.3)
    # half way through ten epochs as half way through sixty
    assert momentum_schedule(5, num_epochs=10) == pytest.approx(0.3)
    assert momentum_schedule(5, rate=0.02, num_epochs=10, maximum=0.5) == 0.5
