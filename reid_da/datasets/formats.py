"""The layouts on disk that are read, by name."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import get_args

from reid_da.datasets import (
    cuhk03,
    folders,
    manifest,
    market_layout,
    mars,
    msmt17,
    occluded_reid,
    small_sets,
    trials,
    vehicleid,
)
from reid_da.datasets.table import Dataset


@dataclass(frozen=True, kw_only=True)
class Format:
    """A layout on disk.

    Attributes:
        read: reads a folder (or file); takes the ``options`` by keyword.
        fits: whether a folder (or file) is recognised as this data set, where no format is named.
        holds: whether a folder can be read so, where the format is named; ``fits`` if None.
        layout: what it looks like, for messages.
        aliases: names that the archives of the data set unpack to, and other toolkits use.
        options: names of the keyword arguments of ``read``.
    """

    read: Callable[..., Dataset]
    fits: Callable[[Path], bool]
    layout: str
    holds: Callable[[Path], bool] | None = None
    aliases: tuple[str, ...] = ()
    options: frozenset[str] = frozenset()

    def can_read(self, path: Path) -> bool:
        """Whether a folder can be read in this format, which was named."""
        return (self.holds or self.fits)(path)


def _market_format(naming: market_layout.MarketNaming, *aliases: str) -> Format:
    names = naming.folders or market_layout.MARKET_FOLDERS
    return Format(
        read=partial(market_layout.read_market_layout, naming=naming),
        fits=partial(market_layout.uses_naming, naming=naming),
        holds=partial(market_layout.has_layout, folders=None),
        layout=f"{names[0]}/, {names[1]}/ and {names[2]}/ with its own file names",
        aliases=aliases,
    )


def _trial_format(
    read: Callable[..., Dataset],
    fits: Callable[[Path], bool],
    layout: str,
    *aliases: str,
    options: tuple[str, ...] = (),
) -> Format:
    return Format(
        read=read, fits=fits, layout=layout, aliases=aliases, options=frozenset({"trial", *options}), holds=Path.is_dir
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
        read=manifest.read_manifest,
        fits=_fits_manifest,
        holds=Path.is_file,
        layout="a .csv or .parquet file with path,pid,camid,split",
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
        holds=lambda path: cuhk03.has_layout(path) or market_layout.has_layout(path),
        layout="detected/ or labeled/ with bounding_box_train/, query/ and bounding_box_test/",
        aliases=("cuhk03-np", "cuhk03np", "CUHK03-NP", "CUHK03_NP", "cuhk03", "cuhk03_release"),
        options=frozenset({"boxes"}),
    ),
    "market1501": _market_format(
        market_layout.MARKET1501, "Market-1501-v15.09.15", "Market-1501", "market1501", "Market1501", "market"
    ),
    "occluded-duke": _market_format(
        market_layout.OCCLUDED_DUKE, "Occluded_Duke", "Occluded-DukeMTMC-reID", "occluded-duke", "occludedduke"
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
    "veri776": _market_format(market_layout.VERI, "VeRi", "VeRi-776", "VeRi_with_plate", "veri"),
    "vehicleid": Format(
        read=vehicleid.read_vehicleid,
        fits=vehicleid.has_layout,
        layout="image/ and train_test_split/ with train_list.txt and test_list_800.txt",
        aliases=("VehicleID_V1.0", "VehicleID", "vehicleid"),
        options=frozenset({"test_list", "trial"}),
    ),
    "mars": Format(
        read=mars.read_mars, fits=mars.has_layout, layout="bbox_train/ and bbox_test/", aliases=("MARS", "mars")
    ),
    "occluded-reid": Format(
        read=occluded_reid.read_occluded_reid,
        fits=occluded_reid.has_layout,
        layout="occluded_body_images/ and whole_body_images/",
        aliases=("Occluded_REID", "Occluded_ReID", "occluded-reid"),
    ),
    "prid2011": _trial_format(
        small_sets.read_prid2011,
        small_sets.has_prid2011,
        "single_shot/cam_a/person_0001.png",
        "prid_2011",
        "prid2011",
        "PRID2011",
    ),
    "viper": _trial_format(small_sets.read_viper, small_sets.has_viper, "cam_a/000_45.bmp", "VIPeR", "viper"),
    "cuhk01": _trial_format(small_sets.read_cuhk01, small_sets.has_cuhk01, "campus/0001001.png", "CUHK01", "cuhk01"),
    "grid": _trial_format(
        small_sets.read_grid, small_sets.has_grid, "probe/ and gallery/", "underground_reid", "grid", "GRID"
    ),
    "ilids": _trial_format(
        small_sets.read_ilids, small_sets.has_ilids, "Persons/0001001.jpg", "i-LIDS_Pedestrian", "ilids"
    ),
    "caviar4reid": _trial_format(
        small_sets.read_caviar, small_sets.has_caviar, "CAVIARa/0001001.jpg", "CAVIAR4REID", "caviar4reid", "CAVIARa"
    ),
    "market-style": _market_format(market_layout.OTHER),
    "folder": Format(
        read=folders.read_folder,
        fits=Path.is_dir,
        layout="images in folders, with a pattern that tells camera and person",
        options=frozenset({"pattern", "layout"}),
    ),
}
"""Formats by name, in the order in which they are tried."""

# Any folder of images is a "folder", and any names with a pid and a camera are "market-style": last resorts
FALLBACKS = ("market-style", "folder")
"""Formats that fit much, tried after all others."""

OPTION_VALUES: dict[str, tuple[str, ...]] = {
    "train_lists": get_args(msmt17.TrainLists),
    "boxes": get_args(cuhk03.Boxes),
    "layout": get_args(folders.Layout),
    "test_list": get_args(vehicleid.TestList),
    "trial": trials.TRIALS,
}
"""Values of the options that have a few."""

OPTIONS = frozenset(option for entry in FORMATS.values() for option in entry.options)
"""Names of all options."""
