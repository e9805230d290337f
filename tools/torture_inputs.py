"""Inputs that no command should be given: each is a list of arguments, and the files that they name."""

import os
import random
import re
import struct
import zlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import scipy.sparse
from PIL import Image
from torture_scenarios import Place

EVIL_NAMES = [
    *("\x1b]0;title\x07", "[/red]", "$\\q$", "=1+1", "²", "a\nb", "-rf", "~", "{x}", "%s", "a" * 200, "\u202egnp", "$"),
    *(" ", os.fsdecode(b"M\xfcller"), "c1 [bold", "*", "?", "..jpg", "con"),
]
EVIL_VALUES = [
    *("nan", ".inf", "-1", "0", "1e308", "1e-320", "9" * 5000, "0x" + "f" * 5000, "", "[]", "{}", "null", "true"),
    *("x" * 5000, "[1, 2", "²", "\x1b[31m", "../..", "~", "$\\q$", "/dev/zero", "/dev/null", "/proc/self/mem", "="),
    *("!!python/name:os.system", "&a [*a]", "[" * 500, "1:30", "2020-02-31", "[nan, nan]", "{a: 1, a: 2}", "100000"),
    *("2**31", "-0.0", "1_000", "[[[[1]]]]", "'", "\\", "0b1", "1e999", "[1, 1e400]", "18446744073709551616"),
]

Make = Callable[[random.Random, Place], list[str]]


def bad_input(chance: random.Random, place: Place) -> list[str]:
    """Arguments of a command, with files in the work folder of ``place``."""
    return chance.choice(MAKERS)(chance, place)


@lru_cache(maxsize=1)
def _keys(place: Place) -> tuple[str, ...]:
    """All settings, by the indentation of what the command lists; comments may stand between them."""
    keys: list[str] = []
    parents: list[tuple[int, str]] = []
    for line in place.run(["settings"]).out.splitlines():
        match = re.match(r"( *){?(\w+):(.*)", line)
        if match is None:
            continue
        indent = len(match[1])
        parents = [parent for parent in parents if parent[0] < indent]
        key = ".".join([*(name for _, name in parents), match[2]])
        if match[3].strip():
            keys.append(key)
        parents.append((indent, match[2]))
    return tuple(keys)


def _override(chance: random.Random, place: Place) -> list[str]:
    setting = f"{chance.choice(_keys(place))}={chance.choice(EVIL_VALUES)}"
    return ["settings", str(place.config), setting]


_HARMLESS = ("data.", "model.", "optimizer.", "memory.", "views.", "head.", "precision.", "name", "seed", "loss_weight")


def _training(chance: random.Random, place: Place) -> list[str]:
    """A setting that is odd but not simply a large amount of work."""
    keys = [
        key for key in _keys(place) if key.startswith(_HARMLESS) and "image_size" not in key and "weights" not in key
    ]
    values = [value for value in EVIL_VALUES if len(value) < 100]
    setting = f"{chance.choice(keys)}={chance.choice(values)}"
    return ["train", str(place.config), setting, "epochs=1", "-o", str(place.work / "run")]


def _yaml_file(chance: random.Random, place: Place) -> list[str]:
    file = place.work / "config.yaml"
    text = place.config.read_text()
    kind = chance.randrange(8)
    if kind == 0:
        content = bytearray(text.encode())
        for _ in range(chance.randint(1, 5)):
            content[chance.randrange(len(content))] = chance.randrange(256)
        file.write_bytes(content)
    elif kind == 1:
        lines = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9) if n else 'x'}]" for n in range(chance.randint(3, 12))]
        file.write_text("\n".join(lines))
    elif kind == 2:
        for number in range(12):
            base = f"[{', '.join([f'base{number + 1}.yaml'] * 6)}]" if number < 11 else "[]"
            (place.work / f"base{number}.yaml").write_text(f"base: {base}\n")
        file.write_text(f"base: [base0.yaml]\n{text}")
    elif kind == 3:
        file.write_text(chance.choice(["[", "{a: ", "- "]) * chance.choice([100, 3000]) + text)
    elif kind == 4:
        file.write_text(text + chance.choice(["\nepochs: 2\n", "\nbase: config.yaml\n", "\n? [a]\n: 1\n", "\n<<: 3\n"]))
    elif kind == 5:
        file.symlink_to(
            chance.choice(["/dev/zero", "/dev/stdin", "config.yaml", "/proc/self/environ", str(place.data)])
        )
    elif kind == 6:
        file.write_bytes(
            chance.choice([b"", b"\xff\xfe", b"\0" * 100, b"a: \x80", b"%YAML 9.9\n---\na: 1", b"#" * 2**22])
        )
    else:
        key = chance.choice(_keys(place))
        file.write_text(f"{text}\n{key}: {chance.choice(EVIL_VALUES)}\n")
    return ["settings", str(file)]


