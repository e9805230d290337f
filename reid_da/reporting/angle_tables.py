"""Angles of features as a table in the layout of ArcFace's Table 3, and as a picture."""

from collections.abc import Mapping
from pathlib import Path

from reid_da.evaluation.angles import AngleStatistics
from reid_da.reporting.picture_files import save_figure
from reid_da.reporting.tables import Column, Row, Table
from reid_da.text import picture_text

_ANGLES = {"w_ec": "W-EC", "w_inter": "W-Inter", "intra": "Intra", "inter": "Inter"}
_COUNTS = {"num_features": "images", "num_classes": "identities", "num_singletons": "of one image"}


def angle_table(statistics: Mapping[str, AngleStatistics], *, title: str | None = None) -> Table:
    """Table of the angles in degrees, one column for each set of features.

    Args:
        statistics: of each set, by its name.
        title: above the table.
    """
    columns = [Column(heading=name, form="{:.2f}") for name in statistics]
    return Table(
        title=title or "",
        columns=[Column(heading="degrees", align="left"), *columns],
        rows=[
            Row(cells=[text, *(getattr(entry, key) for entry in statistics.values())], style="dim" if is_count else "")
            for names, is_count in ((_ANGLES, False), (_COUNTS, True))
            for key, text in names.items()
        ],
        notes=[
            "W-EC: a class centre of the classifier to the mean of its features",
            "W-Inter: a class centre to the nearest other one",
            "Intra: an image to the mean of its identity, identities of one image with 0",
            "Inter: a mean to the nearest other one",
        ],
    )


def draw_angle_histograms(statistics: Mapping[str, AngleStatistics], path: Path) -> None:
    """Picture of the angles of pairs of one identity and of two, one panel for each set of features.

    Args:
        statistics: of each set, by its name.
        path: file to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(statistics), 3.5), layout="constrained")
    panels = figure.subplots(1, len(statistics), squeeze=False, sharey=True)[0]
    for axes, (name, entry) in zip(panels, statistics.items(), strict=True):
        for counts, label, colour in (
            (entry.positive_pairs, "one identity", "#30638e"),
            (entry.negative_pairs, "two identities", "#e0902f"),
        ):
            share = counts.double() / counts.sum().clamp_min(1)
            axes.stairs(share.tolist(), range(len(counts) + 1), fill=True, alpha=0.5, color=colour, label=label)
        axes.set_title(picture_text(name))
        axes.set_xlabel("angle between two images, degrees")
        axes.set_xlim(0, 120)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("share of the pairs")
    panels[0].legend(frameon=False)
    save_figure(figure, path, dpi=150)
