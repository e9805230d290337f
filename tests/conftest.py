"""Shared settings of the tests: one thread each, no progress bars, quick property tests."""

from pathlib import Path

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("default", deadline=None, max_examples=50)
settings.load_profile("default")

RENDERED = Path(__file__).parent.parent / "data" / "rendered"


@pytest.fixture(scope="session")
def rendered() -> Path:
    """Folder of the rendered data set that ships with the project."""
    return RENDERED
