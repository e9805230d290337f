"""Evaluations of features as tables for the terminal."""

from rich.console import Group, RenderableType
from rich.table import Table

from reid_da.evaluation.feature_evaluation import FeatureEvaluation
from reid_da.evaluation.operating_point import OperatingPoint, OperatingPoints
from reid_da.evaluation.retrieval import RetrievalResult


def format_evaluation(evaluation: FeatureEvaluation) -> RenderableType:
    """Table of the retrieval figures in percent, with the convention in words, and of the operating points."""
    ranks = evaluation.plain.ranks
    table = Table(box=None, pad_edge=False)
    for heading in ("", *(f"R-{k}" for k in ranks), "mAP", "mAP trap.", "mINP"):
        table.add_column(heading, justify="left" if not heading else "right")
    results = {"features": evaluation.plain, "re-ranked": evaluation.reranked}
    for name, result in results.items():
        if result is not None:
            table.add_row(name, *_percents(result))
    plain = evaluation.plain
    queries = f"{plain.num_valid_queries:,} of {plain.num_queries:,} queries have a true match and count"
    parts: list[RenderableType] = [table, "", queries, (evaluation.reranked or plain).convention]
    if evaluation.operating_points is not None:
        parts += ["", _operating_points_table(evaluation.operating_points, same_camera=evaluation.same_camera)]
    return Group(*parts)


def _percents(result: RetrievalResult) -> list[str]:
    figures = [result.rank(k) for k in result.ranks]
    figures += [result.mean_ap, result.mean_ap_trapezoid, result.mean_inp]
    return [f"{100 * figure:.1f}" for figure in figures]


def _operating_points_table(points: OperatingPoints, *, same_camera: str) -> RenderableType:
    table = Table(box=None, pad_edge=False)
    for heading in ("FPR", "TPR", "threshold (cosine similarity)"):
        table.add_column(heading, justify="right")
    for point in points.points:
        table.add_row(f"{point.fpr:g}", *_point_cells(point))
    pairs = (
        f"{points.num_positive_pairs:,} pairs of one identity and {points.num_negative_pairs:,} of two, "
        f"{'across cameras' if same_camera == 'exclude' else 'within cameras too'}; - : too few pairs to tell"
    )
    return Group(table, pairs)


def _point_cells(point: OperatingPoint) -> tuple[str, str]:
    if point.threshold is None or point.tpr is None:
        return "-", "-"
    return f"{100 * point.tpr:.1f} %", f"{point.threshold:.4f}"
