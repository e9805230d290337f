"""Finding out what lies in a folder, and reading it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import get_args

from reid_da.datasets import cuhk03, folders, manifest, market_layout, msmt17
from reid_da.datasets.listing import describe_folder
from reid_da.datasets.table import Dataset
from reid_da.errors import InputError, unknown_name


@dataclass(frozen=True, kw_only=True)
class Format:
    """A layout on disk.

    Attributes:
        read: reads the folder (or file) that ``fits``; takes the ``options`` by keyword.
        fits: whether a folder (or file) has this layout.
        layout: what it looks like, for messages.
        aliases: names that the archives of the data set unpack to, and other toolkits use.
        options: names of the keyword arguments of ``read``.
    """

    read: Callable[..., Dataset]
    fits: Callable[[Path], bool]
    layout: str
    aliases: tuple[str, ...] = ()
    options: frozenset[str] = frozenset()


def _market_format(naming: market_layout.MarketNaming, *aliases: str) -> Format:
    return Format(
        read=partial(market_layout.read_market_layout, naming=naming),
        fits=partial(market_layout.uses_naming, naming=naming),
        layout=f"{market_layout.TRAIN}/, {market_layout.QUERY}/ and {market_layout.GALLERY}/ with its own file names",
        aliases=aliases,
    )


def _fits_manifest(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in manifest.SUFFIXES


def _fits_cuhk03np(path: Path) -> bool:
    return cuhk03.has_layout(path) or market_layout.uses_naming(path, market_layout.CUHK03NP)


def _read_cuhk03np(path: Path, **options: cuhk03.Boxes) -> Dataset:
    if market_layout.has_layout(path):
        return market_layout.read_market_layout(path, market_layout.CUHK03NP)
    return cuhk03.read_cuhk03np(path, **options)


FORMATS: dict[str, Format] = {
    "manifest": Format(
        read=manifest.read_manifest, fits=_fits_manifest, layout="a .csv or .parquet file with path,pid,camid,split"
    ),
    "msmt17": Format(
        read=msmt17.read_msmt17,
        fits=msmt17.has_layout,
        layout="list_train.txt, list_val.txt, list_query.txt, list_gallery.txt beside train/ and test/",
        aliases=("MSMT17_V1", "MSMT17_V2", "MSMT17", "msmt17"),
        options=frozenset({"train_lists"}),
    ),
    "cuhk03np": Format(
        read=_read_cuhk03np,
        fits=_fits_cuhk03np,
        layout="detected/ or labeled/ with bounding_box_train/, query/ and bounding_box_test/",
        aliases=("cuhk03-np", "cuhk03np", "CUHK03-NP", "CUHK03_NP", "cuhk03", "cuhk03_release"),
        options=frozenset({"boxes"}),
    ),
    "market1501": _market_format(
        market_layout.MARKET1501, "Market-1501-v15.09.15", "Market-1501", "market1501", "Market1501", "market"
    ),
    "dukemtmcreid": _market_format(
        market_layout.DUKEMTMCREID,
        "DukeMTMC-reID",
        "DukeMTMC-reid",
        "dukemtmc-reid",
        "dukemtmcreid",
        "dukemtmc",
        "duke",
    ),
    "msmt17-market": _market_format(market_layout.MSMT17_REFORMATTED, "msmt17", "MSMT17"),
    "market-style": _market_format(market_layout.OTHER),
    "folder": Format(
        read=folders.read_folder,
        fits=Path.is_dir,
        layout="images in folders, with a pattern that tells camera and person",
        options=frozenset({"pattern"}),
    ),
}
"""Formats by name, in the order in which they are tried."""

# Any folder of images is a "folder", and any names with a pid and a camera are "market-style": last resorts
FALLBACKS = ("market-style", "folder")

# A folder with more folders in it than this is one of identities, not one of data sets
MOST_CHILDREN = 64

OPTION_VALUES: dict[str, tuple[str, ...]] = {
    "train_lists": get_args(msmt17.TrainLists),
    "boxes": get_args(cuhk03.Boxes),
}


def load_dataset(path: str | Path, *, format: str | None = None, **options: str | None) -> Dataset:
    """The data set at a path, whatever its layout.

    Args:
        path: the data set's folder, a folder that holds it under one of its usual names, or a manifest.
        format: name of the layout, one of :data:`FORMATS`; found out from what is there if None.
        options: options of single formats, None where not given: ``train_lists`` (``msmt17``: ``train+val`` or
            ``train``), ``boxes`` (``cuhk03np``: ``detected`` or ``labelled``), ``pattern`` (``folder``).

    Raises:
        InputError: nothing is there, the layout is another one, or an option does not belong to the format.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    chosen = {key: value for key, value in options.items() if value is not None}
    if format is None:
        # a pattern says how to read the paths of any folder, whatever it looks like
        format, root = ("folder", path) if "pattern" in chosen else find_format(path)
    elif format not in FORMATS:
        raise unknown_name("format", format, FORMATS)
    else:
        root = _named_root(path, format)
    _check_options(format, chosen)
    return FORMATS[format].read(root, **chosen)


