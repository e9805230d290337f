"""Published counts of the known data sets, and how a data set on disk compares with them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from reid_da.datasets.findings import Finding
from reid_da.datasets.statistics import SplitCounts

CLOSE = 0.2
"""A count within this share of the published one is near it."""


@dataclass(frozen=True, kw_only=True)
class PublishedCounts:
    """What the papers say of a data set.

    Attributes:
        name: name of the data set for programs.
        title: name in print.
        counts: published numbers by what they count, e.g. ``train images``, as far as there are any. Gallery images
            are counted without junk (pid -1) and with distractors, identities without both.
        causes: known causes of other numbers: ``(what is counted, number): cause``.
    """

    name: str
    title: str
    counts: Mapping[str, int]
    causes: Mapping[tuple[str, int], str] = field(default_factory=dict)


_NAMES = ("train ids", "train images", "query ids", "query images", "gallery images")


def _counts(*numbers: int | None) -> dict[str, int]:
    """Counts in the order of :data:`_NAMES`, None where there is none."""
    return {name: number for name, number in zip(_NAMES, numbers, strict=True) if number is not None}


_MSMT17 = PublishedCounts(
    name="msmt17",
    title="MSMT17",
    counts=_counts(1041, 32621, 3060, 11659, 82161),
    causes={("train images", 30248): "list_train.txt alone, without the 2,373 images of list_val.txt"},
)
_OCCLUDED_DUKE = PublishedCounts(
    name="occluded-duke", title="Occluded-DukeMTMC", counts=_counts(702, 15618, 519, 2210, 17661)
)


def _drawn(name: str, title: str, *numbers: int | None) -> tuple[PublishedCounts, ...]:
    return (PublishedCounts(name=name, title=title, counts=_counts(*numbers)),)


PUBLISHED: dict[str, tuple[PublishedCounts, ...]] = {
    "market1501": (
        PublishedCounts(
            name="market1501",
            title="Market-1501",
            counts=_counts(751, 12936, 750, 3368, 15913),
            causes={
                ("gallery images", 19732): "the 3,819 junk images (pid -1) are counted as somebody",
                ("gallery images", 13115): "the 2,798 distractors (pid 0000) are left out",
                ("gallery images", 515913): "the 500,000 extra distractors are included",
            },
        ),
    ),
    # the names of the files are the same in both
    "dukemtmcreid": (
        PublishedCounts(name="dukemtmcreid", title="DukeMTMC-reID", counts=_counts(702, 16522, 702, 2228, 17661)),
        _OCCLUDED_DUKE,
    ),
    "occluded-duke": (_OCCLUDED_DUKE,),
    "msmt17": (_MSMT17,),
    "msmt17-market": (_MSMT17,),
    "cuhk03np": (
        PublishedCounts(name="cuhk03np", title="CUHK03-NP (detected)", counts=_counts(767, 7365, 700, 1400, 5332)),
        PublishedCounts(name="cuhk03np", title="CUHK03-NP (labelled)", counts=_counts(767, 7368, 700, 1400, 5328)),
    ),
    "veri776": _drawn("veri776", "VeRi-776", 576, 37778, 200, 1678, 11579),
    # sources differ about its images
    "vehicleid": tuple(
        PublishedCounts(
            name="vehicleid", title=f"VehicleID (test list {ids})", counts=_counts(13164, None, ids, None, ids)
        )
        for ids in (800, 1600, 2400)
    ),
    "mars": _drawn("mars", "MARS", 625, 509914, None, 1980, None),
    "occluded-reid": _drawn("occluded-reid", "Occluded-REID", None, None, 200, 1000, 1000),
    "viper": _drawn("viper", "VIPeR", 316, 632, 316, 316, 316),
    "prid2011": _drawn("prid2011", "PRID2011 (single-shot)", 100, 200, 100, 100, 649),
    "cuhk01": _drawn("cuhk01", "CUHK01", 485, 1940, 486, 972, 972),
    "grid": _drawn("grid", "GRID", 125, 250, 125, 125, 900),
    "ilids": _drawn("ilids", "QMUL i-LIDS", 59, None, 60, None, 60),
    "caviar4reid": _drawn("caviar4reid", "CAVIAR4REID", 36, None, 36, None, 36),
}
"""Counts by name of the format (Zheng et al., ICCV 2015; Zheng et al., ICCV 2017; Miao et al., ICCV 2019; Wei et al.,
CVPR 2018, both versions of MSMT17; Zhong et al., CVPR 2017; Liu et al., ECCV 2016; Liu et al., CVPR 2016; Zheng et
al., ECCV 2016; Zhuo et al., ICME 2018; of the small sets what follows from their identities and the protocol). A data
set that comes in several kinds has an entry for each."""


def published_findings(data_format: str, splits: Mapping[str, SplitCounts]) -> list[Finding]:
    """How the counts compare with those of the known data set of this format, empty where there is none.

    Many people give their own data the names of a known set. So a data set is taken for the known one only if at
    least half of its counts are within :data:`CLOSE` of the published ones, and a difference is never a problem.
    Empty splits are not compared.

    Args:
        data_format: name of the layout, :attr:`reid_da.datasets.Dataset.format`.
        splits: counts of the splits by name.
    """
    published = _nearest(data_format, splits)
    if published is None:
        return []
    counts = _comparable(splits, published)
    near = [abs(count / published.counts[what] - 1) <= CLOSE for what, count in counts.items()]
    if sum(near) * 2 < len(near):
        message = f"uses the naming of {published.title} but is another data set"
        return [Finding(severity="note", code="other-data-set", message=message, count=1)]
    differing = [_mismatch(published, what, count) for what, count in counts.items() if count != published.counts[what]]
    if differing:
        return differing
    message = f"all counts are those published for {published.title}"
    return [Finding(severity="note", code="published-counts", message=message, count=len(counts))]


def published_set(data_format: str, splits: Mapping[str, SplitCounts]) -> str | None:
    """Name of the published data set whose counts these are, None if there is none or a count differs."""
    published = _nearest(data_format, splits)
    if published is None:
        return None
    counts = _comparable(splits, published)
    return published.name if all(count == published.counts[what] for what, count in counts.items()) else None


def _nearest(data_format: str, splits: Mapping[str, SplitCounts]) -> PublishedCounts | None:
    """The published set of this format whose counts differ least, None if there is nothing to compare."""
    candidates = [published for published in PUBLISHED.get(data_format, ()) if _comparable(splits, published)]
    return min(candidates, key=lambda published: _difference(splits, published), default=None)


def _comparable(splits: Mapping[str, SplitCounts], published: PublishedCounts) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name, split in splits.items():
        if split.images:
            counts[f"{name} images"] = split.images - split.junk
            if not split.unlabelled:
                counts[f"{name} ids"] = split.ids
    return {what: count for what, count in counts.items() if what in published.counts}


def _difference(splits: Mapping[str, SplitCounts], published: PublishedCounts) -> float:
    counts = _comparable(splits, published)
    return sum(abs(count / published.counts[what] - 1) for what, count in counts.items()) / len(counts)


def _mismatch(published: PublishedCounts, what: str, count: int) -> Finding:
    cause = published.causes.get((what, count))
    message = f"{count:,} {what}, where {published.title} has {published.counts[what]:,}: "
    message += cause or "images are missing or were added; results cannot be compared with published ones"
    return Finding(
        severity="note" if cause else "warning",
        code="published-counts-differ",
        message=message,
        count=abs(count - published.counts[what]),
    )
