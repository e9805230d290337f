"""Pictures of ranked lists: queries and the gallery images that a model ranks first."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from torch import Tensor

from reid_da.datasets import JUNK_PID, SampleTable
from reid_da.errors import InputError
from reid_da.evaluation.search import search
from reid_da.images.decode import decode_row
from reid_da.images.source import FailedImage
from reid_da.reporting.picture_files import save_figure
from reid_da.text import picture_text

_HEIGHT, _WIDTH = 128, 64
_GAP = 10
_LABEL, _SECOND_LINE = 15, 12
"""Pixels below an image, for a line of its caption, and for another one."""
_MARGIN = 12
_HEADER = 20
"""Pixels for the title, for the ranks, and for each line of the legend."""
_LEGEND_WIDTH = 340
"""Least width of a picture, so that the legend fits."""
_QUERY_GAP = 18
"""Pixels between the query and its list, for the name of the model."""
_DPI = 100
"""Pixels of an inch at which fonts look as on a screen."""
_SCALE = 2
"""Pixels of the file for one of the images."""
_MOST_PIXELS = 30_000_000
"""Of a picture in its file; matplotlib takes about 100 bytes of memory for each to draw it."""
_LONGEST_SIDE = 2**16 - 1
"""Pixels of a side that viewers still open."""
_LONGEST_NAME = 8
_UNREADABLE_GREY = 200


class _Style(NamedTuple):
    """How an image is framed (width in pixels), and what stands before the name of its camera."""

    mark: str
    colour: str
    line_width: float


_QUERY = _Style("", "#404040", 1.5)
_RIGHT = _Style("\N{HEAVY CHECK MARK} ", "#1a7f37", 4)
_WRONG = _Style("\N{BALLOT X} ", "#d32f2f", 1.5)
_LEGEND = (
    f"{_RIGHT.mark}same person, another camera   {_WRONG.mark}somebody else\n"
    "left out: the person in the query's own camera, junk"
)


@dataclass(frozen=True, kw_only=True, eq=False)
class RankedLists:
    """The nearest valid gallery images of some queries, nearest first.

    Attributes:
        rows: (N,) int64, rows of the query table.
        indices: (N, K) int64, rows of the gallery table; -1 beyond the last valid image.
        is_match: (N, K) bool, whether it shows the person of the query.
        distances: (N, K) float32, from the query; None where they are not known.
    """

    rows: NDArray[np.int64]
    indices: NDArray[np.int64] = field(repr=False)
    is_match: NDArray[np.bool_] = field(repr=False)
    distances: NDArray[np.float32] | None = field(default=None, repr=False)


class _Layout(NamedTuple):
    """Where things go in a picture of some queries, lists of so many images each, and models.

    With ``label`` pixels below an image.
    """

    num_queries: int
    columns: int
    num_models: int
    label: int = _LABEL

    def left(self, rank: int) -> int:
        """Left edge in pixels of the image at a rank, from 1."""
        return _MARGIN + _QUERY_GAP + rank * (_WIDTH + _GAP)

    def top(self, number: int, strip: int) -> int:
        """Upper edge in pixels of a strip of images, of which each query, counted by ``number``, has several."""
        height = _HEIGHT + self.label + _GAP
        block = self.num_models * height + (self.num_models - 1) * 2 * _GAP
        return _MARGIN + 2 * _HEADER + number * block + strip * height

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the picture in pixels of the images."""
        width = max(self.left(self.columns) + _WIDTH + _MARGIN, _LEGEND_WIDTH)
        return width, self.top(self.num_queries, 0) + 2 * _HEADER


