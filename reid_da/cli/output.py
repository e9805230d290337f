"""What several commands print alike."""

import json
import sys


def print_json(value: object) -> None:
    """Print JSON on standard output; NaN, which JSON lacks, is a mistake in the value."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")
