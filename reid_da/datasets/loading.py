"""Finding out what lies in a folder, and reading it."""

import logging
import re
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from reid_da.datasets import manifest, market_layout
from reid_da.datasets.formats import FALLBACKS, FORMATS, OPTION_VALUES, OPTIONS
from reid_da.datasets.listing import count_suffixes, describe_folder, is_utf8, list_unread
from reid_da.datasets.table import Dataset
from reid_da.errors import InputError, unknown_name

# A folder with more folders in it than this is one of identities, not one of data sets
MOST_CHILDREN = 64
"""Folders with more children are not searched for data sets inside."""
MANIFEST = "manifest.csv"
"""Name of a manifest that says how its folder is read."""

logger = logging.getLogger(__name__)


def load_dataset(path: str | Path, *, format: str | None = None, **options: str | None) -> Dataset:
    """The data set at a path, whatever its layout. The log says once how it was read.

    Args:
        path: the data set's folder, a folder that holds it under one of its usual names, or a manifest. Format and
            options may follow it, as where no other place for them is: ``crops#layout=person-folders``,
            ``data/cuhk03-np#boxes=labelled``, with commas between several.
        format: name of the layout, one of :data:`FORMATS`; found out from what is there if None. A format that is named
            is read wherever its folders are, whether or not the file names would be recognised.
        options: options of single formats, None where not given: ``train_lists`` (``msmt17``: ``train+val`` or
            ``train``), ``boxes`` (``cuhk03np``: ``detected`` or ``labelled``), ``pattern`` and ``layout`` (``folder``),
            ``trial`` (sets whose protocol is a random split: ``0`` to ``9``), ``test_list`` (``vehicleid``).

    Raises:
        InputError: nothing is there, the layout is another one, or an option does not belong to the format.
    """
    path, written = split_path(path)
    format = format or written.pop("format", None)
    written.pop("format", None)
    chosen = written | {key: value for key, value in options.items() if value is not None}
    if not is_utf8(str(path)):
        raise InputError(f"{path}: the path is not valid UTF-8; rename it")
    if not _exists(path):
        raise InputError(f"{path}: no such file or folder")
    if format is not None and format not in FORMATS:
        raise unknown_name("format", format, FORMATS)
    if format is None and {"pattern", "layout"} & set(chosen):
        # they say how to read the paths of any folder, whatever it looks like
        format = "folder"
    if format is None:
        format, root = find_format(path)
    else:
        root = _named_root(path, format)
    _check_options(format, chosen)
    dataset = FORMATS[format].read(root, **chosen)
    if format != "manifest":
        dataset = replace(dataset, passed_over=tuple(list_unread(root)))
    _say(_told(dataset))
    return dataset


def split_path(path: str | Path) -> tuple[Path, dict[str, str]]:
    """A path without the options that may follow it, and these by name; ``~`` is the home folder.

    Raises:
        InputError: something follows that is no option, or there is no such user.
    """
    text = str(path)
    whole = _expanded(text)
    if _exists(whole):
        return whole, {}
    for match in re.finditer("#", text):
        base = _expanded(text[: match.start()])
        if match.start() and _exists(base):
            return base, _written_options(text, text[match.end() :])
    return whole, {}


def _expanded(text: str) -> Path:
    """The path with ``~`` as the home folder, unless there is a file or folder of that name."""
    if _exists(Path(text)):
        return Path(text)
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise InputError(f"{text}: {error}") from error


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    # too long for a name, which a pattern behind a # may be, or with a zero byte
    except (OSError, ValueError):
        return False


def _written_options(text: str, tail: str) -> dict[str, str]:
    names = "|".join(sorted(OPTIONS | {"format"}))
    options = {}
    # a comma that no option follows belongs to a pattern
    for part in re.split(rf",(?=(?:{names})=)", tail):
        key, is_set, value = part.partition("=")
        if not is_set or not value:
            raise InputError(
                f"{text}: expected option=value behind the #, such as #layout=person-folders, got {part!r}"
            )
        if key not in OPTIONS | {"format"}:
            raise unknown_name("option", key, OPTIONS | {"format"})
        options[key] = value
    return options


