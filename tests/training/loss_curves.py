"""The trainings whose loss curves are stored beside this file, and the command that records them.

``python tests/training/loss_curves.py`` writes the file anew. A changed curve is a changed method: look at what
differs, and say in the message of the commit why.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import harness
import torch
from coded_site import write_coded_site

FILE = Path(__file__).with_suffix(".json")
DTYPES = {"float32": torch.float32, "float64": torch.float64}

METHODS: dict[str, dict[str, Any]] = {
    "ecn": {"method": "ecn"},
    "ecn-gpp": {
        "method": "ecn-gpp",
        "memory": {"num_neighbors": 8},
        "positives": {"widths": [8, 6], "threshold": 0.5},
    },
    "source": {"method": "source", "source_loss": {"label_smoothing": 0.1}},
    "supervised": {
        "method": "supervised",
        "head": {"kind": "cosface", "scale": 8.0},
        "source_loss": {"triplet_weight": 0.5, "center_weight": 0.01},
        "batch": {"instances": 2},
        "model": {"embedding": "none", "test_feature": "embedding"},
        "optimizer": {"lr": 2e-4},
    },
    "camstyle": {"method": "camstyle", "camstyle": {"cameras": "source"}},
}
"""Changes of the tiny settings by the name of the curve."""

_TINY_STYLES = ["data.image_size=[16, 8]", "channels=4", "num_blocks=1", "epochs=2", "average=0.5", "optimizer.lr=2e-5"]
STYLE_METHODS = {
    "stargan": [*_TINY_STYLES, "method=stargan", "batch=6", "critic_steps=2"],
    "cyclegan": [*_TINY_STYLES, "method=cyclegan", "pair=[1, 2]", "batch=2", "dropout=0", "pool_size=3"],
}
"""Settings of trainings of camera styles by the name of the curve."""

CURVES = (*METHODS, *STYLE_METHODS)


def write_sites(root: Path) -> Path:
    """Data sets ``source``, ``target`` and ``styles`` of the recorded trainings, in ``root``."""
    write_coded_site(root / "source", pids=(1, 2, 3, 4), num_cameras=3, per_camera=2)
    write_coded_site(root / "target", pids=(11, 12, 13, 14), num_cameras=3, per_camera=2)
    write_coded_site(root / "styles", pids=(1, 2), num_cameras=3, per_camera=2, size=(16, 8))
    return root


def settings(name: str, sites: Path, changes: dict[str, Any] | None = None) -> Any:
    """Settings of a recorded training.

    Args:
        name: of the curve.
        sites: from :func:`write_sites`.
        changes: of the settings of a re-ID method, beyond its own.
    """
    if name in STYLE_METHODS:
        return harness.style_experiment(sites / "styles", STYLE_METHODS[name])
    return harness.experiment(sites / "source", sites / "target", harness.merge(METHODS[name], changes or {}))


def curve(name: str, sites: Path, *, dtype: torch.dtype, changes: dict[str, Any] | None = None) -> list[harness.Losses]:
    """Losses of every step of a training, by name; the arguments are those of :func:`settings`.

    Args:
        dtype: of network, images and memory.
    """
    return harness.loss_curve(settings(name, sites, changes), sites / "unused", dtype=dtype)


def record() -> None:
    """Write the stored curves anew."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        sites = write_sites(Path(folder))
        found = {name: {kind: curve(name, sites, dtype=dtype) for kind, dtype in DTYPES.items()} for name in CURVES}
    FILE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    record()
