import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reid_da.datasets import UNLABELLED_PID, Dataset, SampleTable
from reid_da.errors import InputError

ROWS = [("b.jpg", 7, 1), ("a.jpg", -1, 0), ("c.jpg", 3, 2), ("d.jpg", 7, 0)]


def table(rows=ROWS) -> SampleTable:
    return SampleTable.from_rows("toy/train", Path("root"), rows)


def test_rows_are_sorted_by_path():
    assert table().paths == ("a.jpg", "b.jpg", "c.jpg", "d.jpg")
    assert table().pids.tolist() == [-1, 7, 3, 7]
    assert table().camids.tolist() == [0, 1, 2, 0]
    assert table().path(2) == Path("root/c.jpg")


def test_counts_leave_junk_and_unknown_people_out():
    assert table([*ROWS, ("e.jpg", UNLABELLED_PID, 4)]).num_pids == 2
    assert table([*ROWS, ("e.jpg", UNLABELLED_PID, 4)]).cameras.tolist() == [0, 1, 2, 4]
    assert table().is_labelled
    assert not table([("e.jpg", UNLABELLED_PID, 4)]).is_labelled
    assert table().without_junk().paths == ("b.jpg", "c.jpg", "d.jpg")


def test_labels_number_the_sorted_pids():
    assert table().without_junk().labels().tolist() == [1, 0, 1]
    with pytest.raises(InputError, match="1 images have no identity"):
        table().labels()


@given(st.permutations(ROWS))
def test_table_does_not_depend_on_the_order_of_the_listing(rows):
    assert table(rows).fingerprint == table().fingerprint
    assert table(rows).labels is not None
    assert np.array_equal(table(rows).pids, table().pids)


def test_fingerprint_is_the_hash_of_the_paths_in_order():
    expected = hashlib.sha256(b"a.jpg\0b.jpg\0c.jpg\0d.jpg\0").hexdigest()[:16]
    assert table().fingerprint == expected
    assert table().select([1, 0, 2, 3]).fingerprint != expected


def test_select_takes_an_index_or_a_mask():
    assert table().select([3, 1]).paths == ("d.jpg", "b.jpg")
    assert table().select(table().camids == 0).paths == ("a.jpg", "d.jpg")
    assert len(table().select([])) == 0


def test_columns_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        table().pids[0] = 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pids": [1]}, "pids has shape"),
        ({"camids": [0, 0, 0, -1]}, "camids start at 0"),
        ({"paths": ("a.jpg", "a.jpg", "c.jpg", "d.jpg")}, "more than once"),
    ],
)
def test_inconsistent_columns_are_refused(change, message):
    columns = {"paths": table().paths, "pids": table().pids, "camids": table().camids} | change
    with pytest.raises(ValueError, match=message):
        SampleTable(name="toy", root=Path("root"), **columns)


def test_dataset_needs_a_name_for_every_camera():
    splits = {"train": table(), "query": table([]), "gallery": table([])}
    with pytest.raises(ValueError, match="camid 2 has no name"):
        Dataset(name="toy", format="folder", root=Path("root"), camera_names=("c1", "c2"), **splits)
