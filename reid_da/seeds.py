"""Seeds for the many random numbers of a run."""

import hashlib


def derived_seed(seed: int, purpose: str, *numbers: int) -> int:
    """Seed for one purpose, such as the order of the images in an epoch; any two purposes get unrelated numbers.

    Args:
        seed: of the run.
        purpose: what the random numbers are for.
        numbers: the epoch, or whatever else tells the uses of one purpose apart.
    """
    text = ":".join([str(seed), purpose, *map(str, numbers)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