def slide_layout(
    num_models: int, *, num_queries: int | None = None, with_similarities: bool = False
) -> tuple[int, int]:
    """Numbers of queries and of gallery images in each list that fill a slide of 16 to 9.

    Args:
        num_models: lists for each query.
        num_queries: queries, if their number is fixed.
        with_similarities: whether captions have a second line.
    """
    label = _LABEL + (_SECOND_LINE if with_similarities else 0)
    num_queries = num_queries or max(1, 4 // num_models)
    num = 1
    while (
        9 * _Layout(num_queries, num + 1, num_models, label).size[0]
        <= 16 * _Layout(num_queries, 1, num_models, label).size[1]
    ):
        num += 1
    return num_queries, num


def pick_queries(query: SampleTable, has_match: NDArray[np.bool_], *, num: int) -> NDArray[np.int64]:
    """(N,) int64 rows of at most ``num`` queries of different people, spread evenly over the query set.

    No result is looked at, so that pictures of them are neither flattering nor unfair.

    Args:
        query: the queries.
        has_match: (Q,) bool, whether a query has a true match: ``per_query.first_match_rank > 0`` of an evaluation.
        num: how many.
    """
    rows = np.flatnonzero(has_match)
    rows = rows[np.unique(query.pids[rows], return_index=True)[1]]
    picked: NDArray[np.int64] = rows[np.linspace(0, len(rows) - 1, min(num, len(rows))).round().astype(np.int64)]
    return picked


def ranked_lists(
    query_features: Tensor,
    gallery_features: Tensor,
    query: SampleTable,
    gallery: SampleTable,
    *,
    rows: Sequence[int] | NDArray[np.int64],
    num: int = 10,
    distance: str = "cosine",
    same_camera: str = "exclude",
) -> RankedLists:
    """The nearest gallery images of some queries, without those that an evaluation leaves out.

    Left out are images of the query's person from the query's camera, unless they are asked for, and junk.

    Args:
        query_features: (Q, D).
        gallery_features: (G, D), on the same device.
        query: identities and cameras of the queries.
        gallery: identities and cameras of the gallery.
        rows: queries to look at.
        num: images K per query.
        distance: ``cosine`` or ``euclidean``.
        same_camera: ``exclude`` or ``include`` images of the query's person from the query's camera.

    Raises:
        InputError: features that do not fit together or the tables, that are NaN, infinite or all zero; unknown
            identities.
    """
    for table, features in ((query, query_features), (gallery, gallery_features)):
        if len(features) != len(table):
            raise InputError(f"{table.name}: expected features of {len(table)} images, got {len(features)}")
        if not table.is_labelled:
            raise InputError(f"{table.name}: ranked lists tell right from wrong by identities, which are not all known")
    chosen = np.asarray(rows, dtype=np.int64)
    pids, camids = query.pids[chosen, None], query.camids[chosen, None]
    is_own = (gallery.pids == pids) & (gallery.camids == camids) & (same_camera == "exclude")
    is_valid = (gallery.pids != JUNK_PID) & ~is_own
    # as many as are left out may come before the last one that is wanted
    num_candidates = min(num + int((~is_valid).sum(axis=1).max()), len(gallery))
    found = search(
        query_features[torch.from_numpy(chosen)], gallery_features, num_neighbors=num_candidates, distance=distance
    )
    candidates = found.indices.cpu().numpy()
    is_valid = np.take_along_axis(is_valid, candidates, axis=1)
    first = np.argsort(~is_valid, axis=1, kind="stable")[:, :num]
    indices = np.take_along_axis(np.where(is_valid, candidates, -1), first, axis=1)
    return RankedLists(
        rows=chosen,
        indices=indices,
        is_match=(gallery.pids[indices] == pids) & (indices >= 0),
        distances=np.take_along_axis(found.distances.float().cpu().numpy(), first, axis=1),
    )


def draw_ranked_lists(
    query: SampleTable,
    gallery: SampleTable,
    lists: RankedLists,
    path: str | os.PathLike[str],
    *,
    camera_names: Sequence[str],
    title: str = "",
) -> None:
    """Write the picture of ranked lists: a query and its list in each line. The suffix of the file decides the format.

    A true match has a thick green frame and a tick, anybody else a thin red frame and a cross. An image that cannot
    be read is grey.

    Args:
        query: the queries.
        gallery: the gallery.
        lists: what to show, see :func:`ranked_lists`.
        path: the file.
        camera_names: ``camera_names[camid]``.
        title: above the picture.
    """
    draw_comparison(query, gallery, {"": lists}, path, camera_names=camera_names, title=title)


def draw_comparison(
    query: SampleTable,
    gallery: SampleTable,
    lists: Mapping[str, RankedLists],
    path: str | os.PathLike[str],
    *,
    camera_names: Sequence[str],
    person_names: Mapping[int, str] | None = None,
    title: str = "",
    similarities: bool = False,
    slide: bool = False,
) -> None:
    """Write :func:`comparison_figure` to a file, whose suffix decides the format."""
    figure = comparison_figure(
        query,
        gallery,
        lists,
        camera_names=camera_names,
        person_names=person_names,
        title=title,
        similarities=similarities,
        slide=slide,
    )
    save_figure(figure, path)


def comparison_figure(
    query: SampleTable,
    gallery: SampleTable,
    lists: Mapping[str, RankedLists],
    *,
    camera_names: Sequence[str],
    person_names: Mapping[int, str] | None = None,
    title: str = "",
    similarities: bool = False,
    slide: bool = False,
) -> Figure:
    """Figure in which the lists of several models for the same queries stand one above the other.

    Args:
        query: the queries.
        gallery: the gallery.
        lists: by name of the model, e.g. before and after the adaptation; all of the same queries.
        camera_names: ``camera_names[camid]``.
        person_names: what the identities are called, by pid; those without a name are not captioned.
        title: above the picture.
        similarities: write the cosine similarity (1 - distance) below each image of a list.
        slide: leave margins so that width and height are as 16 to 9.

    Raises:
        InputError: the picture would be too large.
        ValueError: the lists are not of the same queries, or similarities are asked for and not known.
    """
    first, *others = lists.values()
    if any(not np.array_equal(other.rows, first.rows) for other in others):
        raise ValueError("the ranked lists are not of the same queries")
    if similarities and any(of_model.distances is None for of_model in lists.values()):
        raise ValueError("the ranked lists have no distances")
    columns = max(of_model.indices.shape[1] for of_model in lists.values())
    check_picture(num_queries=len(first.rows), num=columns, num_models=len(lists))
    layout = _Layout(
        len(first.rows), columns, len(lists), _LABEL + (_SECOND_LINE if similarities or person_names else 0)
    )
    width, height = layout.size
    outer = (max(width, 16 * height / 9), max(height, 9 * width / 16)) if slide else (width, height)
    canvas = np.full((height, width, 3), 255, dtype=np.uint8)
    figure = Figure(figsize=(outer[0] / _DPI, outer[1] / _DPI), dpi=_SCALE * _DPI)
    share = width / outer[0], height / outer[1]
    axes = figure.add_axes(((1 - share[0]) / 2, (1 - share[1]) / 2, *share))
    axes.set_axis_off()
    for thumbnail in _thumbnails(query, gallery, lists, layout):
        person = (person_names or {}).get(int(thumbnail.table.pids[thumbnail.row]), "")
        captions = list(filter(None, (person, camera_names[thumbnail.table.camids[thumbnail.row]])))
        captions = [_shortened(text) for text in captions]
        if similarities and thumbnail.similarity is not None:
            captions[1:] = [" ".join((*captions[1:], f"{thumbnail.similarity:.3f}"))]
        _draw_thumbnail(axes, canvas, thumbnail, captions)
    axes.imshow(canvas, extent=(0, width, height, 0), interpolation="nearest", aspect="auto")
    _draw_names(axes, list(lists), layout)
    _text(axes, _MARGIN, _MARGIN, title, size=11 if slide else 9, va="top")
    legend = f"{_LEGEND}; below each image: person, camera and cosine similarity" if similarities else _LEGEND
    _text(axes, _MARGIN, height - _MARGIN, legend, size=7, va="bottom")
    return figure


def check_picture(*, num_queries: int, num: int, num_models: int) -> None:
    """Refuse a picture that would be too large to draw or to look at.

    Args:
        num_queries: queries.
        num: gallery images in each list.
        num_models: lists for each query.

    Raises:
        InputError: it would.
    """
    width, height = (_SCALE * side for side in _Layout(num_queries, num, num_models).size)
    if max(width, height) > _LONGEST_SIDE or width * height > _MOST_PIXELS:
        lists = f"{num_queries} queries" + (f" for {num_models} models" if num_models > 1 else "")
        raise InputError(
            f"{lists} with {num} images each would make a picture of {width:,} x {height:,} pixels; ask for fewer with"
            " --num-queries or --num"
        )


class _Thumbnail(NamedTuple):
    """An image of the picture: where it comes from, where its upper left corner goes, and how it is framed."""

    table: SampleTable
    row: int
    left: int
    top: int
    style: _Style
    similarity: float | None = None


def _thumbnails(
    query: SampleTable, gallery: SampleTable, lists: Mapping[str, RankedLists], layout: _Layout
) -> Iterator[_Thumbnail]:
    for strip, of_model in enumerate(lists.values()):
        for number, row in enumerate(of_model.rows.tolist()):
            top = layout.top(number, strip)
            if strip == 0:
                yield _Thumbnail(query, row, _MARGIN, top, _QUERY)
            ranking = zip(of_model.indices[number].tolist(), of_model.is_match[number], strict=True)
            for rank, (index, is_match) in enumerate(ranking, start=1):
                if index >= 0:
                    style = _RIGHT if is_match else _WRONG
                    distances = of_model.distances
                    similarity = None if distances is None else 1 - float(distances[number, rank - 1])
                    yield _Thumbnail(gallery, index, layout.left(rank), top, style, similarity)


def _draw_thumbnail(axes: Axes, canvas: NDArray[np.uint8], thumbnail: _Thumbnail, captions: Sequence[str]) -> None:
    """Copy the pixels to the canvas; draw frame, mark and caption on top of it."""
    table, row, left, top, style, _ = thumbnail
    pixels = decode_row(table, row, size=(_HEIGHT, _WIDTH), interpolation="bilinear")
    canvas[top : top + _HEIGHT, left : left + _WIDTH] = _UNREADABLE_GREY if isinstance(pixels, FailedImage) else pixels
    # the line is centred on the rectangle: half of it must not hide the image
    half = style.line_width / 2
    frame = Rectangle((left - half, top - half), _WIDTH + 2 * half, _HEIGHT + 2 * half, fill=False)
    frame.set(edgecolor=style.colour, linewidth=style.line_width * 72 / _DPI)
    axes.add_patch(frame)
    for line, text in enumerate(captions):
        caption = style.mark + text if line == 0 else text
        below = top + _HEIGHT + 5 + line * _SECOND_LINE
        _text(axes, left + _WIDTH / 2, below, caption, size=7, va="top", ha="center", color=style.colour)


def _shortened(name: str) -> str:
    """A name that fits below an image."""
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"


def _draw_names(axes: Axes, models: Sequence[str], layout: _Layout) -> None:
    """Ranks above the columns, and the name of the model beside each strip."""
    heading = layout.top(0, 0) - 5
    for rank, name in enumerate(["query", *range(1, layout.columns + 1)]):
        left = layout.left(rank) if rank else _MARGIN
        _text(axes, left + _WIDTH / 2, heading, str(name), size=7, va="bottom", ha="center")
    middle = _MARGIN + _WIDTH + (_GAP + _QUERY_GAP) / 2
    for number in range(layout.num_queries):
        for strip, name in enumerate(models):
            top = layout.top(number, strip)
            _text(axes, middle, top + _HEIGHT / 2, name, size=8, va="center", ha="center", rotation=90)


def _text(axes: Axes, x: float, y: float, text: str, *, size: float, **style: Any) -> None:
    axes.text(x, y, picture_text(text), fontsize=size, **style)
