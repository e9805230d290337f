import copy
import logging
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

from reid_da.errors import InputError
from reid_da.memory.neighbors import (
    ExactNeighbors,
    FaissNeighbors,
    check_neighbors,
    neighbor_recall,
)
from reid_da.memory.quantized import LEAST_TO_QUANTIZE, code_bytes, index_bytes
from reid_da.nearest import empty_slots


def reference(similarity, num_neighbors, exclude=None):
    """Slots by falling similarity, equal ones by number; Python's sort, one row at a time."""
    lists = []
    for row, values in enumerate(similarity.tolist()):
        slots = sorted(range(len(values)), key=lambda slot: (-values[slot], slot))
        if exclude is not None:
            slots.remove(int(exclude[row]))
        lists.append(slots[:num_neighbors])
    return lists


def unit_vectors(count, dim, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(count, dim, generator=generator), dim=1)


def test_too_few_slots():
    with pytest.raises(InputError, match="only 5 slots"):
        FaissNeighbors().search(torch.ones(1, 3), torch.ones(5, 3), 6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("leave_out", [False, True])
def test_exact_search_in_chunks(dtype, leave_out):
    features, memory = unit_vectors(9, 16, seed=1).requires_grad_(), unit_vectors(101, 16).to(dtype)
    exclude = torch.arange(9) if leave_out else None
    found = ExactNeighbors(chunk_size=10).search(features, memory, 6, exclude=exclude)
    assert found.tolist() == reference(features.double() @ memory.double().T, 6, exclude)


def test_exact_search_in_float32_inside_autocast():
    features, memory = unit_vectors(20, 64, seed=1), unit_vectors(500, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = ExactNeighbors().search(features, memory, 5)
    assert found.tolist() == reference(features.double() @ memory.double().T, 5)


@pytest.mark.parametrize("leave_out", [False, True])
@pytest.mark.parametrize("refresh", ["step", "epoch"])
def test_flat_faiss_equals_exact_search(leave_out, refresh):
    features, memory = unit_vectors(30, 16, seed=1), unit_vectors(400, 16)
    exclude = torch.arange(30) if leave_out else None
    found = FaissNeighbors(kind="flat", refresh=refresh).search(features, memory, 6, exclude=exclude)
    assert found.dtype == torch.int64
    assert found.tolist() == ExactNeighbors().search(features, memory, 6, exclude=exclude).tolist()


def test_flat_faiss_equals_exact_search_up_to_ties():
    features, memory = unit_vectors(30, 4, seed=1), unit_vectors(50, 4).repeat(4, 1)
    memory[:20] = 0
    assert neighbor_recall(FaissNeighbors().search(features, memory, 6), features, memory) == 1


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_approximate_search_finds_most(kind):
    features, memory = unit_vectors(100, 16, seed=1), unit_vectors(2000, 16)
    index = FaissNeighbors(kind=kind)
    index.rebuild(memory)
    assert not index.is_exact
    assert neighbor_recall(index.search(features, memory, 6), features, memory) > 0.8


def clustered(count, dim, *, people, seed=0):
    """Unit vectors around a direction for each person, with cosines of about 0.7 to each other."""
    generator = torch.Generator().manual_seed(seed)
    owner = torch.randint(people, (count,), generator=generator)
    noise = functional.normalize(torch.randn(count, dim, generator=generator), dim=1)
    return functional.normalize(unit_vectors(people, dim, seed=99)[owner] + 0.65 * noise, dim=1)


@pytest.fixture(scope="module")
def quantized():
    """Clustered slots, some of them empty, and an index of their codes."""
    memory = clustered(LEAST_TO_QUANTIZE + 500, 64, people=500)
    memory[::50] = 0
    index = FaissNeighbors(kind="ivf_pq", ivf_lists=16, ivf_probes=8)
    index.rebuild(memory)
    return index, memory


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("leave_out", [False, True])
def test_candidates_of_a_quantised_index_are_ranked_by_the_memory(quantized, capfd, leave_out, dtype):
    index, memory = quantized
    features, exclude = clustered(100, 64, people=500, seed=1), torch.arange(100) if leave_out else None
    found = index.search(features, memory.to(dtype), 6, exclude=exclude)
    similarity = features.double() @ memory.to(dtype).double().T
    similarity[:, ::50] = -torch.inf
    ordered = similarity.gather(1, found)
    assert (ordered.diff(dim=1) <= 1e-7).all()
    if leave_out:
        similarity[torch.arange(100), exclude] = -torch.inf
    assert similarity.gather(1, found).isfinite().all()
    exact = similarity.topk(6, dim=1).indices
    recall = (found[:, :, None] == exact[:, None, :]).any(dim=2).double().mean()
    assert recall > 0.95
    # the codes alone find less: that is what the candidates are for
    _, by_codes = index._index.search(features.numpy(), 6)
    if not leave_out:
        assert (torch.from_numpy(by_codes)[:, :, None] == exact[:, None, :]).any(dim=2).double().mean() < recall - 0.05
    assert capfd.readouterr() == ("", "")


def test_a_quantised_index_is_exact_where_every_slot_is_a_candidate(quantized):
    index, memory = quantized
    everywhere = copy.deepcopy(index)
    everywhere.pq_candidates = len(memory)
    everywhere._index.nprobe = 16
    features = clustered(20, 64, people=500, seed=2)
    features[3] = 0
    for exclude in (None, torch.arange(20)):
        found = everywhere.search(features, memory, 7, exclude=exclude)
        assert found.tolist() == ExactNeighbors().search(features, memory, 7, exclude=exclude).tolist()


def test_a_quantised_index_has_a_byte_for_eight_values(quantized):
    index, memory = quantized
    assert index._index.code_size == code_bytes(64) == 8
    assert [code_bytes(dim) for dim in (512, 2048, 100, 7, 8)] == [64, 256, 10, 1, 1]
    assert index_bytes("ivf_pq", 2048) == 264
    assert index_bytes("ivf", 2048) == 8200
    faiss = pytest.importorskip("faiss")
    shared = 4 * (16 * 64 + 256 * 64)
    stored = len(faiss.serialize_index(index._index)) - shared
    assert stored == pytest.approx(len(memory) * index_bytes("ivf_pq", 64), rel=0.02)


def test_too_few_slots_for_codebooks_are_kept_as_they_are(caplog, capfd):
    memory = unit_vectors(LEAST_TO_QUANTIZE - 1, 8)
    features = unit_vectors(20, 8, seed=1)
    index = FaissNeighbors(kind="ivf_pq")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            index.rebuild(memory)
    assert caplog.messages == [
        "ivf_pq: 9983 slots are too few for codebooks, which are learned from 9984; the index keeps whole vectors, as "
        "ivf does"
    ]
    assert neighbor_recall(index.search(features, memory, 6), features, memory) > 0.8
    assert capfd.readouterr().err == ""


def test_codebooks_are_learned_from_slots_that_are_written(capfd):
    memory = torch.zeros(3 * LEAST_TO_QUANTIZE, 16)
    index = FaissNeighbors(kind="ivf_pq", ivf_lists=8)
    index._is_empty = empty_slots(memory)
    assert len(index._training_slots(memory)) == 64 * 256
    memory[::2] = unit_vectors(len(memory[::2]), 16)
    index._is_empty = empty_slots(memory)
    chosen = index._training_slots(memory)
    assert len(chosen) == len(memory) // 2
    assert (chosen.norm(dim=1) > 0.9).all()
    index.rebuild(memory)
    assert capfd.readouterr().err == ""


def test_a_copied_index_is_one_of_its_own():
    features, memory = torch.randn(3, 8), torch.randn(60, 8)
    index = FaissNeighbors()
    index.rebuild(memory)
    twin = copy.deepcopy(index)
    twin.rebuild(-memory)
    expected = ExactNeighbors().search(features, memory, 4)
    assert torch.equal(index.search(features, memory, 4).sort().values, expected.sort().values)
    assert not torch.equal(twin.search(features, memory, 4).sort().values, expected.sort().values)


def test_search_settings_reach_faiss():
    memory = unit_vectors(400, 8)
    features = unit_vectors(50, 8, seed=1)
    recall = {}
    for probes in (1, 10):
        index = FaissNeighbors(kind="ivf", ivf_lists=10, ivf_probes=probes)
        recall[probes] = neighbor_recall(index.search(features, memory, 3), features, memory)
    assert recall[1] < 0.95
    assert recall[10] == 1
    graph = FaissNeighbors(kind="hnsw", hnsw_links=7, hnsw_build_width=21, hnsw_search_width=33)
    graph.rebuild(memory)
    assert (graph._index.hnsw.efConstruction, graph._index.hnsw.efSearch) == (21, 33)
    assert graph._index.hnsw.nb_neighbors(1) == 7


def test_lists_cut_short_by_faiss_are_searched_exactly():
    memory = unit_vectors(100, 8)
    features = unit_vectors(5, 8, seed=1)
    index = FaissNeighbors(kind="ivf", ivf_lists=2, ivf_probes=1)
    exclude = torch.arange(5)
    found = index.search(features, memory, 90, exclude=exclude)
    assert found.tolist() == ExactNeighbors().search(features, memory, 90, exclude=exclude).tolist()


def test_refresh_by_step_sees_an_update_and_by_epoch_does_not():
    memory, features = unit_vectors(50, 8), unit_vectors(1, 8, seed=1)
    by_step, by_epoch = FaissNeighbors(refresh="step"), FaissNeighbors(refresh="epoch")
    before = by_epoch.search(features, memory, 1).item()
    assert by_step.search(features, memory, 1).item() == before
    nearest = (before + 1) % 50
    memory[nearest] = features[0]
    assert by_step.search(features, memory, 1).item() == nearest
    assert by_epoch.search(features, memory, 1).item() == before
    by_epoch.rebuild(memory)
    assert by_epoch.search(features, memory, 1).item() == nearest


def test_faiss_errors(monkeypatch):
    with pytest.raises(InputError, match=r"unknown FAISS kind 'hsnw' \(did you mean 'hnsw'\?\)"):
        FaissNeighbors(kind="hsnw")
    with pytest.raises(InputError, match=r"unknown FAISS refresh 'epochs' \(did you mean 'epoch'\?\)"):
        FaissNeighbors(refresh="epochs")
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(InputError, match=r"install reid-da\[cpu\] or reid-da\[gpu\]"):
        FaissNeighbors()


@pytest.mark.parametrize(("kind", "moved"), [("flat", True), ("ivf", True), ("ivf_pq", False), ("hnsw", False)])
def test_the_index_moves_to_the_gpu_of_the_memory(monkeypatch, kind, moved):
    # stands in for a FAISS built for GPUs, and for a memory on the second of them
    calls = []
    monkeypatch.setattr("faiss.StandardGpuResources", lambda: "resources", raising=False)
    monkeypatch.setattr(
        "faiss.index_cpu_to_gpu", lambda *arguments: calls.append(arguments) or "on the GPU", raising=False
    )
    memory = SimpleNamespace(shape=(50_000, 8), is_cuda=True, device=SimpleNamespace(index=1))
    index = FaissNeighbors(kind=kind)._empty_index(memory)
    assert (index == "on the GPU") == moved
    assert [call[:2] for call in calls] == ([("resources", 1)] if moved else [])


class Liar(ExactNeighbors):
    """Exact search with some of the answers spoiled."""

    def __init__(self, spoil, *, is_exact=True):
        super().__init__()
        self.spoil = spoil
        self.is_exact = is_exact
        self.rebuilt = 0

    def rebuild(self, memory):
        self.rebuilt += 1

    def search(self, features, memory, num_neighbors, *, exclude=None):
        found = super().search(features, memory, num_neighbors, exclude=exclude)
        self.spoil(found)
        return found


def spoil_one(found):
    found[3, 2] = found[3, 0]


def spoil_half(found):
    found[:, ::2] = 10**6


def leave_alone(found):
    found[:] = found.flip(1)


@pytest.mark.parametrize(
    ("spoil", "is_exact", "trusted"),
    [
        (leave_alone, True, True),
        (spoil_one, True, False),
        (spoil_one, False, True),
        (spoil_half, False, False),
    ],
)
def test_check_falls_back_to_exact_search_and_says_so(caplog, spoil, is_exact, trusted):
    sample, memory = unit_vectors(20, 16, seed=1), unit_vectors(300, 16)
    index = Liar(spoil, is_exact=is_exact)
    with caplog.at_level(logging.WARNING):
        chosen = check_neighbors(index, sample, memory, 6, min_recall=0.9)
    assert index.rebuilt == 1
    if trusted:
        assert chosen is index
        assert not caplog.records
    else:
        assert type(chosen) is ExactNeighbors
        assert "Liar finds" in caplog.text
        assert "searching exactly instead" in caplog.text


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_check_passes_faiss(caplog, kind):
    sample, memory = unit_vectors(50, 16, seed=1), unit_vectors(1000, 16)
    index = FaissNeighbors(kind=kind)
    assert check_neighbors(index, sample, memory, 6, min_recall=0.7) is index
    assert check_neighbors(index, sample, torch.zeros_like(memory), 6) is index
    assert not caplog.records


def test_recall_by_hand():
    memory = torch.tensor([[1.0, 0.0], [0.9, 0.0], [0.9, 0.0], [0.0, 1.0]])
    feature = torch.tensor([[1.0, 0.0]])
    for found, recall in (([0, 1], 1), ([2, 0], 1), ([0, 3], 0.5), ([0, 0], 0.5), ([-1, 0], 0.5), ([3, 4], 0)):
        assert neighbor_recall(torch.tensor([found]), feature, memory) == recall
    assert np.isclose(neighbor_recall(torch.tensor([[0, 1, 3]]), feature, memory), 2 / 3)


def searches():
    return [ExactNeighbors(chunk_size=7), *(FaissNeighbors(kind=kind) for kind in ("flat", "hnsw"))]


@pytest.mark.parametrize("leave_out", [False, True])
def test_empty_slots_are_nobodys_neighbours(leave_out):
    memory, features = unit_vectors(60, 8), unit_vectors(5, 8, seed=1)
    memory[torch.arange(60) % 10 != 3] = 0  # 3, 13, ..., 53 are written
    exclude = torch.tensor([3, 13, 0, 1, 2]) if leave_out else None
    written = [slot for slot in range(60) if slot % 10 == 3]
    for index in searches():
        found = index.search(features, memory, 8, exclude=exclude).tolist()
        for row, slots in enumerate(found):
            allowed = [slot for slot in written if exclude is None or slot != exclude[row]]
            similarity = [float(features[row] @ memory[slot]) for slot in allowed]
            expected = [slot for _, slot in sorted(zip(similarity, allowed, strict=True), reverse=True)]
            assert slots == expected + [-1] * (8 - len(expected))
        assert neighbor_recall(torch.tensor(found), features, memory) == 1 or leave_out


def test_an_empty_memory_and_a_feature_of_zeros_have_no_neighbours():
    memory, features = unit_vectors(50, 8), torch.zeros(2, 8)
    for index in searches()[:2]:
        assert (index.search(unit_vectors(3, 8), torch.zeros_like(memory), 6) == -1).all()
    assert (ExactNeighbors().search(features, memory, 6) == -1).all()
    assert neighbor_recall(torch.full((2, 6), -1), features, memory) == 1


def test_slots_written_after_faiss_took_over_the_memory_are_found():
    memory, features = torch.zeros(50, 8), unit_vectors(4, 8, seed=1)
    index = FaissNeighbors(kind="flat", refresh="epoch")
    index.rebuild(memory)
    memory[:20] = unit_vectors(20, 8)
    assert index.search(features, memory, 3).tolist() == ExactNeighbors().search(features, memory, 3).tolist()
