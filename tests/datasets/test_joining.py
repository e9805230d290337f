"""Several data sets as one: nobody is mistaken for somebody else, and no camera for another."""

import numpy as np
import pytest

from reid_da.datasets import JUNK_PID, UNLABELLED_PID, Dataset, SampleTable, join_datasets, load_datasets
from reid_da.errors import InputError


def site(root, name, *, pids, camids):
    def table(split, start):
        paths = tuple(f"{split}/{start + row}.jpg" for row in range(len(pids)))
        return SampleTable(name=f"{name}/{split}", root=root / name, paths=paths, pids=pids, camids=camids)

    tables = {split: table(split, start) for split, start in (("train", 0), ("query", 10), ("gallery", 20))}
    names = tuple(f"c{number + 1}" for number in range(max(camids) + 1))
    return Dataset(name=name, format="x", root=root / name, camera_names=names, person_names={3: "anna"}, **tables)


def test_identities_and_cameras_are_numbered_on(tmp_path):
    pids = np.array([3, 0, JUNK_PID, UNLABELLED_PID])
    first, second = (site(tmp_path, name, pids=pids, camids=np.array([0, 2, 1, 0])) for name in ("a", "b"))
    joined = join_datasets([first, second])
    assert joined.camera_names == ("a c1", "a c2", "a c3", "b c1", "b c2", "b c3")
    assert joined.train.paths == tuple(f"{name}/train/{row}.jpg" for name in ("a", "b") for row in range(4))
    assert joined.train.pids.tolist() == [3, 0, JUNK_PID, UNLABELLED_PID, 7, 4, JUNK_PID, UNLABELLED_PID]
    assert joined.train.camids.tolist() == [0, 2, 1, 0, 3, 5, 4, 3]
    assert joined.person_names == {3: "anna", 7: "anna"}
    assert joined.train.path(5) == second.train.path(1)


def test_data_sets_inside_each_other_have_paths_from_the_outer_one(tmp_path):
    outer, inner = (site(tmp_path, name, pids=np.array([1]), camids=np.array([0])) for name in ("a", "a/b"))
    assert join_datasets([outer, inner]).train.paths == ("b/train/0.jpg", "train/0.jpg")


def test_sites_that_lie_on_disk(small_sites):
    sites = [small_sites / "site-a", small_sites / "site-b"]
    parts = [load_datasets(path) for path in sites]
    joined = load_datasets(sites)
    assert len(joined.train) == sum(len(part.train) for part in parts)
    assert joined.train.num_pids == sum(part.train.num_pids for part in parts)
    assert joined.num_cameras == sum(part.num_cameras for part in parts)
    assert load_datasets([sites[0]]).name == parts[0].name
    with pytest.raises(InputError, match="name each of them once"):
        load_datasets([sites[0], sites[0]])
