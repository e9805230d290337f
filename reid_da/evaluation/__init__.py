"""Features to numbers: CMC, mAP, mINP, re-ranking, operating points."""

from reid_da.evaluation.blocks import DistanceBlocks
from reid_da.evaluation.expansion import PooledQueries, alpha_query_expansion, pool_multi_query
from reid_da.evaluation.feature_files import FeatureSet, load_feature_file, save_feature_file
from reid_da.evaluation.operating_point import OperatingPoint, OperatingPoints, operating_points
from reid_da.evaluation.reranking import KReciprocalDistances, RerankSettings, rerank
from reid_da.evaluation.retrieval import QueryScores, RetrievalResult, evaluate_distances, evaluate_retrieval
from reid_da.evaluation.search import Neighbors, search
from reid_da.evaluation.single_shot import single_gallery_shot_cmc

__all__ = [
    "DistanceBlocks",
    "FeatureSet",
    "KReciprocalDistances",
    "Neighbors",
    "OperatingPoint",
    "OperatingPoints",
    "PooledQueries",
    "QueryScores",
    "RerankSettings",
    "RetrievalResult",
    "alpha_query_expansion",
    "evaluate_distances",
    "evaluate_retrieval",
    "load_feature_file",
    "operating_points",
    "pool_multi_query",
    "rerank",
    "save_feature_file",
    "search",
    "single_gallery_shot_cmc",
]
