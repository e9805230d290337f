"""Features to numbers: CMC, mAP, mINP, re-ranking, operating points."""

from reid_da.evaluation.blocks import DistanceBlocks
from reid_da.evaluation.reranking import KReciprocalDistances, rerank
from reid_da.evaluation.retrieval import QueryScores, RetrievalResult, evaluate_distances, evaluate_retrieval

__all__ = [
    "DistanceBlocks",
    "KReciprocalDistances",
    "QueryScores",
    "RetrievalResult",
    "evaluate_distances",
    "evaluate_retrieval",
    "rerank",
]
