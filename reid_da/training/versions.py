"""What a result depends on beside settings and data: the versions of the software."""

import platform
import subprocess
from pathlib import Path

import torch
import torchvision

import reid_da


def software_versions() -> dict[str, str | None]:
    """Versions of what a result depends on."""
    return {
        "reid_da": reid_da.__version__,
        "git": _git_revision(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu",
    }


def _git_revision() -> str | None:
    """Commit of the working copy that the package runs from, or None if it was installed without one."""
    file = Path(__file__)
    git = ["git", "-C", str(file.parent)]
    try:
        # an environment may lie in a working copy of something else, which does not know this file
        subprocess.run([*git, "ls-files", "--error-unmatch", file.name], capture_output=True, check=True, timeout=10)
        describe = [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(describe, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
