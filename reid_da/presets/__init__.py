"""Settings that ship with the package: the recipes of papers, and small ones for CPUs.

A settings file builds on one by its name (``base: spcl``), and commands take the name in place of a file.
"""

from pathlib import Path

from reid_da.errors import InputError

_FOLDER = Path(__file__).parent

PRESETS = tuple(sorted(file.stem for file in _FOLDER.glob("*.yaml")))
"""Names of the presets."""


def is_preset(name: str | Path) -> bool:
    """Whether a text is the name of a preset, and not that of a file that exists."""
    return str(name) in PRESETS and not Path(name).is_file()


def settings_file(name: str | Path, folder: Path = Path()) -> Path:
    """The file that a settings file or a command names: a path, or the name of a preset.

    Args:
        name: path relative to ``folder``, or a name of :data:`PRESETS`; a file of that name comes first.
        folder: folder of the file that names it.

    Raises:
        InputError: it has neither folder nor suffix, so that it can only be a preset, and there is none of this name.
    """
    file = folder / name
    if file.is_file() or len(file.parts) > len(folder.parts) + 1 or file.suffix or not str(name):
        return file
    if str(name) in PRESETS:
        return _FOLDER / f"{name}.yaml"
    if file.exists():  # a folder, about which reading it has more to say
        return file
    raise InputError(f"{file}: no such file, and no preset of this name ({', '.join(PRESETS)})")
