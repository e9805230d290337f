"""Lines of ``metrics.jsonl``: JSON objects with a checksum, so that a changed digit is not taken for a result."""

import json
import math
import zlib
from collections.abc import Mapping
from typing import Any

_CHECKSUM = ', "crc32": "'
"""Before the last value of a line: the CRC-32 of the line without it."""


def metrics_line(record: Mapping[str, Any]) -> str:
    """The line of a record, with its end.

    Raises:
        ValueError: a value is not finite, which JSON cannot hold.
    """
    line = json.dumps(record, allow_nan=False)
    return f'{line[:-1]}{_CHECKSUM}{zlib.crc32(line.encode()):08x}"}}\n'


def parse_line(line: bytes) -> dict[str, Any] | None:
    """The record of a line without its checksum, None for a damaged one; earlier versions wrote no checksums."""
    content, mark, noted = line.rstrip().rpartition(_CHECKSUM.encode())
    if mark:
        line = content + b"}"
        if noted != f'{zlib.crc32(line):08x}"}}'.encode():
            return None
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def is_report(line: bytes, *, epoch: int) -> bool:
    """Whether a line is whole and reports on a trained epoch, without training anything."""
    record = parse_line(line) if line.endswith(b"\n") else None
    return record is not None and record.get("kind") != "train" and record.get("epoch") == epoch


def finite_or_none(value: Any) -> Any:
    """The value, or None for a number that is not finite."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
