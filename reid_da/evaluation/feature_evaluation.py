"""Everything that the evaluating commands report of one set of features."""

from dataclasses import asdict, dataclass
from typing import Any

from reid_da.errors import InputError
from reid_da.evaluation.centered import centered_set
from reid_da.evaluation.feature_files import FeatureSet
from reid_da.evaluation.operating_point import OperatingPoints, operating_points
from reid_da.evaluation.reranking import RerankSettings
from reid_da.evaluation.reranking import rerank as rerank_features
from reid_da.evaluation.retrieval import RetrievalResult, evaluate_distances, evaluate_retrieval

FPRS = (1e-1, 1e-2, 1e-3, 1e-4)
"""False positive rates that a report of operating points always has."""


@dataclass(frozen=True, kw_only=True)
class FeatureEvaluation:
    """Evaluation of one set of features.

    Attributes:
        plain: retrieval by the distances of the features.
        reranked: retrieval by re-ranked distances, if asked for.
        operating_points: thresholds on the cosine similarity, if asked for.
        same_camera: whether matches by the query's own camera were left out (``exclude``) or counted (``include``).
        is_centered: whether the mean of each camera was taken out of the features.
    """

    plain: RetrievalResult
    reranked: RetrievalResult | None = None
    operating_points: OperatingPoints | None = None
    same_camera: str = "exclude"
    is_centered: bool = False

    def to_json(self) -> dict[str, Any]:
        """The figures that were asked for, at the top; with re-ranking, those without it as ``without_rerank``."""
        shown = self.reranked or self.plain
        record: dict[str, Any] = {**shown.to_json(), "convention": shown.convention}
        if self.is_centered:
            record["center_cameras"] = True
        if self.reranked is not None:
            record["without_rerank"] = self.plain.to_json()
        if self.operating_points is not None:
            record |= self.operating_points.to_json()
        return record


def evaluate_feature_set(
    features: FeatureSet,
    *,
    distance: str = "cosine",
    same_camera: str = "exclude",
    rerank: RerankSettings | None = None,
    operating_point: float | None = None,
    center_cameras: bool = False,
) -> FeatureEvaluation:
    """CMC, mAP and mINP of a set of features, with re-ranking and operating points if asked for.

    Args:
        features: of query and gallery.
        distance: ``cosine`` or ``euclidean``.
        same_camera: ``exclude`` leaves out gallery images of the query's identity and camera, ``include`` counts them.
        rerank: also evaluate after k-reciprocal re-ranking with these settings; None for no re-ranking.
        operating_point: a false positive rate to report beside those of :data:`FPRS`; None for no report.
        center_cameras: take the mean of each camera out of the features first; see :func:`centered_set`.

    Raises:
        InputError: a setting is out of its range, or no query can be evaluated.
    """
    features = centered_set(features) if center_cameras else features
    query_features, query_pids, query_camids, gallery_features, gallery_pids, gallery_camids = features.arrays
    if operating_point is not None and not 0 < operating_point <= 1:
        raise InputError(
            f"operating point: expected a false positive rate above 0 and at most 1, got {operating_point}"
        )
    if rerank is not None:
        # before the work, which may take minutes
        rerank.check(num_points=len(query_features) + len(gallery_features))
    plain = evaluate_retrieval(*features.arrays, distance=distance, same_camera=same_camera)
    reranked = points = None
    if rerank is not None:
        blocks = rerank_features(query_features, gallery_features, distance=distance, **asdict(rerank))
        reranked = evaluate_distances(
            blocks, query_pids, query_camids, gallery_pids, gallery_camids, same_camera=same_camera
        )
    if operating_point is not None:
        fprs = sorted({*FPRS, operating_point}, reverse=True)
        points = operating_points(*features.arrays, fprs=fprs, same_camera=same_camera)
    return FeatureEvaluation(
        plain=plain,
        reranked=reranked,
        operating_points=points,
        same_camera=same_camera,
        is_centered=center_cameras,
    )