_STRANGE_ARRAYS: tuple[Callable[[Any], Any], ...] = (
    lambda array: array.astype(np.uint64) - np.uint64(5),
    lambda array: array * 1j,
    lambda array: array > 0,
    lambda array: array * np.nan,
    lambda array: array * 0,
    lambda array: array[:0],
    lambda array: array[None],
    lambda array: array.astype(object),
    lambda array: array.astype("U5"),
    lambda array: array * 1e300,
    lambda array: array - 2.0**63,
    lambda array: array.astype(np.float16),
    lambda array: array.astype(">i8"),
    lambda array: array.astype("M8[s]"),
    lambda array: array.astype(np.longdouble),
    lambda array: array[::-1],
    lambda _: np.zeros((2000, 5000)),
    lambda _: np.float64(3),
    lambda _: np.empty((3, 0)),
    lambda _: np.zeros(4, dtype=[("a", int)]),
)


def _features(chance: random.Random, place: Place) -> list[str]:
    rng = np.random.default_rng(chance.randrange(2**32))
    arrays: dict[str, object] = {
        "query_features": rng.standard_normal((4, 3)), "query_pids": np.arange(4), "query_camids": np.zeros(4, int),
        "gallery_features": rng.standard_normal((6, 3)), "gallery_pids": np.arange(6) % 4,
        "gallery_camids": np.ones(6, int),
    }  # fmt: skip
    name = chance.choice(sorted(arrays))
    array = np.asarray(arrays[name])
    with np.errstate(all="ignore"):
        arrays[name] = chance.choice(_STRANGE_ARRAYS)(array)
    if chance.random() < 0.3:
        arrays["unused"] = np.zeros((40_000, 2000), dtype=np.uint8)
    path = place.work / f"f.{chance.choice(['npz', 'mat'])}"
    if path.suffix == ".npz":
        save: Any = chance.choice([np.savez, np.savez_compressed])
        save(path, **arrays)
    else:
        names = {"features": "f", "pids": "label", "camids": "cam"}
        renamed = {f"{key.partition('_')[0]}_{names.get(key.partition('_')[2], key)}": arrays[key] for key in arrays}
        if chance.random() < 0.3:
            renamed["query_f"] = chance.choice([scipy.sparse.eye(4, 3), {"a": 1}, np.array([[1, "a"]], dtype=object)])
        try:
            scipy.io.savemat(path, renamed, do_compression=chance.random() < 0.5)
        except (TypeError, ValueError):  # a type that the format lacks
            path.write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200))
    if chance.random() < 0.2:
        _damage(path, chance)
    return ["evaluate-features", str(path), *chance.choice([[], ["--json"]])]


