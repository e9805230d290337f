import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from reid_da.errors import InputError
from reid_da.losses.invariance import fused_invariance_loss, invariance_loss, memory_logits
from reid_da.nearest import empty_slots, top_neighbors

TEMPERATURE = 0.05


def make_batch(*, num_samples=5, num_slots=17, dim=6, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    memory = functional.normalize(torch.randn(num_slots, dim, generator=generator, dtype=torch.float64), dim=1)
    memory[::7] = 0
    index = torch.randint(num_slots, (num_samples,), generator=generator)
    noise = torch.randn(num_samples, dim, generator=generator, dtype=torch.float64)
    features = functional.normalize(memory[index] + 0.5 * noise, dim=1)
    return features.to(dtype), memory.to(dtype), index


def reference_terms(features, memory, index, *, num_neighbors, own_slot, normalize):
    """Per sample, with lists and floats: (exemplar, neighbourhood)."""
    terms = []
    for feature, own in zip(features.tolist(), index.tolist(), strict=True):
        logits = [sum(a * b for a, b in zip(feature, slot, strict=True)) / TEMPERATURE for slot in memory.tolist()]
        log_sum = max(logits) + math.log(math.fsum(math.exp(z - max(logits)) for z in logits))
        written = [slot for slot, values in enumerate(memory.tolist()) if any(values)]
        order = sorted(written, key=lambda slot: (-logits[slot], slot))
        if own_slot == "exclude" and own in order:
            order.remove(own)
        weights = dict.fromkeys(order[:num_neighbors], 1 / max(num_neighbors, 1))
        weights[own] = 1.0
        total = sum(weights.values()) if normalize else 1.0
        costs = {slot: weight / total * (log_sum - logits[slot]) for slot, weight in weights.items()}
        terms.append((costs.pop(own), sum(costs.values())))
    exemplar, neighborhood = zip(*terms, strict=True)
    return torch.tensor(exemplar, dtype=torch.float64), torch.tensor(neighborhood, dtype=torch.float64)


def plain(features, memory, index, *, num_neighbors=0, own_slot="overwrite", normalize=False):
    logits = memory_logits(features, memory, temperature=TEMPERATURE)
    exclude = index if own_slot == "exclude" else None
    empty = empty_slots(memory)
    neighbors = top_neighbors(logits, num_neighbors, exclude=exclude, empty=empty) if num_neighbors else None
    return invariance_loss(logits, index, neighbors=neighbors, normalize=normalize)


def fused(features, memory, index, **options):
    return fused_invariance_loss(features, memory, index, temperature=TEMPERATURE, chunk_size=4, **options)


@pytest.mark.parametrize("loss", [plain, fused])
@pytest.mark.parametrize("num_neighbors", [0, 1, 6])
@pytest.mark.parametrize("own_slot", ["overwrite", "exclude"])
@pytest.mark.parametrize("normalize", [False, True])
def test_equals_a_loop_over_samples_and_slots(loss, num_neighbors, own_slot, normalize):
    options = {"num_neighbors": num_neighbors, "own_slot": own_slot, "normalize": normalize}
    for seed in range(5):
        batch = make_batch(seed=seed)
        found = loss(*batch, **options)
        exemplar, neighborhood = reference_terms(*batch, **options)
        torch.testing.assert_close(found.exemplar, exemplar, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(found.neighborhood, neighborhood, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(found.total, (exemplar + neighborhood).mean(), rtol=1e-11, atol=1e-11)
        assert found.neighbors.shape == (5, num_neighbors)


@pytest.mark.parametrize("normalize", [False, True])
def test_found_neighbours_share_a_weight_of_one(normalize):
    features, memory, index = make_batch()
    neighbors = torch.tensor([[1, -1, 3], [-1, -1, -1], [int(index[2]), 2, -1], [4, 5, 6], [-1, 9, int(index[4])]])
    logits = memory_logits(features, memory, temperature=TEMPERATURE)
    minus_log_p = -logits.log_softmax(dim=1)
    options = {"neighbors": neighbors, "normalize": normalize, "share": "found"}
    for found in (
        invariance_loss(logits, index, **options),
        fused_invariance_loss(features, memory, index, temperature=TEMPERATURE, chunk_size=4, **options),
    ):
        for row, own in enumerate(index.tolist()):
            others = [slot for slot in neighbors[row].tolist() if slot not in (-1, own)]
            expected = sum(minus_log_p[row, slot].item() / len(others) for slot in others)
            total = 2 if normalize and others else 1
            assert found.neighborhood[row].item() == pytest.approx(expected / total, rel=1e-9)
            assert found.exemplar[row].item() == pytest.approx(minus_log_p[row, own].item() / total, rel=1e-9)


@pytest.mark.parametrize("loss", [plain, fused])
@pytest.mark.parametrize("num_neighbors", [0, 4])
@pytest.mark.parametrize("normalize", [False, True])
def test_gradient_is_that_of_the_loss(loss, num_neighbors, normalize):
    features, memory, index = make_batch(num_samples=3, num_slots=11, dim=4)
    features.requires_grad_()
    options = {"num_neighbors": num_neighbors, "normalize": normalize}
    assert torch.autograd.gradcheck(lambda x: tuple(loss(x, memory, index, **options)[:2]), (features,))


@given(
    num_samples=st.integers(1, 6),
    num_slots=st.integers(1, 30),
    chunk_size=st.integers(1, 40),
    seed=st.integers(0, 1000),
    data=st.data(),
)
def test_fused_and_plain_agree_whatever_the_chunks(num_samples, num_slots, chunk_size, seed, data):
    features, memory, index = make_batch(num_samples=num_samples, num_slots=num_slots, seed=seed)
    num_neighbors = data.draw(st.integers(0, num_slots))
    results = []
    for chunks in (None, chunk_size):
        leaf = features.clone().requires_grad_()
        if chunks is None:
            terms = plain(leaf, memory, index, num_neighbors=num_neighbors)
        else:
            terms = fused_invariance_loss(
                leaf, memory, index, temperature=TEMPERATURE, num_neighbors=num_neighbors, chunk_size=chunks
            )
        terms.total.backward()
        results.append((terms, leaf.grad))
    (expected, expected_grad), (found, found_grad) = results
    assert found.neighbors.tolist() == expected.neighbors.tolist()
    torch.testing.assert_close(found.total, expected.total, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found_grad, expected_grad, rtol=1e-10, atol=1e-10)


def test_without_neighbors_it_is_cross_entropy():
    features, memory, index = make_batch()
    logits = memory_logits(features, memory, temperature=TEMPERATURE)
    expected = functional.cross_entropy(logits, index)
    torch.testing.assert_close(invariance_loss(logits, index).total, expected)
    torch.testing.assert_close(fused(features, memory, index).total, expected)
    assert not invariance_loss(logits, index).neighborhood.any()


def test_weights_are_not_normalised_unless_asked():
    # all logits equal: every -log p is log 8, so the loss is log 8 times the sum of the weights
    logits = torch.zeros(2, 8, dtype=torch.float64)
    index = torch.tensor([0, 7])
    neighbors = torch.arange(6).repeat(2, 1)  # slot 0 is its own neighbour, slot 7 is not
    loss = invariance_loss(logits, index, neighbors=neighbors)
    assert (loss.exemplar + loss.neighborhood).div(math.log(8)).tolist() == pytest.approx([2 - 1 / 6, 2])
    loss = invariance_loss(logits, index, neighbors=neighbors, normalize=True)
    assert (loss.exemplar + loss.neighborhood).div(math.log(8)).tolist() == pytest.approx([1, 1])
    assert loss.exemplar.div(math.log(8)).tolist() == pytest.approx([1 / (2 - 1 / 6), 0.5])


def test_worked_by_hand():
    # softmax of (log 1, log 2, log 5) is (1, 2, 5) / 8; own slot 1, neighbours 1 and 2 with k = 2
    logits = torch.tensor([[1.0, 2.0, 5.0]], dtype=torch.float64).log()
    loss = invariance_loss(logits, torch.tensor([1]), neighbors=torch.tensor([[2, 1]]))
    assert loss.exemplar.item() == pytest.approx(math.log(8 / 2))
    assert loss.neighborhood.item() == pytest.approx(0.5 * math.log(8 / 5))


def test_neighbors_carry_no_gradient():
    features, memory, index = make_batch()
    gradients = []
    for given_ahead in (False, True):
        leaf = features.clone().requires_grad_()
        neighbors = fused(features, memory, index, num_neighbors=3).neighbors
        chosen = {"neighbors": neighbors} if given_ahead else {"num_neighbors": 3}
        fused(leaf, memory, index, **chosen).total.backward()
        gradients.append(leaf.grad)
    assert torch.equal(*gradients)


def test_neighbors_found_elsewhere_are_taken_as_they_are():
    features, memory, index = make_batch()
    neighbors = torch.randint(len(memory), (5, 3), generator=torch.Generator().manual_seed(1))
    expected = invariance_loss(
        memory_logits(features, memory, temperature=TEMPERATURE), index, neighbors=neighbors, normalize=True
    )
    found = fused(features, memory, index, neighbors=neighbors, normalize=True)
    torch.testing.assert_close(found.total, expected.total, rtol=1e-12, atol=0)


def test_float32_inside_autocast():
    features, memory, index = make_batch(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = memory_logits(features.bfloat16(), memory, temperature=TEMPERATURE)
        loss = fused(features.bfloat16(), memory, index, num_neighbors=3)
    assert logits.dtype == torch.float32
    assert loss.total.dtype == torch.float32
    expected = plain(features.bfloat16().double(), memory.double(), index, num_neighbors=3)
    torch.testing.assert_close(loss.total.double(), expected.total, rtol=1e-5, atol=1e-5)


def test_logits_of_a_narrow_dtype_are_widened():
    logits = torch.tensor([[20.0, 0.0, 0.0]], dtype=torch.bfloat16)
    loss = invariance_loss(logits, torch.tensor([0])).total
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(2 * math.exp(-20), rel=1, abs=1e-7)
    assert invariance_loss(logits, torch.tensor([1])).total.item() == pytest.approx(20)


@pytest.mark.parametrize("loss", [plain, fused])
def test_bfloat16_memory_equals_a_float32_one_of_the_same_values(loss):
    features, memory, index = make_batch(dtype=torch.float32)
    leaf = features.clone().requires_grad_()
    loss(leaf, memory.bfloat16(), index, num_neighbors=3).total.backward()
    expected = features.clone().requires_grad_()
    loss(expected, memory.bfloat16().float(), index, num_neighbors=3).total.backward()
    assert torch.equal(leaf.grad, expected.grad)


@pytest.mark.parametrize("loss", [plain, fused])
def test_empty_memory_gives_a_uniform_softmax_and_no_gradient(loss):
    features, memory, index = make_batch()
    leaf = features.clone().requires_grad_()
    terms = loss(leaf, torch.zeros_like(memory), index)
    terms.total.backward()
    assert terms.total.item() == pytest.approx(math.log(len(memory)))
    assert not leaf.grad.any()


def test_extreme_logits_stay_finite():
    features, memory, index = make_batch(dtype=torch.float32)
    leaf = (1e4 * features).requires_grad_()
    loss = fused(leaf, memory, index, num_neighbors=2).total
    loss.backward()
    assert loss.isfinite()
    assert leaf.grad.isfinite().all()


class LargestTensor(TorchDispatchMode):
    """Counts the elements of the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and not result._is_view():
            self.elements = max(self.elements, result.numel())
        return result


def test_fused_loss_never_holds_all_logits():
    features, memory, index = make_batch(num_samples=8, num_slots=1000, dim=4)
    features.requires_grad_()
    with LargestTensor() as plain_run:
        plain(features, memory, index, num_neighbors=3).total.backward()
    with LargestTensor() as fused_run:
        fused_invariance_loss(
            features, memory, index, temperature=TEMPERATURE, num_neighbors=3, chunk_size=50
        ).total.backward()
    assert plain_run.elements == 8 * 1000
    assert fused_run.elements == 8 * 50


def test_input_errors():
    features, memory, index = make_batch()
    with pytest.raises(InputError, match=r"unknown own_slot 'exlude' \(did you mean 'exclude'\?\)"):
        fused(features, memory, index, num_neighbors=2, own_slot="exlude")
    with pytest.raises(InputError, match="num_neighbors = 18: the memory has only 17 slots"):
        fused(features, memory, index, num_neighbors=18)
    with pytest.raises(ValueError, match="either neighbors or num_neighbors"):
        fused(features, memory, index, num_neighbors=2, neighbors=index[:, None])
    with pytest.raises(ValueError, match="must not require a gradient"):
        fused(features, memory.requires_grad_(), index)


@pytest.mark.parametrize("loss", [plain, fused])
@pytest.mark.parametrize("own_slot", ["overwrite", "exclude"])
def test_an_empty_memory_has_no_neighbours(loss, own_slot):
    """All slots are equally near; those with the lowest numbers must not become everybody's neighbours."""
    features, memory, index = make_batch(num_slots=12)
    features.requires_grad_()
    found = loss(features, torch.zeros_like(memory), index, num_neighbors=6, own_slot=own_slot)
    assert (found.neighbors == -1).all()
    assert not found.neighborhood.any()
    assert found.total.item() == pytest.approx(math.log(12))


@pytest.mark.parametrize("loss", [plain, fused])
def test_few_written_slots_are_neighbours_with_the_weight_that_each_of_k_has(loss):
    features, memory, _ = make_batch(num_slots=12)
    memory[2:] = 0
    index = torch.full((5,), 9)
    found = loss(features, memory, index, num_neighbors=6)
    assert found.neighbors[:, :2].sort(dim=1).values.tolist() == [[0, 1]] * 5 or not memory[0].any()
    written = [slot for slot in range(2) if memory[slot].any()]
    logits = memory_logits(features, memory, temperature=TEMPERATURE)
    expected = -logits.log_softmax(dim=1)[:, written].sum(dim=1) / 6
    torch.testing.assert_close(found.neighborhood, expected)
