"""Evaluations of features as tables."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rich.console import RenderableType

from reid_da.evaluation.feature_evaluation import FeatureEvaluation
from reid_da.evaluation.operating_point import OperatingPoints
from reid_da.evaluation.retrieval import RetrievalResult
from reid_da.reporting.tables import Column, Row, Table, apart, column_names


def format_evaluation(evaluation: FeatureEvaluation) -> RenderableType:
    """The retrieval figures for a terminal, with the convention in words, and the operating points."""
    points = evaluation.operating_points
    tables = [evaluation_table(evaluation)]
    if points is not None:
        tables.append(operating_points_table(points, same_camera=evaluation.same_camera))
    return apart(tables)


def format_evaluations(evaluations: Mapping[str, FeatureEvaluation]) -> RenderableType:
    """The figures of several models on the same data in one table, and the operating points of each."""
    tables = [evaluation_table(next(iter(evaluations.values())), evaluations)]
    for name, evaluation in evaluations.items():
        if evaluation.operating_points is not None:
            points = operating_points_table(evaluation.operating_points, same_camera=evaluation.same_camera)
            tables.append(replace(points, title=name))
    return apart(tables)


def evaluation_table(
    evaluation: FeatureEvaluation, evaluations: Mapping[str, FeatureEvaluation] | None = None
) -> Table:
    """Table of the retrieval figures in percent, with the convention in words.

    Args:
        evaluation: of one model.
        evaluations: of several models on the same data by name, the given one among them; None for one alone.
    """
    plain = evaluation.plain
    results = {"features": plain, "re-ranked": evaluation.reranked}
    if evaluations is not None:
        results = {name: entry.plain for name, entry in evaluations.items()}
        results |= {f"{name}, re-ranked": entry.reranked for name, entry in evaluations.items()}
    return Table(
        columns=column_names("", *(f"R-{k}" for k in plain.ranks), "mAP", "mAP trap.", "mINP"),
        rows=[Row(cells=[name, *_percents(result)]) for name, result in results.items() if result is not None],
        notes=[
            f"{plain.num_valid_queries:,} of {plain.num_queries:,} queries have a true match and count",
            (evaluation.reranked or plain).convention,
            *(["the mean of each camera's features is taken out of them"] if evaluation.is_centered else []),
        ],
    )


def operating_points_table(points: OperatingPoints, *, same_camera: str) -> Table:
    """Table of thresholds on the similarity and of the true positives that they let through."""
    return Table(
        columns=[
            Column(heading="FPR", form="{:g}"),
            Column(heading="TPR", form="{:.1f} %", unit="%"),
            Column(heading="threshold (cosine similarity)", form="{:.4f}"),
        ],
        rows=[
            Row(cells=[point.fpr, None if point.tpr is None else 100 * point.tpr, point.threshold])
            for point in points.points
        ],
        notes=[
            f"{points.num_positive_pairs:,} pairs of one identity and {points.num_negative_pairs:,} of two, "
            f"{'across cameras' if same_camera == 'exclude' else 'within cameras too'}; - : too few pairs to tell"
        ],
    )


def export_table(export: Mapping[str, Any]) -> Table:
    """Table of an export: the figures of the PyTorch model and of the file, where both were evaluated.

    Args:
        export: :meth:`reid_da.exporting.Export.to_json`.
    """
    largest = max(export["differences"].values())
    sizes = ", ".join(export["differences"])
    figures = ("rank1", "rank5", "rank10", "mAP")
    return Table(
        columns=column_names("", "R-1", "R-5", "R-10", "mAP"),
        rows=[
            Row(cells=[name, *(None if export[key] is None else 100 * export[key][figure] for figure in figures)])
            for name, key in (("PyTorch", "pytorch"), (export["format"], "exported"))
        ],
        notes=[
            f"features differ by at most {largest:.1e} (batches of {sizes} random images)",
            f"percent, on {export['data']}" if export["data"] else "not evaluated: no test set was given",
        ],
    )


def _percents(result: RetrievalResult) -> list[float]:
    figures = [*(result.rank(k) for k in result.ranks), result.mean_ap, result.mean_ap_trapezoid, result.mean_inp]
    return [100 * figure for figure in figures]
