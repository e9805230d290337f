"""What a launcher such as ``torchrun`` has told this process; without torch, which takes seconds to import."""

import os


def started_rank() -> int:
    """Number of this process among those that were started together; 0 if it is alone."""
    return number("RANK", 0)


def started_size() -> int:
    """Number of processes that were started together."""
    return number("WORLD_SIZE", 1)


def number(name: str, default: int) -> int:
    """A whole number from the environment; the default where there is none."""
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else default
