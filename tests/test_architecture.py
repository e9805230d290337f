"""Imports go one way: a folder imports only what stands below it."""

import re
from pathlib import Path

import reid_da

ORDER = (
    (
        "errors",
        "presets",
        "locks",
        "text",
        "seeds",
        "launch",
        "world",
        "processes",
        "shards",
        "reading",
        "progress",
        "mat_files",
        "checksums",
    ),
    ("atomic", "device", "yaml_files", "finite"),
    ("config", "features", "datasets"),
    ("images", "nearest", "centering"),
    ("losses", "memory", "reciprocal"),
    ("models", "clustering"),
    ("evaluation", "methods"),
    ("training",),
    ("styles",),
    ("experiments",),
    ("api",),
    ("tracker", "reporting"),
    ("exporting", "gallery"),
    ("serve",),
    ("studies",),
    ("cli",),
)
"""Folders and modules of the package from the bottom to the top; those of one line may import each other."""


def test_no_import_goes_upwards():
    floor = {name: number for number, names in enumerate(ORDER) for name in names}
    root = Path(reid_da.__file__).parent
    upwards = set()
    for path in root.rglob("*.py"):
        room = path.relative_to(root).with_suffix("").parts[0]
        if room.startswith("__"):
            continue
        for line in path.read_text(encoding="utf-8").splitlines():
            found = re.match(r"\s*(?:from|import) reid_da\.(\w+)", line)
            if found and floor[found[1]] > floor[room]:
                upwards.add(f"{path.relative_to(root)}: {line.strip()}")
    assert upwards == set()


def test_files_are_short_enough_to_be_read():
    root = Path(reid_da.__file__).parent
    lengths = {str(path.relative_to(root)): path.read_bytes().count(b"\n") for path in root.rglob("*.py")}
    assert {name: length for name, length in lengths.items() if length > 400} == {}
