"""Data sets that say in their pixels what they are."""

from pathlib import Path

import pytest
from coded_site import write_coded_site


@pytest.fixture(scope="session")
def coded_sites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data sets ``source`` (two cameras) and ``target`` (three cameras) that say in their pixels what they are."""
    root = tmp_path_factory.mktemp("coded")
    write_coded_site(root / "source", pids=(2, 3, 5, 9), num_cameras=2, per_camera=2)
    write_coded_site(root / "target", pids=(11, 12, 13, 14, 15, 16), num_cameras=3)
    return root