def _damage(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(chance.randint(1, 20)):
        content[chance.randrange(len(content))] = chance.randrange(256)
    path.write_bytes(content[: chance.randint(1, len(content))])


def png_header(width: int, height: int) -> bytes:
    """The first bytes of a PNG that claims a size, and a little of its content."""
    chunks = [b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(bytes(10_000))]
    framed = [struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def _plant_link(victim: Path, chance: random.Random) -> None:
    places = ["/dev/zero", "/dev/null", "/dev/stdin", "/nowhere", victim.name, str(victim.parent)]
    victim.symlink_to(chance.choice(places))


def _plant_bytes(victim: Path, chance: random.Random) -> None:
    sizes = [(9000, 9000), (50_000, 50_000), (1, 2**31 - 1), (0, 5)]
    contents = [b"", b"\xff\xd8\xff", b"GIF89a", b"<html>", b"RIFF\0\0\0\0WEBPVP8 ", png_header(*chance.choice(sizes))]
    victim.write_bytes(chance.choice(contents))


def _plant_name(victim: Path, chance: random.Random) -> None:
    name = chance.choice(EVIL_NAMES).replace("/", "|")
    Image.new("RGB", (3, 3)).save(victim.parent / f"{name}.jpg", "JPEG")


def _plant_hole(victim: Path, _: random.Random) -> None:
    victim.touch()
    os.truncate(victim, 2**33)


_SPOILERS: tuple[Callable[[Path, random.Random], object], ...] = (
    _plant_link,
    _plant_bytes,
    _plant_name,
    lambda victim, _: os.mkfifo(victim),
    lambda victim, _: victim.mkdir(),
    lambda victim, _: Image.new("L", (9400, 9500)).save(victim, "PNG"),
    lambda victim, _: (victim.parent / f"loop{victim.stem}").symlink_to(victim.parents[2], target_is_directory=True),
    _plant_hole,
)


def _crops(chance: random.Random, place: Place) -> list[str]:
    """A folder of crops in which some have odd names or odd content."""
    root = place.work / "crops"
    for camera in ("c1", "c2", chance.choice([name for name in EVIL_NAMES if "/" not in name])):
        for person in range(3):
            folder = root / camera / f"p{person}"
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(2):
                Image.new("RGB", (32, 64), (chance.randrange(256), number, person)).save(folder / f"{number}.jpg")
    files = sorted(path for path in root.rglob("*.jpg") if path.is_file())  # a camera is called "..jpg"
    for victim in chance.sample(files, 2):
        victim.unlink()
        chance.choice(_SPOILERS)(victim, chance)
    command = chance.choice(["check", "stats", "import", "generate", "extract"])
    if command == "generate":
        options = ["--method", "statistics", "--size", "32x16", "-o", str(place.work / "s.pack"), "--device", "cpu"]
        return ["camstyle", "generate", str(root), *options, *chance.choice([[], ["--skip-broken"]])]
    if command == "extract":
        options = ["--weights", "none", "--size", "32x16", "-o", str(place.work / "f.npz"), "--device", "cpu"]
        return ["extract", "resnet18", *map(str, chance.sample(files, 3)), *options]
    picture = ["--picture", str(place.work / "p.png")] if command == "stats" else []
    return ["data", command, str(root), *picture, *chance.choice([[], ["--json"]] if command != "import" else [[]])]


def _manifest(chance: random.Random, place: Place) -> list[str]:
    images = sorted((place.data / "crops").glob("*.jpg"))
    rows = [[str(file), file.name[:4], file.name[5:7], "train"] for file in images[:20]]
    for _ in range(2):
        chance.choice(rows)[chance.randrange(4)] = chance.choice([*EVIL_NAMES, *EVIL_VALUES])
    file = place.work / chance.choice(["m.csv", "manifest.csv", "m.parquet"])
    text = "\n".join(["path,pid,camid,split", *(",".join(row) for row in rows)])
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    if chance.random() < 0.2:
        _damage(file, chance)
    return ["data", chance.choice(["check", "stats"]), str(file), *chance.choice([[], ["--json"]])]


def _pairs(chance: random.Random, place: Place) -> list[str]:
    names = [str(file) for file in sorted((place.data / "crops").glob("*.jpg"))]
    lines = [f"{chance.choice(names)},{chance.choice(names)},{chance.choice('01')}" for _ in range(20)]
    lines[chance.randrange(20)] = ",".join(chance.sample([*EVIL_NAMES, *EVIL_VALUES], 3))
    file = place.work / "pairs.csv"
    file.write_bytes("\n".join(["path1,path2,same", *lines]).encode("utf-8", "surrogateescape"))
    return ["verify", "resnet18", str(file), "--weights", "none", "--size", "32x16", "--device", "cpu"]


def _options(chance: random.Random, place: Place) -> list[str]:
    crops, size = (
        str(place.data / "crops"),
        chance.choice(["0x0", "99999999x99999999", "9" * 5000 + "x1", "ax1", "²x²"]),
    )
    output = chance.choice(["/dev/null", "/dev/full", str(place.work), "", "/proc/x", "a" * 300, "/dev/null/x.png"])
    pattern = chance.choice(
        [r"(?P<camera>\d{99999999999})", "(", "(?P<camera>.)" * 2, r"(?P<x>.)", "(?P<camera>(a*)*b)"]
    )
    return chance.choice([
        ["data", "import", crops, "--pattern", pattern, "-o", str(place.work / "m.csv")],
        ["data", "import", crops, "-o", output],
        ["data", "stats", str(place.data / "site-b"), "--picture", output],
        ["extract", "resnet18", crops, "--weights", "none", "--size", size, "-o", str(place.work / "f.npz")],
        ["extract", "resnet18", crops, "--weights", "none", "--size", "32x16", "-o", output],
        ["camstyle", "generate", str(place.data / "site-b"), "--method", "histogram", "--size", size],
        ["camstyle", "generate", str(place.data / "site-b"), "--method", "statistics", "--size", "32x16", "-o", output],
        ["data", "check", chance.choice(EVIL_NAMES)],
        ["train", chance.choice(EVIL_NAMES)],
        ["train", "--resume", chance.choice(["/dev/null", "", *EVIL_NAMES])],
        ["evaluate", chance.choice(EVIL_NAMES)],
        ["data", "import", crops, "--split", chance.choice(["nan", "inf", "-1"]), "-o", str(place.work / "m.csv")],
    ])  # fmt: skip


MAKERS: tuple[Make, ...] = (_override, _training, _yaml_file, _features, _crops, _manifest, _pairs, _options)