def find_format(path: Path) -> tuple[str, Path]:
    """Name of the format of the data set at ``path``, and the folder or file to read.

    A ``manifest.csv`` of ours comes first: somebody made it to say how the folder is to be read.

    Raises:
        InputError: nothing that can be read is there, or several data sets are.
    """
    if manifest.is_manifest(path / MANIFEST):
        return "manifest", path / MANIFEST
    strict = [name for name in FORMATS if name not in FALLBACKS]
    for name in (*strict, "market-style"):
        if FORMATS[name].fits(path):
            return name, path
    below = [(name, root) for name in strict for root in roots_below(path, name)]
    if len({root for _, root in below}) > 1:
        found = ", ".join(f"{name} in {root.relative_to(path)}/" for name, root in below)
        raise InputError(f"{path}: several data sets ({found}); give the folder of one of them")
    if below:
        return below[0]
    partial_layout = [name for name in market_layout.MARKET_FOLDERS if (path / name).is_dir()]
    # a folder called query may be part of any layout
    if partial_layout and partial_layout != [market_layout.QUERY] and not market_layout.has_layout(path):
        raise InputError(
            f"{path}: found {', '.join(partial_layout)}, but the layout of Market-1501 needs {market_layout.TRAIN}/, "
            f"{market_layout.QUERY}/ and {market_layout.GALLERY}/, each with images; "
            f"to read one folder alone, give its path: {path / partial_layout[0]}"
        )
    if market_layout.has_layout(path):
        # the names of the training images fit nothing; reading tells which
        return "market-style", path
    if path.is_dir():
        return "folder", path
    raise InputError(f"{path}: expected a folder or a manifest ({', '.join(sorted(manifest.SUFFIXES))})")


def roots_below(path: Path, name: str) -> list[Path]:
    """Folders below ``path``, or below one of its folders under a usual name, that are recognised as the format."""
    return [root for root in _candidates(path, name) if FORMATS[name].fits(root)]


def _candidates(path: Path, name: str) -> list[Path]:
    if not path.is_dir():
        return []
    children = [child for child in sorted(path.iterdir()) if child.is_dir() and not child.name.startswith(".")]
    if len(children) > MOST_CHILDREN:
        return []
    return [*children, *(child / alias for child in children for alias in FORMATS[name].aliases)]


def _named_root(path: Path, name: str) -> Path:
    """The folder to read in a format that was named: the path itself if it holds the layout, or one below it."""
    entry = FORMATS[name]
    if name == "manifest" and (path / MANIFEST).is_file():
        return path / MANIFEST
    if entry.fits(path):
        return path
    recognised = roots_below(path, name)
    if recognised:
        return recognised[0]
    held = [root for root in (path, *_candidates(path, name)) if root.exists() and entry.can_read(root)]
    if held:
        return held[0]
    found = describe_folder(path) if path.is_dir() else "a file"
    raise InputError(f"{path}: looked for the format {name} ({entry.layout}), found {found}")


def _check_options(format: str, options: dict[str, str]) -> None:
    for key, value in options.items():
        if key not in OPTIONS:
            raise unknown_name("option", key, OPTIONS)
        if key not in FORMATS[format].options:
            owners = ", ".join(name for name, entry in FORMATS.items() if key in entry.options)
            raise InputError(f"option {key} belongs to the format {owners}; this data set is read as {format}")
        if key in OPTION_VALUES and value not in OPTION_VALUES[key]:
            raise unknown_name(f"value of option {key}", value, OPTION_VALUES[key])


def _told(dataset: Dataset) -> str:
    """How a data set was read, with what was passed over."""
    if not dataset.passed_over:
        return dataset.reading
    kinds = count_suffixes(dataset.passed_over)
    return f"{dataset.reading}; {len(dataset.passed_over)} files of kinds that are not read: {kinds}"


@lru_cache(maxsize=256)
def _say(text: str) -> None:
    """Log a line, but only once however often the same data set is read."""
    logger.info("%s", text)
