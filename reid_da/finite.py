"""Whether weights, features and pixels are numbers that can be computed with; the message names what is not."""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from reid_da.errors import InputError, first_few

_PIECE_ROWS = 4096


def check_weights(weights: nn.Module | Mapping[str, Tensor], origin: str) -> None:
    """Refuse weights that are NaN or infinite: every figure that they give would be meaningless.

    Args:
        weights: a network, or tensors by name.
        origin: file or model that they come from, for the message.

    Raises:
        InputError: some are not finite; names the tensors.
    """
    state = weights.state_dict() if isinstance(weights, nn.Module) else weights
    faulty = [
        name
        for name, value in state.items()
        if isinstance(value, Tensor) and value.is_floating_point() and not bool(value.isfinite().all())
    ]
    if faulty:
        raise InputError(
            f"{origin}: {len(faulty)} of {len(state)} weight tensors hold NaN or infinite values ({first_few(faulty)});"
            " take an earlier checkpoint, or train again (a lower learning rate, or optimizer.clip_norm)"
        )


def check_rows(
    rows: Tensor,
    name: str,
    *,
    label: Callable[[int], object] | None = None,
    may_be_zero: bool = False,
    advice: str = "extract these images again",
) -> None:
    """Refuse a matrix without rows or columns, and rows that are NaN or infinite, or all zeros.

    Args:
        rows: (N, D) float, e.g. features.
        name: what to call them in a message.
        label: what to call a row, e.g. the name of its image; its number from 0 if None.
        may_be_zero: whether a row of zeros has a meaning, which a direction has not.
        advice: what to do about rows that are not finite.

    Raises:
        InputError: as said.
    """
    if rows.ndim != 2 or 0 in rows.shape:
        raise InputError(f"{name}: expected a matrix (images, dimensions), got the shape {tuple(rows.shape)}")
    for start in range(0, len(rows), _PIECE_ROWS):
        piece = rows[start : start + _PIECE_ROWS]
        is_good = piece.isfinite().all(dim=1)
        if not may_be_zero:
            is_good &= (piece != 0).any(dim=1)
        if not bool(is_good.all()):
            suspects = (~is_good).nonzero().flatten()
            error = fault_of_rows(
                piece[suspects], (start + suspects).tolist(), name, label=label, may_be_zero=may_be_zero, advice=advice
            )
            assert error is not None
            raise error


def fault_of_rows(
    rows: Tensor,
    numbers: Sequence[int],
    name: str,
    *,
    label: Callable[[int], object] | None = None,
    may_be_zero: bool = False,
    advice: str = "extract these images again",
) -> InputError | None:
    """The error about rows that are not finite, else about those that are all zeros; None without such rows.

    Args:
        rows: (N, D) float.
        numbers: N numbers of the rows, from 0.
        name: what to call them.
        label: what to call a row by its number.
        may_be_zero: see :func:`check_rows`.
        advice: what to do about rows that are not finite.
    """
    kinds = {f"hold NaN or infinite values; {advice}": ~rows.isfinite().all(dim=1)}
    if not may_be_zero:
        kinds["are all zeros; check the model or drop these images"] = (rows == 0).all(dim=1)
    for fault, mask in kinds.items():
        found = [number for number, faulty in zip(numbers, mask.tolist(), strict=True) if faulty]
        if found:
            which = f"rows counted from 0: {first_few(found)}" if label is None else first_few(map(label, found))
            return InputError(f"{name}: {len(found)} rows {fault} ({which})")
    return None


def check_finite(values: Tensor, name: str) -> None:
    """Refuse a tensor of any shape that holds NaN or infinite values.

    Raises:
        InputError: it does.
    """
    if values.is_floating_point() and not bool(values.isfinite().all()):
        count = int((~values.isfinite()).sum())
        raise InputError(f"{name}: {count} of {values.numel()} values are NaN or infinite")
