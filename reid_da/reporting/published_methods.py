"""Results that papers and toolkits print for the methods here, with ResNet-50, to stand beside measured ones.

By which rule their mAP was computed is not stated. Some of these methods take the best epoch on the test set.
"""

from collections.abc import Mapping
from typing import TypeAlias

MethodFigures: TypeAlias = tuple[float, float | None, float | None, float]
"""Percent: rank-1, rank-5, rank-10, mAP."""

_LEADERBOARD = "as quoted by OpenUnReID (open-mmlab/OpenUnReID@c3e3ada, docs/LEADERBOARD.md)"
_PLACES = {
    "ecn-gpp": f"ECN++, Zhong et al., TPAMI 2021, {_LEADERBOARD}",
    "mmt": f"MMT, Ge et al., ICLR 2020, {_LEADERBOARD}",
    "spcl": f"SpCL, Ge et al., NeurIPS 2020, {_LEADERBOARD}",
    "clusters": "strong baseline, OpenUnReID (open-mmlab/OpenUnReID@c3e3ada, docs/MODEL_ZOO.md), best test epoch",
    "cluster-contrast": "Cluster-Contrast without a source (alibaba/cluster-contrast-reid@57b62e9, figs/resultsv2.png)",
    "cap": "CAP, Wang et al., AAAI 2021 (Terminator8758/CAP-master@4a04fef, figs/experiment.png)",
    "o2cap": "O2CAP, Wang et al., TIP 2022 (Terminator8758/O2CAP@a893b7a, figs/result.png)",
}
"""What is printed and where, by the name of the row."""

_D_TO_M = ("dukemtmcreid", "market1501")
_M_TO_D = ("market1501", "dukemtmcreid")
_M_TO_MSMT = ("market1501", "msmt17")
_D_TO_MSMT = ("dukemtmcreid", "msmt17")
_ADAPTED: Mapping[tuple[str, str], Mapping[str, MethodFigures]] = {
    _D_TO_M: {
        "ecn-gpp": (84.1, 92.8, 95.4, 63.8),
        "clusters": (90.9, None, None, 75.6),
        "mmt": (87.7, None, None, 71.2),
        "spcl": (90.3, None, None, 76.7),
    },
    _M_TO_D: {
        "ecn-gpp": (74.0, 83.7, 87.4, 54.4),
        "clusters": (75.9, None, None, 60.4),
        "mmt": (78.0, None, None, 65.1),
        "spcl": (82.9, None, None, 68.8),
    },
    _M_TO_MSMT: {
        "ecn-gpp": (40.4, 53.1, 58.7, 15.2),
        "mmt": (49.2, None, None, 22.9),
        "spcl": (53.7, None, None, 26.8),
    },
    _D_TO_MSMT: {
        "ecn-gpp": (42.5, 55.9, 61.5, 16.0),
        "mmt": (50.1, None, None, 23.3),
        "spcl": (53.1, None, None, 26.5),
    },
}
_ALONE: Mapping[str, Mapping[str, MethodFigures]] = {
    "market1501": {
        "cluster-contrast": (92.3, None, None, 82.1),
        "cap": (91.4, None, None, 79.2),
        "o2cap": (92.5, None, None, 82.7),
    },
    "dukemtmcreid": {
        "cluster-contrast": (84.9, None, None, 72.6),
        "cap": (81.1, None, None, 67.3),
        "o2cap": (83.9, None, None, 71.2),
    },
    "msmt17": {
        "cluster-contrast": (56.0, None, None, 27.6),
        "cap": (67.4, None, None, 36.9),
        "o2cap": (72.0, None, None, 42.4),
    },
}


def method_figures(source: str | None, target: str | None) -> dict[str, tuple[str, MethodFigures]]:
    """Where figures are printed, and the figures, by the name of the row; of methods without a source for any source.

    Args:
        source: name of the published source; None for any other data.
        target: the same of the target.
    """
    figures = {} if source is None or target is None else dict(_ADAPTED.get((source, target), {}))
    if target is not None:
        figures |= _ALONE.get(target, {})
    return {name: (_PLACES[name], values) for name, values in figures.items()}
