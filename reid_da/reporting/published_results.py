"""Results that ECN's paper prints, to stand beside measured ones: Zhong et al., CVPR 2019, Tables 1, 2, 4 and 5.

Percent as printed are in the tables below; the records hold fractions. The paper's own mAP is the area by the
trapezoidal rule, ``mAP_trapezoid`` of an evaluation. Other methods are quoted as the paper quotes them; it does not say
by which rule their mAP was computed. Rows of the other methods here come from :mod:`.published_methods`.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from reid_da.config.common import DataSettings
from reid_da.datasets import Dataset, load_dataset
from reid_da.datasets.published import published_set
from reid_da.datasets.statistics import count_splits
from reid_da.errors import InputError
from reid_da.reporting.published_methods import method_figures

Figures: TypeAlias = tuple[float | None, ...]
"""Percent: rank-1, rank-5, rank-10, rank-20, mAP; None where the table has no figure."""
Pair: TypeAlias = tuple[str, str]
"""Names of the source and of the target."""

_PAPER = "Zhong et al., CVPR 2019"
_KEYS = ("rank1", "rank5", "rank10", "rank20", "mAP_trapezoid", "mAP")
_D_TO_M: Pair = ("dukemtmcreid", "market1501")
_M_TO_D: Pair = ("market1501", "dukemtmcreid")
_M_TO_MSMT: Pair = ("market1501", "msmt17")
_D_TO_MSMT: Pair = ("dukemtmcreid", "msmt17")


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """One line of a published table, as fractions from 0 to 1; None where nothing is printed.

    Attributes:
        name: row of the ablation (``e+c``), value of the parameter, or name of the method.
        origin: paper and table.
        rank1: CMC at rank 1.
        rank5: CMC at rank 5.
        rank10: CMC at rank 10.
        rank20: CMC at rank 20.
        mean_ap_trapezoid: mean average precision by the trapezoidal rule.
        mean_ap: the same by a rule that is not stated.
    """

    name: str
    origin: str
    rank1: float | None
    rank5: float | None
    rank10: float | None
    rank20: float | None
    mean_ap_trapezoid: float | None = None
    mean_ap: float | None = None

    def to_json(self) -> dict[str, float]:
        """What is printed, under the keys of an evaluation."""
        values = (self.rank1, self.rank5, self.rank10, self.rank20, self.mean_ap_trapezoid, self.mean_ap)
        return {key: value for key, value in zip(_KEYS, values, strict=True) if value is not None}


_ABLATION: dict[Pair, dict[str, Figures]] = {
    _D_TO_M: {
        "supervised": (87.6, 95.5, 97.2, 98.3, 69.4),
        "source": (43.1, 58.8, 67.3, 74.3, 17.7),
        "e": (48.7, 67.4, 74.0, 80.2, 21.0),
        "e+c": (63.1, 79.1, 84.6, 89.1, 28.4),
        "e+n": (58.0, 69.9, 75.6, 80.4, 27.7),
        "e+c+n": (75.1, 87.6, 91.6, 94.5, 43.0),
    },
    _M_TO_D: {
        "supervised": (75.6, 87.3, 90.6, 92.9, 57.8),
        "source": (28.9, 44.0, 50.9, 57.5, 14.8),
        "e": (34.2, 51.3, 58.0, 64.2, 18.7),
        "e+c": (53.9, 70.8, 76.1, 80.7, 29.7),
        "e+n": (39.7, 53.0, 58.1, 62.9, 23.6),
        "e+c+n": (63.3, 75.8, 80.4, 84.2, 40.4),
    },
    _M_TO_MSMT: {"e+c+n": (25.3, 36.3, 42.1, None, 8.5)},
    _D_TO_MSMT: {"e+c+n": (30.2, 41.5, 46.8, None, 10.2)},
}
_TEMPERATURES: dict[Pair, dict[str, Figures]] = {
    _D_TO_M: {
        "0.01": (47.3, None, None, None, 20.0),
        "0.03": (72.3, None, None, None, 40.3),
        "0.05": (75.1, None, None, None, 43.0),
        "0.1": (71.4, None, None, None, 36.8),
        "0.5": (52.3, None, None, None, 23.1),
        "1": (47.8, None, None, None, 20.8),
    },
    _M_TO_D: {
        "0.01": (29.1, None, None, None, 13.2),
        "0.03": (59.7, None, None, None, 35.7),
        "0.05": (63.3, None, None, None, 40.4),
        "0.1": (59.3, None, None, None, 35.8),
        "0.5": (45.4, None, None, None, 24.2),
        "1": (40.2, None, None, None, 19.3),
    },
}
_CHOSEN = {"loss_weight": "0.3", "memory.num_neighbors": "6"}
"""What the full method was trained with, of the settings that Figures 3 and 4 vary."""
_COMPARATORS: dict[Pair, dict[str, Figures]] = {
    _D_TO_M: {
        "LOMO": (27.2, 41.6, 49.1, None, 8.0),
        "BoW": (35.8, 52.4, 60.3, None, 14.8),
        "UMDL": (34.5, 52.6, 59.6, None, 12.4),
        "PTGAN": (38.6, None, 66.1, None, None),
        "PUL": (45.5, 60.7, 66.7, None, 20.5),
        "SPGAN": (51.5, 70.1, 76.8, None, 22.8),
        "CAMEL": (54.5, None, None, None, 26.3),
        "MMFA": (56.7, 75.0, 81.8, None, 27.4),
        "SPGAN+LMP": (57.7, 75.8, 82.4, None, 26.7),
        "TJ-AIDL": (58.2, 74.8, 81.1, None, 26.5),
        "CamStyle": (58.8, 78.2, 84.3, None, 27.4),
        "HHL": (62.2, 78.8, 84.0, None, 31.4),
    },
    _M_TO_D: {
        "LOMO": (12.3, 21.3, 26.6, None, 4.8),
        "BoW": (17.1, 28.8, 34.9, None, 8.3),
        "UMDL": (18.5, 31.4, 37.6, None, 7.3),
        "PTGAN": (27.4, None, 50.7, None, None),
        "PUL": (30.0, 43.4, 48.5, None, 16.4),
        "SPGAN": (41.1, 56.6, 63.0, None, 22.3),
        "MMFA": (45.3, 59.8, 66.3, None, 24.7),
        "SPGAN+LMP": (46.4, 62.3, 68.0, None, 26.2),
        "TJ-AIDL": (44.3, 59.6, 65.0, None, 23.0),
        "CamStyle": (48.4, 62.5, 68.9, None, 25.1),
        "HHL": (46.9, 61.0, 66.7, None, 27.2),
    },
    _M_TO_MSMT: {"PTGAN": (10.2, None, 24.4, None, 2.9)},
    _D_TO_MSMT: {"PTGAN": (11.8, None, 27.4, None, 3.3)},
}


def published_name(dataset: Dataset) -> str | None:
    """Name of the published data set that this one is: ``market1501``, ``dukemtmcreid``, ``msmt17``; else None.

    Own data often use the layout of a known set. So all counts have to be the published ones, those of empty splits
    excepted: a result on a part of the images cannot be compared.
    """
    splits = {counts.name: counts for counts in count_splits(dataset)}
    return published_set(dataset.format, splits)


def published_pair(data: DataSettings) -> tuple[str | None, str | None]:
    """Names of the source and of the target of an experiment where they are published data sets, else None.

    A data set that cannot be read has none: the training refuses it, if it needs it at all.
    """

    def name(path: Path | tuple[Path, ...] | None) -> str | None:
        try:
            return published_name(load_dataset(path)) if isinstance(path, Path) else None
        except (InputError, OSError):
            return None

    return name(data.source), name(data.target)


def published_rows(source: str | None, target: str | None) -> dict[str, PublishedRow]:
    """Rows of the paper's ablation by name, and of the other methods here; empty where nothing is printed.

    Table 2 has ``supervised``, ``source``, ``e``, ``e+c``, ``e+n`` and ``e+c+n``; for MSMT17, Table 5 has the last.
    ``camstyle``, which an ablation here has too, is quoted from the comparison in Table 4. The others are those of
    :func:`.published_methods.method_figures`.

    Args:
        source: name of the published source, see :func:`published_name`; None for any other data.
        target: the same of the target.
    """
    table = "Table 5" if target == "msmt17" else "Table 2"
    rows = {name: _published(name, table, figures) for name, figures in _of_pair(_ABLATION, source, target).items()}
    for comparator in published_comparators(source, target):
        if comparator.name == "CamStyle":
            rows["camstyle"] = replace(comparator, name="camstyle")
    for name, (origin, percent) in method_figures(source, target).items():
        rank1, rank5, rank10, mean_ap = map(_fraction, percent)
        rows[name] = PublishedRow(
            name=name, origin=origin, rank1=rank1, rank5=rank5, rank10=rank10, rank20=None, mean_ap=mean_ap
        )
    return rows


def published_row(source: str | None, target: str | None, row: str) -> PublishedRow | None:
    """One of :func:`published_rows`, or None where the paper does not have it."""
    return published_rows(source, target).get(row)


def published_sweep(source: str | None, target: str | None, key: str) -> dict[str, PublishedRow]:
    """Rows of the paper's sweep of a setting by value; empty where it has none.

    Table 1 has ``memory.temperature``. Figures 3 and 4, the sweeps of ``loss_weight`` and ``memory.num_neighbors``, are
    curves without numbers: of them the point that the full method of Table 2 (for MSMT17 of Table 5) was trained with.

    Args:
        source: name of the published source, see :func:`published_name`; None for any other data.
        target: the same of the target.
        key: setting.
    """
    if key in _CHOSEN:
        full = published_row(source, target, "e+c+n")
        return {} if full is None else {_CHOSEN[key]: replace(full, name=_CHOSEN[key])}
    rows = _of_pair(_TEMPERATURES, source, target) if key == "memory.temperature" else {}
    return {value: _published(value, "Table 1", figures) for value, figures in rows.items()}


def published_comparators(source: str | None, target: str | None) -> tuple[PublishedRow, ...]:
    """Rows of other methods (Table 4; for MSMT17 Table 5), in the order of the paper; empty where it has none.

    LOMO, BoW and CAMEL learn nothing from the source.

    Args:
        source: name of the published source, see :func:`published_name`; None for any other data.
        target: the same of the target.
    """
    table = "Table 5" if target == "msmt17" else "Table 4"
    return tuple(_published(name, table, row) for name, row in _of_pair(_COMPARATORS, source, target).items())


def quoted_rows(source: str | None, target: str | None, *, beside: Collection[str]) -> tuple[PublishedRow, ...]:
    """What Table 4 (for MSMT17 Table 5) has and a table of measured rows lacks: other methods, and ECN itself.

    Args:
        source: name of the published source, see :func:`published_name`; None for any other data.
        target: the same of the target.
        beside: names of the measured rows; the printed ones of these names stand beside them already.
    """
    full = published_row(source, target, "e+c+n")
    shown = {"CamStyle" if "camstyle" in beside else "", "ECN" if "e+c+n" in beside else ""}
    ours = () if full is None else (replace(full, name="ECN"),)
    return tuple(row for row in (*published_comparators(source, target), *ours) if row.name not in shown)


def _of_pair(rows: dict[Pair, dict[str, Figures]], source: str | None, target: str | None) -> dict[str, Figures]:
    return {} if source is None or target is None else rows.get((source, target), {})


def _published(name: str, table: str, percent: Figures) -> PublishedRow:
    rank1, rank5, rank10, rank20, mean_ap = map(_fraction, percent)
    return PublishedRow(
        name=name,
        origin=f"{_PAPER}, {table}",
        rank1=rank1,
        rank5=rank5,
        rank10=rank10,
        rank20=rank20,
        mean_ap_trapezoid=mean_ap,
    )


def _fraction(percent: float | None) -> float | None:
    # rounded: 87.6 / 100 is 0.8759999999999999
    return None if percent is None else round(percent / 100, 3)
