"""Build sdist and wheel, install the wheel without dependencies in a fresh environment, and use what it must contain.

    python tools/check_dist.py [--network]

The environment sees the packages of the one that runs this script, so that nothing is downloaded; with ``--network``
the build runs in isolation and the dependencies are installed from the registry, as on a fresh machine.
"""

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
INSIDE = ("reid_da/py.typed", "reid_da/presets/small.yaml", "reid_da/presets/spcl.yaml", "reid_da/cli/app.py")
COMMANDS = (
    ["--version"],
    ["init", "mine.yaml", "--cpu", "--weights", "none"],
    ["settings", "spcl", "epochs=1"],
)


def main() -> None:
    """Exit with an error where anything is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", action="store_true", help="install build tools and dependencies from the registry")
    network = parser.parse_args().network
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build = [sys.executable, "-m", "build", "--outdir", name, *([] if network else ["--no-isolation"]), str(ROOT)]
        subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
        (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
        files = zipfile.ZipFile(wheel).namelist()
        kept = (file for file in (ROOT / "reid_da").rglob("*") if file.is_file() and "__pycache__" not in file.parts)
        code = [file.relative_to(ROOT).as_posix() for file in kept]
        missing = [file for file in (*INSIDE, *code) if file not in files]
        foreign = [file for file in files if file.startswith(("tests/", "data/", "experiments/"))]
        if missing or foreign:
            sys.exit(f"{wheel.name}: missing {missing}, should not be there: {foreign}")
        with tarfile.open(sdist) as archive:
            if not any(file.endswith("/reid_da/presets/small.yaml") for file in archive.getnames()):
                sys.exit(f"{sdist.name}: lacks the presets")
        use(wheel, folder, network=network)
        print(f"{wheel.name}, {sdist.name}: built, installed and used")


def use(wheel: Path, folder: Path, *, network: bool) -> None:
    """Install a wheel in an environment of its own, and run commands there, away from the checkout."""
    home = folder / "env"
    venv.create(home, with_pip=True)
    scripts = home / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / "python"
    options = [] if network else ["--no-deps", "--no-index"]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *options, str(wheel)], check=True)
    if not network:
        inside = subprocess.run(
            [python, "-c", "import site; print(site.getsitepackages()[0])"], check=True, text=True, capture_output=True
        ).stdout.strip()
        ours = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
        (Path(inside) / "dependencies.pth").write_text("\n".join(ours), encoding="utf-8")
    for command in COMMANDS:
        subprocess.run([scripts / "reid-da", *command], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    origin = subprocess.run(
        [python, "-c", "import reid_da; print(reid_da.__file__)"],
        cwd=folder,
        check=True,
        text=True,
        capture_output=True,
    ).stdout
    if not Path(origin.strip()).is_relative_to(home):
        sys.exit(f"reid_da was imported from {origin.strip()}, not from the wheel")


if __name__ == "__main__":
    main()
