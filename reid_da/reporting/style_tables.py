"""How good camera styles are, as a table and as a picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reid_da.reporting.picture_files import save_figure
from reid_da.reporting.tables import Column, Row, Table
from reid_da.styles.check import StyleCheck, StyleScores
from reid_da.text import picture_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

_COLUMNS = (
    Column(heading="style", align="left"),
    Column(heading="camera wanted ↑", unit="%"),
    Column(heading="camera own ↓", unit="%"),
    Column(heading="content R-1 ↑", unit="%"),
    Column(heading="MRR ↑", form="{:.3f}"),
    Column(heading="Fréchet ↓", form="{:.4g}"),
)
_COLOURS = {True: "#30638e", False: "#e0902f"}
"""Of bars of which more is better, and of the others."""
_PANEL_INCHES = 2.6
_MOST_NUMBERED = 8
"""Cameras up to which the cells of a heat map hold their numbers."""
_LONGEST_NAME = 24
_MOST_LETTERS = 26
"""In the names of cameras below a heat map, beyond which they stand upright."""


@dataclass(frozen=True, kw_only=True)
class _Bars:
    """A panel of bars: its title, and for each kind of bar what it means and a value for every style."""

    title: str
    values: Mapping[str, Sequence[float]]


def style_table(check: StyleCheck) -> Table:
    """Table of the measures, a line for each style."""
    return Table(
        title=f"{check.table}: camera styles",
        columns=_COLUMNS,
        # the first is the reference for all others
        rows=[Row(cells=_cells(style), style="" if number else "dim") for number, style in enumerate(check.styles)],
        notes=_notes(check),
    )


def draw_style_check(check: StyleCheck, path: Path, *, camera_names: Sequence[str] | None = None) -> None:
    """Picture of the measures as bars, and below, for each style, of the cameras that the classifier sees.

    Args:
        check: what to draw.
        path: file to write.
        camera_names: what the cameras are called; by default c1, c2, ...
    """
    from matplotlib.figure import Figure

    names = [picture_text(name) for name in camera_names or (f"c{n}" for n in range(1, check.num_cameras + 1))]
    num_styles = len(check.styles)
    bar_inches, map_inches = 1.2 + 0.5 * num_styles, 2 * _PANEL_INCHES
    figure = Figure(
        figsize=(_PANEL_INCHES * max(num_styles, 3) + 1, bar_inches + map_inches + 1), dpi=110, layout="constrained"
    )
    figure.suptitle(picture_text(_title(check)), fontsize=11, fontweight="bold")
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(bar_inches, map_inches))[:, 0]
    _draw_bars(above, check)
    panels = below.subplots(2, num_styles, squeeze=False, sharex=True, sharey=True)
    for (upper, lower), style in zip(panels.T, check.styles, strict=True):
        _draw_shares(upper, style.camera.predicted_by_wanted, names)
        image = _draw_shares(lower, style.camera.predicted_by_own, names)
        upper.set_title(picture_text(_short(style.name)), fontsize=10)
        lower.set_xlabel("camera seen")
    panels[0, 0].set_ylabel("camera wanted\n(the diagonal is right)")
    panels[1, 0].set_ylabel("camera of the real image\n(the diagonal is wrong)")
    below.colorbar(image, ax=panels, label="share of the row, %", shrink=0.6)
    save_figure(figure, path)


def _cells(style: StyleScores) -> list[str | float | None]:
    content, frechet = style.content, style.frechet
    return [
        style.name,
        100 * style.camera.wanted,
        100 * style.camera.own,
        None if content is None else 100 * content.rank1,
        None if content is None else content.mean_reciprocal_rank,
        None if frechet is None else frechet.mean,
    ]


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


def _notes(check: StyleCheck) -> list[str]:
    """What was looked at, how far the classifier is to be trusted, and what the columns are."""
    fakes = check.styles[0].num_fakes
    notes = [
        f"{check.num_images:,} real images, {fakes:,} views of each style; identity: the real images as views",
        f"camera: % of the views that a classifier takes for the camera wanted, or for their own; trained on"
        f" {check.num_trained:,} other images, it is right about {_percent(check.classifier_accuracy)} % of these"
        f" ({_percent(check.guess_accuracy)} % by guessing)",
    ]
    if not check.tells_cameras:
        notes.append("it hardly tells the cameras apart, so that these two columns mean little")
    if check.styles[0].content is not None:
        notes += [
            f"content: rank of the original among {check.num_images:,} images: % at rank 1, mean of 1 / rank",
            "Fréchet: squared distance of the features of views and of real images, mean over the cameras wanted;"
            " to be compared in this table only, and read beside content: it forgives views that all look alike",
        ]
    return notes


def _title(check: StyleCheck) -> str:
    return (
        f"{check.table}: camera styles\n"
        f"the classifier is right about {_percent(check.classifier_accuracy)} % of {check.num_images:,} real images"
    )


def _draw_bars(figure: "SubFigure", check: StyleCheck) -> None:
    """A panel for the cameras and, with a model, one for the content and one for the Frechet distance."""
    styles = check.styles
    bars = [
        _Bars(
            title="camera seen, %",
            values={
                "wanted: more is better": [100 * style.camera.wanted for style in styles],
                "own: less is better": [100 * style.camera.own for style in styles],
            },
        )
    ]
    if any(style.content or style.frechet for style in styles):
        found = [100 * style.content.rank1 if style.content else np.nan for style in styles]
        distances = [style.frechet.mean if style.frechet else np.nan for style in styles]
        bars.append(_Bars(title="views that find their original, %", values={"more is better": found}))
        bars.append(_Bars(title="Fréchet distance", values={"less is better": distances}))
    panels = figure.subplots(1, len(bars), squeeze=False, sharey=True)[0]
    for axes, of_panel in zip(panels, bars, strict=True):
        _draw_group(axes, of_panel)
    panels[0].set_yticks(range(len(styles)), [picture_text(_short(style.name)) for style in styles])
    panels[0].invert_yaxis()


def _draw_group(axes: "Axes", bars: "_Bars") -> None:
    """Bars below one another for each style, with their numbers and a legend."""
    height = 0.8 / len(bars.values)
    for number, (label, values) in enumerate(bars.values.items()):
        positions = np.arange(len(values)) + (number - (len(bars.values) - 1) / 2) * height
        drawn = axes.barh(positions, values, height=height, label=label, color=_COLOURS["more" in label])
        axes.bar_label(drawn, fmt="%.1f", fontsize=8, padding=2)
    axes.set_title(bars.title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.18)  # room for the numbers
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=2.6, ncols=2)


def _short(name: str) -> str:
    """The end of a name, which is what tells paths apart."""
    return name if len(name) <= _LONGEST_NAME else f"…{name[1 - _LONGEST_NAME :]}"


def _draw_shares(axes: "Axes", counts: Sequence[Sequence[int]], names: Sequence[str]) -> Any:
    """Heat map of each row's shares in percent; rows without any images stay white."""
    shares = _row_percent(counts)
    image = axes.imshow(shares, vmin=0, vmax=100, cmap="Blues")
    is_crowded = sum(len(name) + 1 for name in names) > _MOST_LETTERS
    axes.set_xticks(range(len(names)), names, rotation=90 if is_crowded else 0)
    axes.set_yticks(range(len(names)), names)
    if len(names) <= _MOST_NUMBERED:
        for (row, column), share in np.ndenumerate(shares):
            if np.isfinite(share):
                colour = "white" if share > 60 else "black"
                axes.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=8, color=colour)
    return image


def _row_percent(counts: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    table = np.array(counts, dtype=np.float64)
    totals = table.sum(axis=1, keepdims=True)
    table[totals[:, 0] == 0] = np.nan
    shares: NDArray[np.float64] = 100 * table / np.maximum(totals, 1)
    return shares
