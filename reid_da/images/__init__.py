"""Batches of images: packed cache, augmentation, samplers."""

from reid_da.images.decode import decode_image
from reid_da.images.loader import Batch, load_batches
from reid_da.images.on_the_fly import OnTheFlyImages, open_images
from reid_da.images.pack import PackedImages, default_cache_dir, pack_images
from reid_da.images.pack_file import CACHE_VARIABLE, CacheUnavailableError
from reid_da.images.samplers import Grouping, GroupSampler, IdentitySampler, Sampler, Selection, ShuffledSampler
from reid_da.images.source import FailedImage, ImageSource, OneView, Subset, usable_rows
from reid_da.images.transforms import BatchTransform, TestTransform, TrainTransform

__all__ = [
    "CACHE_VARIABLE",
    "Batch",
    "BatchTransform",
    "CacheUnavailableError",
    "FailedImage",
    "GroupSampler",
    "Grouping",
    "IdentitySampler",
    "ImageSource",
    "OnTheFlyImages",
    "OneView",
    "PackedImages",
    "Sampler",
    "Selection",
    "ShuffledSampler",
    "Subset",
    "TestTransform",
    "TrainTransform",
    "decode_image",
    "default_cache_dir",
    "load_batches",
    "open_images",
    "pack_images",
    "usable_rows",
]
