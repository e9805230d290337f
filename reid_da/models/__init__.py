"""Backbones, their weights, and feature extraction."""

from reid_da.models.backbones import BACKBONE_NAMES, create_backbone
from reid_da.models.extractor import FeatureExtractor
from reid_da.models.protocol import Backbone
from reid_da.models.reid_net import ReIDNetwork
from reid_da.models.weight_files import read_state_dict
from reid_da.models.weights import WeightMatch, load_weights, match_state_dict

__all__ = [
    "BACKBONE_NAMES",
    "Backbone",
    "FeatureExtractor",
    "ReIDNetwork",
    "WeightMatch",
    "create_backbone",
    "load_weights",
    "match_state_dict",
    "read_state_dict",
]
