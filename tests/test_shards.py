"""Rows that several processes hold, in one file."""

import pytest
import torch
from safetensors.torch import load_file

from reid_da import shards
from reid_da.shards import Shard, ShardedTensor, StoredTensor, begin_file, write_own_rows
from reid_da.world import World

WHOLE = {
    "slots": torch.arange(35, dtype=torch.float32).view(7, 5),
    "ages": torch.arange(7, dtype=torch.int32),
    "rounded": torch.arange(14).view(7, 2).to(torch.bfloat16),
}


def parts_of(rank, size):
    """What a process has of the tensors, and one that all have."""
    shard = Shard(7, World(rank, size))
    own = {name: ShardedTensor(value[shard.rows], shard) for name, value in WHOLE.items()}
    return {"common": torch.tensor([1.5, 2.5]), **own}


@pytest.mark.parametrize("size", [1, 2, 3, 9])
def test_a_file_has_all_rows_in_their_order(tmp_path, size):
    file = tmp_path / "rows.safetensors"
    begin_file(file, parts_of(0, size))
    for rank in range(size):
        write_own_rows(file, parts_of(rank, size))
    found = load_file(file)
    assert torch.equal(found.pop("common"), torch.tensor([1.5, 2.5]))
    assert found.keys() == WHOLE.keys()
    assert all(torch.equal(found[name], value) for name, value in WHOLE.items())
    assert torch.equal(StoredTensor(file, "slots").read(slice(2, 4)), WHOLE["slots"][2:4])
    assert StoredTensor(file, "slots").shape == (7, 5)


def test_a_process_writes_nothing_but_its_own_rows(tmp_path, monkeypatch):
    file, copy = tmp_path / "rows.safetensors", shards._copy
    begin_file(file, parts_of(0, 3))
    write_own_rows(file, parts_of(2, 3))
    is_first = [True]

    def with_another_in_between(tensor, stream):
        copy(tensor, stream)
        if is_first.pop() if is_first else False:
            write_own_rows(file, parts_of(1, 3))

    monkeypatch.setattr(shards, "_copy", with_another_in_between)
    write_own_rows(file, parts_of(0, 3))
    found = load_file(file)
    assert all(torch.equal(found[name], value) for name, value in WHOLE.items())
