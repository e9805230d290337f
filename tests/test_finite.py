"""Numbers that cannot be computed with, and who is blamed for them."""

import pytest
import torch
from torch import nn

from reid_da.errors import InputError
from reid_da.finite import check_finite, check_rows, check_weights


def test_weights_are_named_with_their_file():
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    check_weights(network, "model.pt")
    network[1].running_var[1] = torch.inf
    with pytest.raises(InputError, match=r"model.pt: 1 of 7 weight tensors hold NaN or infinite .* \(1.running_var\)"):
        check_weights(network, "model.pt")
    state = {"a": torch.tensor([1, 2]), "b": torch.tensor([torch.nan], dtype=torch.float16)}
    with pytest.raises(InputError, match=r"file: 1 of 2 .*\(b\)"):
        check_weights(state, "file")


@pytest.mark.parametrize("num_rows", [5, 9000])
def test_rows_are_named(num_rows):
    rows = torch.ones(num_rows, 2)
    check_rows(rows, "x")
    rows[-1] = 0
    check_rows(rows, "x", may_be_zero=True)
    with pytest.raises(InputError, match=rf"x: 1 rows are all zeros; .*counted from 0: {num_rows - 1}\)"):
        check_rows(rows, "x")
    rows[-2, 1] = -torch.inf
    for may_be_zero in (False, True):
        with pytest.raises(InputError, match=rf"x: 1 rows hold NaN or infinite values; mend it \(row {num_rows - 2}\)"):
            check_rows(rows, "x", may_be_zero=may_be_zero, label="row {}".format, advice="mend it")


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (3,)])
def test_nothing_is_no_matrix(shape):
    with pytest.raises(InputError, match="x: expected a matrix"):
        check_rows(torch.ones(shape), "x")


def test_values_of_any_shape():
    check_finite(torch.ones(2, 2, dtype=torch.int64), "x")
    with pytest.raises(InputError, match="x: 2 of 4 values are NaN or infinite"):
        check_finite(torch.tensor([[torch.nan, 1], [2, torch.inf]]), "x")