def find_format(path: Path) -> tuple[str, Path]:
    """Name of the format of the data set at ``path``, and the folder or file to read.

    Raises:
        InputError: nothing that can be read is there, or several data sets are.
    """
    strict = [name for name in FORMATS if name not in FALLBACKS]
    for name in (*strict, "market-style"):
        if FORMATS[name].fits(path):
            return name, path
    if (path / "manifest.csv").is_file():
        return "manifest", path / "manifest.csv"
    below = [(name, root) for name in strict for root in roots_below(path, name)]
    if len({root for _, root in below}) > 1:
        found = ", ".join(f"{name} in {root.relative_to(path)}/" for name, root in below)
        raise InputError(f"{path}: several data sets ({found}); give the folder of one of them")
    if below:
        return below[0]
    partial_layout = [
        name for name in (market_layout.TRAIN, market_layout.QUERY, market_layout.GALLERY) if (path / name).is_dir()
    ]
    if partial_layout:
        raise InputError(
            f"{path}: found {', '.join(partial_layout)}, but the layout of Market-1501 needs {market_layout.TRAIN}/, "
            f"{market_layout.QUERY}/ and {market_layout.GALLERY}/, each with images; "
            "to read one folder alone, name it with format=folder"
        )
    if path.is_dir():
        return "folder", path
    raise InputError(f"{path}: expected a folder or a manifest ({', '.join(sorted(manifest.SUFFIXES))})")


def roots_below(path: Path, name: str) -> list[Path]:
    """Folders below ``path``, or below one of its folders under a usual name, that have the format's layout."""
    if not path.is_dir():
        return []
    children = [child for child in sorted(path.iterdir()) if child.is_dir() and not child.name.startswith(".")]
    if len(children) > MOST_CHILDREN:
        return []
    inner = [child / alias for child in children for alias in FORMATS[name].aliases]
    return [root for root in (*children, *inner) if FORMATS[name].fits(root)]


def _named_root(path: Path, name: str) -> Path:
    fits = [root for root in (path, *roots_below(path, name)) if FORMATS[name].fits(root)]
    if name == "manifest" and path.is_dir() and (path / "manifest.csv").is_file():
        return path / "manifest.csv"
    if name == "manifest" and path.is_file():
        return path
    if not fits:
        found = describe_folder(path) if path.is_dir() else "a file"
        raise InputError(f"{path}: looked for the format {name} ({FORMATS[name].layout}), found {found}")
    return fits[0]


def _check_options(format: str, options: dict[str, str]) -> None:
    for key, value in options.items():
        known = {option for entry in FORMATS.values() for option in entry.options}
        if key not in known:
            raise unknown_name("option", key, known)
        if key not in FORMATS[format].options:
            owners = ", ".join(name for name, entry in FORMATS.items() if key in entry.options)
            raise InputError(f"option {key} belongs to the format {owners}; this data set is read as {format}")
        if key in OPTION_VALUES and value not in OPTION_VALUES[key]:
            raise unknown_name(f"value of option {key}", value, OPTION_VALUES[key])
