"""Angles of features as a table in the layout of ArcFace's Table 3, and as a picture."""

from collections.abc import Mapping
from pathlib import Path

from rich.table import Table

from reid_da.atomic import atomic_path
from reid_da.evaluation.angles import AngleStatistics
from reid_da.text import markup, picture_text

_ROWS = {"w_ec": "W-EC", "w_inter": "W-Inter", "intra": "Intra", "inter": "Inter"}


def angle_table(statistics: Mapping[str, AngleStatistics], *, title: str | None = None) -> Table:
    """Table of the angles in degrees, one column for each set of features.

    Args:
        statistics: of each set, by its name.
        title: above the table.
    """
    table = Table(title=title and markup(title), title_justify="left", box=None, pad_edge=False, header_style="bold")
    table.add_column("degrees")
    for name in statistics:
        table.add_column(markup(name), justify="right")
    for key, text in _ROWS.items():
        values = [getattr(entry, key) for entry in statistics.values()]
        table.add_row(text, *("-" if value is None else f"{value:.2f}" for value in values))
    for key, text in (("num_features", "images"), ("num_classes", "identities"), ("num_singletons", "of one image")):
        table.add_row(text, *(f"{getattr(entry, key):,}" for entry in statistics.values()), style="dim")
    table.caption = (
        "W-EC: a class centre of the classifier to the mean of its features\n"
        "W-Inter: a class centre to the nearest other one\n"
        "Intra: an image to the mean of its identity, identities of one image with 0\n"
        "Inter: a mean to the nearest other one"
    )
    table.caption_justify = "left"
    return table


def draw_angle_histograms(statistics: Mapping[str, AngleStatistics], path: Path) -> None:
    """Picture of the angles of pairs of one identity and of two, one panel for each set of features.

    Args:
        statistics: of each set, by its name.
        path: PNG file to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(statistics), 3.5), layout="constrained")
    panels = figure.subplots(1, len(statistics), squeeze=False, sharey=True)[0]
    for axes, (name, entry) in zip(panels, statistics.items(), strict=True):
        for counts, label, colour in (
            (entry.positive_pairs, "one identity", "tab:blue"),
            (entry.negative_pairs, "two identities", "tab:orange"),
        ):
            share = counts.double() / counts.sum().clamp_min(1)
            axes.stairs(share.tolist(), range(len(counts) + 1), fill=True, alpha=0.5, color=colour, label=label)
        axes.set_title(picture_text(name))
        axes.set_xlabel("angle between two images, degrees")
        axes.set_xlim(0, 120)
    panels[0].set_ylabel("share of the pairs")
    panels[0].legend(frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
