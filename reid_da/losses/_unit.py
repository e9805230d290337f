"""Rows of unit length, and angles between them, whose gradients stay small where a row has no direction."""

import torch
from torch import Tensor
from torch.nn import functional

SHORTEST = 1e-4
"""Rows that are shorter than this are not stretched to unit length; features and class centres are far longer."""


def wide(values: Tensor) -> Tensor:
    """``values`` in float32 at least."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def inverse_length(rows: Tensor) -> Tensor:
    """(N, 1) factors that bring the rows of (N, D) to unit length.

    The factor is ``1 / r`` for a length r from :data:`SHORTEST` (e) on, and ``(3 s - 2 s^2) / e`` with ``s = r / e``
    below. A row of length r < e thus becomes one of length ``3 s^2 - 2 s^3``: value and slope are continuous, a row of
    zeros stays a row of zeros with a gradient of 0, and no gradient is larger than 1.5 / e. The usual bound,
    ``1 / max(r, 1e-12)``, gives a row of zeros a gradient of 1e12.
    """
    length = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    is_short = length < SHORTEST
    share = torch.where(is_short, length, 0) / SHORTEST
    return torch.where(is_short, share * (3 - 2 * share) / SHORTEST, 1 / torch.where(is_short, 1, length))


def unit_rows(rows: Tensor) -> Tensor:
    """(N, D) rows of unit length, in float32 at least; see :func:`inverse_length` for rows that are nearly zero."""
    rows = wide(rows)
    return rows * inverse_length(rows)


def angles_between(first: Tensor, second: Tensor) -> Tensor:
    """(N,) angles in radians between the rows of two (N, D) sets of unit vectors.

    ``2 atan2(|u - v|, |u + v|)`` keeps its digits at all angles, and its gradient stays finite; arccos loses half of
    the digits near 0 and pi, where its slope is infinite. A row of zeros is at a right angle to everything.
    """
    difference = torch.linalg.vector_norm(first - second, dim=1)
    # away from 0 for two rows of zeros, where the slope of atan2 would be 0 / 0
    total = torch.linalg.vector_norm(first + second, dim=1).clamp_min(1e-12)
    return 2 * torch.atan2(difference, total)


def unit_products(first: Tensor, second: Tensor) -> Tensor:
    """(N, M) cosines between the rows of (N, D) and (M, D), in float32 at least, inside autocast too."""
    first, second = unit_rows(first), unit_rows(second)
    with torch.autocast(first.device.type, enabled=False):
        return functional.linear(first, second)
