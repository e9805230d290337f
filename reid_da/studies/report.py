"""What a report of runs tells: figures, curves, ranked lists, cameras, maps, clusters, cost; one HTML page."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import reid_da
from reid_da.atomic import write_text
from reid_da.config.base import leaves
from reid_da.datasets.check import check_dataset
from reid_da.errors import InputError
from reid_da.evaluation.by_camera import camera_matrix, pair_histograms, threshold_at
from reid_da.evaluation.label_free import CLUSTERING
from reid_da.images import open_images
from reid_da.reporting.dataset_tables import camera_table, split_table
from reid_da.reporting.evaluation_pictures import (
    MOST_PAIRS,
    camera_matrix_figure,
    cmc_figure,
    map_figure,
    pair_histogram_figure,
)
from reid_da.reporting.page import Crop, Crops, Section, query_block, render, sheet_block
from reid_da.reporting.ranked_lists import pick_queries, ranked_lists
from reid_da.reporting.style_pictures import views_figure
from reid_da.reporting.tables import Column, Row, Table, column_names
from reid_da.reporting.training_curves import label_free_figure, run_figure
from reid_da.studies.looking import Look, cluster_labels, look_at, map_of, sample_rows
from reid_da.studies.selection import candidates, ranked, selection_table
from reid_da.styles.open import open_style

FPR = 1e-2
"""False positive rate whose threshold the histograms show."""
_QUERIES_OF_A_KIND, _RANKS, _CLUSTERS, _IMAGES_OF_A_CLUSTER, _STYLED = 3, 8, 9, 12, 4
_MOST_CAMERAS = 12


def write_report(
    runs: Sequence[Path],
    output: Path,
    *,
    data: Path | None = None,
    map_method: str = "auto",
    blur_faces: bool = False,
    device: str = "auto",
) -> list[str]:
    """Write a report of runs as one HTML file that needs no network, whole or not at all.

    Where a run has a pretraining stage, that is the model before, and stands first.

    Args:
        runs: run folders, all of one target.
        output: the file.
        data: data set to look at; the target of the last run if None.
        map_method: see :func:`reid_da.evaluation.projection.project`.
        blur_faces: make the upper part of each crop unrecognisable.
        device: where the networks go.

    Returns:
        The titles of the sections.

    Raises:
        InputError: a folder holds no run with a checkpoint, or the data cannot be read.
    """
    look = look_at(runs, data=data, device=device)
    subjects, dataset = look.subjects, look.dataset
    sections = [
        _figures(look),
        _settings(look),
        _lists(look, blur_faces),
        _curves(look),
        _label_free(look),
        _cameras(look),
        _map(look, map_method),
        _clusters(look, blur_faces),
        _styles(look),
        _data_section(look),
        _cost(look),
    ]
    shown = [section for section in sections if section.blocks]
    title = f"Re-identification report: {subjects[-1].name}"
    subtitle = f"{dataset.title}: {dataset.reading}. reid-da {reid_da.__version__}."
    write_text(output, render(title, subtitle, shown))
    return [section.title for section in shown]


# -------------------------------------------------------------------------------------------------------- the sections


def _figures(look: Look) -> Section:
    section = Section(title="Result")
    if not look.results:
        section.paragraph("The identities of these images are not known: there is nothing to measure accuracy by.")
        return section
    first = next(iter(look.results.values()))
    rows = []
    for name, result in look.results.items():
        figures = (*(result.rank(k) for k in first.ranks), result.mean_ap, result.mean_ap_trapezoid, result.mean_inp)
        rows.append(Row(cells=[name, *(100 * figure for figure in figures)]))
    section.table(
        Table(
            columns=column_names("run", *(f"R-{k}" for k in first.ranks), "mAP", "mAP trap.", "mINP"),
            rows=rows,
            notes=[
                f"percent, after the last epoch; {first.num_valid_queries:,} of {first.num_queries:,} queries have a"
                " true match and count",
                "mAP: mean of the precisions at the true matches; mAP trap.: the same by the trapezoidal rule",
                "mINP: number of true matches over the rank of the last",
                first.convention,
            ],
        )
    )
    section.figure(cmc_figure(look.results), text="CMC: share of queries with a true match among the first images.")
    return section


def _settings(look: Look) -> Section:
    section = Section(title="Settings")
    trees = [dict(leaves(subject.settings.model_dump(mode="json"))) for subject in look.subjects]
    names = [subject.name for subject in look.subjects]
    keys = list(dict.fromkeys(key for tree in trees for key in tree))
    if len(trees) == 1:
        main = [
            key for key in keys if key[-1] in ("method", "epochs", "seed", "backbone", "image_size", "lr", "weights")
        ]
        section.table(_settings_table(main, trees, names), is_wide=True)
        return section
    differing = [key for key in keys if key[0] != "pretrain" and len({repr(tree.get(key)) for tree in trees}) > 1]
    section.paragraph("Settings that differ between the runs; a dash where a method has no such setting.", kind="dim")
    section.table(_settings_table(differing, trees, names), is_wide=True)
    return section


def _settings_table(keys: Sequence[tuple[str, ...]], trees: Sequence[Mapping[Any, Any]], names: Sequence[str]) -> Table:
    def text(value: object) -> str:
        shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        return shown if len(shown) <= 60 else f"{shown[:25]} ... {shown[-30:]}"

    rows = [Row(cells=[".".join(key), *(text(tree[key]) if key in tree else None for tree in trees)]) for key in keys]
    columns = [Column(heading="setting", align="left"), *(Column(heading=name, align="left") for name in names)]
    return Table(columns=columns, rows=rows)


def _curves(look: Look) -> Section:
    section = Section(title="Training")
    for subject in look.subjects:
        records = subject.run.records()
        if any(record["kind"] == "train" for record in records):
            section.figure(run_figure(records, title=subject.name), text=f"Losses and evaluations of {subject.name}.")
    return section


def _label_free(look: Look) -> Section:
    section = Section(title="Without labels")
    for subject in look.subjects:
        try:
            found = candidates([subject.run.path])
            order = ranked(found)
        except InputError:
            continue
        section.figure(
            label_free_figure(subject.run.records(), chosen=order[0].epoch, title=subject.name),
            text=f"Figures of {subject.name} that need no labels; the line marks the epoch that they choose.",
        )
        section.table(selection_table(order, top=3))
    return section


def _cameras(look: Look) -> Section:
    section = Section(title="Cameras")
    if not look.results or look.dataset.same_camera == "include":
        return section
    names = look.dataset.camera_names
    for name in dict.fromkeys((next(iter(look.features)), look.subjects[-1].name)):
        matrix = camera_matrix(look.features[name])
        if len(matrix.camids) <= _MOST_CAMERAS:
            section.figure(
                camera_matrix_figure(matrix, camera_names=names, title=name),
                text=f"{name}: people of one camera looked for in another, in percent.",
            )
        else:
            values = np.nanmean(matrix.mean_ap, axis=1)
            rows = [
                Row(cells=[names[camera], float(100 * value)])
                for camera, value in zip(matrix.camids.tolist(), values, strict=True)
            ]
            section.table(
                Table(columns=column_names("camera of the query", "mAP in the others"), rows=rows, title=name)
            )
    pairs = pair_histograms(look.features[look.subjects[-1].name])
    threshold = threshold_at(pairs, fpr=FPR)
    which = f" The {MOST_PAIRS} pairs that the threshold separates worst." if len(pairs) > MOST_PAIRS else ""
    section.figure(
        pair_histogram_figure(pairs, camera_names=names, threshold=threshold, title=look.subjects[-1].name),
        text=f"Similarities of images of one person and of two, by pair of cameras, each scaled to one area. Dashed: "
        f"{threshold:.2f}, which {FPR:.0%} of all pairs of two persons reach.{which}",
    )
    return section


def _map(look: Look, method: str) -> Section:
    section = Section(title="Map of the features")
    if len(look.gallery) < 3:
        return section
    points, groups, how = map_of(look, method)
    section.figure(
        map_figure(points, groups),
        text=f"{len(points):,} images in the features of {look.subjects[-1].name} ({how}). Colours on the left "
        "that keep apart tell that the features know the camera.",
        is_dense=True,
    )
    return section


def _lists(look: Look, blur_faces: bool) -> Section:
    section = Section(title="Ranked lists")
    if not look.results:
        return section
    results = list(look.results.values())
    first, last = results[0], results[-1]
    has_match = last.per_query.first_match_rank > 0
    rows = np.flatnonzero(has_match)
    gain = (last.per_query.ap - first.per_query.ap)[rows] if len(results) > 1 else last.per_query.ap[rows]
    order = rows[np.argsort(gain, kind="stable")]
    what = "average precision" if len(results) == 1 else "gain in average precision from the first model to the last"
    random = pick_queries(look.query, has_match, num=_QUERIES_OF_A_KIND)
    kinds = {
        f"Best: largest {what}": order[: -_QUERIES_OF_A_KIND - 1 : -1].copy(),
        f"Worst: smallest {what}": order[:_QUERIES_OF_A_KIND],
        "Chosen without a look at results": random,
    }
    queries, gallery = (Crops(table, blur_faces=blur_faces) for table in (look.query, look.gallery))
    names = look.dataset.camera_names
    section.paragraph(
        "Solid green with a tick: the same person, by another camera. Dashed red with a cross: somebody else. Images "
        "of the person by the query's own camera are left out.",
        kind="dim",
    )
    for heading, chosen in kinds.items():
        section.heading(heading)
        found = {
            name: ranked_lists(
                torch.from_numpy(np.asarray(features.query_features)),
                torch.from_numpy(np.asarray(features.gallery_features)),
                look.query, look.gallery, rows=chosen, num=_RANKS, same_camera=look.dataset.same_camera,
            )
            for name, features in look.features.items()
        }  # fmt: skip
        for number, row in enumerate(chosen.tolist()):
            lists = []
            for name, of_model in found.items():
                ap = look.results[name].per_query.ap[row]
                entries = zip(of_model.indices[number].tolist(), of_model.is_match[number].tolist(), strict=True)
                crops = [
                    Crop(
                        row=index,
                        text=f"{'✔' if right else '✘'} {names[look.gallery.camids[index]]}",
                        kind="right" if right else "wrong",
                    )
                    for index, right in entries
                    if index >= 0
                ]
                lists.append(gallery.row(crops, name=f"{name}: AP {100 * ap:.0f} %"))
            query = Crop(row=row, text=f"query {names[look.query.camids[row]]}")
            section.blocks.append(query_block(queries.element(query), lists))
    return section


def _clusters(look: Look, blur_faces: bool) -> Section:
    section = Section(title="Clusters")
    rows = sample_rows(len(look.gallery))
    if len(rows) < CLUSTERING.min_cluster_size + 1:
        return section
    labels = cluster_labels(look, rows)
    groups, counts = np.unique(labels[labels >= 0], return_counts=True)
    if not len(groups):
        section.paragraph("No cluster was found: no image has enough near neighbours.")
        return section
    crops = Crops(look.gallery, blur_faces=blur_faces)
    by_size = groups[np.argsort(-counts, kind="stable")]
    # large, middling and small ones
    chosen = by_size[np.unique(np.linspace(0, len(by_size) - 1, _CLUSTERS).round().astype(int))]
    sheets = {}
    for number, group in enumerate(chosen.tolist(), start=1):
        members = rows[labels == group]
        title = f"Cluster {number}: {len(members)} images, {len(np.unique(look.gallery.camids[members]))} cameras"
        if look.results:
            people, sizes = np.unique(look.gallery.pids[members], return_counts=True)
            persons = "identity" if len(people) == 1 else "identities"
            title += f", {len(people)} {persons} (largest {sizes.max() / len(members):.0%})"
        shown = members[:: -(-len(members) // _IMAGES_OF_A_CLUSTER)]
        text = [look.dataset.camera_names[camera] for camera in look.gallery.camids[shown].tolist()]
        sheets[title] = crops.row([Crop(row=row, text=name) for row, name in zip(shown.tolist(), text, strict=True)])
    section.paragraph(
        f"{len(rows):,} images by the features of {look.subjects[-1].name}, clustered without labels (DBSCAN on "
        f"Jaccard distances, eps {CLUSTERING.eps:g}): {len(groups)} clusters, {np.mean(labels < 0):.0%} of the images "
        "in none. Clusters of all sizes:"
    )
    section.blocks.append(sheet_block(sheets))
    return section


def _styles(look: Look) -> Section:
    section = Section(title="Camera styles")
    settings = look.subjects[-1].settings
    style = getattr(getattr(settings, "views", None), "style", None)
    train, count = look.dataset.train.without_junk(), look.dataset.num_cameras
    if not style or count < 2 or len(train) < 2 or len(np.unique(train.camids)) < 2:
        return section
    try:
        if str(style) in ("statistics", "histogram"):
            # these are known from a part of the images
            train = train.select(sample_rows(len(train)))
        source = open_images(train, size=settings.data.image_size, cache="never", on_error="skip")
        views = open_style(style, source, train, num_cameras=count, cache="never", device="cpu")
        rows = [int(row) for row in np.linspace(0, len(train) - 1, _STYLED).round()]
        cameras = sorted({int(train.camids[row]) for row in rows} | set(np.unique(train.camids)[:6].tolist()))
        figure = views_figure(views, train, rows, camera_names=look.dataset.camera_names, cameras=cameras)
    except InputError as error:
        section.paragraph(f"They cannot be shown: {error}", kind="dim")
        return section
    section.figure(
        figure, text=f"Training images in the style of each camera ({Path(str(style)).name}).", is_dense=True
    )
    return section


def _data_section(look: Look) -> Section:
    section = Section(title="Data")
    report = check_dataset(look.dataset, verify_images=False)
    section.table(split_table(report.splits))
    if len(report.cameras) <= 2 * _MOST_CAMERAS:
        section.table(camera_table(report.cameras))
    section.paragraph("Check of identities and cameras (reid-da data check also reads the image files):", kind="dim")
    section.items([f"{finding.severity}: {finding.message}" for finding in report.findings] or ["nothing found"])
    return section


def _cost(look: Look) -> Section:
    section = Section(title="Cost")
    rows = []
    for subject in look.subjects:
        records = subject.run.records("train")
        if not records:
            continue
        seconds = [record["seconds"] for record in records if record.get("seconds")]
        speeds = [record["images_per_second"] for record in records if record.get("images_per_second")]
        memory = [record["peak_memory_mb"] for record in records if record.get("peak_memory_mb")]
        cells: list[Any] = [subject.name, len(records), sum(seconds) / 60 if seconds else None]
        cells += [statistics.median(speeds) if speeds else None, float(max(memory)) if memory else None]
        rows.append(Row(cells=cells))
    if rows:
        columns = [Column(heading="run", align="left"), Column(heading="epochs"), Column(heading="minutes")]
        columns += [Column(heading="images/s", form="{:,.0f}"), Column(heading="memory (MB)", form="{:,.0f}")]
        notes = ["minutes of training without evaluations; median of the epochs' images/s; peak of the GPU or process"]
        section.table(Table(columns=columns, rows=rows, notes=notes))
    return section
