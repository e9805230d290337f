"""What several commands print alike."""

import json
import logging
import sys

from rich.console import Console
from rich.logging import RichHandler


def print_json(value: object) -> None:
    """Print JSON on standard output; NaN, which JSON lacks, is a mistake in the value."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


def show_log() -> None:
    """Let the library's log appear on standard error."""
    handler = RichHandler(console=Console(stderr=True), show_path=False, show_level=False, log_time_format="%H:%M:%S")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    logging.getLogger("reid_da").setLevel(logging.INFO)
