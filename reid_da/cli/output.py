"""What several commands print alike."""

import json
import logging
import sys


def print_json(value: object) -> None:
    """Print JSON on standard output; NaN, which JSON lacks, is a mistake in the value."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


def show_log() -> None:
    """Let the library's log appear on standard error, a line for each record."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("reid_da").setLevel(logging.INFO)
