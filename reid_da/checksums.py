"""The checksum of what a JSON file says, kept in the file itself."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

KEY = "checksum"


def json_digest(record: Mapping[str, Any]) -> str:
    """SHA-256 of a record as JSON, whatever the order of its keys, and without its checksum."""
    rest = {key: value for key, value in record.items() if key != KEY}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def is_intact(record: Mapping[str, Any]) -> bool:
    """Whether a record has its checksum, or none: earlier versions wrote none."""
    return KEY not in record or record[KEY] == json_digest(record)
