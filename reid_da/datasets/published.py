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
        title: name in print.
        counts: published numbers by what they count, e.g. ``train images``. Gallery images are counted without
            junk (pid -1) and with distractors, identities without both.
        causes: known causes of other numbers: ``(what is counted, number): cause``.
    """

    title: str
    counts: Mapping[str, int]
    causes: Mapping[tuple[str, int], str] = field(default_factory=dict)


def _counts(
    train_ids: int, train_images: int, query_ids: int, query_images: int, gallery_images: int
) -> dict[str, int]:
    return {
        "train ids": train_ids,
        "train images": train_images,
        "query ids": query_ids,
        "query images": query_images,
        "gallery images": gallery_images,
    }


_MSMT17 = PublishedCounts(
    title="MSMT17",
    counts=_counts(1041, 32621, 3060, 11659, 82161),
    causes={("train images", 30248): "list_train.txt alone, without the 2,373 images of list_val.txt"},
)

PUBLISHED: dict[str, tuple[PublishedCounts, ...]] = {
    "market1501": (
        PublishedCounts(
            title="Market-1501",
            counts=_counts(751, 12936, 750, 3368, 15913),
            causes={
                ("gallery images", 19732): "the 3,819 junk images (pid -1) are counted as somebody",
                ("gallery images", 13115): "the 2,798 distractors (pid 0000) are left out",
                ("gallery images", 515913): "the 500,000 extra distractors are included",
            },
        ),
    ),
    "dukemtmcreid": (PublishedCounts(title="DukeMTMC-reID", counts=_counts(702, 16522, 702, 2228, 17661)),),
    "msmt17": (_MSMT17,),
    "msmt17-market": (_MSMT17,),
    "cuhk03np": (
        PublishedCounts(title="CUHK03-NP (detected)", counts=_counts(767, 7365, 700, 1400, 5332)),
        PublishedCounts(title="CUHK03-NP (labelled)", counts=_counts(767, 7368, 700, 1400, 5328)),
    ),
}
"""Counts by name of the format (Zheng et al., ICCV 2015; Zheng et al., ICCV 2017; Wei et al., CVPR 2018, both versions
of MSMT17; Zhong et al., CVPR 2017). A data set that comes in two kinds has an entry for each."""


def published_findings(data_format: str, splits: Mapping[str, SplitCounts]) -> list[Finding]:
    """How the counts compare with those of the known data set of this format, empty where there is none.

    Many people give their own data the names of a known set. So a data set is taken for the known one only if at
    least half of its counts are within :data:`CLOSE` of the published ones, and a difference is never a problem.
    Empty splits are not compared.

    Args:
        data_format: name of the layout, :attr:`reid_da.datasets.Dataset.format`.
        splits: counts of the splits by name.
    """
    candidates = PUBLISHED.get(data_format)
    counts = _comparable(splits)
    if not candidates or not counts:
        return []
    published = min(candidates, key=lambda candidate: _difference(counts, candidate))
    near = [abs(count / published.counts[what] - 1) <= CLOSE for what, count in counts.items()]
    if sum(near) * 2 < len(near):
        message = f"uses the naming of {published.title} but is another data set"
        return [Finding(severity="note", code="other-data-set", message=message, count=1)]
    differing = [_mismatch(published, what, count) for what, count in counts.items() if count != published.counts[what]]
    if differing:
        return differing
    message = f"all counts are those published for {published.title}"
    return [Finding(severity="note", code="published-counts", message=message, count=len(counts))]


def _comparable(splits: Mapping[str, SplitCounts]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name, split in splits.items():
        if split.images:
            counts[f"{name} images"] = split.images - split.junk
            if not split.unlabelled:
                counts[f"{name} ids"] = split.ids
    counts.pop("gallery ids", None)  # not published for every set
    return counts


def _difference(counts: Mapping[str, int], published: PublishedCounts) -> float:
    return sum(abs(count / published.counts[what] - 1) for what, count in counts.items())


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
